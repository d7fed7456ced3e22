"""Student-t responses: location mu, scale phi and df degrees of freedom, as glmmTMB's t_family.

    log p = log Gamma((df + 1) / 2) - log Gamma(df / 2) - log(pi df) / 2 - log phi
            - (df + 1) / 2 log(1 + z^2 / df),     z = (y - mu) / phi

phi is a scale, not a standard deviation (glmmTMB's sigma()): Var(y) = phi^2 df / (df - 2) for
df > 2. As df grows the density tends to the normal one, without loss of digits.
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
    require_unit_size,
    several_parameters,
)
from glmm_jax.families.moments import log_start
from glmm_jax.gamma_functions import log_rising
from glmm_jax.links import Link


@dataclass(frozen=True, init=False)
class StudentT(Family):
    """Student's t about mu with scale phi.

    Args:
        link: a `Link` or its name.
        df: degrees of freedom, a positive number; None to estimate them.

    Raises:
        ValueError: the link does not fit, or df is not a positive finite number.
    """

    df: float | None

    name = "student t"
    default_link = links.Identity()
    allowed_links = ("identity", "log", "inverse")
    has_dispersion = True
    phi_is = "scale"

    def __init__(self, link: str | Link | None = None, df: float | None = None):
        super().__init__(link)
        if df is not None:
            if isinstance(df, bool) or not isinstance(df, int | float):
                raise ValueError(f"df={df!r}; give a positive number, or None to estimate it")
            if not 0 < df < math.inf:
                raise ValueError(
                    f"df={df!r}; give a positive finite number, or None to estimate it; for "
                    "infinity use the gaussian family"
                )
            df = float(df)
        object.__setattr__(self, "df", df)

    @property
    def parameters(self) -> tuple[str, ...]:
        """log(phi), and log(df) unless it is given."""
        return ("log(phi)", "log(df)") if self.df is None else ("log(phi)",)

    def _parts(self, dispersion: Dispersion) -> tuple[Array, Array]:
        """log(phi) and log(df)."""
        if self.df is None:
            log_phi, log_df = several_parameters(self, dispersion)
            return log_phi, log_df
        log_phi = one_parameter(self, dispersion)
        return log_phi, jnp.full_like(log_phi, math.log(self.df))

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi, log_df = self._parts(dispersion)
        half = jnp.asarray(0.5, log_df.dtype)
        # log Gamma(a + 1/2) - log Gamma(a) = R(a, 1/2) + log(a) / 2 with a = df / 2.
        constant = log_rising(log_df - math.log(2.0), half) - 0.5 * math.log(2 * math.pi) - log_phi
        z = (y - self.mean(eta)) * jnp.exp(-log_phi)
        tail = jnp.log1p(jnp.square(z) * jnp.exp(-log_df))
        return constant - 0.5 * (jnp.exp(log_df) + 1.0) * tail

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """phi^2 df / (df - 2); infinite for df <= 2."""
        log_phi, log_df = self._parts(dispersion)
        excess = jnp.exp(log_df) - 2.0
        ratio = 1.0 + 2.0 / jnp.where(excess > 0, excess, 1.0)
        return jnp.where(excess > 0, jnp.exp(2.0 * log_phi) * ratio, jnp.inf) * jnp.ones_like(mu)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """mu'^2 (df + 1) / ((df + 3) phi^2)."""
        log_phi, log_df = self._parts(dispersion)
        ratio = 1.0 - 2.0 / (jnp.exp(log_df) + 3.0)
        return ratio * jnp.exp(2.0 * (self.link.log_abs_derivative(eta) - log_phi))

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """(df + 1) log(1 + z^2 / df); scale and degrees of freedom are needed."""
        log_phi, log_df = self._parts(dispersion)
        z = (y - mu) * jnp.exp(-log_phi)
        return (jnp.exp(log_df) + 1.0) * jnp.log1p(jnp.square(z) * jnp.exp(-log_df))

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        log_phi, log_df = self._parts(dispersion)
        df = jnp.exp(log_df) * jnp.ones_like(eta)
        return self.mean(eta) + jnp.exp(log_phi) * jax.random.t(key, df, dtype=eta.dtype)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """Scale from the mean absolute residual, which no outlier dominates; 5 for df.

        E|z| of 5 degrees of freedom is 0.949, of a normal variable 0.798.
        """
        total = jnp.sum(weights)
        absolute = jnp.sum(weights * jnp.abs(y - mu)) / total
        size_y = jnp.sum(weights * jnp.abs(y)) / total
        size_y = jnp.where(size_y > 0, size_y, 1.0)
        log_phi = log_start(absolute / (0.9 * size_y), 1e-4, 1e2) + jnp.log(size_y)
        return (log_phi, jnp.full_like(log_phi, math.log(5.0)))[: len(self.parameters)]

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y itself, and the mean of the others where y has no finite eta."""
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite, and size is None or ones."""
        numeric("y", y)
        require_unit_size(self, size, "weights multiply each row's log density")
