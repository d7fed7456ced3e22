"""Counts behind a hurdle: zero or not by one model, how many by another.

    p(0) = pi,        p(y) = (1 - pi) f(y) / (1 - f(0)),    y = 1, 2, ...

with f the density of the inner family. The last parameter is logit(pi), named "logit(zero)": in
glmmTMB's words a truncated family with a ziformula. mu = g^-1(eta) is the mean of the inner family;
that of the response is (1 - pi) mu / (1 - f(0)). A row with y = 0 says nothing about eta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax.families.base import Dispersion, Family, numeric
from glmm_jax.families.truncated import Truncated
from glmm_jax.families.zero_inflated import require_some_zeros
from glmm_jax.families.zeros import (
    RESIDUALS,
    split,
    start_logit,
    weighted_mean,
    wrap,
)
from glmm_jax.tails import logistic, softplus


@dataclass(frozen=True, init=False)
class Hurdle(Family):
    """Counts behind a hurdle, `Hurdle(Poisson())` for example.

    Args:
        inner: the family of counts, not truncated, with its link.

    Raises:
        ValueError: `inner` is no family of counts.
    """

    inner: Family

    def __init__(self, inner: Family):
        wrap(self, inner, "hurdle")

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.inner.parameters, "logit(zero)")

    @property
    def truncated(self) -> Truncated:
        """The family of the counts beyond the hurdle."""
        return Truncated(self.inner)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        inner, logit = split(self, dispersion)
        positive = self.truncated.log_prob(jnp.where(y > 0, y, 1.0), eta, inner)
        return jnp.where(y > 0, positive, logit) - softplus(logit)

    def mean(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """(1 - pi) mu / (1 - f(0)), the shape of eta."""
        inner, logit = split(self, dispersion)
        return logistic(-logit) * self.truncated.mean(eta, inner)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """(1 - pi) (V + pi m^2) with m and V of the truncated counts, mu = (1 - pi) m, (n,)."""
        inner, logit = split(self, dispersion)
        share = logistic(-logit)
        m = mu / share
        return share * (self.truncated.variance(m, inner) + logistic(logit) * jnp.square(m))

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """1 - pi times the information of the truncated counts, (n,)."""
        inner, logit = split(self, dispersion)
        return logistic(-logit) * self.truncated.fisher(eta, inner)

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """1 - pi times that of the truncated counts, (n,)."""
        inner, logit = split(self, dispersion)
        positive = jnp.where(y > 0, y, 1.0)
        return logistic(-logit) * self.truncated.positive_information(positive, eta, inner)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Raises a ValueError: a density in two parts has no unit deviance in use."""
        raise ValueError(f"the {self.name} family has no unit deviance; {RESIDUALS}")

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        inner, logit = split(self, dispersion)
        first, second = jax.random.split(key)
        zero = jax.random.bernoulli(first, logistic(logit), eta.shape)
        return jnp.where(zero, 0.0, self.truncated.sample(second, eta, inner))

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """The inner family's from the rows with a count, and logit of the share of zeros."""
        inner = self.inner.start_parameters(y, mu, weights * (y > 0), None, 0.0)
        return (*inner, start_logit(weighted_mean((y == 0).astype(mu.dtype), weights)))

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """That of the truncated counts; for a zero, which says nothing, their mean, (n,)."""
        positive = y > 0
        start = self.truncated.start_mean(jnp.where(positive, y, 1.0))
        return jnp.where(positive, start, weighted_mean(start, positive.astype(start.dtype)))

    def check(self, y: Any, size: Any = None) -> None:
        """As the inner family wants it, with zeros in some rows and counts in others."""
        self.inner.check(y, size)
        require_some_zeros(self, numeric("y", y))
