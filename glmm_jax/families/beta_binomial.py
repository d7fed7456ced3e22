"""Beta-binomial responses: successes among trials whose probability varies, as in glmmTMB.

y ~ Binomial(size, P), P ~ Beta(mu phi, (1 - mu) phi); phi is what glmmTMB's sigma() gives. With
R(a, y) = log Gamma(a + y) - log Gamma(a) - y log a (`gamma_functions.log_rising`)

    log p = binomial log p + R(mu phi, y) + R((1 - mu) phi, size - y) - R(phi, size),

whose corrections vanish in the binomial limit of large phi.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from glmm_jax import links
from glmm_jax.families.base import Dispersion, Family, one_parameter
from glmm_jax.families.beta import sample_log_odds
from glmm_jax.families.binomial import Binomial
from glmm_jax.families.moments import log_start
from glmm_jax.families.saturated import saturated_deviance
from glmm_jax.gamma_functions import log_rising
from glmm_jax.tails import logistic


class BetaBinomial(Family):
    """Number of successes in `size` trials with intraclass correlation 1 / (1 + phi).

    Var(y) = size mu (1 - mu) (phi + size) / (phi + 1).
    """

    name = "beta-binomial"
    default_link = links.Logit()
    allowed_links = ("logit", "probit", "cloglog", "loglog", "cauchit")
    has_dispersion = True
    phi_is = "precision of the probabilities"
    mean_range = (0.0, 1.0)
    has_fisher = False

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi = one_parameter(self, dispersion)
        trials = _trials(y, size)
        failures = trials - y
        constant = gammaln(trials + 1.0) - gammaln(y + 1.0) - gammaln(failures + 1.0)
        log_a, log_b = self.link.log_mean(eta) + log_phi, self.link.log_complement(eta) + log_phi
        rows = jnp.broadcast_arrays(log_a, log_b, y, failures)
        # Side by side the two take half the instructions, which is half the program.
        rising = jnp.sum(log_rising(jnp.stack(rows[:2]), jnp.stack(rows[2:])), 0)
        rising = rising - log_rising(log_phi, trials)
        return constant + self.link.log_kernel(eta, y, failures) + rising

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Var(y | mu) of the count, (n,)."""
        trials = _trials(mu, size)
        # (phi + size) / (phi + 1) as 1 + (size - 1) rho, rho = 1 / (1 + phi).
        correlation = logistic(-one_parameter(self, dispersion))
        return trials * mu * (1.0 - mu) * (1.0 + (trials - 1.0) * correlation)

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Squared slope of the mean over the variance: information of these two moments alone."""
        trials = _trials(y, size)
        correlation = logistic(-one_parameter(self, dispersion))
        return trials * self.link.information(eta) / (1.0 + (trials - 1.0) * correlation)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Against the best probability for each row given phi, see `saturated`; phi is needed."""
        edge = (y <= 0) | (y >= _trials(y, size))
        return saturated_deviance(self, y, mu, dispersion, size, edge)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        first, second = jax.random.split(key)
        chance = logistic(sample_log_odds(first, self.link, eta, one_parameter(self, dispersion)))
        return jax.random.binomial(second, _trials(eta, size), chance, dtype=eta.dtype)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """From the moments: 1 / (1 + phi) by the excess of the squares over binomial ones."""
        trials = _trials(y, size)
        binomial = trials * mu * (1.0 - mu)
        excess = jnp.sum(weights * (jnp.square(y - trials * mu) - binomial))
        correlation = excess / jnp.sum(weights * (trials - 1.0) * binomial)
        return (-log_start(correlation / (1.0 - correlation), 1e-3, 10.0),)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """(y + 1/2) / (size + 1), strictly inside (0, 1)."""
        return (y + 0.5) / (_trials(y, size) + 1.0)

    def check(self, y: Any, size: Any = None) -> None:
        """Successes and trials are integers (up to rounding), 0 <= y <= size, size >= 1."""
        Binomial().check(y, size)


def _trials(like: Array, size: Array | None) -> Array:
    return jnp.ones_like(like) if size is None else size
