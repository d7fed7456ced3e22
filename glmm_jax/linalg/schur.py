"""Factorisation of the system matrix by eliminating grouping factors one after another.

With the eliminated factors 1 .. E first, the matrix is

    [ D_1  E_12 .. E_1r ]      D_f   block-diagonal, one k x k block per level
    [      D_2  .. E_2r ]      E_fg  couplings: a block per pair of levels that meet
    [           ..      ]      S     the dense remainder
    [               S   ]

For each f: D_f = L_f L_f', V_fg = L_f^-1 E_fg, and what remains loses V_fg' V_fh. Vectors are
tuples with an array (levels, k, columns) per factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp

from glmm_jax.linalg import block_diagonal, dense, related
from glmm_jax.linalg.segments import take, total
from glmm_jax.structure import Structure

Blocks = tuple[jax.Array, ...]


@partial(
    jax.tree_util.register_dataclass, data_fields=["diagonal", "edges", "rest"], meta_fields=[]
)
@dataclass(frozen=True)
class System:
    """Entries of the system matrix: blocks of the eliminated factors, couplings, remainder."""

    diagonal: Blocks
    edges: dict[str, jax.Array]
    rest: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["structure", "lower", "scaled", "rest", "rest_lower"],
    meta_fields=[],
)
@dataclass(frozen=True)
class SchurFactor:
    """L_f and V_fg of the eliminated factors; the remainder and its Cholesky factor."""

    structure: Structure
    lower: Blocks
    scaled: dict[str, jax.Array]
    rest: jax.Array
    rest_lower: jax.Array


class Eliminated(Protocol):
    """What substitution needs of a factor, however its remainder is held."""

    @property
    def structure(self) -> Structure: ...
    @property
    def lower(self) -> Blocks: ...
    @property
    def scaled(self) -> dict[str, jax.Array]: ...


def assemble(structure: Structure, Z: Blocks, Lambda: Blocks, weights: jax.Array) -> System:
    """Entries of Lambda' Z' W Z Lambda + I.

    Parameters: Z, one (n, k) array per factor; Lambda, one (k, k) per factor; weights (n,).
    """
    diagonal, edges = assemble_eliminated(structure, Z, Lambda, weights)
    rest = {}
    for g in structure.rest:
        if related.is_related(structure, g):
            products = _level_products(structure, Z[g], Lambda[g], weights, g)
            rest[g, g] = related.tile(structure, g, products)
        else:
            rest[g, g] = _spread(level_blocks(structure, Z[g], Lambda[g], weights, g))
        for h in structure.rest:
            if h > g:
                cells = structure.levels[g] * structure.levels[h]
                cell = structure.index[g] * structure.levels[h] + structure.index[h]
                summed = total(_outer(Z[g], Z[h], weights), cell, cells)
                cross = _unfold(_scaled(Lambda[g], summed, Lambda[h]), structure.levels[g])
                rest[g, h] = related.between(structure, g, h, cross)
    return System(diagonal, edges, _tiled(structure, rest, weights.dtype))


def assemble_eliminated(
    structure: Structure, Z: Blocks, Lambda: Blocks, weights: jax.Array
) -> tuple[Blocks, dict[str, jax.Array]]:
    """Blocks of the eliminated factors, and their couplings: all of H but the remainder."""
    E, F = structure.eliminated, len(structure.levels)
    diagonal = tuple(level_blocks(structure, Z[f], Lambda[f], weights, f) for f in range(E))
    edges = {}
    for f in range(E):
        for g in range(f + 1, F):
            name = f"{f},{g}"
            cells = structure.edge_left[name].shape[0]
            outer = _outer(Z[f], Z[g], weights)
            summed = total(outer, structure.edge_of_row[name], cells, structure.layout(f, g))
            edges[name] = _scaled(Lambda[f], summed, Lambda[g])
    return diagonal, edges


def factorise(structure: Structure, system: System) -> SchurFactor:
    """Eliminate the factors in order; NaN appears where the matrix is not positive definite."""
    lower, scaled = eliminate(structure, system.diagonal, system.edges)
    rest = system.rest
    if structure.rest:
        for f in range(structure.eliminated):
            rest = rest - related.between_all(structure, _rest_change(structure, scaled, f))
    return SchurFactor(structure, lower, scaled, rest, dense.cholesky(rest))


def eliminate(
    structure: Structure, blocks: Blocks, couplings: dict[str, jax.Array]
) -> tuple[Blocks, dict[str, jax.Array]]:
    """L_f and V_fg of the factors to eliminate, from their blocks and couplings."""
    E, F = structure.eliminated, len(structure.levels)
    diagonal, edges = list(blocks), dict(couplings)
    lower: list[jax.Array] = []
    scaled: dict[str, jax.Array] = {}
    for f in range(E):
        lower.append(block_diagonal.cholesky(diagonal[f]))
        for g in range(f + 1, F):
            name = f"{f},{g}"
            pivot = take(lower[f], structure.edge_left[name])
            scaled[name] = block_diagonal.solve_lower(pivot, edges[name])
        for g in range(f + 1, E):
            # f is nested in g: each of its levels changes one block of g, and the couplings of
            # that level of g with whatever else f meets.
            V = scaled[f"{f},{g}"]
            square = jnp.swapaxes(V, -1, -2) @ V
            change = total(square, structure.edge_right[f"{f},{g}"], structure.levels[g])
            diagonal[g] = diagonal[g] - change
            for h in range(g + 1, F):
                first, second, target = structure.fill[f"{f},{g},{h}"]
                product = jnp.swapaxes(take(V, first), -1, -2) @ take(scaled[f"{f},{h}"], second)
                cells = edges[f"{g},{h}"].shape[0]
                edges[f"{g},{h}"] = edges[f"{g},{h}"] - total(product, target, cells)
    return tuple(lower), scaled


def logdet(factor: SchurFactor) -> jax.Array:
    """log of the determinant of the system matrix."""
    rest = dense.logdet(factor.rest, factor.rest_lower)  # zero for a remainder of no rows
    return rest + sum(block_diagonal.logdet(lower) for lower in factor.lower)


def bare(factor: SchurFactor) -> tuple[Blocks, dict[str, jax.Array], jax.Array]:
    """What numbers there are in a factor: what a loop has to carry along for solves with it."""
    return factor.lower, factor.scaled, factor.rest_lower


def still(
    structure: Structure, parts: tuple[Blocks, dict[str, jax.Array], jax.Array]
) -> SchurFactor:
    """The factor of which `bare` took the numbers; solves with it have no derivative."""
    lower, scaled, rest_lower = jax.lax.stop_gradient(parts)
    # The remainder itself is what derivatives of a solve are made of, and nothing else.
    return SchurFactor(structure, lower, scaled, jnp.full_like(rest_lower, jnp.nan), rest_lower)


def solve(factor: SchurFactor, right: Blocks) -> Blocks:
    """H^-1 right, for one (levels, k, columns) array per factor."""
    return substituted(
        factor, right, lambda right: dense.solve(factor.rest, factor.rest_lower, right)
    )


def substituted(
    factor: Eliminated, right: Blocks, solve_rest: Callable[[jax.Array], jax.Array]
) -> Blocks:
    """H^-1 right, given how the remainder is solved, (size of it, columns) to the same."""
    structure = factor.structure
    E, F = structure.eliminated, len(structure.levels)
    values = list(right)
    for f in range(E):
        values[f] = block_diagonal.solve_lower(factor.lower[f], values[f])
        for g in range(f + 1, F):
            name = f"{f},{g}"
            V = jnp.swapaxes(factor.scaled[name], -1, -2)
            product = V @ take(values[f], structure.edge_left[name])
            change = total(product, structure.edge_right[name], structure.levels[g])
            values[g] = values[g] - related.gathered(structure, g, change)
    return substituted_back(factor, tuple(values), solve_rest)


def solve_transposed(factor: SchurFactor, right: Blocks) -> Blocks:
    """L^-T right with H = L L', for one (levels, k, columns) array per factor."""

    def solve_rest(right: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(factor.rest_lower, right, lower=True, trans="T")

    return substituted_back(factor, right, solve_rest)


def substituted_back(
    factor: Eliminated, right: Blocks, solve_rest: Callable[[jax.Array], jax.Array]
) -> Blocks:
    """The second half of `substituted`: the remainder, then the eliminated factors backward."""
    values = list(right)
    if factor.structure.rest:
        values = _on_rest(factor.structure, values, solve_rest)
    return _backward(factor, values)


def _on_rest(
    structure: Structure, values: list[jax.Array], function: Callable[[jax.Array], jax.Array]
) -> list[jax.Array]:
    """The parts of the dense remainder replaced by a function of them, stacked as a matrix."""
    columns = values[0].shape[-1]
    stacked = jnp.concatenate([values[g].reshape(-1, columns) for g in structure.rest])
    changed, start = function(stacked), 0
    for g in structure.rest:
        size = structure.sizes[g]
        values[g] = changed[start : start + size].reshape(values[g].shape)
        start += size
    return values


def _backward(factor: Eliminated, values: list[jax.Array]) -> Blocks:
    """The substitution in the eliminated factors, last to first, given the remainder."""
    structure = factor.structure
    E, F = structure.eliminated, len(structure.levels)
    for f in reversed(range(E)):
        for g in range(f + 1, F):
            name = f"{f},{g}"
            effects = related.spread(structure, g, values[g])
            product = factor.scaled[name] @ take(effects, structure.edge_right[name])
            segments = structure.levels[f]
            values[f] = values[f] - total(product, structure.edge_left[name], segments)
        values[f] = block_diagonal.solve_upper(factor.lower[f], values[f])
    return tuple(values)


def _outer(left: jax.Array, right: jax.Array, weights: jax.Array) -> jax.Array:
    return (weights[:, None, None] * left[:, :, None]) * right[:, None, :]


def _scaled(left: jax.Array, blocks: jax.Array, right: jax.Array) -> jax.Array:
    """left' B right for each of (levels, k, l) blocks, with left (k, k), right (l, l)."""
    if left.size == right.size == 1:
        return left[None] * blocks * right[None]
    return left.T @ blocks @ right


def level_blocks(
    structure: Structure, Z: jax.Array, Lambda: jax.Array, weights: jax.Array, f: int
) -> jax.Array:
    """Diagonal blocks of the system matrix of one factor, (levels, k, k): all of it but where the
    levels are related."""
    products = _level_products(structure, Z, Lambda, weights, f)
    if related.is_related(structure, f):
        products = related.level_blocks(structure, f, products)
    return products + jnp.eye(structure.columns[f], dtype=weights.dtype)[None]


def _level_products(
    structure: Structure, Z: jax.Array, Lambda: jax.Array, weights: jax.Array, f: int
) -> jax.Array:
    """Lambda' Z' W Z Lambda of each level of one factor, (levels, k, k)."""
    place = structure.index[f], structure.levels[f], structure.layout(f)
    summed = total(_outer(Z, Z, weights), *place)
    return _scaled(Lambda, summed, Lambda)


def _spread(blocks: jax.Array) -> jax.Array:
    """Block-diagonal matrix of (levels, k, k) blocks.

    Each is followed by as many blocks of zeros as there are levels, so that in rows of so many
    blocks it lies one place farther than the one before.
    """
    levels, k, _ = blocks.shape
    followed = jnp.pad(blocks[:, None], ((0, 0), (0, levels), (0, 0), (0, 0)))
    cells = followed.reshape(levels * (levels + 1), k, k)[: levels * levels]
    return _unfold(cells, levels)


def _unfold(blocks: jax.Array, rows: int) -> jax.Array:
    """Matrix of blocks (rows * columns, k, l) that are given row by row."""
    cells, k, width = blocks.shape
    columns = cells // rows
    shaped = blocks.reshape(rows, columns, k, width)
    return shaped.transpose(0, 2, 1, 3).reshape(rows * k, columns * width)


def _tiled(structure: Structure, parts: dict[tuple[int, int], jax.Array], dtype) -> jax.Array:
    """Symmetric matrix from its tiles (g, h), g <= h, over the factors of the remainder."""
    if not structure.rest:
        return jnp.zeros((0, 0), dtype)
    rows = [
        jnp.concatenate([parts[g, h] if g <= h else parts[h, g].T for h in structure.rest], axis=1)
        for g in structure.rest
    ]
    return jnp.concatenate(rows, axis=0)


def _rest_change(structure: Structure, scaled: dict[str, jax.Array], f: int) -> jax.Array:
    """V_f' V_f over the factors of the remainder."""
    first_of_rest = structure.eliminated
    if f"{f},{first_of_rest},{first_of_rest}" not in structure.pairs:
        wide = []
        for g in structure.rest:
            name = f"{f},{g}"
            left, right = structure.edge_left[name], structure.edge_right[name]
            shape = (structure.levels[f], structure.columns[f], structure.levels[g])
            full = jnp.zeros((*shape, structure.columns[g]), scaled[name].dtype)
            # Padded couplings are zero and may repeat a cell: add, do not set.
            full = full.at[left, :, right, :].add(scaled[name])
            wide.append(full.reshape(structure.sizes[f], structure.sizes[g]))
        V = jnp.concatenate(wide, axis=1)
        return V.T @ V
    parts = {}
    for g in structure.rest:
        for h in structure.rest:
            if g > h:
                continue
            first, second, cell = structure.pairs[f"{f},{g},{h}"]
            V, W = take(scaled[f"{f},{g}"], first), take(scaled[f"{f},{h}"], second)
            product = jnp.swapaxes(V, -1, -2) @ W
            levels = structure.levels[g]
            blocks = total(product, cell, levels * structure.levels[h])
            part = _unfold(blocks, levels)
            if g == h:
                # Pairs cover the blocks on and below the diagonal; those on it are whole.
                part = part + part.T - _spread(blocks[:: levels + 1])
            parts[g, h] = part
    return _tiled(structure, parts, parts[first_of_rest, first_of_rest].dtype)
