"""Linear predictor, fitted values and residuals of the rows used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax.families.base import Family
from glmm_jax.inference.ranef import modes
from glmm_jax.runtime import engine

if TYPE_CHECKING:
    from glmm_jax.results import Fit

KINDS = ("response", "pearson", "deviance")


def linear_predictor(fit: Fit) -> np.ndarray:
    """eta = X beta + Z b + offset, (n,), at the conditional modes b."""
    frame = fit.frame
    eta = frame.X @ np.asarray(fit.estimate.params.beta) + frame.offset
    for block, b in zip(frame.blocks, modes(fit), strict=True):
        eta += np.sum(block.Z * b[block.index], axis=1)
    return eta


def fitted(fit: Fit) -> np.ndarray:
    """Conditional means mu, (n,); probabilities where the response counts successes."""
    return _rows(fit).mean


def resid(fit: Fit, kind: str = "pearson") -> pd.Series:
    """Residuals of the rows used; see `residuals`."""
    return pd.Series(residuals(fit, kind), fit.frame.index, name=kind)


def residuals(fit: Fit, kind: str) -> np.ndarray:
    """Residuals at the conditional modes, (n,).

    With w the prior weight (`weights=`, times the trials of a binomial row) and V the variance
    function with dispersion 1:

        response   y - mu (y the proportion of successes where there are trials)
        pearson    (y - mu) sqrt(w / V(mu))
        deviance   sign(y - mu) sqrt(w d), with d the unit deviance

    These are R's; for a Gaussian response neither of the last two is divided by sigma.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; use one of {', '.join(map(repr, KINDS))}")
    rows = _rows(fit)
    if kind == "response":
        return rows.difference
    if kind == "pearson":
        # A mean at the end of its range has no variance: a response equal to it is no residual.
        scale = np.sqrt(rows.variance / rows.weight)
        nothing = np.zeros_like(rows.difference)
        return np.divide(rows.difference, scale, out=nothing, where=rows.difference != 0)
    # Where y = mu rounding may leave the deviance a few units of 1e-17 below zero.
    return np.sign(rows.difference) * np.sqrt(np.maximum(rows.deviance, 0.0))


class _Rows(NamedTuple):
    mean: np.ndarray
    difference: np.ndarray  # y - mu, y a proportion where there are trials
    variance: np.ndarray  # V(mu)
    weight: np.ndarray
    deviance: np.ndarray  # w d


def _rows(fit: Fit) -> _Rows:
    model, n = fit.model, fit.nobs
    eta = linear_predictor(fit)
    # The padded length of the model, so that one compiled program serves data of similar size.
    padded = np.full(model.n, eta[0])
    padded[:n] = eta
    with engine():
        moments = _moments(fit.family, model.y, padded, model.size)
    mean, variance, deviance = (np.array(part)[:n] for part in moments)
    case = np.asarray(model.weights)[:n]
    size = np.ones(n) if model.size is None else np.asarray(model.size)[:n]
    y = fit.frame.y if fit.frame.trials is None else fit.frame.y / fit.frame.trials
    return _Rows(mean, y - mean, variance, case * size, case * deviance)


@partial(jax.jit, static_argnums=0)
def _moments(
    family: Family, y: jax.Array, eta: jax.Array, size: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance function (dispersion 1, one trial) and unit deviance of each row, (n,)."""
    mu = family.mean(eta)
    dispersion = jnp.zeros((), eta.dtype) if family.has_dispersion else None
    return mu, family.variance(mu, dispersion), family.unit_deviance(y, mu, size)
