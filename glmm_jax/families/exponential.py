"""Exponential responses: y > 0 with mean mu, log p = -log mu - y / mu; nothing else to estimate.

The gamma family with phi = 1, and the Weibull family with shape 1.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax import links
from glmm_jax.families.base import Dispersion, Family, reachable
from glmm_jax.families.gamma import check_positive
from glmm_jax.families.moments import log_mean_slope


class Exponential(Family):
    """Exponential distribution with mean mu and variance mu^2."""

    name = "exponential"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = False
    mean_range = (0.0, math.inf)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_mu = self.link.log_mean(eta)
        return -log_mu - jnp.exp(jnp.log(y) - log_mu)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return jnp.square(mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(log mu)'^2."""
        return jnp.square(log_mean_slope(self.link, eta))

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        log_ratio = jnp.log(y) - jnp.log(mu)
        return 2.0 * (jnp.expm1(log_ratio) - log_ratio)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return self.mean(eta) * jax.random.exponential(key, eta.shape, eta.dtype)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and positive, and size is None or ones."""
        check_positive(self, y, size)
