"""Counts with more zeros than their family has: a mixture with a point mass at zero.

    p(0) = pi + (1 - pi) f(0),        p(y) = (1 - pi) f(y),    y = 1, 2, ...

with f the density of the inner family and pi the probability of a structural zero. The last
parameter is logit(pi), named "logit(zero)" (glmmTMB's ziformula). mu = g^-1(eta) is the mean of
the inner family; that of the response is (1 - pi) mu.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax.families.base import Dispersion, Family, numeric
from glmm_jax.families.zeros import (
    RESIDUALS,
    log_sum,
    log_zero,
    split,
    start_logit,
    weighted_mean,
    wrap,
    zero_and_slope,
)
from glmm_jax.tails import logistic, softplus


@dataclass(frozen=True, init=False)
class ZeroInflated(Family):
    """Zero-inflated counts, `ZeroInflated(Poisson())` for example.

    Args:
        inner: the family of counts, with its link.

    Raises:
        ValueError: `inner` is no family of counts.
    """

    inner: Family

    def __init__(self, inner: Family):
        wrap(self, inner, "zero-inflated")

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.inner.parameters, "logit(zero)")

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        inner, logit = split(self, dispersion)
        # Both divided by 1 - pi = exp(-softplus(logit)).
        zero = log_sum(logit, log_zero(self.inner, eta, inner))
        positive = self.inner.log_prob(jnp.where(y > 0, y, 1.0), eta, inner)
        return jnp.where(y > 0, positive, zero) - softplus(logit)

    def mean(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """(1 - pi) mu, the shape of eta."""
        inner, logit = split(self, dispersion)
        return logistic(-logit) * self.inner.mean(eta, inner)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """(1 - pi) (V + pi m^2), given mu = (1 - pi) m the mean of the response, (n,)."""
        inner, logit = split(self, dispersion)
        share = logistic(-logit)
        m = mu / share
        return share * (self.inner.variance(m, inner) + logistic(logit) * jnp.square(m))

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """(1 - pi) (I - f0 (dlog f0)^2 pi / p(0)) with the information I of the inner family."""
        inner, logit = split(self, dispersion)
        log_f0, slope = zero_and_slope(self.inner, eta, inner)
        lost = jnp.square(slope) * logistic(logit - log_f0)  # pi / p(0)
        return logistic(-logit) * (self.inner.fisher(eta, inner) - lost)

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Expected information, or (1 - pi) times that of the inner family without one, (n,)."""
        if self.has_fisher:
            return self.fisher(eta, dispersion)
        inner, logit = split(self, dispersion)
        return logistic(-logit) * self.inner.positive_information(y, eta, inner)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Raises a ValueError: a mixture has no unit deviance."""
        raise ValueError(f"the {self.name} family has no unit deviance; {RESIDUALS}")

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        inner, logit = split(self, dispersion)
        first, second = jax.random.split(key)
        structural = jax.random.bernoulli(first, logistic(logit), eta.shape)
        return jnp.where(structural, 0.0, self.inner.sample(second, eta, inner))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """The inner family's from the rows with a count, and logit(pi) from the share of zeros.

        pi solves  share of zeros = pi + (1 - pi) mean f(0).
        """
        positive = weights * (y > 0)
        inner = self.inner.start_parameters(y, mu, positive, None, 0.0)
        zero = weighted_mean((y == 0).astype(mu.dtype), weights)
        values = inner[0] if len(inner) == 1 else inner or None
        chance = jnp.exp(log_zero(self.inner, self.link.link(mu), values))
        expected = weighted_mean(jnp.where(jnp.isfinite(chance), chance, 0.0), weights)
        return (*inner, start_logit((zero - expected) / (1.0 - expected)))

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """That of the inner family; a zero, which may be structural, half the mean count, (n,)."""
        middle = 0.5 * jnp.mean(y)
        return self.inner.start_mean(jnp.where(y > 0, y, middle))

    def check(self, y: Any, size: Any = None) -> None:
        """As the inner family wants it, and with a zero in some row."""
        self.inner.check(y, size)
        require_some_zeros(self, numeric("y", y))


def require_some_zeros(family: Family, counts: np.ndarray) -> None:
    """Raise a ValueError unless some counts are zero and some are not."""
    zero = np.round(counts) == 0
    if not np.any(zero):
        raise ValueError(
            f"y has no zeros, so the {family.name} family has no estimate of their probability; "
            "use the family of counts inside it, or its zero-truncated version"
        )
    if np.all(zero):
        raise ValueError(
            f"y is zero in all rows, which says nothing about the counts of the {family.name} "
            "family; check the response"
        )
