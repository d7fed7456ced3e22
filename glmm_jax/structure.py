"""Which observations meet which levels: the pattern of the system matrix, made once per design.

The random effects of one grouping factor with L levels and k columns (of all its terms) are the
(L, k) block of u that belongs to it. H = Lambda' Z' M W M Z Lambda + I then has

    diagonal blocks   one k x k block per level of each factor, and
    couplings         one k_f x k_g block for each pair of levels (of factors f, g) that share an
                      observation.

A factor can be eliminated (its Schur complement formed) at no more than its own size when its
diagonal part is block-diagonal at that moment. That is so for the first factor always, and for a
later one if each level of every factor eliminated before meets one level of it only (nesting).
Eliminating then couples no levels that do not share an observation already. Factors are taken
largest first as long as that holds; the couplings that remain form one dense matrix. Everything
here is integers (but for what relates levels), worked out in NumPy; the arrays become leaves of a
pytree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# A product of two couplings as a scattered block costs about this many multiply-adds of a dense
# matrix product (measured on a CPU, float64): decides how the Schur complement is accumulated.
SCATTER_COST = 150


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["index", "edge_of_row", "edge_left", "edge_right", "fill", "pairs", "roots"],
    meta_fields=["levels", "columns", "eliminated", "solver"],
)
@dataclass(frozen=True)
class Structure:
    """Pattern of the system matrix for F factors in order of elimination, E of them eliminated.

    Leaves (int32 arrays; dictionaries have string keys "f,g" and "f,g,h"):
        index         F arrays (n,): level of each observation
        edge_of_row   "f,g" -> (n,): coupling to which each observation adds (f < E, f < g)
        edge_left     "f,g" -> (couplings,): level of f
        edge_right    "f,g" -> (couplings,): level of g
        fill          "f,g,h" -> (3, pairs): what eliminating f adds to the couplings of g and h
                      (g < E): coupling of (f, g), coupling of (f, h), coupling of (g, h)
        pairs         "f,g,h" -> (3, pairs): the same for g, h >= E: coupling of (f, g), of (f, h),
                      cell (level of g) * levels of h + (level of h); absent where a dense product
                      is cheaper
    and, floats, where the levels of f are related by a known matrix K:
        roots         "f" -> (levels, levels): its lower Cholesky factor; such a factor is never
                      eliminated, see `linalg.related`
    Static: levels and columns per factor, the number eliminated, and the solver ("schur", or
    "dense", which ignores the pattern and serves as the reference).
    """

    index: tuple[jax.Array, ...]
    edge_of_row: dict[str, jax.Array]
    edge_left: dict[str, jax.Array]
    edge_right: dict[str, jax.Array]
    fill: dict[str, jax.Array]
    pairs: dict[str, jax.Array]
    levels: tuple[int, ...]
    columns: tuple[int, ...]
    eliminated: int
    solver: str = "schur"
    roots: dict[str, jax.Array] = field(default_factory=dict)

    @property
    def q(self) -> int:
        """Number of random effects."""
        return sum(size for size in self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of random effects of each factor, levels * columns."""
        return tuple(a * b for a, b in zip(self.levels, self.columns, strict=True))

    @property
    def rest(self) -> range:
        """Positions of the factors that stay in the dense remainder."""
        return range(self.eliminated, len(self.levels))


def dense(structure: Structure) -> Structure:
    """The same design solved by one dense matrix: the reference twin of every other path."""
    return replace(structure, solver="dense")


def identity(size: int) -> int:
    """No padding."""
    return size


def elimination_order(
    index: tuple[np.ndarray, ...],
    levels: tuple[int, ...],
    columns: tuple[int, ...],
    related: tuple[int, ...] = (),
) -> tuple[tuple[int, ...], int]:
    """Order of the factors (positions in the argument) and how many of them are eliminated.

    `related` factors, whose levels all meet each other, are not.
    """
    remaining = sorted(range(len(levels)), key=lambda f: (-levels[f] * columns[f], f))
    order: list[int] = []
    reached: list[dict[int, np.ndarray]] = []  # per eliminated factor: factor -> pairs met
    met = {
        (f, g): _unique_pairs(index[f], index[g], levels[g])
        for f in remaining
        for g in remaining
        if f != g
    }
    while remaining:
        chosen = None
        for f in remaining:
            nested = all(_is_function(neighbours[f], levels[f]) for neighbours in reached)
            if nested and f not in related:
                chosen = f
                break
        if chosen is None:
            break
        remaining.remove(chosen)
        order.append(chosen)
        reached.append({g: met[chosen, g] for g in remaining})
    return (*order, *remaining), len(order)


def build(
    index: tuple[np.ndarray, ...],
    levels: tuple[int, ...],
    columns: tuple[int, ...],
    eliminated: int,
    pad: Callable[[int], int] = identity,
    roots: Mapping[int, np.ndarray] | None = None,
) -> Structure:
    """Structure of factors that are already in order of elimination.

    Parameters
    ----------
    index : F integer arrays (n,), the level of each observation.
    levels, columns : number of levels, and of columns of Z, of each factor.
    eliminated : number of factors to eliminate, from `elimination_order`.
    pad : size of the array that holds a given number of couplings. Padded couplings receive no
        observation, so they are blocks of zeros and change nothing.
    roots : of related factors, Cholesky factors (levels, levels) of their matrices.
    """
    factors = len(levels)
    keys: dict[tuple[int, int], np.ndarray] = {}
    of_row: dict[tuple[int, int], np.ndarray] = {}
    for f in range(eliminated):
        for g in range(f + 1, factors):
            code = index[f].astype(np.int64) * levels[g] + index[g]
            keys[f, g] = np.unique(code)
    edge_left, edge_right, edge_of_row = {}, {}, {}
    for (f, g), key in keys.items():
        code = index[f].astype(np.int64) * levels[g] + index[g]
        of_row[f, g] = np.searchsorted(key, code)
        left, right = np.divmod(key, levels[g])
        name = f"{f},{g}"
        edge_left[name] = _padded(left, pad, levels[f] - 1)
        edge_right[name] = _padded(right, pad, levels[g] - 1)
        edge_of_row[name] = of_row[f, g].astype(np.int32)

    fill, pairs = {}, {}
    rest = range(eliminated, factors)
    dense_size = sum(levels[g] * columns[g] for g in rest)
    for f in range(eliminated):
        for g in range(f + 1, eliminated):
            for h in range(g + 1, factors):
                first, second = _matched(keys[f, g], keys[f, h], levels[g], levels[h])
                code = (keys[f, g] % levels[g])[first] * levels[h] + keys[f, h][second] % levels[h]
                target = np.searchsorted(keys[g, h], code)
                fill[f"{f},{g},{h}"] = _padded_pairs(first, second, target, keys, f, g, h, pad)
        count = sum(
            _pair_count(keys[f, g], keys[f, h], levels[g], levels[h])
            for g in rest
            for h in rest
            if g <= h
        )
        if not rest or levels[f] * columns[f] * dense_size**2 <= SCATTER_COST * count:
            continue
        for g in rest:
            for h in rest:
                if g > h:
                    continue
                first, second = _matched(keys[f, g], keys[f, h], levels[g], levels[h])
                if g == h:  # the lower triangle is enough
                    lower = first >= second
                    first, second = first[lower], second[lower]
                cell = (keys[f, g] % levels[g])[first] * levels[h] + keys[f, h][second] % levels[h]
                pairs[f"{f},{g},{h}"] = _padded_pairs(first, second, cell, keys, f, g, h, pad)
    return Structure(
        index=tuple(jnp.asarray(i.astype(np.int32)) for i in index),
        edge_of_row=_leaves(edge_of_row),
        edge_left=_leaves(edge_left),
        edge_right=_leaves(edge_right),
        fill=_leaves(fill),
        pairs=_leaves(pairs),
        levels=tuple(levels),
        columns=tuple(columns),
        eliminated=eliminated,
        roots={str(f): jnp.asarray(root, float) for f, root in (roots or {}).items()},
    )


def _leaves(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def _unique_pairs(left: np.ndarray, right: np.ndarray, levels_right: int) -> np.ndarray:
    return np.unique(left.astype(np.int64) * levels_right + right)


def _is_function(key: np.ndarray, levels_right: int) -> bool:
    """Whether each level on the left meets one level on the right only (keys are sorted)."""
    left = key // levels_right
    return bool(np.all(left[1:] != left[:-1]))


def _matched(
    key_g: np.ndarray, key_h: np.ndarray, levels_g: int, levels_h: int
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of couplings (positions in the sorted keys) that share their left level."""
    left_g, left_h = key_g // levels_g, key_h // levels_h
    start = np.searchsorted(left_h, left_g, side="left")
    count = np.searchsorted(left_h, left_g, side="right") - start
    first = np.repeat(np.arange(len(key_g)), count)
    within = np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    return first, np.repeat(start, count) + within


def _pair_count(key_g: np.ndarray, key_h: np.ndarray, levels_g: int, levels_h: int) -> int:
    left_g, left_h = key_g // levels_g, key_h // levels_h
    count = np.searchsorted(left_h, left_g, side="right") - np.searchsorted(left_h, left_g)
    return int(count.sum())


def _padded(values: np.ndarray, pad: Callable[[int], int], fill_value: int) -> np.ndarray:
    size = len(values) if pad is identity else pad(len(values) + 1)
    out = np.full(size, fill_value, np.int32)
    out[: len(values)] = values
    return out


def _padded_pairs(first, second, target, keys, f, g, h, pad) -> np.ndarray:
    """(3, pairs) array; padding pairs join two padded (zero) couplings and add to target 0."""
    size = len(first) if pad is identity else pad(len(first))
    out = np.zeros((3, size), np.int32)
    if size > len(first):
        out[0], out[1] = len(keys[f, g]), len(keys[f, h])
    out[:, : len(first)] = first, second, target
    return out
