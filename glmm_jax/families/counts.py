"""What the families of counts have in common: the check of the response, and a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax.families.base import Family, is_integer, numeric, require, require_unit_size

# Terms below this fraction of the sum so far, past the mean, no longer change a draw.
_NEGLIGIBLE = 1e-15


def check_counts(family: Family, y: Any, size: Any) -> None:
    """Counts are non-negative integers (up to rounding), and size is None or ones.

    Raises:
        ValueError: otherwise; names the first such row.
    """
    counts = numeric("y", y)
    require("y", counts, counts >= 0, "non-negative", f"a {family.name} response is a count")
    require(
        "y",
        counts,
        is_integer(counts),
        "an integer",
        "give counts; model a rate by its count with offset log(exposure)",
    )
    require_unit_size(family, size, "exposure enters as an offset of log(exposure)")


def sample_by_summation(key: Array, log_prob: Callable[[Array], Array], mean: Array) -> Array:
    """One draw for each element from log probabilities of 0, 1, 2, ..., in the shape of `mean`.

    One pass over the counts from zero: each replaces the draw so far with the probability that it
    has among those seen, so that the probabilities need not sum to one. It ends where, past the
    mean, a term is below 1e-15 of the sum; the cost grows with the largest draw.
    """

    def body(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        draw, total, count, _ = state
        term = jnp.exp(log_prob(count * jnp.ones_like(mean)))
        term = jnp.where(jnp.isfinite(term), term, 0.0)  # beyond the end of a finite support
        total = total + term
        chance = jax.random.uniform(
            jax.random.fold_in(key, count.astype(int)), mean.shape, mean.dtype
        )
        draw = jnp.where(chance * total < term, count, draw)
        busy = (count <= mean) | (term > _NEGLIGIBLE * total)
        return draw, total, count + 1.0, jnp.any(busy)

    zero = jnp.zeros_like(mean)
    start = zero, zero, jnp.zeros((), mean.dtype), jnp.asarray(True)
    return jax.lax.while_loop(lambda state: state[3], body, start)[0]
