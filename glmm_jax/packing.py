"""Rows laid out so that sums by level need no index: rectangles of rows by levels.

With the levels of the first grouping factor sorted by their numbers of rows, the r-th rows of all
levels stand side by side, level after level; a rectangle (height, width) holds such rows r of the
first `width` levels, `height` times one under another:

    level      0  1  2  3  4
    (2, 5)     x  x  x  x  x
               x  x  x  x  x
    (1, 3)     x  x  x

A sum by level is a sum over the height of each rectangle, and giving each row the value of its
level is a repetition: both are plain vector code, where a sum by index is a loop over elements.
Cells without a row have weight zero. Other factors keep their indices.

Rectangles are part of the program. Where one program is to serve data of another shape, rows lie in
runs: each level has its rows side by side and is filled up to a multiple of 4 or 16 of them. Sums
over runs are plain vector code too, and so many fewer elements are left for the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from glmm_jax.linalg import related
from glmm_jax.model import Model

Rectangles = tuple[tuple[int, int], ...]

RUNS = (16, 4)
# What an element of a sum by index costs, in rows of all else: 0.6 measured for Bernoulli rows, 0.2
# for negative binomial ones.
INDEXED = 0.4
LARGEST_FILL = 1.25  # cells for each row
# Rows: fewer are no work, and data of a similar size share a program better; to move more takes
# what it spares.
MOVED = range(1_000, 100_001)

MOST = 3  # rectangles: each makes kernels of its own
LARGEST_STAIR = 256  # distinct numbers of rows in a level that are looked at
LARGEST_WASTE = 1.6  # cells for each row, beyond which indices are the cheaper way


def packed(
    model: Model, used: np.ndarray, pad: Callable[[int], int]
) -> tuple[Model, np.ndarray] | None:
    """The model with its rows in rectangles, and where they come from; None where that does not
    pay or the model is none of one linear predictor.

    Parameters
    ----------
    model : from `build_model`; its structure may have any number of factors.
    used : (n,) booleans, the rows that count; the others are left out.
    pad : padded size of a number of levels, so that similar data make the same rectangles.

    Returns
    -------
    The model, and (cells,) integers: the row of each cell, -1 for none (such a cell has the numbers
    of row 0 and weight zero). Levels of the first factor, and so u, come in another order.
    """
    structure = model.structure
    if not _can_move(model):
        return None
    levels = structure.levels[0]
    index = np.asarray(structure.index[0])
    rows = np.flatnonzero(used)
    counts = np.bincount(index[rows], minlength=levels)
    order = np.argsort(-counts, kind="stable")
    rectangles = _rectangles(counts[order], lambda size: min(pad(size), levels))
    if sum(h * w for h, w in rectangles) > LARGEST_WASTE * max(len(rows), 1):
        return None
    place = np.empty(levels, np.int64)
    place[order] = np.arange(levels)
    cells, level = _cells(place[index[rows]], rectangles)
    position = np.full(len(level), -1)
    position[cells] = rows
    first = structure.index[0]
    others = _rearranged(model, position, jnp.asarray)
    pattern = replace(
        others.structure,
        index=(jnp.asarray(level, first.dtype), *others.structure.index[1:]),
        edge_left={
            name: jnp.asarray(place[np.asarray(a)], a.dtype) if name.startswith("0,") else a
            for name, a in structure.edge_left.items()
        },
        rectangles=rectangles,
    )
    return replace(others, structure=pattern), position


def in_runs(model: Model, used: int, pad: Callable[[int], int]) -> Model:
    """The model with its rows in runs, or as it is where that does not pay.

    Parameters: model, in NumPy arrays, of which the first `used` rows count and the others are left
    out; pad, padded size of a number of rows. Levels, and so u, stay where they are.
    """
    structure = model.structure
    if used not in MOVED or not _can_move(model):
        return model
    index = np.asarray(structure.index[0])[:used]
    counts = np.bincount(index, minlength=structure.levels[0])
    sizes = {run: int(np.sum(-(-counts // run))) * run for run in RUNS}
    sizes = {run: -(-pad(size) // run) * run for run, size in sizes.items()}
    sizes = {run: size for run, size in sizes.items() if size <= LARGEST_FILL * model.n}
    sizes[1] = model.n
    run = min(sizes, key=lambda run: sizes[run] * (1.0 + INDEXED / run))
    if run == 1:
        return model
    filled = -(-counts // run) * run
    start = np.cumsum(filled) - filled
    position = np.full(sizes[run], -1)
    position[start[index] + _number(index)] = np.arange(used)
    # A cell without a row is a copy, of weight zero, of the first row of its level; the last cells,
    # of no level, are copies of the first row of all.
    copied = np.zeros(sizes[run], np.int64)
    held = counts > 0
    copied[: filled.sum()] = np.repeat(position[start[held]], filled[held])
    laid = _rearranged(model, position, np.asarray, copied)
    return replace(laid, structure=replace(laid.structure, run=run))


def _can_move(model: Model) -> bool:
    """Whether a layout is for this model: of one linear predictor, its first factor eliminated, its
    rows in no layout yet."""
    structure = model.structure
    if structure.solver != "schur" or not structure.eliminated or model.random_parameters:
        return False
    laid = structure.rectangles or structure.run > 1
    return not laid and not related.is_related(structure, 0)


def _rearranged(
    model: Model,
    position: np.ndarray,
    array: Callable[[np.ndarray], Any],
    copied: np.ndarray | int = 0,
) -> Model:
    """The model with the rows at `position`, (cells,); -1 for copies, of weight zero, of others."""
    taken = np.where(position >= 0, position, copied)

    def row_wise(a: Any) -> Any:
        return array(np.asarray(a)[taken])

    structure = model.structure
    pattern = replace(
        structure,
        index=tuple(map(row_wise, structure.index)),
        edge_of_row={name: row_wise(a) for name, a in structure.edge_of_row.items()},
    )
    return replace(
        model,
        y=row_wise(model.y),
        X=row_wise(model.X),
        Z=tuple(map(row_wise, model.Z)),
        offset=row_wise(model.offset),
        weights=array(np.where(position >= 0, np.asarray(model.weights)[taken], 0.0)),
        size=None if model.size is None else row_wise(model.size),
        dispersion_X=tuple(None if X is None else row_wise(X) for X in model.dispersion_X),
        structure=pattern,
    )


def _number(level: np.ndarray) -> np.ndarray:
    """How many rows of its level come before each row, (n,)."""
    counts = np.bincount(level)
    before = np.cumsum(counts) - counts  # rows of the levels before
    number = np.empty(len(level), np.int64)
    number[np.argsort(level, kind="stable")] = np.arange(len(level)) - np.repeat(before, counts)
    return number


def _cells(level: np.ndarray, rectangles: Rectangles) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each row, given its level in the order of size; and the level of each cell."""
    number = _number(level)
    cell = np.full(len(level), -1)
    levels, begin, top = [], 0, 0
    for height, width in rectangles:
        here = (number >= top) & (number < top + height)
        cell[here] = begin + (number[here] - top) * width + level[here]
        levels.append(np.tile(np.arange(width), height))
        begin, top = begin + height * width, top + height
    return cell, np.concatenate(levels)


def _rectangles(counts: np.ndarray, pad: Callable[[int], int]) -> Rectangles:
    """At most `MOST` rectangles with the fewest cells, for numbers of rows in falling order.

    Where the number of levels that have more than r rows falls is a stair; each rectangle takes
    some steps of it, as wide as the first of them.
    """
    steps = np.unique(counts[counts > 0])  # heights at which the stair changes
    if not len(steps) or len(steps) > LARGEST_STAIR:
        return ((1, len(counts)),) if not len(steps) else ((int(steps[-1]), len(counts)),)
    below = np.concatenate([[0], steps[:-1]])
    widths = np.array([pad(int(np.sum(counts > r))) for r in below])
    # The first rectangle holds every level, so that no sum by level is shorter than the levels.
    widths[0] = len(counts)
    cost: dict[int, tuple[int, Rectangles]] = {0: (0, ())}  # steps taken -> cells, rectangles
    for _ in range(MOST):
        found = dict(cost)
        for taken, (cells, chosen) in cost.items():
            for to in range(taken + 1, len(steps) + 1):
                height = int(steps[to - 1] - below[taken])
                total = cells + height * int(widths[taken])
                if to not in found or total < found[to][0]:
                    found[to] = (total, (*chosen, (height, int(widths[taken]))))
        cost = found
    return cost[len(steps)][1]
