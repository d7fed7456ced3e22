"""Counts from which the zeros are missing: a count family given that y > 0.

    log p(y) = log f(y) - log(1 - f(0)),        y = 1, 2, ...

with f the density of the inner family. mu = g^-1(eta) is the mean of the inner family; that of the
response is mu / (1 - f(0)). As in glmmTMB's truncated_poisson, truncated_nbinom1 and so on, the
link and the parameters are those of the inner family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax.families.base import Dispersion, Family, numeric, require
from glmm_jax.families.counts import sample_by_summation
from glmm_jax.families.poisson import Poisson
from glmm_jax.families.zeros import RESIDUALS, log_positive, wrap, zero_and_slope
from glmm_jax.inversion import inverse_of


@dataclass(frozen=True, init=False)
class Truncated(Family):
    """Zero-truncated counts, `Truncated(Poisson())` for example.

    Args:
        inner: the family of counts, with its link.

    Raises:
        ValueError: `inner` is no family of counts.
    """

    inner: Family

    def __init__(self, inner: Family):
        wrap(self, inner, "zero-truncated")

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.inner.parameters

    @property
    def is_canonical(self) -> bool:
        """The truncated Poisson distribution has log(mu) as natural parameter too."""
        return isinstance(self.inner, Poisson) and self.inner.is_canonical

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        inner = self.inner.log_prob(y, eta, dispersion)
        return jnp.where(y > 0, inner - log_positive(self.inner, eta, dispersion), -jnp.inf)

    def mean(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """mu / (1 - f(0)), at least 1, the shape of eta."""
        kept = log_positive(self.inner, eta, dispersion)
        return self.inner.mean(eta, dispersion) * jnp.exp(-kept)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Var(y) given the mean of the truncated response, (n,).

        With m and V the inner mean and variance at which the truncated mean is mu, found
        numerically: (V + m^2) / (1 - f(0)) - mu^2.
        """
        eta = inverse_of(lambda eta: self.mean(eta, dispersion), mu)
        m = self.inner.mean(eta, dispersion)
        # V + m^2 - mu m, divided by 1 - f(0) = m / mu.
        second = self.inner.variance(m, dispersion) / m + m
        return mu * (second - mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """I / (1 - f0) - f0 (dlog f0)^2 / (1 - f0)^2 with the information I of the inner family."""
        if self.is_canonical:
            return self.curvature(jnp.ones_like(eta), eta, dispersion)
        kept = jnp.exp(-log_positive(self.inner, eta, dispersion))
        lost = zero_and_slope(self.inner, eta, dispersion)[1] * kept
        return self.inner.fisher(eta, dispersion) * kept - jnp.square(lost)

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Expected information, or that of the inner family where there is none, (n,)."""
        if self.has_fisher:
            return self.fisher(eta, dispersion)
        return self.inner.positive_information(y, eta, dispersion)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Raises a ValueError: a truncated density has no unit deviance in use."""
        raise ValueError(f"the {self.name} family has no unit deviance; {RESIDUALS}")

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """A draw of the inner family; where that is zero, one from the truncated probabilities.

        For f(y) + f(0) f(y) / (1 - f(0)) = f(y) / (1 - f(0)).
        """
        drawn = self.inner.sample(key, eta, dispersion)
        again = drawn == 0

        def log_prob(y: Array) -> Array:
            return jnp.where(again, self.log_prob(y, eta, dispersion), -jnp.inf)

        # Rows that are drawn already do not prolong the summation.
        mean = jnp.where(again, self.mean(eta, dispersion), 0.0)
        return jnp.where(again, sample_by_summation(key, log_prob, mean), drawn)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """Those of the inner family, as if no zero were missing."""
        return self.inner.start_parameters(y, mu, weights, None, lost)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """An inner mean for which the truncated one is near y: y - 0.7 exp((1 - y) / 2), (n,)."""
        return self.inner.start_mean(y - 0.7 * jnp.exp(0.5 * (1.0 - y)))

    def check(self, y: Any, size: Any = None) -> None:
        """Counts from 1 upwards, as the inner family wants them otherwise."""
        self.inner.check(y, size)
        counts = numeric("y", y)
        require(
            "y",
            counts,
            np.round(counts) > 0,
            "positive",
            "a zero-truncated response has no zeros; use a hurdle family for data with zeros",
        )
