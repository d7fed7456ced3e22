"""Gamma responses: y > 0 with mean mu and variance phi mu^2 / size; shape 1 / phi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from glmm_jax import links
from glmm_jax.families.base import Dispersion, Family, numeric, one_parameter, require, sized


@dataclass(frozen=True, init=False)
class Gamma(Family):
    """Gamma distribution with mean mu and variance phi mu^2; phi is estimated.

    log p = (log k - log mu - y / mu) k + (k - 1) log y - log Gamma(k) + ..., k = 1 / phi the shape.
    """

    name = "gamma"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = True

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_shape = -one_parameter(self, dispersion)
        shape = jnp.exp(log_shape)
        log_mu = self.link.log_mean(eta)
        log_ratio = jnp.log(y) - log_mu
        return shape * (log_shape + log_ratio - jnp.exp(log_ratio)) - gammaln(shape) - jnp.log(y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return jnp.exp(one_parameter(self, dispersion)) * jnp.square(mu)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        ratio = y / mu
        return 2.0 * (ratio - 1.0 - jnp.log(ratio))

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Dispersion = None,
        size: Array | None = None,
    ) -> Array:
        shape = jnp.exp(-one_parameter(self, dispersion)) * jnp.ones_like(eta)
        return self.mean(eta) * jax.random.gamma(key, shape, dtype=eta.dtype) / shape

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return y

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and positive."""
        values = numeric("y", y)
        require("y", values, values > 0, "positive", "use a family whose range includes it")
        sized(size, values)
