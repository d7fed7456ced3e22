"""Gamma responses: y > 0 with mean mu and variance phi mu^2; shape k = 1 / phi.

    log p = -k (r - 1 - log r) + log(k) / 2 - log(2 pi) / 2 - S(k) - log y,   r = y / mu,

with S the remainder of Stirling's formula: the parts of log Gamma(k) that are large for a small
dispersion have cancelled. phi is the squared coefficient of variation, glmmTMB's sigma()^2.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax import links
from glmm_jax.families.base import (
    Dispersion,
    Family,
    numeric,
    one_parameter,
    reachable,
    require,
    require_unit_size,
)
from glmm_jax.families.moments import log_mean_slope, log_start
from glmm_jax.gamma_functions import stirling_remainder


class Gamma(Family):
    """Gamma distribution with mean mu and variance phi mu^2; phi is estimated."""

    name = "gamma"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = True
    phi_is = "variance phi mu^2"
    mean_range = (0.0, math.inf)
    variance_scales = True

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_shape = -one_parameter(self, dispersion)
        log_ratio = jnp.log(y) - self.link.log_mean(eta)
        distance = jnp.expm1(log_ratio) - log_ratio
        constant = 0.5 * (log_shape - math.log(2 * math.pi)) - stirling_remainder(log_shape)
        return constant - jnp.exp(log_shape) * distance - jnp.log(y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return jnp.exp(one_parameter(self, dispersion)) * jnp.square(mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(log mu)'^2 / phi."""
        slope = log_mean_slope(self.link, eta)
        return jnp.square(slope) * jnp.exp(-one_parameter(self, dispersion))

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        log_ratio = jnp.log(y) - jnp.log(mu)
        return 2.0 * (jnp.expm1(log_ratio) - log_ratio)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """A draw that underflows is the smallest normal number: y is positive."""
        log_shape = -one_parameter(self, dispersion) * jnp.ones_like(eta)
        draw = jax.random.loggamma(key, jnp.exp(log_shape), dtype=eta.dtype)
        tiny = float(jnp.finfo(eta.dtype).tiny)
        return jnp.maximum(jnp.exp(self.link.log_mean(eta) + draw - log_shape), tiny)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """The mean unit deviance, bounded where the response hardly varies."""
        total = jnp.sum(weights * self.unit_deviance(y, mu, size))
        ratio = total / (jnp.sum(weights) - lost)
        return (log_start(ratio, 1e-8, 1e2),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and positive, and size is None or ones."""
        check_positive(self, y, size)


def check_positive(family: Family, y: Any, size: Any) -> None:
    """y is finite and positive, and size is None or ones.

    Raises:
        ValueError: otherwise; names the first such row.
    """
    values = numeric("y", y)
    require(
        "y",
        values,
        values > 0,
        "positive",
        f"the {family.name} family has no zeros; the tweedie family has, or use a hurdle model",
    )
    require_unit_size(family, size, "weights multiply each row's log density")
