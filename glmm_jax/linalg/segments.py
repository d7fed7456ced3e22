"""Gather by level and sum by level, the two moves between rows and levels.

Indices come from `structure` and are in range by construction, so no negative or overflowing index
is looked for: the checks would be kernels of their own at each of some hundred places.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Rectangles = tuple[tuple[int, int], ...]


def take(values: jax.Array, index: jax.Array, rectangles: Rectangles = ()) -> jax.Array:
    """values[index] along the first axis: (levels, ...) and (rows,) to (rows, ...).

    rectangles : how the rows lie, see `packing`; the index is then not read.
    """
    if rectangles:
        rest = values.shape[1:]
        parts = [
            jnp.broadcast_to(values[:width], (height, width, *rest)).reshape(-1, *rest)
            for height, width in rectangles
        ]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return values.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def total(
    values: jax.Array, index: jax.Array, segments: int, rectangles: Rectangles = ()
) -> jax.Array:
    """Sums over the rows of each segment: (rows, ...) and (rows,) to (segments, ...).

    rectangles : how the rows lie, see `packing`; the index is then not read.
    """
    if rectangles:
        rest, start, sums = values.shape[1:], 0, []
        for height, width in rectangles:
            part = values[start : start + height * width].reshape(height, width, *rest)
            empty = [(0, segments - width), *[(0, 0)] * len(rest)]
            sums.append(jnp.pad(jnp.sum(part, axis=0), empty) if width < segments
                        else jnp.sum(part, axis=0))  # fmt: skip
            start += height * width
        return sum(sums[1:], sums[0])
    zeros = jnp.zeros((segments, *values.shape[1:]), values.dtype)
    return zeros.at[index].add(values, mode="promise_in_bounds", wrap_negative_indices=False)
