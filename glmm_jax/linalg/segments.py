"""Gather by level and sum by level, the two moves between rows and levels.

Indices come from `structure` and are in range by construction, so no negative or overflowing index
is looked for: the checks would be kernels of their own at each of some hundred places.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def take(values: jax.Array, index: jax.Array) -> jax.Array:
    """values[index] along the first axis: (levels, ...) and (rows,) to (rows, ...)."""
    return values.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def total(values: jax.Array, index: jax.Array, segments: int) -> jax.Array:
    """Sums over the rows of each segment: (rows, ...) and (rows,) to (segments, ...)."""
    zeros = jnp.zeros((segments, *values.shape[1:]), values.dtype)
    return zeros.at[index].add(values, mode="promise_in_bounds", wrap_negative_indices=False)
