"""Weibull responses: y > 0 with mean mu and shape phi.

    log p = log phi - log y + w - exp(w),   w = phi log(y / scale),   mu = scale Gamma(1 + 1 / phi)

The linear predictor is that of the mean, as in every other family. With the log link the scale is
exp(eta) / Gamma(1 + 1 / phi), so the coefficients but the intercept are those of an accelerated
failure time model (R's survreg, whose scale is 1 / phi), and its intercept is ours less
log Gamma(1 + 1 / phi). Shape 1 is the exponential distribution.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from glmm_jax import links
from glmm_jax.families.base import Dispersion, Family, one_parameter, reachable
from glmm_jax.families.gamma import check_positive
from glmm_jax.families.moments import log_mean_slope, log_start


class Weibull(Family):
    """Weibull distribution with mean mu and shape phi; the shape is estimated."""

    name = "weibull"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = True
    phi_is = "shape"
    mean_range = (0.0, math.inf)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_shape, log_y = one_parameter(self, dispersion), jnp.log(y)
        w = _standardised(log_y - self.link.log_mean(eta), log_shape)
        return log_shape - log_y + w - jnp.exp(w)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """mu^2 (Gamma(1 + 2 / phi) / Gamma(1 + 1 / phi)^2 - 1)."""
        inverse = jnp.exp(-one_parameter(self, dispersion))
        log_ratio = gammaln(1.0 + 2.0 * inverse) - 2.0 * gammaln(1.0 + inverse)
        return jnp.square(mu) * jnp.expm1(log_ratio)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(phi (log mu)')^2."""
        slope = log_mean_slope(self.link, eta)
        return jnp.square(slope * jnp.exp(one_parameter(self, dispersion)))

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """2 (exp(w) - 1 - w), zero where y is the scale; the shape is needed."""
        w = _standardised(jnp.log(y) - jnp.log(mu), one_parameter(self, dispersion))
        return 2.0 * (jnp.expm1(w) - w)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        inverse = jnp.exp(-one_parameter(self, dispersion))
        log_scale = self.link.log_mean(eta) - gammaln(1.0 + inverse)
        # The logarithm of an exponential variable is minus a Gumbel one.
        return jnp.exp(log_scale - inverse * jax.random.gumbel(key, eta.shape, eta.dtype))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the standard deviation of log y, which is pi / (sqrt(6) phi)."""
        log_ratio, total = jnp.log(y) - jnp.log(mu), jnp.sum(weights)
        mean = jnp.sum(weights * log_ratio) / total
        deviation = jnp.sqrt(jnp.sum(weights * jnp.square(log_ratio - mean)) / total)
        return (log_start(1.2825498301618641 / deviation, 0.2, 50.0),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and positive, and size is None or ones."""
        check_positive(self, y, size)


def _standardised(log_ratio: Array, log_shape: Array) -> Array:
    """phi log(y / scale), given log(y / mu)."""
    return jnp.exp(log_shape) * (log_ratio + gammaln(1.0 + jnp.exp(-log_shape)))
