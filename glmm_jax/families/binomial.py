"""Bernoulli and binomial responses.

y of a binomial row is the number of successes, size the number of trials (None: one trial). With
mu the probability,

    log p = log C(size, y) + y log mu + (size - y) log(1 - mu)

and the information about eta is size mu'^2 / (mu (1 - mu)). The links log and identity give
probabilities outside (0, 1) for some eta; the log density is then not finite.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax import links
from glmm_jax.families.base import (
    Dispersion,
    Family,
    is_integer,
    numeric,
    reachable,
    relative_entropy_term,
    require,
    require_unit_size,
    sized,
)
from glmm_jax.gamma_functions import log_factorial

_ALLOWED_LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit", "log", "identity")


def _unit_deviance(y: Array, mu: Array, size: Array | float) -> Array:
    return 2.0 * (
        relative_entropy_term(y, size * mu) + relative_entropy_term(size - y, size * (1.0 - mu))
    )


class Binomial(Family):
    """Number of successes in `size` trials; with size None, one trial each."""

    name = "binomial"
    default_link = links.Logit()
    allowed_links = _ALLOWED_LINKS
    has_dispersion = False
    canonical_link = "logit"
    mean_range = (0.0, 1.0)

    def log_kernel(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return self.link.log_kernel(eta, y, (1.0 if size is None else size) - y)

    def log_base(self, y: Array, size: Array | None = None) -> Array:
        if size is None:
            return jnp.zeros_like(y)
        return log_factorial(size) - log_factorial(y) - log_factorial(size - y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Var(y | mu) = size mu (1 - mu), of the count, (n,)."""
        return (1.0 if size is None else size) * mu * (1.0 - mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        information = self.link.information(eta)
        return information if size is None else size * information

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        return _unit_deviance(y, mu, 1.0 if size is None else size)

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Dispersion = None,
        size: Array | None = None,
    ) -> Array:
        mu = self.mean(eta)
        if size is None:
            return jax.random.bernoulli(key, mu).astype(eta.dtype)
        return jax.random.binomial(key, size, mu, dtype=eta.dtype)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """(y + 1/2) / (size + 1), strictly inside (0, 1)."""
        mean = (y + 0.5) / ((1.0 if size is None else size) + 1.0)
        return reachable(self.link, mean) if isinstance(self.link, links.Custom) else mean

    def check(self, y: Any, size: Any = None) -> None:
        """Successes and trials are integers (up to rounding), 0 <= y <= size, size >= 1."""
        successes = numeric("y", y)
        trials = sized(size, successes)
        require(
            "size", trials, trials > 0, "positive", "drop rows without trials: they say nothing"
        )
        require("size", trials, is_integer(trials), "an integer number of trials", "give counts")
        require("y", successes, successes >= 0, "non-negative", "give the number of successes")
        require(
            "y",
            successes,
            is_integer(successes),
            "an integer number of successes",
            "give counts, or for a proportion the number of trials: trials=, not weights= as in R",
        )
        remedy = (
            "give 0 and 1, or the number of trials"
            if size is None
            else "check that y counts successes among these trials"
        )
        # Both are integers up to rounding, so half a trial separates rounding from an error.
        require("y", successes, successes < trials + 0.5, "at most the number of trials", remedy)


class Bernoulli(Family):
    """A response of 0 or 1. The binomial family of one trial, without its constant."""

    name = "bernoulli"
    default_link = links.Logit()
    allowed_links = _ALLOWED_LINKS
    has_dispersion = False
    canonical_link = "logit"
    mean_range = (0.0, 1.0)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """y log mu + (1 - y) log(1 - mu), (n,); size is one trial by definition and not read."""
        return self.link.log_kernel(eta, y, 1.0 - y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return mu * (1.0 - mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        return self.link.information(eta)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        return _unit_deviance(y, mu, 1.0)

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Dispersion = None,
        size: Array | None = None,
    ) -> Array:
        return jax.random.bernoulli(key, self.mean(eta)).astype(eta.dtype)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """(y + 1/2) / 2: 1/4 for a failure, 3/4 for a success."""
        mean = (y + 0.5) / 2.0
        return reachable(self.link, mean) if isinstance(self.link, links.Custom) else mean

    def check(self, y: Any, size: Any = None) -> None:
        """Each value is 0 or 1 (or a boolean), and size is None or ones."""
        values = numeric("y", y)
        require(
            "y",
            values,
            (values == 0) | (values == 1),
            "0 or 1",
            "for counts of successes use family='binomial' with the number of trials",
        )
        require_unit_size(self, size, "use family='binomial' for rows of several trials")
