"""Gather by level and sum by level, the two moves between rows and levels.

Indices come from `structure` and are in range by construction, so no negative or overflowing index
is looked for: the checks would be kernels of their own at each of some hundred places.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# How rows lie by level, see `packing`: in rectangles, whose index is never read; in runs of so many
# rows of one level; () in any order.
Layout = tuple[tuple[int, int], ...] | int


def take(values: jax.Array, index: jax.Array, layout: Layout = ()) -> jax.Array:
    """values[index] along the first axis: (levels, ...) and (rows,) to (rows, ...)."""
    rest = values.shape[1:]
    if isinstance(layout, int):
        runs = take(values, index[::layout])
        spread = jnp.broadcast_to(runs[:, None], (runs.shape[0], layout, *rest))
        return spread.reshape(index.shape[0], *rest)
    if layout:
        parts = [
            jnp.broadcast_to(values[:width], (height, width, *rest)).reshape(-1, *rest)
            for height, width in layout
        ]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    return values.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def total(values: jax.Array, index: jax.Array, segments: int, layout: Layout = ()) -> jax.Array:
    """Sums over the rows of each segment: (rows, ...) and (rows,) to (segments, ...)."""
    rest = values.shape[1:]
    if isinstance(layout, int):
        rows = values.shape[0]
        runs = jnp.sum(values.reshape(rows // layout, layout, *rest), axis=1)
        return total(runs, index[::layout], segments)
    if layout:
        start, sums = 0, []
        for height, width in layout:
            part = values[start : start + height * width].reshape(height, width, *rest)
            empty = [(0, segments - width), *[(0, 0)] * len(rest)]
            sums.append(jnp.pad(jnp.sum(part, axis=0), empty) if width < segments
                        else jnp.sum(part, axis=0))  # fmt: skip
            start += height * width
        return sum(sums[1:], sums[0])
    zeros = jnp.zeros((segments, *rest), values.dtype)
    return zeros.at[index].add(values, mode="promise_in_bounds", wrap_negative_indices=False)
