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


def further(model: gj.Model, t: jax.Array | float) -> gj.Model:
    d = np.sin(1.0 + np.arange(N))
    return model.replace(offset=model.offset + t * d, weights=model.weights + 0.4 * t * d[::-1])


def moved(t: jax.Array) -> gj.Model:
    return further(MODEL, t)


def position(log_density: embedding.LogDensity) -> gj.Params:
    return log_density.unconstrain(jax.tree.map(jnp.asarray, PARAMS))


def mean(numbers: jax.Array) -> jax.Array:
    """A fixed mean of all that a function gives, with unequal weights."""
    flat = jnp.ravel(numbers)
    return jnp.cos(jnp.arange(flat.size, dtype=flat.dtype)) @ flat


def numbers(found: gj.Estimate) -> jax.Array:
    """All of an estimate that has a derivative."""
    return jnp.concatenate([flatten(found.params), found.u, found.deviance[None]])


def lanes(model: gj.Model) -> jax.Array:
    """The sum of the means of two models' estimates."""
    found = gj.estimate_many([model, further(model, POINTS[1])])
    return jnp.sum(jax.vmap(lambda lane: mean(numbers(lane)))(found))


POINTS = np.array([0.0, 0.3])
STEP = 0.02

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
    "curvature": {
        "hessian": lambda m: gj.hessian(PARAMS, m),
        "vcov": lambda m: gj.vcov(PARAMS, m),
        "standard_errors": lambda m: flatten(gj.standard_errors(PARAMS, m)),
    },
    "estimate": {"estimate": lambda m: numbers(gj.estimate(m))},
    "estimate_many": {"estimate_many": lanes},
}
TRANSFORMATIONS = ("jit", "vmap", "grad", "jacfwd", "hessian", "vmap of grad", "grad of vmap")
CELLS = {
    "objectives": TRANSFORMATIONS,
    "curvature": TRANSFORMATIONS,
    "estimate": ("vmap of grad", "grad of vmap"),
    "estimate_many": TRANSFORMATIONS[1:],
}
# Against refits and in programs, in tests/test_estimate_derivatives.py and tests/test_batch.py;
# the lanes of `vmap` below.
ELSEWHERE = {"estimate": ("jit", "vmap", "grad", "jacfwd", "hessian"), "estimate_many": ("jit",)}
# Each is a program itself, which a call outside of others compiles once for several derivatives.
OUTSIDE = ("curvature", "estimate", "estimate_many")
TABLE = [
    (group, name, transformation)
    for group, functions in GROUPS.items()
    for name in functions
    for transformation in CELLS[group]
]


def compiled(group: str, function: Callable) -> Callable:
    return function if group in OUTSIDE else jax.jit(function)


def values(group: str, t: jax.Array) -> jax.Array:
    """One number of each function of a group, (functions,)."""
    m = moved(t)
    return jnp.stack([mean(function(m)) for function in GROUPS[group].values()])


@cache
def forward(group: str) -> Callable[[float], tuple[np.ndarray, np.ndarray]]:
    """t -> values and their derivatives in forward mode, (functions,) each: one program."""

    def both(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(partial(values, group), (t,), (jnp.ones_like(t),))

    program = jax.jit(both) if "jit" in CELLS[group] else both
    return lambda t: jax.tree.map(np.asarray, program(jnp.asarray(t)))


@cache
def transformed(group: str) -> dict[str, np.ndarray]:
    """What each transformation gives; each program holds the function as few times as may be."""
    F, cells = partial(values, group), CELLS[group]
    outputs, points = jnp.eye(len(GROUPS[group])), jnp.asarray(POINTS)

    def gradients(t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Values and, in reverse mode, their derivatives, a function at a time."""
        value, pull = jax.vjp(F, t)
        return value, jax.vmap(lambda one: pull(one)[0])(outputs)

    def second(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        (value, slope), (_, bend) = jax.jvp(gradients, (t,), (jnp.ones_like(t),))
        return value, slope, bend

    def together(points: jax.Array) -> jax.Array:
        return jnp.sum(jax.vmap(F)(points), axis=0)

    found = {}
    if "jacfwd" in cells:
        found["jit"], found["jacfwd"] = forward(group)(POINTS[0])
    derivatives = second if "hessian" in cells else gradients
    if "vmap of grad" in cells:
        every = compiled(group, jax.vmap(derivatives))(points)
        found["vmap"], found["vmap of grad"] = every[:2]
        found["grad of vmap"] = compiled(group, jax.jacrev(together))(points)
        first = [part[0] for part in every]
    else:
        first = compiled(group, derivatives)(points[0])
    found |= dict(zip(("grad", "hessian"), first[1:], strict=False))
    return jax.tree.map(np.asarray, found)


@cache
def expected(group: str) -> dict[str, np.ndarray]:
    """The same from values alone."""
    h = STEP
    first, second = np.array([1, -8, 0, 8, -1]) / 12, np.array([-1, 16, -30, 16, -1]) / 12
    if "jacfwd" in CELLS[group]:
        table = [[forward(group)(p + h * k)[0] for p in POINTS] for k in range(-2, 3)]
    else:
        F = jax.vmap(partial(values, group))
        table = [F(jnp.asarray(POINTS + h * k)) for k in range(-2, 3)]
    table = np.swapaxes(np.array(table), 0, 1)  # points, nodes, functions
    gradient = np.einsum("k,pkf->pf", first, table) / h
    return {
        "jit": transformed(group)["vmap"][0] if "jit" in CELLS[group] else table[0, 2],
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


def test_lanes_of_vmap_are_those_of_a_loop_over_models() -> None:
    """A search whose trips wait for the slower lane ends where each ends alone."""
    found = np.sum(transformed("estimate")["vmap"])
    assert found == pytest.approx(forward("estimate_many")(POINTS[0])[0].item(), rel=1e-10)


def test_the_readme_shows_this_table() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    head = "| | " + " | ".join(t if " " in t else f"`{t}`" for t in TRANSFORMATIONS) + " |"
    assert head in text
    rows = dict(re.findall(r"^\| `gj\.(\w+)` \|((?: ✓? ?\|){7})$", text, flags=re.MULTILINE))
    for group, functions in GROUPS.items():
        tested = {*CELLS[group], *ELSEWHERE.get(group, ())}
        ticks = [" ✓ " if t in tested else " " for t in TRANSFORMATIONS]
        assert {rows.pop(name) for name in functions} == {"|".join(ticks) + "|"}
    assert not rows
