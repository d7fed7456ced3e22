"""Beta responses: proportions in (0, 1) with mean mu and precision phi, as glmmTMB's beta_family.

y ~ Beta(a, b) with a = mu phi, b = (1 - mu) phi, variance mu (1 - mu) / (1 + phi); phi is what
glmmTMB's sigma() gives. With S of `gamma_functions.stirling_remainder` the density is

    log p = -phi KL(mu, y) + (log a + log b - log phi - log 2 pi) / 2 + S(phi) - S(a) - S(b)
            - log y - log(1 - y),       KL = mu log(mu / y) + (1 - mu) log((1 - mu) / (1 - y)),

in which the log-gamma functions, large for large phi, have cancelled.
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
    require,
    require_unit_size,
)
from glmm_jax.families.moments import log_mean_slope, log_start
from glmm_jax.families.saturated import saturated_deviance
from glmm_jax.gamma_functions import stirling_remainder
from glmm_jax.links import Link
from glmm_jax.tails import elementwise_derivative, logistic


class Beta(Family):
    """Proportions with mean mu and variance mu (1 - mu) / (1 + phi), y strictly inside (0, 1)."""

    name = "beta"
    default_link = links.Logit()
    allowed_links = ("logit", "probit", "cloglog", "loglog", "cauchit")
    has_dispersion = True
    phi_is = "variance mu (1 - mu) / (1 + phi)"
    mean_range = (0.0, 1.0)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi = one_parameter(self, dispersion)
        log_mu, log_nu = self.link.log_mean(eta), self.link.log_complement(eta)
        log_y, log_z = jnp.log(y), jnp.log1p(-y)
        log_a, log_b = log_mu + log_phi, log_nu + log_phi
        distance = jnp.exp(log_a) * (log_mu - log_y) + jnp.exp(log_b) * (log_nu - log_z)
        half = 0.5 * (log_a + log_b - log_phi - math.log(2 * math.pi))
        # Side by side the two take half the instructions, which is half the program.
        remainders = jnp.sum(stirling_remainder(jnp.stack([log_a, log_b])), 0)
        return half + stirling_remainder(log_phi) - remainders - distance - log_y - log_z

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return mu * (1.0 - mu) / (1.0 + jnp.exp(one_parameter(self, dispersion)))

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(phi mu')^2 (psi'(a) + psi'(b)), each part as (log a)'^2 a^2 psi'(a)."""
        log_phi = one_parameter(self, dispersion)
        left = jnp.square(log_mean_slope(self.link, eta))
        right = jnp.square(elementwise_derivative(self.link.log_complement, eta))
        log_a, log_b = self.link.log_mean(eta) + log_phi, self.link.log_complement(eta) + log_phi
        first, second = _squared_trigamma(jnp.stack([log_a, log_b]))
        return left * first + right * second

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Against the best mean for each row given phi, see `saturated`; phi is needed."""
        return saturated_deviance(self, y, mu, dispersion, size)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """A draw that rounds to 0 or 1 is the nearest number inside (0, 1)."""
        log_odds = sample_log_odds(key, self.link, eta, one_parameter(self, dispersion))
        info = jnp.finfo(eta.dtype)
        return jnp.clip(logistic(log_odds), float(info.tiny), float(1.0 - info.epsneg))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the moments: 1 + phi = sum w mu (1 - mu) / sum w (y - mu)^2."""
        spread = jnp.sum(weights * jnp.square(y - mu))
        return (log_start(jnp.sum(weights * mu * (1.0 - mu)) / spread - 1.0, 0.1, 1e4),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y moved by 5 % towards 1/2, so that a value near 0 or 1 does not dominate a start."""
        return 0.5 + 0.95 * (y - 0.5)

    def check(self, y: Any, size: Any = None) -> None:
        """y is strictly between 0 and 1, and size is None or ones."""
        values = numeric("y", y)
        require(
            "y",
            values,
            (values > 0) & (values < 1),
            "strictly between 0 and 1",
            "a beta density has no mass at 0 and 1; for successes among trials use the binomial "
            "or the beta-binomial family",
        )
        require_unit_size(self, size, "its precision phi is estimated")


def sample_log_odds(key: Array, link: Link, eta: Array, log_phi: Array) -> Array:
    """log(y / (1 - y)) of one Beta(mu phi, (1 - mu) phi) draw for each element of eta.

    The difference of the logarithms of two gamma variables: neither underflows.
    """
    first, second = jax.random.split(key)
    a, b = jnp.exp(link.log_mean(eta) + log_phi), jnp.exp(link.log_complement(eta) + log_phi)
    upper = jax.random.loggamma(first, a, dtype=eta.dtype)
    return upper - jax.random.loggamma(second, b, dtype=eta.dtype)


def _squared_trigamma(log_a: Array) -> Array:
    """a^2 psi'(a) = a + 1/2 + S'' - S', primes with respect to log a."""

    def slope(log_a: Array) -> Array:
        return elementwise_derivative(stirling_remainder, log_a)

    return jnp.exp(log_a) + 0.5 + elementwise_derivative(slope, log_a) - slope(log_a)
