"""Dispersions that many models share, or that are drawn towards each other.

A few dozen rows say little about the dispersion of one gene; thousands of genes together say much.

    shared     one phi for all models: the maximum of the sum of their log-likelihoods
    shrunken   log(phi) of each model has a normal prior, whose mean and standard deviation are
               estimated from all models (empirical Bayes); each estimate is the mode

Source: Robinson and Smyth (2007), Bioinformatics 23, 2881-2887, and (2008), Biostatistics 9,
321-332, for the two ideas; Love, Huber and Anders (2014), Genome Biology 15:550, for the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from glmm_jax.families.base import Family
from glmm_jax.many.table import ManyFits
from glmm_jax.priors import Normal, listed

SHARED, SHRUNKEN = "shared", "shrunken"
PARAMETER = "log(phi)"

# A shared log(phi) is looked for this far around the weighted mean of the estimates, to this width.
_REACH, _WIDTH = 2.0, 1e-3
# The prior is never narrower: where no model differs from the others, the estimate of its standard
# deviation is zero.
LEAST_SD = 0.05


def moderated(how: str, family: Family, priors: Any, fit: Callable[..., ManyFits]) -> ManyFits:
    """The fits with a shared or shrunken dispersion.

    Parameters: how, SHARED or SHRUNKEN; family and priors of the caller; fit(stage, dispersion=,
    priors=), which fits all models, with stage the name of a part of the checkpoint (None: not
    kept).

    Raises:
        ValueError: a family without log(phi), or no model that tells its dispersion.
    """
    if PARAMETER not in family.parameters:
        raise ValueError(
            f"dispersion={how!r}: the {family.name} family has no parameter phi; use "
            "family='negative_binomial', say"
        )
    first = fit("each")
    x, error = _informative(first, how)
    if how == SHRUNKEN:
        mean, sd = prior_of(x, error)
        prior = Normal(sd=sd, of=(PARAMETER,), mean=mean)
        return fit(SHRUNKEN, priors=(*listed(priors), prior))
    middle = float(np.average(x, weights=error**-2.0))

    def total(log_phi: float) -> float:
        return float(np.nansum(fit(None, dispersion=float(np.exp(log_phi))).columns.deviance))

    bounds = (middle - _REACH, middle + _REACH)
    best = scipy.optimize.minimize_scalar(
        total, bounds=bounds, method="bounded", options={"xatol": _WIDTH}
    )
    return fit(SHARED, dispersion=float(np.exp(best.x)))


def _informative(fits: ManyFits, how: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of log(phi) with their standard errors, of the models that have both."""
    at = fits.parameters.get_loc(PARAMETER)
    x, error = fits.columns.estimates[:, at], fits.columns.errors[:, at]
    known = fits.converged & np.isfinite(x) & np.isfinite(error) & (error > 0)
    if not known.any():
        raise ValueError(
            f"dispersion={how!r}: none of the {len(fits)} models tells its dispersion; give known "
            "values, or use family='poisson'"
        )
    return x[known], error[known]


def prior_of(x: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the normal distribution of true values behind estimates x.

    By maximum likelihood for x_i ~ N(mean, sd^2 + error_i^2).
    """

    def deviance(point: np.ndarray) -> float:
        variance = np.exp(2.0 * point[1]) + error**2
        return float(np.sum(np.log(variance) + (x - point[0]) ** 2 / variance))

    weights = error**-2.0
    start = np.array([np.average(x, weights=weights), np.log(0.5)])
    least = np.log(LEAST_SD)
    found = scipy.optimize.minimize(
        deviance, start, method="L-BFGS-B", bounds=[(None, None), (least, 5.0)]
    )
    return float(found.x[0]), float(np.exp(found.x[1]))
