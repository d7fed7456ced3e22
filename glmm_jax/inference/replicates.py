"""The fitted model applied to responses simulated from it: what a statistic is if it is true.

The conditional modes and, together with them, the coefficients are found again for each response,
the observed one included (the joint mode of u and beta given theta, as at nagq = 0). So a statistic
of the fit, such as the sum of squared Pearson residuals, is compared with itself, and neither the
modes nor the coefficients, which follow the response, need a count of degrees of freedom. Theta and
the dispersion stay at their estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import pirls
from glmm_jax.families.base import Dispersion
from glmm_jax.families.known import Known
from glmm_jax.inference.residuals import observed
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, lambdas
from glmm_jax.predictors import row_arguments
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit


@dataclass(frozen=True, eq=False)
class Replicates:
    """Statistics of the observed response (first) and of n simulated ones.

    pearson (n + 1,) : sum of squared Pearson residuals, prior weights included, at the conditional
    modes; NaN where a dispersion is estimated. excess_zeros (n + 1,) : number of zeros less its
    expectation at the conditional modes.
    effects : (grouping factor, column) of each random effect, in the order of the frame's blocks.
    largest, skewness (n + 1, effects) : over the levels, of the conditional modes divided by the
    standard deviation of the effect. NaN where the modes of a response were not found.
    """

    pearson: np.ndarray
    excess_zeros: np.ndarray
    effects: tuple[tuple[str, str], ...]
    largest: np.ndarray
    skewness: np.ndarray


def replicates(fit: Fit, simulated: np.ndarray) -> Replicates:
    """Statistics of the observed and of simulated responses, (n, nobs), at their own modes."""
    model, n = fit.model, fit.nobs
    responses = np.empty((len(simulated) + 1, model.n))
    responses[0, :n], responses[1:, :n] = observed(fit), simulated
    # The rows that pad the model are copies of its first, and without weight.
    responses[:, n:] = responses[:, :1]
    with engine():
        found = run(_replicates, fit.estimate.params, model, responses, pearson=dispersed(fit))
    blocks = fit.frame.blocks
    columns = [
        (fit.placement.factor[i], fit.placement.column[i] + j)
        for i, block in enumerate(blocks)
        for j in range(len(block.names))
    ]
    levels = fit.placement.levels
    largest, sums, squares, cubes = (
        np.stack([np.asarray(moment[f])[:, c] for f, c in columns], axis=1)
        for moment in (found.largest, found.sums, found.squares, found.cubes)
    )
    count = np.array([levels[f] for f, _ in columns])
    mean = sums / count
    # About their mean: the modes of the observed response have the mean zero that estimating beta
    # gives them, those of the simulated ones have not.
    variance = squares / count - mean**2
    third = cubes / count - 3 * mean * squares / count + 2 * mean**3
    # A variance of zero leaves every mode at zero, and no skewness.
    skewness = np.divide(third, variance**1.5, out=np.zeros_like(third), where=squares != 0)
    effects = tuple((block.grouping, name) for block in blocks for name in block.names)
    return Replicates(
        np.array(found.pearson), np.array(found.excess_zeros), effects, largest, skewness
    )


def dispersed(fit: Fit) -> bool:
    """Whether the variance follows from the mean (and a probability of excess zeros), so that the
    response can be overdispersed."""
    return set(fit.family.parameters) <= {"logit(zero)"}


class _Moments(NamedTuple):
    """pearson, excess_zeros (); largest, sums, squares, cubes: per grouping factor the (k,) maximum
    of |b / sd| and the sums of its powers over the levels."""

    pearson: jax.Array
    excess_zeros: jax.Array
    largest: tuple[jax.Array, ...]
    sums: tuple[jax.Array, ...]
    squares: tuple[jax.Array, ...]
    cubes: tuple[jax.Array, ...]


@partial(jax.jit, static_argnames="pearson")
def _replicates(params: Params, model: Model, responses: jax.Array, *, pearson: bool) -> _Moments:
    """The moments of each response, (responses, rows), with a leading axis."""
    guess = jnp.zeros(model.q, responses.dtype)
    family = model.family

    def squares(y: jax.Array, eta: jax.Array, phi: Dispersion) -> jax.Array:
        """Sum of w (y - E y)^2 / Var(y)."""
        if not pearson:
            return jnp.full((), jnp.nan, eta.dtype)
        if family.parameters:
            mu = family.mean(eta, phi)
            count = mu if model.size is None or isinstance(family, Known) else model.size * mu
            each = jnp.square(y - count) / family.variance(mu, phi, model.size)
        else:
            # In an exponential family score^2 / information, which keeps its digits in the tails.
            information = family.positive_information(y, eta, phi, model.size)
            each = jnp.square(family.score(y, eta, phi, model.size)) / information
        return jnp.sum(model.weights * each)

    def one(y: jax.Array) -> _Moments:
        here = replace(model, y=y)
        mode = pirls.find_mode(params, here, guess, joint=True)
        u = jnp.where(mode.converged, mode.u, jnp.nan)
        there = replace(params, beta=mode.beta)
        predictors = pirls.linear_predictor(there, here, u)
        eta, phi = row_arguments(there, here, predictors)
        zero = jnp.exp(family.log_prob(jnp.zeros_like(y), eta, phi, model.size))
        # Rows that pad the model have no weight; the others count once each.
        zeros = jnp.sum(jnp.where(model.weights > 0, (y == 0) - zero, 0.0))
        scaled = []
        for Lambda in lambdas(params.theta, model):
            sd = jnp.sqrt(jnp.sum(jnp.square(Lambda), axis=1))
            scaled.append(Lambda / jnp.where(sd > 0, sd, 1.0)[:, None])
        effects = base.effects(model.structure, tuple(scaled), u)
        return _Moments(
            squares(y, eta, phi),
            zeros,
            tuple(jnp.max(jnp.abs(b), axis=0) for b in effects),
            tuple(jnp.sum(b, axis=0) for b in effects),
            tuple(jnp.sum(b**2, axis=0) for b in effects),
            tuple(jnp.sum(b**3, axis=0) for b in effects),
        )

    return jax.lax.map(one, responses)
