"""Linear predictor, fitted values and residuals of the rows used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.special

from glmm_jax.build import padded
from glmm_jax.families.base import Family
from glmm_jax.formula.frame import Frame
from glmm_jax.formula.newdata import NewFrame
from glmm_jax.inference import quantile, simulate
from glmm_jax.inference.ranef import modes
from glmm_jax.model import Model
from glmm_jax.runtime import engine

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
    if conditional:
        for block, b in zip(rows.blocks, modes(fit), strict=True):
            seen = block.index >= 0
            eta[seen] += np.sum(block.Z[seen] * b[block.index[seen]], axis=1)
    return eta


def fitted(fit: Fit) -> np.ndarray:
    """Conditional means mu, (n,); probabilities where the response counts successes."""
    return _rows(fit).mean


def resid(
    fit: Fit, kind: str = "pearson", *, n: int = 250, seed: int = 0, random: str = "new"
) -> pd.Series:
    """Residuals of the rows used.

    With w the prior weight (`weights=`, times the trials of a binomial row) and V the variance
    function with dispersion 1, at the conditional modes of the random effects:

        response   y - mu (y the proportion of successes where there are trials)
        pearson    (y - mu) sqrt(w / V(mu))
        deviance   sign(y - mu) sqrt(w d), with d the unit deviance
        working    (y - mu) / (dmu/deta)
        quantile   Phi^-1(u), u the position of y among n responses simulated from the fit, ties
                   broken at random: standard normal in every family if the model is true

    The first four are R's; for a Gaussian response none is divided by sigma. They have a known
    distribution only where counts are large; a quantile residual has one always.

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
    ValueError : another kind; n, seed or random that `simulate` refuses.

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
            ratio = _working(fit.estimate.params.dispersion, fit.model, _padded(fit))
        return np.array(ratio)[: fit.nobs]
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


def observed(fit: Fit) -> np.ndarray:
    """The response as `simulate_array` codes it, (nobs,): a count without a rounding error."""
    return fit.frame.y if fit.family.name == "gaussian" else np.round(fit.frame.y)


class _Rows(NamedTuple):
    mean: np.ndarray
    difference: np.ndarray  # y - mu, y a proportion where there are trials
    variance: np.ndarray  # V(mu)
    weight: np.ndarray
    deviance: np.ndarray  # w d


def _rows(fit: Fit) -> _Rows:
    model, n = fit.model, fit.nobs
    with engine():
        moments = _moments(fit.family, model.y, _padded(fit), model.size)
    mean, variance, deviance = (np.array(part)[:n] for part in moments)
    case = np.asarray(model.weights)[:n]
    size = np.ones(n) if model.size is None else np.asarray(model.size)[:n]
    y = fit.frame.y if fit.frame.trials is None else fit.frame.y / fit.frame.trials
    return _Rows(mean, y - mean, variance, case * size, case * deviance)


def _padded(fit: Fit) -> np.ndarray:
    """eta in the padded length of the model."""
    return padded(linear_predictor(fit), fit.model.n)


@partial(jax.jit, static_argnums=0)
def _moments(
    family: Family, y: jax.Array, eta: jax.Array, size: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance function (dispersion 1, one trial) and unit deviance of each row, (n,)."""
    mu = family.mean(eta)
    dispersion = jnp.zeros((), eta.dtype) if family.has_dispersion else None
    return mu, family.variance(mu, dispersion), family.unit_deviance(y, mu, size)


@jax.jit
def _working(dispersion: jax.Array | None, model: Model, eta: jax.Array) -> jax.Array:
    """(y - mu) / (dmu/deta) of each row, (n,).

    The score about eta is (y - mu) mu' / Var and the information mu'^2 / Var. Their quotient keeps
    its digits in the tails, where y - mu and mu' have lost theirs.
    """
    score = model.family.score(model.y, eta, dispersion, model.size)
    return score / model.family.fisher(eta, dispersion, model.size)
