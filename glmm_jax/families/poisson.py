"""Poisson counts: log p = y log mu - mu - log y!.

The information about eta is mu'^2 / mu = mu' (log mu)', which does not underflow before mu does.
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
    is_integer,
    numeric,
    reachable,
    relative_entropy_term,
    require,
    require_unit_size,
)
from glmm_jax.gamma_functions import log_factorial
from glmm_jax.tails import elementwise_derivative


class Poisson(Family):
    """Counts with mean mu and variance mu; exposure enters as an offset of log(exposure)."""

    name = "poisson"
    default_link = links.Log()
    allowed_links = ("log", "sqrt", "identity")
    has_dispersion = False
    canonical_link = "log"
    mean_range = (0.0, math.inf)

    def log_kernel(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return y * self.link.log_mean(eta) - self.mean(eta)

    def log_base(self, y: Array, size: Array | None = None) -> Array:
        return -log_factorial(y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return mu

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        slope = elementwise_derivative(self.link.log_mean, eta)
        if isinstance(self.link, links.Custom):
            return self.mean(eta) * jnp.square(slope)
        # The links with a name all increase, so |mu'| is mu'.
        return jnp.exp(self.link.log_abs_derivative(eta)) * slope

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        return 2.0 * (relative_entropy_term(y, mu) - (y - mu))

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Dispersion = None,
        size: Array | None = None,
    ) -> Array:
        return jax.random.poisson(key, self.mean(eta)).astype(eta.dtype)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y + 0.1, positive where y is zero."""
        positive = y + 0.1
        return reachable(self.link, positive) if isinstance(self.link, links.Custom) else positive

    def check(self, y: Any, size: Any = None) -> None:
        """Counts are non-negative integers (up to rounding), and size is None or ones."""
        counts = numeric("y", y)
        require("y", counts, counts >= 0, "non-negative", "a Poisson response is a count")
        require(
            "y",
            counts,
            is_integer(counts),
            "an integer",
            "give counts; model a rate by its count with offset log(exposure)",
        )
        require_unit_size(self, size, "exposure enters as an offset of log(exposure)")
