"""A root's derivatives of second order, in every order of modes and around every loop of lanes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmm_jax import implicit

T = 0.3


def cube_root(t: jax.Array, guess: jax.Array) -> jax.Array:
    """x with x^3 = t: the guess, of which nothing can be differentiated."""
    return implicit.root(
        lambda t, guess: guess,
        lambda x, t: x**3 - t,
        lambda x, t, r: -r / (3.0 * x**2),
        t,
        guess,
    )


def alone(t: jax.Array) -> jax.Array:
    return jnp.stack([cube_root(k * t, jnp.cbrt(k * T)) for k in (1.0, 2.0)])


def side_by_side(t: jax.Array) -> jax.Array:
    k = jnp.array([1.0, 2.0])
    return jax.vmap(cube_root)(k * t, jnp.cbrt(k * T))


def one_after_another(t: jax.Array) -> jax.Array:
    k = jnp.array([1.0, 2.0])
    return jax.lax.map(lambda lane: cube_root(*lane), (k * t, jnp.cbrt(k * T)))


@pytest.mark.parametrize("lanes", [alone, side_by_side, one_after_another])
def test_second_derivatives_in_every_order_of_modes(lanes: Callable) -> None:
    k = np.array([1.0, 2.0])
    exact = -2.0 / 9.0 * k ** (1 / 3) * T ** (-5 / 3)
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            found = jax.jit(outer(inner(lanes)))(T)
            np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_a_guess_shared_by_lanes_and_an_argument_at_rest() -> None:
    def root(t: jax.Array) -> jax.Array:
        return implicit.root(
            lambda a, guess: guess - (guess**3 - a[0]) / (3.0 * guess**2),
            lambda x, a: x**3 - a[0] * a[1],
            lambda x, a, r: -r / (3.0 * x**2),
            (t, jnp.asarray(1)),  # an integer has no derivative
            jnp.asarray(1.0),
        )

    t = jnp.array([1.0, 1.0])
    np.testing.assert_array_equal(jax.vmap(root)(t), t)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(root)))(t), t / 3.0, rtol=1e-12)


def test_a_search_has_the_precision_of_the_place_where_it_is_called() -> None:
    """It is traced where the program is lowered, after the context in which it was called."""
    A, x = jnp.eye(3, dtype=jnp.float32), jnp.ones(3, jnp.float32)

    def program(A: jax.Array, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return implicit.known(lambda a, guess: a @ guess, lambda x, a, da: da @ x, A, x)

    text = jax.jit(jax.vmap(program)).lower(A[None], x[None]).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in text and "DEFAULT" not in text
    assert "DEFAULT" in jax.jit(lambda A, x: A @ x).lower(A, x).as_text()
