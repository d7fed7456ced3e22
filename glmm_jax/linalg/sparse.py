"""The system matrix with a remainder that is too large to be formed: only its products are.

Factors are eliminated as in `schur`. What remains, S = H_rr - sum_f V_f' V_f over r random effects
of crossed factors, fills in completely where levels meet at random, whatever the order of
elimination (20,000 rows on 2,000 x 2,000 levels: 2.0 of 2.0 million entries of the triangle after
a minimum-degree ordering), so that a sparse Cholesky factor is a dense one. But divided by its own
blocks it is close to the identity: with P_g P_g' the block of each level,

    A = P^-1 S P^-T,    A v = (I + E) v + C v - sum_f V~_f' V~_f v,    V~ = V P^-T,

with E what makes the diagonal blocks one, and C the couplings among the remaining factors by their
rows. Solutions are by conjugate gradients, and log|A| is estimated from random signs (`krylov`);
tr A = r exactly. The signs belong to the structure: the estimate is a function of the parameters,
smooth and the same at every call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from glmm_jax.linalg import block_diagonal, krylov, schur
from glmm_jax.linalg.segments import take, total
from glmm_jax.rules import with_rule
from glmm_jax.structure import Structure

Blocks = tuple[jax.Array, ...]

# Numbers in the Lanczos vectors that are held at once.
LARGEST_BLOCK = 1 << 26


@partial(
    jax.tree_util.register_dataclass, data_fields=["diagonal", "edges", "rows", "weights"],
    meta_fields=[],
)  # fmt: skip
@dataclass(frozen=True)
class Remainder:
    """A, the remainder divided by its blocks, over the factors g of `structure.rest`.

    diagonal : I + E, (levels, k, k) each. edges : V~, as `SchurFactor.scaled`. rows, weights : of
    several such factors the rows Z Lambda P^-T, (n, k) each, and the weights (n,); else ().
    """

    diagonal: Blocks
    edges: dict[str, jax.Array]
    rows: Blocks
    weights: Blocks


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["structure", "lower", "scaled", "pivots", "rest"],
    meta_fields=[],
)
@dataclass(frozen=True)
class SparseFactor:
    """L_f and V_fg of the eliminated factors; P_g of the others, and the remainder without it."""

    structure: Structure
    lower: Blocks
    scaled: dict[str, jax.Array]
    pivots: Blocks
    rest: Remainder


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["diagonal", "edges", "rows", "weights"],
    meta_fields=[],
)
@dataclass(frozen=True)
class SparseSystem:
    """Entries of the system matrix: blocks of all factors, couplings of the eliminated ones; of the
    others the rows Z Lambda, (n, k) each, and the weights, (n,)."""

    diagonal: Blocks
    edges: dict[str, jax.Array]
    rows: Blocks
    weights: jax.Array


def assemble(structure: Structure, Z: Blocks, Lambda: Blocks, weights: jax.Array) -> SparseSystem:
    """Entries of Lambda' Z' W Z Lambda + I.

    Parameters: Z, one (n, k) array per factor; Lambda, one (k, k) per factor; weights (n,).
    """
    blocks, couplings = schur.assemble_eliminated(structure, Z, Lambda, weights)
    own = tuple(schur.level_blocks(structure, Z[g], Lambda[g], weights, g) for g in structure.rest)
    rows = tuple(Z[g] @ Lambda[g] for g in structure.rest)
    return SparseSystem((*blocks, *own), couplings, rows, weights)


def factorise(structure: Structure, system: SparseSystem) -> SparseFactor:
    """Eliminate what can be, and divide the rest by its blocks."""
    E = structure.eliminated
    lower, scaled = schur.eliminate(structure, system.diagonal[:E], system.edges)
    pivots, diagonal, rows, edges = [], [], [], {}
    for i, g in enumerate(structure.rest):
        whole = system.diagonal[g]
        own = whole
        for f in range(E):
            square = _squares(scaled[f"{f},{g}"])
            own = own - total(square, structure.edge_right[f"{f},{g}"], structure.levels[g])
        P = block_diagonal.cholesky(own)
        pivots.append(P)
        half = block_diagonal.solve_lower(P, whole)
        diagonal.append(block_diagonal.solve_lower(P, jnp.swapaxes(half, -1, -2)))
        for f in range(E):
            name = f"{f},{g}"
            edges[name] = _divided(take(P, structure.edge_right[name]), scaled[name])
        if len(structure.rest) > 1:
            own_rows = system.rows[i][:, None, :]
            rows.append(_divided(take(P, structure.index[g]), own_rows)[:, 0, :])
    held = (system.weights,) if rows else ()
    rest = Remainder(tuple(diagonal), edges, tuple(rows), held)
    return SparseFactor(structure, lower, scaled, tuple(pivots), rest)


def _squares(V: jax.Array) -> jax.Array:
    """V' V of each block."""
    return jnp.sum(V[..., :, None] * V[..., None, :], axis=-3)


def _divided(P: jax.Array, V: jax.Array) -> jax.Array:
    """V P^-T of each block."""
    return jnp.swapaxes(block_diagonal.solve_lower(P, jnp.swapaxes(V, -1, -2)), -1, -2)


def product(structure: Structure, rest: Remainder, v: jax.Array) -> jax.Array:
    """A v, (r, c), from v, (r, c)."""
    parts = _split(structure, v)
    out = {g: _times(rest.diagonal[i], parts[g]) for i, g in enumerate(structure.rest)}
    for f in range(structure.eliminated):
        met = jnp.zeros((structure.levels[f], structure.columns[f], v.shape[1]), v.dtype)
        for g in structure.rest:
            name = f"{f},{g}"
            there = _times(rest.edges[name], take(parts[g], structure.edge_right[name]))
            met = met + total(there, structure.edge_left[name], structure.levels[f])
        for g in structure.rest:
            name = f"{f},{g}"
            back = take(met, structure.edge_left[name])
            change = _times_transposed(rest.edges[name], back)
            out[g] = out[g] - total(change, structure.edge_right[name], structure.levels[g])
    if rest.rows:
        effects = [
            jnp.sum(rest.rows[i][:, :, None] * take(parts[g], structure.index[g]), axis=1)
            for i, g in enumerate(structure.rest)
        ]
        everything = jnp.sum(jnp.stack(effects), axis=0)
        for i, g in enumerate(structure.rest):
            others = rest.weights[0][:, None] * (everything - effects[i])
            spread = rest.rows[i][:, :, None] * others[:, None, :]
            out[g] = out[g] + total(spread, structure.index[g], structure.levels[g])
    return jnp.concatenate([out[g].reshape(-1, v.shape[1]) for g in structure.rest])


def _times(blocks: jax.Array, v: jax.Array) -> jax.Array:
    """blocks (..., k, l) times (..., l, c): written out, for products of tiny matrices are slow."""
    return jnp.sum(blocks[..., :, :, None] * v[..., None, :, :], axis=-2)


def _times_transposed(blocks: jax.Array, v: jax.Array) -> jax.Array:
    """Transposed blocks (..., k, l) times (..., k, c)."""
    return jnp.sum(blocks[..., :, :, None] * v[..., :, None, :], axis=-3)


def _split(structure: Structure, v: jax.Array) -> dict[int, jax.Array]:
    parts, start = {}, 0
    for g in structure.rest:
        stop = start + structure.sizes[g]
        parts[g] = v[start:stop].reshape(structure.levels[g], structure.columns[g], v.shape[1])
        start = stop
    return parts


def _divide(factor: SparseFactor, v: jax.Array, transposed: bool) -> jax.Array:
    """P^-1 v or P^-T v, (r, c)."""
    way = block_diagonal.solve_upper if transposed else block_diagonal.solve_lower
    parts = _split(factor.structure, v)
    pairs = zip(factor.pivots, parts.values(), strict=True)
    return jnp.concatenate([way(P, part).reshape(-1, v.shape[1]) for P, part in pairs])


def solve(factor: SparseFactor, right: Blocks) -> Blocks:
    """H^-1 right, for one (levels, k, columns) array per factor."""

    def apply(v: jax.Array) -> jax.Array:
        return product(factor.structure, factor.rest, v)

    def solve_rest(right: jax.Array) -> jax.Array:
        inner = jax.lax.custom_linear_solve(
            apply, _divide(factor, right, False), krylov.solve, symmetric=True
        )
        return _divide(factor, inner, True)

    return schur.substituted(factor, right, solve_rest)


def solve_transposed(factor: SparseFactor, right: Blocks) -> Blocks:
    """L^-T right with H = L L', L that of the eliminated factors and P A^1/2 of the remainder."""

    def solve_rest(right: jax.Array) -> jax.Array:
        rest = jax.lax.stop_gradient(factor.rest)
        root = krylov.inverse_root(lambda v: product(factor.structure, rest, v), right)
        return _divide(factor, root, True)

    return schur.substituted_back(factor, right, solve_rest)


def logdet(factor: SparseFactor) -> jax.Array:
    """log of the determinant of the system matrix, estimated."""
    known = [block_diagonal.logdet(lower) for lower in (*factor.lower, *factor.pivots)]
    return sum(known, _logdet_rest(factor.rest, factor.structure))


@with_rule
def _logdet_rest(rest: Remainder, structure: Structure) -> jax.Array:
    """log|A|, estimated."""
    return jnp.mean(values(structure, rest))


@_logdet_rest.defjvp
def _logdet_rest_jvp(primals, tangents):
    rest, structure = primals
    value, slope = _value_and_slope(rest, structure)
    pairs = zip(jax.tree.leaves(slope), jax.tree.leaves(tangents[0]), strict=True)
    return value, sum((jnp.sum(s * t) for s, t in pairs), jnp.zeros_like(value))


def with_probes(structure: Structure, probes: int) -> Structure:
    """The same structure with another number of sign vectors."""
    return replace(structure, seeds=jnp.arange(probes))


def signs(structure: Structure, seeds: jax.Array) -> jax.Array:
    """Random signs, (r, c), one column for each seed."""
    size = sum(structure.sizes[g] for g in structure.rest)

    def column(seed: jax.Array) -> jax.Array:
        return jax.random.rademacher(jax.random.key(seed), (size,), jnp.int8)

    return jax.vmap(column, out_axes=1)(seeds)


def _together(structure: Structure) -> int:
    """How many starts of the recurrence are taken side by side."""
    size = sum(structure.sizes[g] for g in structure.rest)
    return max(1, min(16, LARGEST_BLOCK // (size * krylov.MOST_VECTORS)))


def _groups(structure: Structure) -> jax.Array:
    """The seeds, (groups, those taken side by side)."""
    seeds = structure.seeds
    assert seeds is not None
    count = seeds.shape[0]
    width = min(_together(structure), count)
    width = max(w for w in range(1, width + 1) if count % w == 0)
    return seeds.reshape(-1, width)


def values(structure: Structure, rest: Remainder) -> jax.Array:
    """The estimate of log|A| from each sign vector, (probes,): their mean is the estimate."""
    rest = jax.lax.stop_gradient(rest)

    def of(seeds: jax.Array) -> jax.Array:
        z = signs(structure, seeds).astype(rest.diagonal[0].dtype)
        return _of_group(structure, rest, z)[0]

    return jax.lax.map(of, _groups(structure)).ravel()


def _of_group(structure: Structure, rest: Remainder, z: jax.Array):
    found = krylov.lanczos(lambda v: product(structure, rest, v), z)
    value, G = krylov.quadratic_log(found)
    # z'Az from the recurrence; the expectation of z'(A - I)z is known, tr(A - I) = 0.
    plain = found.square * (found.matrix[:, 0, 0] - 1.0)
    return value - plain, found, G


@with_rule
def _value_and_slope(rest: Remainder, structure: Structure) -> tuple[jax.Array, Remainder]:
    """The estimate and its derivative in the numbers of A, in one pass over the sign vectors."""
    groups = _groups(structure)
    probes = groups.size

    def slope_of(left: jax.Array, right: jax.Array) -> Remainder:
        """Derivative of sum(left * A right)."""
        pulled = jax.vjp(lambda rest: product(structure, rest, right), rest)[1]
        return pulled(left)[0]

    def of(state, seeds):
        value, slope = state
        z = signs(structure, seeds).astype(rest.diagonal[0].dtype)
        each, found, G = _of_group(structure, rest, z)
        Q = found.vectors

        def step(i, slope):
            def more(j, left):
                return left + G[:, j, i][None] * Q[j]

            left = jax.lax.fori_loop(0, found.steps, more, jnp.zeros_like(z))
            return jax.tree.map(jnp.add, slope, slope_of(left, Q[i]))

        slope = jax.tree.map(jnp.subtract, slope, slope_of(z, z))
        slope = jax.lax.fori_loop(0, found.steps, step, slope)
        return (value + jnp.sum(each), slope), None

    zero = jax.tree.map(jnp.zeros_like, rest)
    begin = jnp.zeros((), rest.diagonal[0].dtype), zero
    (value, slope), _ = jax.lax.scan(of, begin, groups)
    return value / probes, jax.tree.map(lambda s: s / probes, slope)


@_value_and_slope.defjvp
def _no_second_derivative(primals, tangents):
    raise ValueError(
        "second derivatives of the iterative solver's log-determinant are not to be had: take "
        "differences of its first, or build the model with solver='exact'"
    )
