"""Linear predictor, fitted values and residuals of the rows used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy

from glmm_jax.build import padded
from glmm_jax.families.base import Dispersion, is_integer
from glmm_jax.formula.frame import CONDITIONAL, Frame
from glmm_jax.formula.newdata import NewFrame
from glmm_jax.inference import quantile, simulate
from glmm_jax.inference.parameter_rows import row_parameters
from glmm_jax.inference.ranef import random_part
from glmm_jax.model import Model, Params
from glmm_jax.predictors import row_arguments
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

KINDS = ("response", "pearson", "deviance", "working", "quantile")


def linear_predictor(
    fit: Fit, rows: Frame | NewFrame | None = None, conditional: bool = True
) -> np.ndarray:
    """eta = X beta + offset and, if conditional, Z b (0 for levels not in the fit), (rows,).

    `rows` are new ones, or by default those of the fit.
    """
    rows = fit.frame if rows is None else rows
    eta = rows.X @ np.asarray(fit.estimate.params.beta) + rows.offset
    return random_part(fit, rows, CONDITIONAL, eta) if conditional else eta


def fitted(fit: Fit) -> np.ndarray:
    """Conditional means mu, (n,); probabilities where the response counts successes."""
    return _moment(fit, "mean")


def resid(
    fit: Fit, kind: str = "pearson", *, n: int = 250, seed: int = 0, random: str = "new"
) -> pd.Series:
    """Residuals of the rows used.

    With w the prior weight (`weights=`, times the trials of a binomial row) and V the variance of
    one trial, at the conditional modes of the random effects:

        response   y - mu (y the proportion of successes where there are trials)
        pearson    (y - mu) sqrt(w / V)
        deviance   sign(y - mu) sqrt(w d), with d the unit deviance
        working    (y - mu) / (dmu/deta); in a family that is no exponential one the score about
                   eta divided by its information
        quantile   Phi^-1(u), u the position of y among n responses simulated from the fit, ties
                   broken at random: standard normal in every family if the model is true

    V is the whole variance, but where phi is a factor of it, the same in all rows (gaussian, gamma,
    inverse gaussian), V is that with phi = 1: for a Gaussian response nothing is divided by sigma,
    as in R. mu is the mean of the response, zeros in excess included. Some families have no unit
    deviance. The first four kinds have a known distribution only where counts are large; a quantile
    residual has one always.

    Parameters
    ----------
    kind : one of the five names above.
    n, seed, random : for "quantile" only: number of simulated responses, seed of the simulation
        and of the ties, and whether each simulated response has "new" random effects (residuals
        then measure the whole model, and those of one level vary together) or the "conditional"
        modes of the fit.

    Returns
    -------
    Series (nobs,) with the labels of the rows used.

    Raises
    ------
    ValueError : another kind, or one that the family does not have; n, seed or random that
        `simulate` refuses.

    Source: Dunn & Smyth (1996), J. Comp. Graph. Stat. 5, 236-244, for the quantile residuals.
    """
    return pd.Series(residuals(fit, kind, n, seed, random), fit.frame.index, name=kind)


def residuals(fit: Fit, kind: str, n: int = 250, seed: int = 0, random: str = "new") -> np.ndarray:
    """Residuals of the rows used, (nobs,); see `resid`.

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; use one of {', '.join(map(repr, KINDS))}")
    if kind == "quantile":
        simulated = simulate.simulate_array(fit, n, seed, random)
        return scipy.special.ndtri(quantile.scaled(observed(fit), simulated, seed))
    if kind == "working":
        with engine():
            ratio = run(_working, fit.estimate.params, fit.numbers, _padded(fit))
        return np.array(ratio)[: fit.nobs]
    trials = np.ones(fit.nobs) if fit.frame.trials is None else fit.frame.trials
    difference = fit.frame.y / trials - fitted(fit)
    if kind == "response":
        return difference
    case = np.asarray(fit.numbers.weights)[: fit.nobs]
    if kind == "pearson":
        variance = _moment(fit, "variance")
        if np.any(np.isinf(variance)):
            raise ValueError(
                f"kind='pearson': the variance of the {fit.family.name} response is infinite at "
                "the estimate, so no residual can be divided by its root; use 'quantile', 'working'"
            )
        # A mean at the end of its range has no variance: a response equal to it is no residual.
        scale = np.sqrt(variance / case) / trials
        nothing = np.zeros_like(difference)
        return np.divide(difference, scale, out=nothing, where=difference != 0)
    # Where y = mu rounding may leave the deviance a few units of 1e-17 below zero.
    return np.sign(difference) * np.sqrt(np.maximum(case * _moment(fit, "deviance"), 0.0))


def available(fit: Fit, kind: str) -> np.ndarray | None:
    """Residuals of the rows used, (nobs,), or None where the family does not have this kind."""
    try:
        return residuals(fit, kind)
    except ValueError:
        return None


def observed(fit: Fit) -> np.ndarray:
    """The response as `simulate_array` codes it, (nobs,): a count without a rounding error."""
    y = fit.frame.y
    return np.round(y) if np.all(is_integer(y)) else y


def _moment(fit: Fit, what: str) -> np.ndarray:
    """Mean (of one trial), variance or unit deviance of the response in the rows used, (nobs,)."""
    # In a dispersion model phi differs between the rows, so that it is no common factor.
    at_one = fit.family.variance_scales and not fit.numbers.dispersion_X
    with engine():
        arrays = fit.estimate.params, fit.numbers, _padded(fit)
        found = run(_moments, *arrays, what=what, at_one=at_one)
    return np.array(found)[: fit.nobs]


def _padded(fit: Fit) -> np.ndarray:
    """eta in the padded length of the model, (n,); with random effects in further parameters the
    linear predictors of all, (r, n)."""
    eta, names = linear_predictor(fit), fit.family.parameters
    if not fit.numbers.random_parameters:
        return padded(eta, fit.numbers.n)
    values = row_parameters(fit, fit.frame)
    parts = [eta, *(values[names[i]] for i in fit.numbers.random_parameters)]
    return np.stack([padded(part, fit.numbers.n) for part in parts])


def family_arguments(fit: Fit) -> tuple[np.ndarray, Dispersion]:
    """eta, (n,), and the family's other parameters at the conditional modes, in the padded length.

    To be called inside `engine()`.
    """
    eta, phi = row_arguments(fit.estimate.params, fit.model, jnp.asarray(_padded(fit)))
    return np.asarray(eta), phi


@partial(jax.jit, static_argnames=("what", "at_one"))
def _moments(params: Params, model: Model, eta: jax.Array, *, what: str, at_one: bool) -> jax.Array:
    """See `_moment`; the variance is that with phi = 1 if `at_one`, (n,)."""
    family = model.family
    eta, phi = row_arguments(params, model, eta)
    mu = family.mean(eta, phi)
    if what == "mean":
        return mu
    if what == "variance":
        scale = jnp.zeros((), eta.dtype) if at_one else phi
        return jnp.broadcast_to(family.variance(mu, scale, model.size), eta.shape)
    return family.unit_deviance(model.y, mu, model.size, phi)


@jax.jit
def _working(params: Params, model: Model, eta: jax.Array) -> jax.Array:
    """(y - mu) / (dmu/deta) of each row, (n,).

    The score about eta is (y - mu) mu' / Var and the information mu'^2 / Var. Their quotient keeps
    its digits in the tails, where y - mu and mu' have lost theirs.
    """
    eta, dispersion = row_arguments(params, model, eta)
    score = model.family.score(model.y, eta, dispersion, model.size)
    return score / model.family.positive_information(model.y, eta, dispersion, model.size)
