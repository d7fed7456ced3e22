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
here is integers (but for what relates levels), worked out in NumPy; `build.place` makes the leaves
arrays of JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

# A product of two couplings as a scattered block costs about this many multiply-adds of a dense
# matrix product (measured on a CPU, float64): decides how the Schur complement is accumulated.
SCATTER_COST = 150
# Pairs of levels are found by marking cells of a table, not by sorting, up to so many cells a row.
MARKED = 64

# Random effects in the dense remainder up to which it is formed: a matrix of 512 MB in float64, of
# which a fit holds several.
LARGEST_REST = 8_000
SOLVERS = ("auto", "exact", "iterative")
PROBES = 48  # sign vectors of the iterative solver


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "index", "edge_of_row", "edge_left", "edge_right", "fill", "pairs", "roots", "seeds",
    ],
    meta_fields=["levels", "columns", "eliminated", "solver", "rectangles", "run"],
)  # fmt: skip
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
    and, of the iterative solver:
        seeds         (probes,) int32: of the sign vectors that estimate log|H|, see `linalg.sparse`
    Static: levels and columns per factor, the number eliminated, the solver ("schur"; "iterative",
    which forms no remainder; "dense", which ignores the pattern and serves as the reference), and
    how the rows lie by the levels of the first factor, see `packing`: in rectangles, or in runs of
    so many rows of one level; () and 1 where they lie in any order.
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
    rectangles: tuple[tuple[int, int], ...] = ()
    run: int = 1
    seeds: jax.Array | None = None

    def layout(self, f: int, g: int | None = None) -> tuple[tuple[int, int], ...] | int:
        """How the rows lie by the levels of factor f, or by its couplings with a later factor g.

        The first factor is nested in all that are eliminated: a run of its rows is one of theirs.
        """
        if self.run > 1 and max(f, g or 0) < self.eliminated:
            return self.run
        return self.rectangles if f == 0 and g is None else ()

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


def iterative(structure: Structure, probes: int = PROBES) -> Structure:
    """The same design solved without forming the dense remainder, with so many sign vectors."""
    return replace(structure, solver="iterative", pairs={}, seeds=np.arange(probes, dtype=np.int32))  # type: ignore[arg-type]


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
    while remaining:
        chosen = None
        for f in remaining:
            nested = all(meets_one(index[e], index[f], levels[e]) for e in order)
            if nested and f not in related:
                chosen = f
                break
        if chosen is None:
            break
        remaining.remove(chosen)
        order.append(chosen)
    return (*order, *remaining), len(order)


def build(
    index: tuple[np.ndarray, ...],
    levels: tuple[int, ...],
    columns: tuple[int, ...],
    eliminated: int,
    pad: Callable[[int], int] = identity,
    roots: Mapping[int, np.ndarray] | None = None,
    solver: str = "auto",
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
    solver : "exact"; "iterative", where there is a remainder; "auto" for the latter where that has
        more than `LARGEST_REST` random effects, and no related levels.

    Raises
    ------
    ValueError : solver is none of `SOLVERS`, or iterative for levels that are related.
    """
    without_rest = _is_iterative(solver, levels, columns, eliminated, bool(roots))
    factors = len(levels)
    met: dict[tuple[int, int], _Couplings] = {}
    edge_left, edge_right, edge_of_row = {}, {}, {}
    for f in range(eliminated):
        for g in range(f + 1, factors):
            found = met[f, g] = _Couplings.of(index[f], index[g], levels[f], levels[g])
            name = f"{f},{g}"
            edge_left[name] = _padded(found.left, pad, levels[f] - 1)
            edge_right[name] = _padded(found.right, pad, levels[g] - 1)
            edge_of_row[name] = found.of_row

    fill, pairs = {}, {}
    rest = range(eliminated, factors)
    dense_size = sum(levels[g] * columns[g] for g in rest)
    for f in range(eliminated):
        for g in range(f + 1, eliminated):
            for h in range(g + 1, factors):
                first, second = _matched(met[f, g], met[f, h])
                target = met[g, h].at(met[f, g].right[first], met[f, h].right[second])
                ends = len(met[f, g].left), len(met[f, h].left)
                fill[f"{f},{g},{h}"] = _padded_pairs(first, second, target, ends, pad)
        count = sum(
            int(met[f, g].of_left @ met[f, h].of_left) for g in rest for h in rest if g <= h
        )
        cheap = levels[f] * columns[f] * dense_size**2 <= SCATTER_COST * count
        if not rest or without_rest or cheap:
            continue
        for g in rest:
            for h in rest:
                if g > h:
                    continue
                # Of g with itself the lower triangle is enough.
                first, second = _matched(met[f, g], met[f, h], lower=g == h)
                cell = met[f, g].right[first] * np.int32(levels[h]) + met[f, h].right[second]
                ends = len(met[f, g].left), len(met[f, h].left)
                pairs[f"{f},{g},{h}"] = _padded_pairs(first, second, cell, ends, pad)
    pattern = Structure(
        index=tuple(i.astype(np.int32, copy=False) for i in index),  # type: ignore[arg-type]
        edge_of_row=edge_of_row,
        edge_left=edge_left,
        edge_right=edge_right,
        fill=fill,
        pairs=pairs,
        levels=tuple(levels),
        columns=tuple(columns),
        eliminated=eliminated,
        roots={str(f): root for f, root in (roots or {}).items()},  # type: ignore[misc]
    )
    return iterative(pattern) if without_rest else pattern


def _is_iterative(
    solver: str,
    levels: tuple[int, ...],
    columns: tuple[int, ...],
    eliminated: int,
    related: bool,
) -> bool:
    """Whether the remainder is not to be formed."""
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r}; use 'auto', 'exact' or 'iterative'")
    if solver == "iterative" and related:
        raise ValueError(
            "solver='iterative' with relationship=: the matrix of related levels is dense; use "
            "solver='exact'"
        )
    size = sum(a * b for a, b in zip(levels[eliminated:], columns[eliminated:], strict=True))
    wanted = size > LARGEST_REST if solver == "auto" else solver == "iterative"
    return wanted and size > 0 and not related


def meets_one(left: np.ndarray, right: np.ndarray, levels_left: int) -> bool:
    """Whether each level on the left, of (n,), meets one level on the right only."""
    met = np.zeros(levels_left, right.dtype)
    met[left] = right
    return bool(np.array_equal(met[left], right))


class _Couplings(NamedTuple):
    """The pairs of levels of two factors that share an observation, sorted by left, then right.

    left, right (couplings,); of_row (n,), the coupling of each observation; of_left (levels on the
    left,), how many couplings each has; all int32 but of_left, which is summed. levels_right: of
    the factor.
    """

    left: np.ndarray
    right: np.ndarray
    of_row: np.ndarray
    of_left: np.ndarray
    levels_right: int

    @classmethod
    def of(
        cls, left: np.ndarray, right: np.ndarray, levels_left: int, levels_right: int
    ) -> _Couplings:
        code = left.astype(np.int64) * levels_right + right
        cells = levels_left * levels_right
        if cells <= MARKED * len(code):
            mark = np.zeros(cells, bool)
            mark[code] = True
            key = np.flatnonzero(mark)
            place = np.empty(cells, np.int32)  # filled where there is a coupling, read only there
            place[key] = np.arange(len(key), dtype=np.int32)
            of_row = place[code]
        else:
            key = np.unique(code)
            of_row = np.searchsorted(key, code).astype(np.int32)
        first = (key // levels_right).astype(np.int32)
        second = (key - first.astype(np.int64) * levels_right).astype(np.int32)
        return cls(first, second, of_row, np.bincount(first, minlength=levels_left), levels_right)

    def at(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Positions of couplings that are known to occur."""
        wide = self.levels_right
        key = self.left.astype(np.int64) * wide + self.right
        return np.searchsorted(key, left.astype(np.int64) * wide + right)


def _matched(g: _Couplings, h: _Couplings, lower: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of couplings (positions in g and in h) that share their left level, (pairs,) each.

    lower : of g with itself, those in which the second stands no later than the first.
    """
    start = (np.cumsum(h.of_left) - h.of_left)[g.left]
    own = np.arange(len(g.left))
    count = own - start + 1 if lower else h.of_left[g.left]
    first = np.repeat(own.astype(np.int32), count)
    within = np.arange(len(first), dtype=np.int32)
    within -= np.repeat((np.cumsum(count) - count - start).astype(np.int32), count)
    return first, within


def _padded(values: np.ndarray, pad: Callable[[int], int], fill_value: int) -> np.ndarray:
    size = len(values) if pad is identity else pad(len(values) + 1)
    out = np.full(size, fill_value, np.int32)
    out[: len(values)] = values
    return out


def _padded_pairs(
    first: np.ndarray,
    second: np.ndarray,
    target: np.ndarray,
    ends: tuple[int, int],
    pad: Callable[[int], int],
) -> np.ndarray:
    """(3, pairs) array; padding pairs join two padded (zero) couplings, those after the `ends` of
    the others, and add to target 0."""
    n = len(first)
    out = np.empty((3, n if pad is identity else pad(n)), np.int32)
    for row, values, beyond in zip(out, (first, second, target), (*ends, 0), strict=True):
        row[:n] = values
        row[n:] = beyond
    return out
