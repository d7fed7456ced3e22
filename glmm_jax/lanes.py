"""A function of the first of a block of lanes, some side by side: one program for any number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def first(function: Callable[[Any], Any], block: Any, count: jax.Array, together: int) -> Any:
    """function(lane) of the first `count` lanes; what it gives for the others is not to be read.

    Up to the next multiple of `together` they are computed too; beyond, they are zeros and free.

    Parameters
    ----------
    block : pytree of arrays with an axis of lanes in front, a multiple of `together`.
    count : (), an integer.
    together : how many lanes go side by side.
    """

    def slab(i: jax.Array) -> Any:
        def cut(a: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(a, i * together, together)

        return jax.tree.map(cut, block)

    def body(i: jax.Array, out: Any) -> Any:
        found = jax.vmap(function)(slab(i))
        return jax.tree.map(
            lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, i * together, 0), out, found
        )

    size = jax.tree.leaves(block)[0].shape[0]
    shapes = jax.eval_shape(jax.vmap(function), slab(jnp.asarray(0)))
    out = jax.tree.map(lambda s: jnp.zeros((size, *s.shape[1:]), s.dtype), shapes)
    return jax.lax.fori_loop(0, -(-count // together), body, out)
