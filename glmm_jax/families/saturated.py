"""Deviance of a density whose saturated model has no closed form.

    2 (max over eta of log p(y | eta) - log p(y | eta)),

all other parameters as given: zero at the best mean for that row and never negative. For such a
family the best mean need not be y itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax.families.base import Dispersion, Family

_TRIPS = 100
_LARGEST_STEP = 1.0  # of eta, under a link for which a unit is a natural step


def saturated_deviance(
    family: Family,
    y: Array,
    mu: Array,
    dispersion: Dispersion,
    size: Array | None,
    edge: Array | bool = False,
) -> Array:
    """2 (saturated - fitted log density) of each row, (n,), the maximum found by Newton steps.

    Args:
        family: for its density, link and `start_mean`.
        y, mu, dispersion, size: as in `Family.unit_deviance`; the dispersion is needed.
        edge: (n,), rows whose density tends to probability one as eta tends to an infinity (a
            count of zero): their saturated log-likelihood is 0.
    """
    scale = jnp.ones_like(y * mu)
    eta = family.link.link(mu) * scale

    def body(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        best, _, trips = state
        score = family.score(y, best, dispersion, size)
        curvature = jnp.abs(family.curvature(y, best, dispersion, size))
        step = score / jnp.where(curvature > 0, curvature, 1.0)
        limit = _LARGEST_STEP * (1.0 + jnp.abs(best))
        step = jnp.where(edge, 0.0, jnp.clip(step, -limit, limit))  # a trust region
        return best + step, jnp.max(jnp.abs(step)), trips + 1

    start = family.link.link(family.start_mean(y, size)) * scale
    state = start, jnp.asarray(jnp.inf, start.dtype), jnp.asarray(0)
    best, _, _ = jax.lax.while_loop(lambda s: (s[1] > 1e-7) & (s[2] < _TRIPS), body, state)
    saturated = jnp.where(edge, 0.0, family.log_prob(y, best, dispersion, size))
    return 2.0 * (saturated - family.log_prob(y, eta, dispersion, size))
