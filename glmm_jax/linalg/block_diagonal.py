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
            rest = _element(blocks, i, j)
            for c in range(j):
                rest = rest - lower[i, c] * lower[j, c]
            lower[i, j] = _pivot(rest) if i == j else rest / lower[j, j]
    zero = jnp.zeros_like(lower[0, 0])
    rows = [_joined([lower.get((i, j), zero) for j in range(k)], -1) for i in range(k)]
    return _joined(rows, -2)


def _element(blocks: jax.Array, i: int, j: int) -> jax.Array:
    """(..., 1, 1): no axis comes or goes, so that the compiler sees the same factorisation at two
    places as the same (where all factors have equally many columns; of others it does one twice).
    """
    return blocks[..., i : i + 1, j : j + 1]


def _joined(parts: list[jax.Array], axis: int) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def _pivot(square: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.where(square > 0, square, jnp.nan))


def solve_lower(lower: jax.Array, right: jax.Array) -> jax.Array:
    """L^-1 B for factors (..., k, k) and right-hand sides (..., k, r)."""
    k = lower.shape[-1]
    if k > LARGEST_UNROLLED:
        return solve_triangular(lower, right, lower=True)
    rows: list[jax.Array] = []
    for i in range(k):
        rest = right[..., i : i + 1, :]
        for c in range(i):
            rest = rest - _element(lower, i, c) * rows[c]
        rows.append(rest / _element(lower, i, i))
    return _joined(rows, -2)


def solve_upper(lower: jax.Array, right: jax.Array) -> jax.Array:
    """L^-T B for factors (..., k, k) and right-hand sides (..., k, r)."""
    k = lower.shape[-1]
    if k > LARGEST_UNROLLED:
        return solve_triangular(lower, right, lower=True, trans="T")
    rows: dict[int, jax.Array] = {}
    for i in reversed(range(k)):
        rest = right[..., i : i + 1, :]
        for c in range(i + 1, k):
            rest = rest - _element(lower, c, i) * rows[c]
        rows[i] = rest / _element(lower, i, i)
    return _joined([rows[i] for i in range(k)], -2)


def logdet(lower: jax.Array) -> jax.Array:
    """Sum over the blocks of log |L L'|, from their factors (levels, k, k)."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)))
