"""Estimates inside larger functions: what the README shows, against refits and closed forms."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from test_readme import run

GROUPS = 12


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The names of the README's block, run on a small design with treated groups."""
    rng = np.random.default_rng(20118)
    g = np.repeat(np.arange(GROUPS), rng.integers(3, 8, GROUPS))
    treated = (g % 3 == 0).astype(float)
    x = rng.normal(size=g.size)
    y = 1.0 + 0.8 * treated + 0.3 * x + 0.7 * rng.normal(size=GROUPS)[g] + rng.normal(size=g.size)
    data = pd.DataFrame({"y": y, "g": g, "treated": treated, "x": x})
    later = jnp.asarray(rng.normal(size=GROUPS))
    used = jnp.asarray(g < 8, float)
    return run("def second_stage", data=data, later=later, used=used, dataclasses=dataclasses)


def difference(function: Any, at: Any, direction: Any, step: float) -> float:
    return float(function(at + step * direction) - function(at - step * direction)) / (2 * step)


def test_a_regression_on_conditional_modes(shown: dict) -> None:
    y, function = shown["model"].y, shown["second_stage"]
    direction = jnp.cos(jnp.arange(y.size) * 1.7)
    expected = difference(function, y, direction, 1e-4)
    assert abs(expected) > 1e-3
    assert jax.grad(function)(y) @ direction == pytest.approx(expected, rel=1e-6)


def test_the_scale_of_a_penalty(shown: dict) -> None:
    at = jnp.array(-0.5)
    expected = difference(shown["held_out"], at, 1.0, 1e-4)
    assert abs(expected) > 1e-3
    assert jax.grad(shown["held_out"])(at) == pytest.approx(expected, rel=1e-6)


def test_group_sizes(shown: dict) -> None:
    """The variance of the treatment effect is that of generalised least squares; at its minimum a
    unit of money gains the same in every group."""
    model, pilot, best = shown["model"], shown["pilot"], shown["best"]
    g, X = np.asarray(model.structure.index[0]), np.asarray(model.X)
    same = (g[:, None] == g[None, :]).astype(float)

    def by_hand(sizes: np.ndarray) -> float:
        weights = (sizes / np.bincount(g))[g]
        phi = float(jnp.exp(pilot.dispersion))
        V = float(pilot.theta[0] ** 2) * same + np.diag(phi / weights)
        precision = X.T @ np.linalg.solve(V, X) + np.diag([0.0, 0.0, 1.0])  # the penalty
        return float(np.linalg.inv(precision)[1, 1])

    planned = np.asarray(shown["sizes"](best))
    cost = np.asarray(shown["cost"])
    np.testing.assert_array_equal(cost, np.where(np.arange(GROUPS) % 3 == 0, 3.0, 1.0))
    assert cost @ planned == pytest.approx(shown["budget"])
    assert shown["variance"](best, pilot) == pytest.approx(by_hand(planned), rel=1e-9)
    assert by_hand(planned) < 0.98 * by_hand(shown["budget"] / GROUPS / cost)

    gain = [difference(by_hand, planned, one, 1e-4) for one in np.eye(GROUPS)] / cost
    np.testing.assert_allclose(gain, gain[0], rtol=1e-3)
