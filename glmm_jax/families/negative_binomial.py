"""Negative binomial counts in both of their usual forms, as glmmTMB's nbinom2 and nbinom1.

    NegativeBinomial    variance mu + mu^2 / phi     size k = phi
    NegativeBinomial1   variance mu (1 + phi)        size k = mu / phi

    log p = log Gamma(y + k) - log Gamma(k) - log y! + k log(k / (k + mu)) + y log(mu / (k + mu))

phi is what glmmTMB's sigma() gives. The Poisson limits (phi to infinity, phi to 0) are reached
without loss of digits: the terms that cancel there are cancelled by hand (`log_rising`).
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
    one_parameter,
    reachable,
    relative_entropy_term,
)
from glmm_jax.families.counts import check_counts
from glmm_jax.families.moments import log_mean_slope, log_start
from glmm_jax.families.saturated import saturated_deviance
from glmm_jax.gamma_functions import log_factorial, log_rising
from glmm_jax.tails import softplus

# Beyond it a dispersion is at the Poisson limit to rounding for every mean and count below 1e60
# (1e12 in single precision); held there, so that no product is 0 * inf.
_LIMIT, _LIMIT_SINGLE = 300.0, 60.0


class NegativeBinomial(Family):
    """Counts with mean mu and variance mu + mu^2 / phi (glmmTMB's nbinom2, MASS's theta = phi)."""

    name = "negative binomial"
    default_link = links.Log()
    allowed_links = ("log", "sqrt", "identity")
    has_dispersion = True
    phi_is = "variance mu + mu^2 / phi"
    mean_range = (0.0, math.inf)

    def log_kernel(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_size = _size(one_parameter(self, dispersion))
        log_mu = self.link.log_mean(eta)
        # log(1 + mu / k), the only place where the mean meets the size.
        log_ratio = softplus(log_mu - log_size)
        return y * log_mu - (jnp.exp(log_size) + y) * log_ratio

    def log_scale(
        self, y: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return log_rising(_size(one_parameter(self, dispersion)), y)

    def log_base(self, y: Array, size: Array | None = None) -> Array:
        return -log_factorial(y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return mu + jnp.square(mu) * jnp.exp(-one_parameter(self, dispersion))

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """mu'^2 / (mu + mu^2 / phi) = (log mu)'^2 mu / (1 + mu / phi)."""
        log_mu = self.link.log_mean(eta)
        log_ratio = softplus(log_mu - _size(one_parameter(self, dispersion)))
        return jnp.square(log_mean_slope(self.link, eta)) * jnp.exp(log_mu - log_ratio)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """2 (y log(y / mu) - (y + phi) log((y + phi) / (mu + phi))); the dispersion is needed."""
        k = jnp.exp(_size(one_parameter(self, dispersion)))
        # (y + k) log((y + k) / (mu + k)) tends to y - mu for large k.
        change = (y + k) * jnp.log1p((y - mu) / (mu + k))
        return 2.0 * (relative_entropy_term(y, mu) - change)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_size = one_parameter(self, dispersion) * jnp.ones_like(eta)
        return _gamma_mixture(key, self.link.log_mean(eta), log_size)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the moments: phi = sum w mu^2 / sum w ((y - mu)^2 - mu)."""
        excess = jnp.sum(weights * (jnp.square(y - mu) - mu))
        return (-log_start(excess / jnp.sum(weights * jnp.square(mu)), 1e-2, 1e2),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y + 0.1, positive where y is zero."""
        return reachable(self.link, y + 0.1)

    def check(self, y: Any, size: Any = None) -> None:
        """Counts are non-negative integers (up to rounding), and size is None or ones."""
        check_counts(self, y, size)


class NegativeBinomial1(Family):
    """Counts with mean mu and variance mu (1 + phi) (glmmTMB's nbinom1)."""

    name = "negative binomial 1"
    default_link = links.Log()
    allowed_links = ("log", "sqrt", "identity")
    has_dispersion = True
    phi_is = "variance mu (1 + phi)"
    mean_range = (0.0, math.inf)
    has_fisher = False

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        # In the size k = mu / phi:  R(k, y) + y log mu - (mu / phi + y) log(1 + phi) - log y!
        log_phi = -_size(-one_parameter(self, dispersion))
        log_mu = self.link.log_mean(eta)
        log_one_plus = softplus(log_phi)
        # log(1 + phi) / phi keeps its digits for small phi, and so does its product with mu.
        rate = jnp.exp(log_mu) * (log_one_plus * jnp.exp(-log_phi))
        kernel = y * (log_mu - log_one_plus) - rate
        return kernel + log_rising(log_mu - log_phi, y) - log_factorial(y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return mu * (1.0 + jnp.exp(one_parameter(self, dispersion)))

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """mu'^2 / (mu (1 + phi)): information of the mean and variance alone."""
        log_information = self.link.log_mean(eta) - softplus(one_parameter(self, dispersion))
        return jnp.square(log_mean_slope(self.link, eta)) * jnp.exp(log_information)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Against the best mean for each row given phi, see `saturated`; phi is needed."""
        return saturated_deviance(self, y, mu, dispersion, size, edge=y <= 0)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_mu = self.link.log_mean(eta)
        return _gamma_mixture(key, log_mu, log_mu - one_parameter(self, dispersion))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the moments: 1 + phi = sum w (y - mu)^2 / sum w mu."""
        ratio = jnp.sum(weights * jnp.square(y - mu)) / jnp.sum(weights * mu)
        return (log_start(ratio - 1.0, 1e-2, 1e2),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y + 0.1, positive where y is zero."""
        return reachable(self.link, y + 0.1)

    def check(self, y: Any, size: Any = None) -> None:
        """Counts are non-negative integers (up to rounding), and size is None or ones."""
        check_counts(self, y, size)


def _size(log_size: Array) -> Array:
    """log of the size, held at the Poisson limit."""
    limit = _LIMIT_SINGLE if jnp.finfo(log_size.dtype).bits < 64 else _LIMIT
    return jnp.where(log_size > limit, limit, log_size)


def _gamma_mixture(key: Array, log_mu: Array, log_size: Array) -> Array:
    """Poisson draws whose means are gamma variables of mean mu and shape exp(log_size)."""
    first, second = jax.random.split(key)
    # By logarithms: a gamma variable of small shape underflows.
    log_size = _size(log_size)
    log_gamma = jax.random.loggamma(first, jnp.exp(log_size), dtype=log_mu.dtype)
    mean = jnp.exp(log_mu - log_size + log_gamma)
    return jax.random.poisson(second, mean).astype(log_mu.dtype)
