"""Tweedie responses, 1 < p < 2: y >= 0 with mean mu, variance phi mu^p and mass at zero.

As glmmTMB's tweedie: y is the sum of a Poisson number of gamma variables, phi is sigma() there and
p = 1 + 1 / (1 + exp(-psi)). For y = 0 log p = -mu^(2-p) / (phi (2-p)). For y > 0 Dunn and Smyth's
series: with a = (2-p) / (p-1) and J = y^(2-p) / (phi (2-p)), where its terms are largest,

    log p = -log y - d / (2 phi)
            + log sum over j >= 1 of exp(-(1+a) (j log(j/J) - j + J) + log(a) / 2 - log(2 pi)
                                         - S(j) - S(a j)),

d the unit deviance and S the remainder of Stirling's formula: what is large in either factor of the
textbook form has cancelled. The sum depends on phi and p alone, not on mu.

It has 90 terms whatever the data. The terms fall off as a Gaussian of standard deviation
s = sqrt(J / (1 + a)); for s <= 5 they are all the integers that matter, for s > 5 multiples of
s / 5 instead, each standing for s / 5 integers: the terms are analytic in j, so that this
trapezoidal rule is exact to rounding, its ends to about 1e-12. Absolute error of log p about 1e-12.

Source: Dunn and Smyth (2005), Statistics and Computing 15, 267-280, for the series.
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
    require,
    require_unit_size,
    several_parameters,
)
from glmm_jax.families.moments import log_mean_slope, log_start
from glmm_jax.gamma_functions import entropy_excess, stirling_remainder
from glmm_jax.tails import logistic, softplus

_TERMS = 90
_BELOW = 39  # of them below the largest
_PER_DEVIATION = 5.0


class Tweedie(Family):
    """Compound Poisson-gamma distribution with mean mu and variance phi mu^p, 1 < p < 2."""

    name = "tweedie"
    default_link = links.Log()
    allowed_links = ("log", "inverse", "identity")
    has_dispersion = True
    phi_is = "variance phi mu^p"
    mean_range = (0.0, math.inf)

    @property
    def parameters(self) -> tuple[str, ...]:
        """log(phi), and the power by its logit: p = 1 + 1 / (1 + exp(-logit(p - 1)))."""
        return ("log(phi)", "logit(p - 1)")

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi, psi = several_parameters(self, dispersion)
        log_mu = self.link.log_mean(eta)
        positive = y > 0
        log_y = jnp.log(jnp.where(positive, y, 1.0))
        upper, lower = logistic(psi), logistic(-psi)  # p - 1 and 2 - p
        log_lower = -softplus(psi)
        none = jnp.exp(lower * log_mu - log_phi - log_lower)
        # d / (2 phi) = y^(2-p) / phi (expm1((p-1) r) / (p-1) + expm1(-(2-p) r) / (2-p))
        r = jnp.where(positive, log_y - log_mu, 0.0)
        distance = jnp.expm1(upper * r) / upper + jnp.expm1(-lower * r) / lower
        density = _log_series(log_y, log_phi, psi) - log_y
        density = density - distance * jnp.exp(lower * log_y - log_phi)
        return jnp.where(positive, density, -none)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi, psi = several_parameters(self, dispersion)
        return jnp.exp(log_phi + (1.0 + logistic(psi)) * jnp.log(mu))

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(log mu)'^2 mu^(2-p) / phi."""
        log_phi, psi = several_parameters(self, dispersion)
        log_information = logistic(-psi) * self.link.log_mean(eta) - log_phi
        return jnp.square(log_mean_slope(self.link, eta)) * jnp.exp(log_information)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """2 (y (y^(1-p) - mu^(1-p)) / (1-p) - (y^(2-p) - mu^(2-p)) / (2-p)); p is needed.

        Written in r = log(y / mu), in which no part cancels.
        """
        _, psi = several_parameters(self, dispersion)
        upper, lower = logistic(psi), logistic(-psi)
        positive = y > 0
        log_y, log_mu = jnp.log(jnp.where(positive, y, 1.0)), jnp.log(mu)
        r = jnp.where(positive, log_y - log_mu, 0.0)
        distance = jnp.expm1(upper * r) / upper + jnp.expm1(-lower * r) / lower
        none = jnp.exp(lower * log_mu) / lower
        return 2.0 * jnp.where(positive, distance * jnp.exp(lower * log_y), none)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """The sum of Poisson(mu^(2-p) / (phi (2-p))) gamma variables."""
        log_phi, psi = several_parameters(self, dispersion)
        first, second = jax.random.split(key)
        upper, lower, log_mu = logistic(psi), logistic(-psi), self.link.log_mean(eta)
        rate = jnp.exp(lower * log_mu - log_phi) / lower
        count = jax.random.poisson(first, rate).astype(eta.dtype)
        some = count > 0
        shape = jnp.where(some, count, 1.0) * (lower / upper)
        log_scale = log_phi + jnp.log(upper) + upper * log_mu
        log_sum = jax.random.loggamma(second, shape, dtype=eta.dtype) + log_scale
        return jnp.where(some, jnp.exp(log_sum), 0.0)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """p = 3/2, and phi from the moments, sum w (y - mu)^2 / sum w mu^p."""
        power = jnp.sum(weights * mu * jnp.sqrt(mu))
        phi = jnp.sum(weights * jnp.square(y - mu)) / power
        # phi has the unit of y^(1/2).
        unit = jnp.sqrt(jnp.sum(weights * y) / jnp.sum(weights))
        return log_start(phi / unit, 1e-2, 1e2) + jnp.log(unit), jnp.zeros_like(phi)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y, and a tenth of the mean of y where it is smaller."""
        return jnp.maximum(y, 0.1 * jnp.mean(y))

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite, not negative and not all zero; size is None or ones."""
        values = numeric("y", y)
        require("y", values, values >= 0, "non-negative", "use a family whose range includes it")
        if not values.any():
            raise ValueError("y is zero in every row; give a response that varies")
        require_unit_size(self, size, "weights multiply each row's log density")


def _log_series(log_y: Array, log_phi: Array, psi: Array) -> Array:
    """log of the sum over j, in the shape of log_y broadcast with the parameters."""
    upper, lower = logistic(psi), logistic(-psi)
    log_peak = lower * log_y - log_phi + softplus(psi)  # log J; log(2 - p) = -softplus(psi)
    upper, log_a, log_peak = (
        x[..., None] for x in jnp.broadcast_arrays(upper, -psi * jnp.ones_like(lower), log_peak)
    )
    j, stride = _terms(jax.lax.stop_gradient(log_peak), jax.lax.stop_gradient(upper))
    peak = jnp.exp(log_peak)
    # 1 + a = 1 / (p - 1)
    fall = peak * entropy_excess((j - peak) / peak) / upper
    log_j = jnp.log(j)
    terms = -fall - stirling_remainder(log_j) - stirling_remainder(log_j + log_a)
    total = jax.scipy.special.logsumexp(terms, axis=-1)
    return (total + jnp.log(stride[..., 0])) + (0.5 * log_a[..., 0] - math.log(2 * math.pi))


def _terms(log_peak: Array, upper: Array) -> tuple[Array, Array]:
    """The j of the terms, (..., terms), and their distance, (..., 1)."""
    peak = jnp.exp(log_peak)
    deviation = jnp.sqrt(peak * upper)
    stride = jnp.maximum(1.0, deviation / _PER_DEVIATION)
    first = jnp.maximum(1.0, jnp.round(peak / stride) - _BELOW)
    steps = jnp.arange(_TERMS, dtype=peak.dtype).reshape((1,) * (peak.ndim - 1) + (_TERMS,))
    return stride * (first + steps), stride
