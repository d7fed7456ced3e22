"""Rows in rectangles: the same model, with sums by level that need no index."""

from __future__ import annotations

import designs
import jax
import numpy as np
import pytest
from designs import Design

import glmm_jax as gj
from glmm_jax import packing, structure
from glmm_jax.build import bucket
from glmm_jax.linalg.segments import take, total
from glmm_jax.objective.marginal import deviance
from glmm_jax.packing import (
    LARGEST_FILL,
    LARGEST_WASTE,
    MOST,
    RUNS,
    _cells,
    _rectangles,
    in_runs,
    packed,
)


@pytest.mark.parametrize(
    "counts",
    [[10] * 20, [2] * 41 + [1] * 41, [7, 1, 4, 0, 3, 3, 9, 0, 2], [1], list(range(40)), [200] * 3],
)
def test_rectangles_hold_every_row_once(counts: list[int]) -> None:
    ordered = np.sort(counts)[::-1]
    rectangles = _rectangles(ordered, lambda size: min(bucket(size), len(counts)))
    assert len(rectangles) <= MOST
    assert rectangles[0][1] == len(counts)
    level = np.random.default_rng(0).permutation(np.repeat(np.arange(len(ordered)), ordered))
    cells, held = _cells(level, rectangles)
    assert len(np.unique(cells)) == len(level)
    np.testing.assert_array_equal(held[cells], level)
    values = np.random.default_rng(1).normal(size=(len(counts), 2))
    np.testing.assert_array_equal(take(values, held, rectangles), values[held])
    rows = np.random.default_rng(2).normal(size=(len(held), 2))
    wanted = np.zeros_like(values)
    np.add.at(wanted, held, rows)
    np.testing.assert_allclose(total(rows, held, len(counts), rectangles), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "family", "nagq"),
    [("slope", "bernoulli", 3), ("nested_and_crossed", "poisson", 1)],
)
def test_deviance_and_gradient_are_those_of_any_order(
    name: str, family: str, nagq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rectangles and in runs; the second has nested and crossed factors."""
    link = {"bernoulli": "logit", "poisson": "log"}[family]
    design = Design(name, family, link, offset=True)
    model, params = designs.model(design), designs.params(design)
    weights = np.ones(model.n)
    weights[5::9] = 0.0  # rows that do not count are left out
    model = model.replace(weights=jax.numpy.asarray(weights))
    found = packed(model, weights > 0, structure.identity)
    assert found is not None
    other, position = found
    assert other.n <= LARGEST_WASTE * weights.sum()
    assert sorted(position[position >= 0]) == list(np.flatnonzero(weights > 0))
    monkeypatch.setattr(packing, "INDEXED", 1e6)
    monkeypatch.setattr(packing, "LARGEST_FILL", 100.0)
    monkeypatch.setattr(packing, "MOVED", range(1_000))
    runs = in_runs(model, model.n, lambda size: size + 8)
    assert runs.structure.run in RUNS and runs.n > model.n
    both = jax.jit(jax.value_and_grad(deviance), static_argnums=2)
    wanted, slope = both(params, model, nagq)
    for laid in (other, runs):
        value, gradient = both(params, laid, nagq)
        np.testing.assert_allclose(value, wanted, rtol=1e-10)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(slope), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_what_does_not_pay_keeps_its_order() -> None:
    model = designs.model(Design("scalar", "poisson", "log"))
    index = np.asarray(model.structure.index[0])
    used = index == index[0]
    used[np.flatnonzero(~used)[0]] = True  # one large level, one of a single row, many of none
    assert packed(model, used, structure.identity) is None


@pytest.mark.parametrize(
    ("rows", "run"), [(1, 1), (2, 1), (5, 1), (8, 4), (15, 16), (17, 4), (64, 16)]
)
def test_runs_are_as_long_as_they_fill(rows: int, run: int) -> None:
    """Levels of so many rows each, in any order, and one level without rows."""
    levels = 300
    index = np.random.default_rng(rows).permutation(np.repeat(np.arange(levels), rows))
    index = np.where(index == 7, 8, index)
    model = gj.build_model("y ~ 1 + (1 | g)", {"y": 1.0 * index, "g": index}, "poisson")
    laid = in_runs(jax.tree.map(np.asarray, model), model.n, structure.identity)
    assert laid.structure.run == run and laid.n <= LARGEST_FILL * model.n
    assert laid.weights.sum() == model.n
    # The response is the level: sums by level are the rows of each.
    wanted = np.bincount(np.asarray(model.structure.index[0]))
    place = laid.structure.index[0], len(wanted), laid.structure.layout(0)
    np.testing.assert_array_equal(total(jax.numpy.asarray(laid.weights), *place), wanted)
    y = np.unique(index)[np.asarray(laid.structure.index[0])]
    np.testing.assert_array_equal(laid.y[laid.weights > 0], y[laid.weights > 0])
