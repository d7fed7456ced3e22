"""Inverse Gaussian responses: y > 0 with mean mu and variance phi mu^3.

    log p = -(log(2 pi) + log phi + 3 log y) / 2 - (y - mu)^2 / (2 phi mu^2 y)

phi is the dispersion of R's inverse.gaussian family. The usual link here is the logarithm; R's
canonical 1 / mu^2 gives no mean for a negative linear predictor.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax import links
from glmm_jax.families.base import Dispersion, Family, one_parameter, reachable
from glmm_jax.families.gamma import check_positive
from glmm_jax.families.moments import log_mean_slope, log_start


class InverseGaussian(Family):
    """Inverse Gaussian distribution with mean mu and variance phi mu^3; phi is estimated."""

    name = "inverse gaussian"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = True
    phi_is = "variance phi mu^3"
    mean_range = (0.0, math.inf)
    variance_scales = True

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi, log_y = one_parameter(self, dispersion), jnp.log(y)
        relative = jnp.expm1(log_y - self.link.log_mean(eta))
        squared = jnp.square(relative) * jnp.exp(-log_phi - log_y)
        return -0.5 * (math.log(2 * math.pi) + log_phi + 3.0 * log_y + squared)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return jnp.exp(one_parameter(self, dispersion)) * mu * jnp.square(mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(log mu)'^2 / (phi mu)."""
        inverse = jnp.exp(-self.link.log_mean(eta) - one_parameter(self, dispersion))
        return jnp.square(log_mean_slope(self.link, eta)) * inverse

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """(y - mu)^2 / (mu^2 y)."""
        return jnp.square((y - mu) / mu) / y

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """By the square of a normal variable and a choice between two roots.

        Source: Michael, Schucany and Haas (1976), The American Statistician 30, 88-90.
        """
        first, second = jax.random.split(key)
        mu = self.mean(eta)
        chi = jnp.square(jax.random.normal(first, eta.shape, eta.dtype))
        half = 0.5 * jnp.exp(one_parameter(self, dispersion)) * mu * chi
        # The smaller root over mu, 1 + h - sqrt(2 h + h^2), without its cancellation.
        small = 1.0 / (1.0 + half + jnp.sqrt(half * (2.0 + half)))
        chance = jax.random.uniform(second, eta.shape, eta.dtype)
        return mu * jnp.where(chance * (1.0 + small) <= 1.0, small, 1.0 / small)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """The mean unit deviance, bounded where the response hardly varies."""
        total = jnp.sum(weights * self.unit_deviance(y, mu, size))
        ratio = total / (jnp.sum(weights) - lost)
        # phi has the unit of 1 / y.
        unit = jnp.sum(weights) / jnp.sum(weights * y)
        return (log_start(ratio / unit, 1e-8, 1e2) + jnp.log(unit),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and positive, and size is None or ones."""
        check_positive(self, y, size)
