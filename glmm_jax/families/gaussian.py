"""Gaussian responses: y ~ N(mu, phi / size), with phi = sigma^2 and size the precision weight.

    log p = -1/2 (log(2 pi) + log phi - log size + size (y - mu)^2 / phi)

With the identity link the Laplace approximation is exact and the model is a linear mixed model
fitted by maximum likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    reachable,
    require,
    sized,
)
from glmm_jax.links import Link


@dataclass(frozen=True, init=False)
class Gaussian(Family):
    """Normal errors of variance phi / size; phi is estimated.

    Args:
        link: a `Link` or its name.
        weights: what `weights=` of a fit means. "precision": Var(y_i) = phi / weight_i, as in lmer
            and weighted least squares; "likelihood": a factor of each row's log density, as in
            glmmTMB and in every other family here (an integer weight repeats its row).

    Raises:
        ValueError: another link, or another word for the weights.
    """

    weights: str

    name = "gaussian"
    default_link = links.Identity()
    allowed_links = ("identity", "log", "inverse")
    has_dispersion = True
    variance_scales = True
    canonical_link = "identity"

    def __init__(self, link: str | Link | None = None, weights: str = "precision"):
        super().__init__(link)
        if weights not in ("precision", "likelihood"):
            raise ValueError(
                f"weights={weights!r}; use 'precision' (lmer) or 'likelihood' (glmmTMB)"
            )
        object.__setattr__(self, "weights", weights)

    @property
    def weights_are_precisions(self) -> bool:
        return self.weights == "precision"

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_variance = one_parameter(self, dispersion)
        if size is not None:
            log_variance = log_variance - jnp.log(size)
        squared = jnp.square(y - self.mean(eta)) * jnp.exp(-log_variance)
        return -0.5 * (math.log(2 * math.pi) + log_variance + squared)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        phi = jnp.exp(one_parameter(self, dispersion)) * jnp.ones_like(mu)
        return phi if size is None else phi / size

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        log_information = 2.0 * self.link.log_abs_derivative(eta) - one_parameter(self, dispersion)
        information = jnp.exp(log_information)
        return information if size is None else size * information

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        squared = jnp.square(y - mu)
        return squared if size is None else size * squared

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Dispersion = None,
        size: Array | None = None,
    ) -> Array:
        mu = self.mean(eta)
        noise = jax.random.normal(key, eta.shape, eta.dtype)
        return mu + jnp.sqrt(self.variance(mu, dispersion, size)) * noise

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y itself; under another link than the identity, mean |y| where y has no finite eta."""
        if isinstance(self.link, links.Identity):
            return y
        if isinstance(self.link, links.Custom):
            return reachable(self.link, y)
        usable = y > 0 if isinstance(self.link, links.Log) else y != 0
        return jnp.where(usable, y, jnp.mean(jnp.abs(y)))

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite, size is finite and positive."""
        weights = sized(size, numeric("y", y))
        require(
            "size", weights, weights > 0, "positive", "drop rows of no weight: they say nothing"
        )
