"""Eigenvalues and eigenvectors of a symmetric matrix of a few parameters, alone or of many models.

Up to four rows they come from Jacobi's rotations, written out element by element: over a batch of
models that is vector code, where LAPACK is called for each of its matrices.
"""

from __future__ import annotations

from itertools import combinations

import jax
import jax.numpy as jnp

from glmm_jax.linalg.block_diagonal import LARGEST_UNROLLED

# The off-diagonal part falls quadratically in the end; the fourth sweep of four rows leaves 1e-16.
SWEEPS = 6


def spectrum(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (P,), in no order, and eigenvectors, the columns of (P, P).

    What is not finite makes some of them so; look at the matrix first.
    """
    P = matrix.shape[0]
    if P > LARGEST_UNROLLED:
        return tuple(jnp.linalg.eigh(matrix))
    A = {(i, j): matrix[i, j] for i in range(P) for j in range(i, P)}
    one, zero = jnp.ones_like(matrix[0, 0]), jnp.zeros_like(matrix[0, 0])
    V = {(i, j): one if i == j else zero for i in range(P) for j in range(P)}

    def sweep(_: int, state: tuple[dict, dict]) -> tuple[dict, dict]:
        A, V = (dict(part) for part in state)
        for p, q in combinations(range(P), 2):
            _rotate(A, V, p, q, P)
        return A, V

    A, V = jax.lax.fori_loop(0, SWEEPS, sweep, (A, V))
    values = jnp.stack([A[i, i] for i in range(P)])
    return values, jnp.stack([jnp.stack([V[i, j] for j in range(P)]) for i in range(P)])


def _rotate(A: dict, V: dict, p: int, q: int, P: int) -> None:
    """Make A_pq zero, p < q, by the smaller of the two rotations (Golub and Van Loan, 8.5)."""
    off = A[p, q]
    there = off != 0
    half = (A[q, q] - A[p, p]) / (2.0 * jnp.where(there, off, 1.0))
    t = jnp.where(half < 0, -1.0, 1.0) / (jnp.abs(half) + jnp.sqrt(1.0 + half**2))
    t = jnp.where(there, t, 0.0)
    c = jax.lax.rsqrt(1.0 + t**2)
    s = t * c
    A[p, p], A[q, q], A[p, q] = A[p, p] - t * off, A[q, q] + t * off, jnp.zeros_like(off)
    for r in range(P):
        if r not in (p, q):
            rp, rq = (min(r, p), max(r, p)), (min(r, q), max(r, q))
            A[rp], A[rq] = c * A[rp] - s * A[rq], s * A[rp] + c * A[rq]
        V[r, p], V[r, q] = c * V[r, p] - s * V[r, q], s * V[r, p] + c * V[r, q]
