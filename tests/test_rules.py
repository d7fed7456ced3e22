"""Derivatives by rules: of any order, in every order of modes, around every loop of lanes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmm_jax import normal, tails
from glmm_jax.families import tilting
from glmm_jax.gamma_functions import log_rising
from glmm_jax.linalg import dense
from glmm_jax.rules import with_rule

POINTS = jnp.array([0.4, 0.7, 1.1])


@partial(with_rule, static_argnums=(1,))
def power(x: dict[str, jax.Array], exponent: int = 2, slope: jax.Array | float = 0.0) -> dict:
    """sum of all x^exponent; of how it is found nothing can be differentiated."""
    still = jax.lax.stop_gradient(x)
    return {"value": sum(leaf**exponent for leaf in still.values())}


RESTING: list[tuple[bool, ...]] = []


@power.defjvp
def _power_jvp(exponent, primals, tangents):
    x, slope = primals
    RESTING.append(tuple(tangent is None for tangent in tangents))
    lower = {name: power({name: leaf}, exponent - 1)["value"] for name, leaf in x.items()}
    change = sum(exponent * lower[name] * tangents[0][name] for name in x)
    return power(x, exponent, slope), {"value": change}


def alone(function: Callable, t: jax.Array) -> jax.Array:
    return sum((function(t * point) for point in POINTS), jnp.zeros(()))


def side_by_side(function: Callable, t: jax.Array) -> jax.Array:
    return jnp.sum(jax.vmap(function)(t * POINTS))


def in_pairs(function: Callable, t: jax.Array) -> jax.Array:
    return jnp.sum(jax.lax.map(function, t * POINTS, batch_size=2))


def nested(function: Callable, t: jax.Array) -> jax.Array:
    square = t * jnp.stack([POINTS, POINTS])
    return 0.5 * jnp.sum(jax.vmap(jax.jit(jax.vmap(function)), in_axes=1)(square))


def one_after_another(function: Callable, t: jax.Array) -> jax.Array:
    return jnp.sum(jax.lax.map(function, t * POINTS))


LOOPS = [alone, side_by_side, in_pairs, nested, one_after_another]
MODES = [jax.jacfwd, jax.jacrev]


@pytest.mark.parametrize("loop", LOOPS)
def test_second_derivatives_in_every_order_of_modes(loop: Callable) -> None:
    def function(t: jax.Array) -> jax.Array:
        return power({"moving": t, "resting": jnp.ones(())}, 3)["value"]

    exact = 6.0 * np.sum(np.asarray(POINTS) ** 3)
    for outer in MODES:
        for inner in MODES:
            found = jax.jit(outer(inner(partial(loop, function))))(1.0)
            np.testing.assert_allclose(found, exact, rtol=1e-13)


def test_the_rule_is_told_what_rests() -> None:
    x = {"a": jnp.ones(()), "b": jnp.asarray(2.0)}
    RESTING.clear()
    assert jax.grad(lambda a: power({"a": a, "b": x["b"]})["value"])(3.0) == 6.0
    assert RESTING == [(False, True)]


def test_plain_and_compiled_values_and_their_types() -> None:
    x = {"a": jnp.asarray(3.0, jnp.float32)}
    for value in (power(x)["value"], jax.jit(power)(x)["value"]):
        assert value == 9.0 and value.dtype == jnp.float32 and not value.weak_type


def test_a_number_widens_no_array() -> None:
    """The type of a Python number is weak, and stays so."""
    x = jnp.ones(2, jnp.float32)
    for product in (lambda x: tails.softplus(0.5) * x, jax.jit(lambda x: tails.softplus(0.5) * x)):
        assert product(x).dtype == jnp.float32


def test_a_program_is_lowered_under_other_settings_than_it_was_traced() -> None:
    with jax.enable_x64(False):
        traced = jax.jit(jax.grad(lambda x: jnp.sum(tails.softplus(x)))).trace(np.zeros(3))
    value = traced.lower().compile()(np.zeros(3, np.float32))
    assert value.dtype == np.float32 and np.all(value == 0.5)


def test_a_derivative_of_another_shape_is_refused() -> None:
    @with_rule
    def square(x: jax.Array) -> jax.Array:
        return x**2

    @square.defjvp
    def careless(primals, tangents):
        return square(*primals), 0.0

    with pytest.raises(TypeError, match="careless: a derivative of shape"):
        jax.grad(lambda x: jnp.sum(square(x)))(jnp.ones(2))


def matrix_functions(t: jax.Array) -> jax.Array:
    S = jnp.array([[2.0, 0.3], [0.3, 1.0]]) + t**3 * jnp.array([[1.0, 0.5], [0.5, 2.0]])
    lower = dense.cholesky(S)
    return dense.logdet(S, lower) + jnp.sum(dense.inverse(S, lower))


def scalar_functions(t: jax.Array) -> jax.Array:
    return (
        tails.softplus(t)
        + tails.log_one_minus_exp_neg_exp(t)
        + normal.log_probability(t)
        + normal.cdf(t)
        + log_rising(t, t + 3.0)
    )


def conway_maxwell_poisson(t: jax.Array) -> jax.Array:
    return tilting.log_prob(jnp.asarray(3.0), t, 1.5 * t)


@pytest.mark.parametrize("function", [matrix_functions, scalar_functions, conway_maxwell_poisson])
def test_a_loop_keeps_the_rules_of_the_engine(function: Callable) -> None:
    """Forward and reverse over reverse mode against differences of first derivatives."""
    gradient = jax.jit(jax.grad(partial(one_after_another, function)))
    h = 1e-3
    there = np.array([gradient(1.0 + k * h) for k in (-2, -1, 1, 2)])
    differences = there @ np.array([1.0, -8.0, 8.0, -1.0]) / (12.0 * h)
    for outer in MODES:
        second = jax.jit(outer(jax.grad(partial(one_after_another, function))))(1.0)
        np.testing.assert_allclose(second, differences, rtol=1e-9)
