"""Predictions for rows of known groups and of new ones: the distribution of eta given the data.

Given y, u is near normal with mean u~ and covariance H^-1, so that of a row

    eta ~ N(x' beta + offset + z' Lambda u~,  a' H^-1 a),      a = Lambda' z.

Rows to predict are rows of the model with weight zero: they do not move u~, and with H = sum_i w_i
a_i a_i' + I over the rows of weights w_i,

    a_i' H^-1 a_i = d log|H| / dw_i,

so that one gradient has the variances of all rows, whatever the structure. A group none of whose
rows has a weight is new: its mode is zero, its variance that of the random effects themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax import pirls
from glmm_jax.families.base import Family
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, row_dispersion
from glmm_jax.objective.quadrature import NOTHING, grid, leaves_range

NODES = 25
STEPS = 25  # towards the peak of a row's density


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["eta", "sd", "dispersion", "y", "size"],
    meta_fields=["family"],
)
@dataclass(frozen=True)
class Prediction:
    """The linear predictor of each row given the data: eta, sd (n,), its mean and its deviation.

    dispersion, y, size : the family's parameters besides eta, and the model's arrays.
    """

    eta: jax.Array
    sd: jax.Array
    dispersion: Any
    y: jax.Array
    size: jax.Array | None
    family: Family

    def mean(self) -> jax.Array:
        """E(y) of each row, (n,), averaged over the random effects given the data: over groups of
        the population for a new group. For a binomial row of y / size."""
        nodes, log_weights = _grid(self.eta.dtype)
        at = jax.vmap(lambda z: self.family.mean(self.eta + z * self.sd, self.dispersion))
        return jnp.exp(log_weights) @ at(nodes)

    def log_density(self) -> jax.Array:
        """log p(y) of each row given the data, (n,): the score of rows of weight zero."""

        nodes, log_weights = _grid(self.eta.dtype)
        centre, width = jax.lax.stop_gradient(self._peak())

        def at(node: jax.Array, log_weight: jax.Array) -> jax.Array:
            z = centre + width * node
            eta = self.eta + z * self.sd
            value = self.family.log_prob(self.y, eta, self.dispersion, self.size)
            if leaves_range(self.family):  # a node without a mean has no density
                value = jnp.where(jnp.isfinite(value), value, NOTHING)
            # The ratio of the standard normal densities of z and of the node.
            return value - 0.5 * (z**2 - node**2) + log_weight

        return jnp.log(width) + jax.nn.logsumexp(jax.vmap(at)(nodes, log_weights), axis=0)

    def _peak(self) -> tuple[jax.Array, jax.Array]:
        """Where p(y | eta + z sd) times the density of z is largest, and its width there, (n,).

        Scoring steps of at most one; a row that tells more than the data did has a sharp peak,
        which nodes placed for the standard normal density would miss.
        """

        def step(_: int, z: jax.Array) -> jax.Array:
            eta = self.eta + z * self.sd
            slope = self.sd * self.family.score(self.y, eta, self.dispersion, self.size) - z
            move = slope * self._width(z) ** 2
            return z + jnp.where(jnp.isfinite(move), jnp.clip(move, -1.0, 1.0), 0.0)

        centre = jax.lax.fori_loop(0, STEPS, step, jnp.zeros_like(self.eta))
        return centre, self._width(centre)

    def _width(self, z: jax.Array) -> jax.Array:
        eta = self.eta + z * self.sd
        information = self.family.positive_information(self.y, eta, self.dispersion, self.size)
        width = jax.lax.rsqrt(1.0 + self.sd**2 * information)
        return jnp.where(jnp.isfinite(width), width, 1.0)


def _grid(dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Nodes and log weights of the standard normal distribution, (nodes,) each."""
    nodes, log_weights = grid(NODES, 1)
    return jnp.asarray(nodes[:, 0], dtype), jnp.asarray(log_weights, dtype)


def predict(params: Params, model: Model) -> Prediction:
    """The distribution of every row's linear predictor given the rows that have weights.

    Parameters
    ----------
    params, model : parameters and data. Rows to predict have weight zero in the model:
        `model.replace(weights=...)`; a group without weights is a new one.

    Returns
    -------
    Prediction, a pytree; NaN if the conditional mode was not found.

    Raises
    ------
    ValueError : parameters that do not fit the model, or random effects in zero_inflation=.
    """
    if model.random_parameters:
        raise ValueError(
            "model: zero_inflation= has random effects, so that a row depends on two linear "
            "predictors; predict with glmer's predict, or leave those random effects out"
        )
    u = pirls.conditional_mode(params, model)
    return _predicted(params, model, u)


@jax.jit
def _predicted(params: Params, model: Model, u: jax.Array) -> Prediction:
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, model.curvature)

    def logdet(information: jax.Array) -> jax.Array:
        return base.logdet(pirls.factorise(params, model, information))

    variance = jax.grad(logdet)(information)
    dispersion = row_dispersion(params, model)
    # Rounding may leave a variance of zero a little below it.
    positive = variance > 0
    sd = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
    return Prediction(eta, sd, dispersion, model.y, model.size, model.family)
