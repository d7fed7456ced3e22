"""One dense symmetric positive definite matrix: factor by Cholesky, differentiate by inverse.

The Cholesky factor C of S is held constant under differentiation; the rules below state the
derivatives of what is computed from it in terms of S:

    d log|S|  = tr(S^-1 dS)
    d (S^-1)  = - S^-1 dS S^-1
    d (S^-1 B) = S^-1 (dB - dS S^-1 B)

Each rule calls the differentiable functions again, so derivatives of any order follow. This is
faster than differentiating the factorisation, and a matrix of which only one triangle is filled
cannot give a wrong derivative, because the rules never look at a triangle.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax.linalg import triangular_solve
from jax.scipy.linalg import cho_solve

from glmm_jax.linalg import block_diagonal
from glmm_jax.rules import with_rule

# Rows up to which a triangular matrix is not divided into halves. Of 1,152 rows an inverse takes
# 69 ms by halves and 122 by two solves with the identity, which use one core (576: 13 and 18).
LARGEST_WHOLE = 256


def cholesky(matrix: jax.Array) -> jax.Array:
    """Lower Cholesky factor of a symmetric matrix, (r, r), constant under differentiation."""
    still = jax.lax.stop_gradient(matrix)
    if _is_small(matrix):
        return block_diagonal.cholesky(still)
    return jnp.linalg.cholesky(still, symmetrize_input=False)


def _is_small(matrix: jax.Array) -> bool:
    return 0 < matrix.shape[0] <= block_diagonal.LARGEST_UNROLLED


def _solved(lower: jax.Array, right: jax.Array) -> jax.Array:
    """(L L')^-1 B, (r, columns)."""
    if _is_small(lower):
        return block_diagonal.solve_upper(lower, block_diagonal.solve_lower(lower, right))
    return cho_solve((lower, True), right)


@with_rule
def logdet(matrix: jax.Array, lower: jax.Array) -> jax.Array:
    """log|S| from S and its Cholesky factor."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(lower)))


@logdet.defjvp
def _logdet_jvp(primals, tangents):
    matrix, lower = primals
    return logdet(matrix, lower), jnp.sum(inverse(matrix, lower) * tangents[0])


@with_rule
def inverse(matrix: jax.Array, lower: jax.Array) -> jax.Array:
    """S^-1 from S and its Cholesky factor."""
    if lower.shape[0] > LARGEST_WHOLE:
        return _gram(_root_inverse(lower))
    return _solved(lower, jnp.eye(lower.shape[0], dtype=lower.dtype))


def _root_inverse(lower: jax.Array) -> jax.Array:
    """L^-1 by halves, whose zeros a single solve would compute with, (r, r)."""
    r = lower.shape[0]
    if r <= LARGEST_WHOLE:
        return triangular_solve(lower, jnp.eye(r, dtype=lower.dtype), left_side=True, lower=True)
    h = r // 2
    first, between, last = lower[:h, :h], lower[h:, :h], lower[h:, h:]
    between = -triangular_solve(
        last, triangular_solve(first, between, lower=True), left_side=True, lower=True
    )
    zero = jnp.zeros_like(between.T)
    return jnp.block([[_root_inverse(first), zero], [between, _root_inverse(last)]])


def _gram(lower: jax.Array) -> jax.Array:
    """R' R of a lower triangular R, by halves: a third of the work of a full product, (r, r)."""
    r = lower.shape[0]
    if r <= LARGEST_WHOLE:
        return lower.T @ lower
    h = r // 2
    first, between, last = lower[:h, :h], lower[h:, :h], lower[h:, h:]
    corner = _gram(first) + between.T @ between
    side = last.T @ between
    return jnp.block([[corner, side.T], [side, _gram(last)]])


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    matrix, lower = primals
    result = inverse(matrix, lower)
    return result, -(result @ tangents[0] @ result)


def solve(matrix: jax.Array, lower: jax.Array, right: jax.Array) -> jax.Array:
    """S^-1 B, (r, columns), from S, its Cholesky factor and B, (r, columns).

    `custom_linear_solve` and not a `custom_jvp`: reverse mode transposes the solve, and the
    transpose must know its derivative in S too, or second derivatives lose a term in silence.
    """
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x, right, lambda _, b: _solved(lower, b), symmetric=True
    )
