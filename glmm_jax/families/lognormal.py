"""Lognormal responses: y > 0 with mean mu and standard deviation phi, both of y itself.

As glmmTMB's lognormal: log y is normal with

    variance s^2 = log(1 + phi^2 / mu^2),     mean m = log mu - s^2 / 2,

and phi, the standard deviation on the scale of the response, is the same for every row (sigma() in
glmmTMB). For a constant variance of log y instead, fit log y by the gaussian family.
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
from glmm_jax.families.saturated import saturated_deviance
from glmm_jax.tails import logistic, softplus


class Lognormal(Family):
    """Lognormal distribution with mean mu and standard deviation phi of y; phi is estimated."""

    name = "lognormal"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = True
    phi_is = "standard deviation of y"
    mean_range = (0.0, math.inf)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_y, log_mu = jnp.log(y), self.link.log_mean(eta)
        s2 = softplus(2.0 * (one_parameter(self, dispersion) - log_mu))
        squared = jnp.square(log_y - log_mu + 0.5 * s2) / s2
        return -0.5 * (math.log(2 * math.pi) + jnp.log(s2) + squared) - log_y

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """phi^2, whatever the mean."""
        return jnp.exp(2.0 * one_parameter(self, dispersion)) * jnp.ones_like(mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """m'^2 / s^2 + (s^2)'^2 / (2 s^4), the information of a normal variable log y."""
        log_ratio = 2.0 * (one_parameter(self, dispersion) - self.link.log_mean(eta))
        s2, share = softplus(log_ratio), logistic(log_ratio)
        # With respect to log mu: (s^2)' = -2 share, m' = 1 + share.
        information = jnp.square(1.0 + share) / s2 + 2.0 * jnp.square(share / s2)
        return jnp.square(log_mean_slope(self.link, eta)) * information

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Against the best mean for each row given phi, see `saturated`; phi is needed."""
        return saturated_deviance(self, y, mu, dispersion, size)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_mu = self.link.log_mean(eta)
        s2 = softplus(2.0 * (one_parameter(self, dispersion) - log_mu))
        noise = jax.random.normal(key, eta.shape, eta.dtype)
        return jnp.exp(log_mu - 0.5 * s2 + jnp.sqrt(s2) * noise)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """log of the standard deviation of y about its mean, within a factor of 100 of the mean."""
        total = jnp.sum(weights)
        mean = jnp.sum(weights * y) / total
        spread = jnp.sqrt(jnp.sum(weights * jnp.square(y - mu)) / total)
        return (log_start(spread / mean, 1e-2, 1e2) + jnp.log(mean),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and positive, and size is None or ones."""
        check_positive(self, y, size)
