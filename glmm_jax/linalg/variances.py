"""Diagonal blocks of the inverse of the system matrix: conditional covariances of a level's u.

d log|H| / dH = H^-1 holds element by element on the pattern of H, so the derivative of the
log-determinant with respect to the diagonal blocks is the selected inverse; no second algorithm.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from glmm_jax.linalg import base, dense, related, schur, sparse
from glmm_jax.structure import Structure

Blocks = tuple[jax.Array, ...]

PROBES = 192  # sign vectors for conditional covariances: each level has only its own part of them


def level_covariances(
    structure: Structure, Z: Blocks, Lambda: Blocks, weights: jax.Array
) -> Blocks:
    """[H^-1] of each level of each factor, one (levels, k, k) array per factor.

    With the iterative solver they are estimated. Where levels are related it is that of T u (see
    `related`), so that Lambda [H^-1] Lambda' is the covariance of b of a level in any case.

    Parameters: Z, one (n, k) array per factor; Lambda, one (k, k) per factor; weights (n,).
    """
    if structure.solver == "dense":
        H, lower = base.dense_system(structure, Z, Lambda, weights)
        return _diagonal_blocks(dense.inverse(H, lower), structure, range(len(structure.levels)))
    if structure.solver == "iterative":
        return _estimated(structure, sparse.assemble(structure, Z, Lambda, weights))
    system = schur.assemble(structure, Z, Lambda, weights)

    def logdet(diagonal: Blocks) -> jax.Array:
        return schur.logdet(schur.factorise(structure, replace(system, diagonal=diagonal)))

    # The factorisation reads the lower triangle of a block: both halves of the derivative count.
    derivative = jax.grad(logdet)(system.diagonal)
    eliminated = tuple(0.5 * (d + jnp.swapaxes(d, -1, -2)) for d in derivative)
    if not structure.rest:
        return eliminated
    factor = schur.factorise(structure, system)
    inverse = dense.inverse(factor.rest, factor.rest_lower)
    return eliminated + _diagonal_blocks(inverse, structure, structure.rest)


def _estimated(structure: Structure, system: sparse.SparseSystem) -> Blocks:
    """The same from the derivative of the estimate of log|H|."""
    many = sparse.with_probes(structure, PROBES)

    def logdet(diagonal: Blocks) -> jax.Array:
        return sparse.logdet(sparse.factorise(many, replace(system, diagonal=diagonal)))

    derivative = jax.grad(logdet)(system.diagonal)
    return tuple(0.5 * (d + jnp.swapaxes(d, -1, -2)) for d in derivative)


def _diagonal_blocks(inverse: jax.Array, structure: Structure, factors: range) -> Blocks:
    out, start = [], 0
    for f in factors:
        levels, k = structure.levels[f], structure.columns[f]
        tile = inverse[start : start + levels * k, start : start + levels * k]
        out.append(related.own_covariances(structure, f, tile))
        start += levels * k
    return tuple(out)
