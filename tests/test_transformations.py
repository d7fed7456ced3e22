"""Public pure functions under every transformation of JAX: one table, which the README shows.

A function is made one of a number t, how far offset and weights of a model are moved. Its values on
a grid of five points around each t give derivatives by differences of fourth order, with which each
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
from glmm_jax.model import flatten

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
        offset=MODEL.offset + t * d, weights=MODEL.weights * (1.0 + 0.4 * t * d[::-1])
    )


def position(log_density: embedding.LogDensity) -> gj.Params:
    return log_density.unconstrain(jax.tree.map(jnp.asarray, PARAMS))


# name in gj -> what it gives for a model; the same programs a group.
GROUPS: dict[str, dict[str, Callable]] = {
    "objectives": {
        "deviance": lambda m: gj.deviance(PARAMS, m),
        "conditional_mode": lambda m: gj.conditional_mode(PARAMS, m),
        "linear_predictor": lambda m: gj.linear_predictor(PARAMS, m),
        "fitted_values": lambda m: gj.fitted_values(PARAMS, m),
        "marginal_nll": lambda m: gj.marginal_nll(m)(PARAMS),
        "log_density": lambda m: gj.log_density(m)(position(gj.log_density(m))),
    },
    "curvature": {"standard_errors": lambda m: flatten(gj.standard_errors(PARAMS, m))},
}
TRANSFORMATIONS = ("jit", "vmap", "grad", "jacfwd", "hessian", "vmap of grad", "grad of vmap")
# Second derivatives of standard errors are fourth ones of the deviance: their programs compile for
# longer than all others here together, and have no place in a test.
CELLS = {"objectives": TRANSFORMATIONS, "curvature": ("jit", "vmap", "jacfwd", "vmap of grad")}
TABLE = [
    (group, name, transformation)
    for group, functions in GROUPS.items()
    for name in functions
    for transformation in CELLS[group]
]


def values(group: str, t: jax.Array) -> jax.Array:
    """One number of each function of a group, (functions,): a fixed mean of all that it gives."""
    m = moved(t)
    flat = [jnp.ravel(function(m)) for function in GROUPS[group].values()]
    return jnp.stack([jnp.cos(jnp.arange(f.size, dtype=f.dtype)) @ f for f in flat])


POINTS = np.array([0.0, 0.3])
STEP = 0.05


@cache
def forward(group: str) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """t -> values and their derivatives in forward mode, (functions,) each: one program."""
    F = partial(values, group)
    program = jax.jit(lambda t: jax.jvp(F, (t,), (jnp.ones_like(t),)))
    return lambda t: jax.tree.map(np.asarray, program(jnp.asarray(t)))


@cache
def transformed(group: str) -> dict[str, np.ndarray]:
    """What each transformation gives; each program holds the function as few times as may be."""
    F = partial(values, group)
    outputs = jnp.eye(len(GROUPS[group]))

    def gradients(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Values and, in reverse mode, their derivatives, a function at a time."""
        value, pull = jax.vjp(F, t)
        return value, jax.vmap(lambda one: pull(one)[0])(outputs)

    def second(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda t: gradients(t)[1], (t,), (jnp.ones_like(t),))

    def together(points: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(F)(points), axis=0)

    points = jnp.asarray(POINTS)
    value, slope = forward(group)(POINTS[0])
    many, slopes = jax.jit(jax.vmap(gradients))(points)
    found = {"jit": value, "vmap": many, "jacfwd": slope, "vmap of grad": slopes}
    if "hessian" in CELLS[group]:
        found["grad"], found["hessian"] = jax.jit(second)(points[0])
        found["grad of vmap"] = jax.jit(jax.jacrev(together))(points)
    return jax.tree.map(np.asarray, found)


@cache
def expected(group: str) -> dict[str, np.ndarray]:
    """The same from values alone."""
    h = STEP
    first, second = np.array([1, -8, 0, 8, -1]) / 12, np.array([-1, 16, -30, 16, -1]) / 12
    table = np.array(
        [[forward(group)(p + h * k)[0] for k in range(-2, 3)] for p in POINTS]
    )  # points, nodes, functions
    gradient = np.einsum("k,pkf->pf", first, table) / h
    return {
        "jit": transformed(group)["vmap"][0],
        "vmap": table[:, 2],
        "grad": gradient[0],
        "jacfwd": gradient[0],
        "hessian": second @ table[0] / h**2,
        "vmap of grad": gradient,
        "grad of vmap": gradient.T,
    }


@pytest.mark.parametrize(("group", "name", "transformation"), TABLE)
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
    rows = dict(re.findall(r"^\| `gj\.(\w+)` \|((?: ✓? ?\|){7})$", text, flags=re.MULTILINE))
    for group, functions in GROUPS.items():
        ticks = [" ✓ " if t in CELLS[group] else " " for t in TRANSFORMATIONS]
        assert {rows.pop(name) for name in functions} == {"|".join(ticks) + "|"}
    assert set(rows) == {"estimate"}  # against refits, in tests of their own
