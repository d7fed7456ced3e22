"""Many small symmetric positive definite blocks at once.

Blocks are (..., k, k) arrays. Up to k = 4 the factorisation and the substitutions are written out
element by element, so that XLA fuses them into vector code over the batch; LAPACK called for each
tiny matrix is slow on a CPU and slower on a GPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

LARGEST_UNROLLED = 4


def cholesky(blocks: jax.Array) -> jax.Array:
    """Lower Cholesky factors of symmetric blocks, (..., k, k); NaN where one is not definite."""
    k = blocks.shape[-1]
    if k > LARGEST_UNROLLED:
        return jnp.linalg.cholesky(blocks)
    lower: dict[tuple[int, int], jax.Array] = {}
    for j in range(k):
        for i in range(j, k):
            rest = blocks[..., i, j]
            for c in range(j):
                rest = rest - lower[i, c] * lower[j, c]
            lower[i, j] = _pivot(rest) if i == j else rest / lower[j, j]
    zero = jnp.zeros_like(blocks[..., 0, 0])
    rows = [jnp.stack([lower.get((i, j), zero) for j in range(k)], -1) for i in range(k)]
    return jnp.stack(rows, -2)


def _pivot(square: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.where(square > 0, square, jnp.nan))


def solve_lower(lower: jax.Array, right: jax.Array) -> jax.Array:
    """L^-1 B for factors (..., k, k) and right-hand sides (..., k, r)."""
    k = lower.shape[-1]
    if k > LARGEST_UNROLLED:
        return solve_triangular(lower, right, lower=True)
    rows: list[jax.Array] = []
    for i in range(k):
        rest = right[..., i, :]
        for c in range(i):
            rest = rest - lower[..., i, c, None] * rows[c]
        rows.append(rest / lower[..., i, i, None])
    return jnp.stack(rows, -2)


def solve_upper(lower: jax.Array, right: jax.Array) -> jax.Array:
    """L^-T B for factors (..., k, k) and right-hand sides (..., k, r)."""
    k = lower.shape[-1]
    if k > LARGEST_UNROLLED:
        return solve_triangular(lower, right, lower=True, trans="T")
    rows: dict[int, jax.Array] = {}
    for i in reversed(range(k)):
        rest = right[..., i, :]
        for c in range(i + 1, k):
            rest = rest - lower[..., c, i, None] * rows[c]
        rows[i] = rest / lower[..., i, i, None]
    return jnp.stack([rows[i] for i in range(k)], -2)


def logdet(lower: jax.Array) -> jax.Array:
    """Sum over the blocks of log |L L'|, from their factors (levels, k, k)."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)))
