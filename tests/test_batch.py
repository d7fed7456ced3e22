"""Many responses in one program: each estimate is the one that its response has alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from glmm_jax import Model, Params, build_model
from glmm_jax.batch import estimate_many, estimate_responses, stacked
from glmm_jax.estimate import MAX_STEPS, Estimate, checked, program
from glmm_jax.runtime import run
from glmm_jax.status import Status

N, GROUPS, B = 60, 10, 4


@pytest.fixture(scope="module")
def model() -> Model:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(GROUPS), N // GROUPS)
    x = rng.normal(size=N)
    y = rng.poisson(np.exp(0.5 + 0.3 * x + 0.6 * rng.normal(size=GROUPS)[group]))
    return build_model("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": group}), "poisson")


@pytest.fixture(scope="module")
def responses(model: Model) -> jax.Array:
    """Responses of the model; the third cannot be fitted, the last has no variance by group."""
    rng = np.random.default_rng(2)
    effect = np.repeat(rng.normal(size=(B, GROUPS)), N // GROUPS, axis=1)
    effect[-1] = 0.0
    mean = np.exp(0.4 + 0.5 * np.asarray(model.X[:, 1]) + 0.7 * effect)
    y = rng.poisson(mean).astype(float)
    y[-1] = np.round(mean[-1])  # less than Poisson noise
    y[2, 7] = np.nan
    return jnp.asarray(y)


@pytest.fixture(scope="module")
def alone(model: Model, responses: jax.Array) -> list[Estimate]:
    settings = checked(model, 1, None, "quasi-newton", MAX_STEPS)
    return [run(program, replace(model, y=y), None, **settings) for y in responses]


def same(found: Estimate, i: int, single: Estimate) -> None:
    assert int(found.status[i]) == int(single.status)
    if int(single.status) == Status.CONVERGED:
        np.testing.assert_allclose(found.deviance[i], single.deviance, rtol=1e-12)
        np.testing.assert_allclose(found.params.beta[i], single.params.beta, atol=1e-6)
        np.testing.assert_allclose(found.params.theta[i], single.params.theta, atol=1e-6)


def test_responses_from_a_common_start_and_their_derivatives(
    model: Model, responses: jax.Array, alone: list[Estimate]
) -> None:
    start = Params(jnp.array([0.4, 0.3]), jnp.array([0.5]))
    direction = jnp.asarray(np.random.default_rng(5).normal(size=(B, N)))

    @jax.jit
    def both(y: jax.Array) -> tuple[jax.Array, Any, Estimate]:
        def beta(y: jax.Array) -> tuple[jax.Array, Estimate]:
            found = estimate_responses(model, y, start=start)
            return found.params.beta, found

        return jax.jvp(beta, (y,), (direction,), has_aux=True)

    _, slope, found = both(responses)
    assert found.params.beta.shape == (B, model.p)
    assert found.hessian.shape == (B, model.p + model.m, model.p + model.m)
    for i, single in enumerate(alone):
        same(found, i, single)
    h = 1e-4
    up, down = (both(responses + s * direction)[0] for s in (h, -h))
    np.testing.assert_allclose(slope[:2], ((up - down) / (2 * h))[:2], rtol=1e-5, atol=1e-7)


def test_models_of_one_shape_go_together(
    model: Model, responses: jax.Array, alone: list[Estimate]
) -> None:
    many = [replace(model, y=y) for y in responses]
    program = jax.jit(partial(estimate_many, batch_size=2))
    found = program(stacked(many))
    for i, single in enumerate(alone):
        same(found, i, single)


def test_models_that_do_not_stack_are_named(model: Model) -> None:
    shorter = jax.tree.map(lambda a: a[:-1] if a.shape[:1] == (N,) else a, model)
    with pytest.raises(ValueError, match=r"models\[1\] has arrays of other shapes"):
        estimate_many([model, shorter])
    with pytest.raises(ValueError, match=r"models\[1\] has another family"):
        estimate_many([model, replace(model, curvature="observed")])
    with pytest.raises(ValueError, match="models is empty"):
        estimate_many([])


def test_a_response_without_an_estimate_harms_no_other(alone: list[Estimate]) -> None:
    assert int(alone[2].status) in (Status.MODE_FAILED, Status.NOT_FINITE)
    assert [int(alone[i].status) for i in (0, 1, 3)] == [Status.CONVERGED] * 3
    assert bool(np.any(np.asarray(alone[3].singular)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"responses": jnp.ones(N)}, r"responses has shape \(60,\); give one response a row"),
        ({"responses": jnp.ones((2, N + 1))}, r"responses has shape \(2, 61\)"),
        ({"responses": jnp.ones((0, N))}, r"responses has shape \(0, 60\)"),
        ({"responses": jnp.ones((2, N), int)}, "responses is int64; give an array of floats"),
        ({"responses": [[1.0] * N]}, "responses is list"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"start": Params(jnp.ones(3), jnp.ones(1))}, r"params.beta has shape \(3,\)"),
        ({"nagq": -1}, "nagq=-1"),
    ],
)
def test_wrong_arguments_are_named(model: Model, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        estimate_responses(**{"model": model, "responses": jnp.ones((2, N)), **arguments})
