"""Conway-Maxwell-Poisson counts with mean mu, as glmmTMB's compois: over- or underdispersed.

    p(y) = lambda^y / (y!)^nu / Z(lambda, nu),    nu = 1 / phi,    lambda such that E[y] = mu

phi is what glmmTMB's sigma() gives: 1 is the Poisson distribution, and Var(y) is about phi mu for a
large mean. In the exponential family (y, log y!) every derivative is a central moment, which
`tilting` supplies for means that are not large; for mu > 1e4 max(phi, 1 / phi) an asymptotic
expansion is exact to rounding and takes over. Absolute error of log p about 1e-12 max(1, y) for
phi <= 2, whatever the mean; for larger phi see `tilting`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from glmm_jax import links
from glmm_jax.families import tilting
from glmm_jax.families.base import Dispersion, Family, one_parameter, reachable
from glmm_jax.families.counts import check_counts
from glmm_jax.families.moments import log_mean_slope, log_start

_LARGE = 1e4


class ConwayMaxwellPoisson(Family):
    """Counts with mean mu and variance about phi mu; phi below or above one."""

    name = "conway-maxwell-poisson"
    default_link = links.Log()
    allowed_links = ("log", "sqrt", "identity")
    has_dispersion = True
    phi_is = "variance about phi mu"
    mean_range = (0.0, math.inf)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        nu, large, log_safe, log_large = self._regimes(eta, dispersion)
        summed = tilting.log_prob(y, log_safe, nu)
        return jnp.where(large, _asymptotic_log_prob(y, log_large, nu), summed)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return jnp.square(mu) * jnp.exp(-self._log_slope(self.link.link(mu), dispersion))

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(log mu)'^2 mu^2 / Var(y)."""
        return jnp.square(log_mean_slope(self.link, eta)) * jnp.exp(
            self._log_slope(eta, dispersion)
        )

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Against mu = y, the best mean for each row given phi; phi is needed."""
        positive = y > 0
        best = self.link.link(jnp.where(positive, y, 1.0))
        saturated = jnp.where(positive, self.log_prob(y, best, dispersion), 0.0)
        return 2.0 * (saturated - self.log_prob(y, self.link.link(mu), dispersion))

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """By rejection from Poisson (phi <= 1) or geometric (phi > 1) draws.

        Source: Benson and Friel (2021), Bayesian Analysis 16, 905-931.
        """
        nu, large, log_safe, log_large = self._regimes(eta, dispersion)
        summed = tilting.log_rate(log_safe, nu)
        log_mode = jnp.where(large, _log_mode(log_large, nu), summed / nu)
        return _sample(key, log_mode, nu * jnp.ones_like(log_mode))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the moments: phi = sum w (y - mu)^2 / sum w mu."""
        ratio = jnp.sum(weights * jnp.square(y - mu)) / jnp.sum(weights * mu)
        return (log_start(ratio, 0.05, 5.0),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y + 0.1, positive where y is zero."""
        return reachable(self.link, y + 0.1)

    def check(self, y: Any, size: Any = None) -> None:
        """Counts are non-negative integers (up to rounding), and size is None or ones."""
        check_counts(self, y, size)

    def _regimes(self, eta: Array, dispersion: Dispersion) -> tuple[Array, Array, Array, Array]:
        """nu, where the mean is large, and log mu made harmless for either regime."""
        log_phi = one_parameter(self, dispersion)
        log_mu = self.link.log_mean(eta)
        bound = math.log(_LARGE) + jnp.abs(log_phi)
        large = log_mu > bound
        log_mu = log_mu * jnp.ones_like(bound)
        log_safe, log_large = jnp.where(large, 0.0, log_mu), jnp.where(large, log_mu, bound)
        return jnp.exp(-log_phi), large, log_safe, log_large

    def _log_slope(self, eta: Array, dispersion: Dispersion) -> Array:
        """log(mu^2 / Var(y))."""
        nu, large, log_safe, log_large = self._regimes(eta, dispersion)
        exact = log_safe + tilting.log_slope(log_safe, nu)
        return jnp.where(large, log_large + _log_asymptotic_slope(log_large, nu), exact)


def _excess(log_mode: Array, nu: Array) -> tuple[Array, Array]:
    """log of the series in x = nu m that Z has beside its leading factor, and its slope in log m.

    With q = nu^2 - 1 it is q (1 / (24 x) + 1 / (48 x^2) + (10944 - 648 q) / (414720 x^3)), but for
    terms of the order q^2 / x^4.

    Source: Gaunt, Iyengar, Olde Daalhuis and Simsek (2019), Annals of the Institute of Statistical
    Mathematics 71, 163-180, the logarithm of their expansion.
    """
    q, inverse = nu * nu - 1.0, jnp.exp(-log_mode) / nu
    third = (10944.0 - 648.0 * q) / 414720.0
    value = q * inverse * (1.0 / 24.0 + inverse * (1.0 / 48.0 + inverse * third))
    slope = -q * inverse * (1.0 / 24.0 + inverse * (2.0 / 48.0 + inverse * 3.0 * third))
    return value, slope


def _log_mode(log_mu: Array, nu: Array) -> Array:
    """log m = log(lambda) / nu of the mean mu.

    E[y] = d log Z / d log lambda = m - (nu - 1) / (2 nu) + (d excess / d log m) / nu, solved by one
    substitution: where the mean is large it gains nine digits, in the derivatives too, on a start
    that has eight.
    """
    half, inverse = 0.5 * (nu - 1.0) / nu, jnp.exp(-log_mu)
    _, slope = _excess(log_mu + half * inverse, nu)
    return log_mu + jnp.log1p((half - slope / nu) * inverse)


def _asymptotic_log_prob(y: Array, log_mu: Array, nu: Array) -> Array:
    log_mode = _log_mode(log_mu, nu)
    # log Z = nu m - (nu - 1) / 2 log(2 pi m) - log(nu) / 2 + excess
    log_power = 0.5 * (nu - 1.0) * (math.log(2 * math.pi) + log_mode) + 0.5 * jnp.log(nu)
    kernel = nu * (y * log_mode - jnp.exp(log_mode) - gammaln(y + 1.0))
    return kernel + log_power - _excess(log_mode, nu)[0]


def _log_asymptotic_slope(log_mu: Array, nu: Array) -> Array:
    """log of d log(lambda) / d log(mu) = mu / Var(y)."""
    _, slope = jax.jvp(lambda x: _log_mode(x, nu), (log_mu,), (jnp.ones_like(log_mu),))
    return jnp.log(nu) + jnp.log(slope)


def _sample(key: Array, log_mode: Array, nu: Array) -> Array:
    """Draws of density (m^y / y!)^nu, rejected until every element has one."""
    under = nu >= 1.0
    dtype = log_mode.dtype
    # Underdispersed: Poisson(m), the rest of the density is largest at its mode floor(m).
    mode = jnp.exp(jnp.where(under, log_mode, 0.0))
    peak = jnp.floor(mode)
    # Overdispersed: geometric of chance p, for which Benson and Friel's value accepts often.
    shape = jnp.where(under, 0.5, nu)
    chance = 2.0 * shape / (2.0 * jnp.exp(jnp.where(under, 0.0, log_mode)) * shape + 1.0 + shape)
    log_fail = jnp.log1p(-chance)
    other = jnp.floor(jnp.exp(jnp.where(under, 0.0, log_mode) - log_fail / shape))

    def log_ratio(y: Array) -> Array:
        kernel = y * log_mode - gammaln(y + 1.0)
        return jnp.where(under, (nu - 1.0) * kernel, nu * kernel - y * log_fail)

    best = log_ratio(jnp.where(under, peak, other))

    def body(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        key, draw, done = state
        key, first, second, third = jax.random.split(key, 4)
        poisson = jax.random.poisson(first, mode).astype(dtype)
        uniform = jax.random.uniform(second, mode.shape, dtype, minval=jnp.finfo(dtype).tiny)
        geometric = jnp.floor(jnp.log(uniform) / log_fail)
        proposal = jnp.where(under, poisson, geometric)
        accepted = -jax.random.exponential(third, mode.shape, dtype) <= log_ratio(proposal) - best
        return key, jnp.where(accepted & ~done, proposal, draw), done | accepted

    # An element that is no number has no draw to wait for.
    start = key, jnp.full_like(log_mode, jnp.nan), ~jnp.isfinite(best)
    return jax.lax.while_loop(lambda state: ~jnp.all(state[2]), body, start)[1]
