"""Factors whose levels are related: b = (R kron Lambda) u with K = R R' a known matrix.

With T = R kron I the part of such a factor in the system matrix is T' Lambda' Z' W Z Lambda T + I:
every level meets every other, so that the factor belongs to the dense remainder. Nothing is formed
that is larger than that remainder: R multiplies sums over the levels, never the rows of Z.
Vectors are (levels, k, ...) arrays per factor, R is `structure.roots[str(f)]`, (levels, levels).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from glmm_jax.structure import Structure


def is_related(structure: Structure, f: int) -> bool:
    """Whether the levels of factor f are related."""
    return str(f) in structure.roots


def spread(structure: Structure, f: int, values: jax.Array) -> jax.Array:
    """T v of one factor, (levels, ...); v itself where the levels are independent."""
    if not is_related(structure, f):
        return values
    return jnp.tensordot(structure.roots[str(f)], values, axes=1)


def gathered(structure: Structure, f: int, values: jax.Array) -> jax.Array:
    """T' v of one factor, (levels, ...); v itself where the levels are independent."""
    if not is_related(structure, f):
        return values
    return jnp.tensordot(structure.roots[str(f)].T, values, axes=1)


def tile(structure: Structure, f: int, blocks: jax.Array) -> jax.Array:
    """T' diag(blocks) T + I, (levels k, levels k), from (levels, k, k) of a related factor."""
    root = structure.roots[str(f)]
    levels, k, _ = blocks.shape
    # (k, k, levels, levels): for each pair of columns one product of matrices.
    each = jnp.einsum("la,ijl,lb->ijab", root, jnp.moveaxis(blocks, 0, -1), root)
    full = each.transpose(2, 0, 3, 1).reshape(levels * k, levels * k)
    return full + jnp.eye(levels * k, dtype=blocks.dtype)


def level_blocks(structure: Structure, f: int, blocks: jax.Array) -> jax.Array:
    """Diagonal blocks of T' diag(blocks) T, (levels, k, k), from blocks of a related factor."""
    return jnp.einsum("la,lij->aij", structure.roots[str(f)] ** 2, blocks)


def own_covariances(structure: Structure, f: int, matrix: jax.Array) -> jax.Array:
    """Diagonal blocks of T V T', (levels, k, k), from V, (levels k, levels k), of a factor."""
    levels, k = structure.levels[f], structure.columns[f]
    shaped = matrix.reshape(levels, k, levels, k)
    if not is_related(structure, f):
        position = jnp.arange(levels)
        return shaped[position, :, position, :]
    left = spread(structure, f, shaped)
    return jnp.einsum("libj,lb->lij", left, structure.roots[str(f)])


def between(structure: Structure, g: int, h: int, matrix: jax.Array) -> jax.Array:
    """T_g' M T_h of a tile M, (size of g, size of h), between two factors."""
    if is_related(structure, g):
        shaped = matrix.reshape(structure.levels[g], -1)
        matrix = gathered(structure, g, shaped).reshape(matrix.shape)
    if is_related(structure, h):
        shaped = matrix.T.reshape(structure.levels[h], -1)
        matrix = gathered(structure, h, shaped).reshape(matrix.shape[::-1]).T
    return matrix


def between_all(structure: Structure, matrix: jax.Array) -> jax.Array:
    """T' M T of a symmetric matrix over all factors of the dense remainder."""
    if not structure.roots:
        return matrix
    for _ in range(2):  # T' M, transposed, and the same again: T' (T' M)' = T' M' T
        parts, start = [], 0
        for g in structure.rest:
            part = matrix[start : start + structure.sizes[g]]
            shaped = part.reshape(structure.levels[g], -1)
            parts.append(gathered(structure, g, shaped).reshape(part.shape))
            start += structure.sizes[g]
        matrix = jnp.concatenate(parts).T
    return matrix
