"""Generalized Poisson counts, as glmmTMB's genpois: mean mu, variance phi mu.

    log p = log t + (y - 1) log(t + l y) - t - l y - log y!,    t = mu / sqrt(phi),
                                                                l = 1 - 1 / sqrt(phi)

phi is what glmmTMB's sigma() gives; phi = 1 is the Poisson distribution. For phi < 1 the density is
zero where t + l y <= 0, and what is left sums to one only approximately, as do its moments: the
density is used as it stands, in glmmTMB too. Such data are better served by the
Conway-Maxwell-Poisson family.
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
from glmm_jax.families.counts import check_counts, sample_by_summation
from glmm_jax.families.moments import log_mean_slope, log_start
from glmm_jax.families.saturated import saturated_deviance
from glmm_jax.rules import part, with_rule


class GeneralizedPoisson(Family):
    """Counts with mean mu and variance phi mu, over- or underdispersed."""

    name = "generalized poisson"
    default_link = links.Log()
    allowed_links = ("log", "sqrt", "identity")
    has_dispersion = True
    phi_is = "variance phi mu"
    mean_range = (0.0, math.inf)
    has_fisher = False

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        half = -0.5 * one_parameter(self, dispersion)
        log_t = self.link.log_mean(eta) + half
        step = -jnp.expm1(half)
        positive = y > 0
        log_rate = _log_sum(log_t, step * jnp.where(positive, y, 1.0))
        power = jnp.where(positive, log_t + (y - 1.0) * log_rate, 0.0)
        return power - jnp.exp(log_t) - step * y - gammaln(y + 1.0)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """phi mu; approximate for phi < 1."""
        return jnp.exp(one_parameter(self, dispersion)) * mu

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """mu'^2 / (phi mu): information of the mean and variance alone."""
        log_information = self.link.log_mean(eta) - one_parameter(self, dispersion)
        return jnp.square(log_mean_slope(self.link, eta)) * jnp.exp(log_information)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Against the best mean for each row given phi, see `saturated`; phi is needed."""
        return saturated_deviance(self, y, mu, dispersion, size, edge=y <= 0)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """From the probabilities, normalised where phi < 1; the cost grows with the counts."""
        constant = jax.lax.stop_gradient(one_parameter(self, dispersion))
        return sample_by_summation(key, lambda y: self.log_prob(y, eta, constant), self.mean(eta))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the moments, sum w (y - mu)^2 / sum w mu; not so small that a row is impossible.

        A row with y > mu has a density only if phi > (1 - mu / y)^2.
        """
        ratio = jnp.sum(weights * jnp.square(y - mu)) / jnp.sum(weights * mu)
        above = (weights > 0) & (y > mu)
        shortfall = jnp.where(above, 1.0 - mu / jnp.where(above, y, 1.0), 0.0)
        least = jnp.square(jnp.max(shortfall))
        return (jnp.maximum(log_start(ratio, 0.1, 1e2), jnp.log(least + 0.05)),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y + 0.1, positive where y is zero."""
        return reachable(self.link, y + 0.1)

    def check(self, y: Any, size: Any = None) -> None:
        """Counts are non-negative integers (up to rounding), and size is None or ones."""
        check_counts(self, y, size)


# exp(log_t) overflows in the powers of the quotient rule, and the share of log_t in the sum is all
# that its derivatives need.
@with_rule
def _log_sum(log_t: Array, c: Array) -> Array:
    """log(exp(log_t) + c) for c of either sign; NaN where the sum is not positive."""
    large = log_t > 0
    scaled = jnp.exp(jnp.where(large, -log_t, log_t))
    return jnp.where(large, log_t + jnp.log1p(c * scaled), jnp.log(scaled + c))


@_log_sum.defjvp
def _log_sum_jvp(primals, tangents):
    log_t, c = primals
    dlog_t, dc = tangents
    value = _log_sum(log_t, c)
    along_t = part(lambda: jnp.exp(log_t - value), dlog_t)
    return value, along_t + part(lambda: jnp.exp(-value), dc)
