"""What only some lanes of a batch need, computed if any does.

Under `jax.vmap` a `lax.cond` whose predicate differs between lanes computes both of its branches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


@jax.custom_batching.custom_vmap
def anywhere(flag: jax.Array) -> jax.Array:
    """Whether a flag, (), is true in any lane: under `jax.vmap` one value for all of them."""
    return flag


@anywhere.def_vmap
def _anywhere(size: int, batched: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:
    del size
    # Asked again, for this may be a batch of batches.
    return anywhere(jnp.any(flag, axis=0) if batched[0] else flag), False


def needed(wanted: jax.Array, compute: Callable[[], Tree], known: Tree) -> Tree:
    """compute() where it is wanted, (), and what is known elsewhere, of the same structure.

    What a lane gets depends on itself alone, whatever is computed for the others.
    """
    found = jax.lax.cond(anywhere(wanted), compute, lambda: known)
    return jax.tree.map(lambda a, b: jnp.where(wanted, a, b), found, known)
