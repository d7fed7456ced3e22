"""Every public pure function under every transformation of JAX: one table, which the README shows.

A function is made one of two numbers t: how far offset and weights of a model are moved. Its values
on a grid of 25 points around t = 0 give derivatives by differences of fourth order, with which each
transformation is compared. Functions that share a program share a group.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import glmm_jax as gj
from glmm_jax import embedding

N = 18


def built() -> gj.Model:
    rng = np.random.default_rng(5)
    g = np.arange(N) % 6
    x = rng.normal(size=N)
    y = rng.poisson(np.exp(0.8 + 0.4 * x + rng.normal(0, 0.9, 6)[g]))
    return gj.build_model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, "poisson")


MODEL = built()
PARAMS = gj.Params(np.array([0.6, 0.3]), np.array([0.8]))


def moved(t: jax.Array) -> gj.Model:
    d = np.sin(1.0 + np.arange(N))
    return MODEL.replace(
        offset=MODEL.offset + t[0] * d, weights=MODEL.weights * (1.0 + 0.4 * t[1] * d[::-1])
    )


def position(log_density: embedding.LogDensity) -> gj.Params:
    return log_density.unconstrain(jax.tree.map(jnp.asarray, PARAMS))


# name in gj -> what it gives for a model; one program a group.
GROUPS: dict[str, dict[str, Callable]] = {
    "objectives": {
        "deviance": lambda m: gj.deviance(PARAMS, m),
        "conditional_mode": lambda m: gj.conditional_mode(PARAMS, m),
        "linear_predictor": lambda m: gj.linear_predictor(PARAMS, m),
        "fitted_values": lambda m: gj.fitted_values(PARAMS, m),
        "marginal_nll": lambda m: gj.marginal_nll(m)(PARAMS),
        "log_density": lambda m: gj.log_density(m)(position(gj.log_density(m))),
    },
}
TRANSFORMATIONS = ("jit", "vmap", "grad", "jacfwd", "hessian", "vmap of grad", "grad of vmap")
NAMES = [(group, name) for group, functions in GROUPS.items() for name in functions]


def values(group: str, t: jax.Array) -> jax.Array:
    """One number of each function of a group, (functions,): a fixed mean of all that it gives."""
    m = moved(t)
    flat = [jnp.ravel(function(m)) for function in GROUPS[group].values()]
    return jnp.stack([jnp.cos(jnp.arange(f.size, dtype=f.dtype)) @ f for f in flat])


POINTS = np.array([[0.0, 0.0], [0.3, -0.2]])
STEP = {"objectives": 0.05}


@cache
def transformed(group: str) -> dict[str, np.ndarray]:
    """What each transformation gives, from one program."""
    F = partial(values, group)

    @jax.jit
    def all_of_them(points: jax.Array) -> dict[str, jax.Array]:
        outputs = jnp.eye(len(GROUPS[group]))

        def gradients(t: jax.Array) -> jax.Array:  # reverse mode, a function at a time
            pull = jax.vjp(F, t)[1]
            return jax.vmap(lambda one: pull(one)[0])(outputs)

        def together(points: jax.Array) -> jax.Array:
            return jnp.sum(jax.vmap(F)(points), axis=0)

        return {
            "jit": F(points[0]),
            "vmap": jax.vmap(F)(points),
            "grad": gradients(points[0]),
            "jacfwd": jax.jacfwd(F)(points[0]),
            "hessian": jax.jacfwd(gradients)(points[0]),
            "vmap of grad": jax.vmap(gradients)(points),
            "grad of vmap": jax.jacrev(together)(points),
        }

    return jax.tree.map(np.asarray, all_of_them(jnp.asarray(POINTS)))


@cache
def expected(group: str) -> dict[str, np.ndarray]:
    """The same from values alone."""
    h = STEP[group]
    nodes = np.arange(-2, 3)
    first, second = np.array([1, -8, 0, 8, -1]) / 12, np.array([-1, 16, -30, 16, -1]) / 12
    here = np.array([0, 0, 1, 0, 0])
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2) * h
    batch = jax.jit(jax.vmap(partial(values, group)))
    tables = [np.asarray(batch(jnp.asarray(p + grid))).reshape(5, 5, -1) for p in POINTS]

    def weighted(table: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.einsum("i,j,ijf->f", i, j, table)

    value = np.stack([table[2, 2] for table in tables])
    gradient = np.stack(
        [np.stack([weighted(t, first, here), weighted(t, here, first)], axis=1) / h for t in tables]
    )
    mixed = weighted(tables[0], first, first)
    H = [[weighted(tables[0], second, here), mixed], [mixed, weighted(tables[0], here, second)]]
    return {
        "jit": value[0],
        "vmap": value,
        "grad": gradient[0],
        "jacfwd": gradient[0],
        "hessian": np.moveaxis(np.array(H), -1, 0) / h**2,
        "vmap of grad": gradient,
        "grad of vmap": np.moveaxis(gradient, 0, 1),
    }


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize(("group", "name"), NAMES)
def test_of_the_table(group: str, name: str, transformation: str) -> None:
    k = list(GROUPS[group]).index(name)
    axis = 1 if transformation in ("vmap", "vmap of grad") else 0
    found = np.take(transformed(group)[transformation], k, axis)
    wanted = np.take(expected(group)[transformation], k, axis)
    assert np.all(np.isfinite(found)) and np.all(wanted != 0)
    exact = transformation in ("jit", "vmap")
    tolerance = 1e-9 if exact else 1e-4
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def test_the_readme_shows_this_table() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    head = "| | " + " | ".join(t if " " in t else f"`{t}`" for t in TRANSFORMATIONS) + " |"
    assert head in text
    rows = re.findall(r"^\| `gj\.(\w+)` \|(( ✓ \|)+)$", text, flags=re.MULTILINE)
    ticked = {name for name, ticks, _ in rows if ticks.count("✓") == len(TRANSFORMATIONS)}
    assert ticked == {name for _, name in NAMES}
