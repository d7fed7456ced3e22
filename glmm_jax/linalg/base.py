"""The system matrix H = Lambda' Z' W Z Lambda + I: factorise once, then solve and log-determinant.

`factorise` chooses the path from the structure: "schur" eliminates grouping factors, "iterative"
does so too and never forms what remains, "dense" is the reference that forms Z as a matrix. All
take and return flat vectors (q,) in which each factor of the structure has its (levels, columns)
block, levels slowest.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from glmm_jax.linalg import dense, related, schur, sparse
from glmm_jax.linalg.segments import take, total
from glmm_jax.structure import Structure

Factor = schur.SchurFactor | sparse.SparseFactor | tuple[jax.Array, jax.Array]
Blocks = tuple[jax.Array, ...]


def split(structure: Structure, flat: jax.Array) -> Blocks:
    """(q, columns) or (q,) array as one (levels, k, ...) array per factor."""
    parts, start = [], 0
    for levels, k in zip(structure.levels, structure.columns, strict=True):
        part = flat[start : start + levels * k]
        parts.append(part.reshape(levels, k, *flat.shape[1:]))
        start += levels * k
    return tuple(parts)


def join(parts: Blocks) -> jax.Array:
    """The inverse of `split`."""
    return jnp.concatenate([p.reshape(p.shape[0] * p.shape[1], *p.shape[2:]) for p in parts])


def effects(structure: Structure, Lambda: Blocks, u: jax.Array) -> Blocks:
    """b of each factor, (levels, k), from u, (q,): Lambda u of a level, of related levels too."""
    return tuple(
        related.spread(structure, f, part) @ Lambda[f].T
        for f, part in enumerate(split(structure, u))
    )


def multiply(structure: Structure, Z: Blocks, Lambda: Blocks, u: jax.Array) -> jax.Array:
    """Z Lambda u, (n,), from u, (q,)."""
    eta = None
    for f, part in enumerate(split(structure, u)):
        b = related.spread(structure, f, part) @ Lambda[f].T
        row = jnp.sum(Z[f] * take(b, structure.index[f], structure.layout(f)), axis=1)
        eta = row if eta is None else eta + row
    assert eta is not None  # a structure has at least one factor
    return eta


def multiply_transposed(
    structure: Structure, Z: Blocks, Lambda: Blocks, right: jax.Array
) -> jax.Array:
    """Lambda' Z' right, (q,) or (q, r), from right, (n,) or (n, r)."""
    columns = right[:, None, :] if right.ndim == 2 else right[:, None, None]
    parts = []
    for f, levels in enumerate(structure.levels):
        product = Z[f][:, :, None] * columns
        summed = total(product, structure.index[f], levels, structure.layout(f))
        parts.append(Lambda[f].T @ related.gathered(structure, f, summed))
    joined = join(tuple(parts))
    return joined if right.ndim == 2 else joined[:, 0]


def factorise(structure: Structure, Z: Blocks, Lambda: Blocks, weights: jax.Array) -> Factor:
    """Factor of H; NaN where it is not positive definite.

    Parameters: Z, one (n, k) array per factor; Lambda, one (k, k) per factor; weights (n,).
    """
    if structure.solver == "dense":
        return dense_system(structure, Z, Lambda, weights)
    if structure.solver == "iterative":
        return sparse.factorise(structure, sparse.assemble(structure, Z, Lambda, weights))
    return schur.factorise(structure, schur.assemble(structure, Z, Lambda, weights))


def logdet(factor: Factor) -> jax.Array:
    """log|H|."""
    if isinstance(factor, tuple):
        return dense.logdet(*factor)
    if isinstance(factor, sparse.SparseFactor):
        return sparse.logdet(factor)
    return schur.logdet(factor)


def solve(structure: Structure, factor: Factor, right: jax.Array) -> jax.Array:
    """H^-1 right, for right (q,) or (q, r)."""
    matrix = right if right.ndim == 2 else right[:, None]
    if isinstance(factor, tuple):
        solved = dense.solve(*factor, matrix)
    elif isinstance(factor, sparse.SparseFactor):
        solved = join(sparse.solve(factor, split(structure, matrix)))
    else:
        solved = join(schur.solve(factor, split(structure, matrix)))
    return solved if right.ndim == 2 else solved[:, 0]


def solve_transposed(structure: Structure, factor: Factor, right: jax.Array) -> jax.Array:
    """L^-T right with H = L L', for right (q, r). Standard normal columns get covariance H^-1."""
    if isinstance(factor, tuple):
        return jax.scipy.linalg.solve_triangular(factor[1], right, lower=True, trans="T")
    if isinstance(factor, sparse.SparseFactor):
        return join(sparse.solve_transposed(factor, split(structure, right)))
    return join(schur.solve_transposed(factor, split(structure, right)))


def dense_system(
    structure: Structure, Z: Blocks, Lambda: Blocks, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """H as a (q, q) matrix and its Cholesky factor."""
    ZLambda = _dense_columns(structure, Z, Lambda)
    H = ZLambda.T @ (weights[:, None] * ZLambda) + jnp.eye(structure.q, dtype=weights.dtype)
    return H, dense.cholesky(H)


def _dense_columns(structure: Structure, Z: Blocks, Lambda: Blocks) -> jax.Array:
    """Z Lambda as an (n, q) matrix."""
    parts = []
    for f, levels in enumerate(structure.levels):
        indicator = jax.nn.one_hot(structure.index[f], levels, dtype=Z[f].dtype)
        if related.is_related(structure, f):
            indicator = indicator @ structure.roots[str(f)]
        rows = indicator[:, :, None] * (Z[f] @ Lambda[f])[:, None, :]
        parts.append(rows.reshape(rows.shape[0], -1))
    return jnp.concatenate(parts, axis=1)
