"""The conditional mode as a polynomial in the parameters, so that what rests on it is explicit.

With s(psi, u) = 0 at the mode and H = -ds/du,

    u(psi + x) = u + U x + x' U2 x / 2 + O(x^3),
    U_a = H^-1 s_a,     U2_ab = H^-1 d^2 s(psi + x, u + U x) / dx_a dx_b.

Derivatives of higher order of a function of parameters and mode are then those of a function
without a solve inside: the system matrix is factorised once for all directions, not for each. The
u that the functions here are given is the mode itself, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import pirls
from glmm_jax.information import side_by_side
from glmm_jax.model import Model, Params, flatten, unflatten


def line(params: Params, model: Model, u: jax.Array, solve: Callable) -> jax.Array:
    """U, (q, P); solve, from `pirls.solver`."""
    psi = flatten(params)

    def column(v: jax.Array) -> jax.Array:
        return jax.jvp(lambda x: _residual(x, u, model), (psi,), (v,))[1]

    return solve(jax.lax.map(column, jnp.eye(psi.size, dtype=psi.dtype)).T)


def bow(params: Params, model: Model, u: jax.Array, solve: Callable, U: jax.Array) -> jax.Array:
    """U2, (q, P, P)."""
    psi = flatten(params)

    def along(x: jax.Array) -> jax.Array:
        return _residual(psi + x, u + U @ x, model)

    every = np.arange(psi.size)
    _, bends = twice(along, jnp.zeros_like(psi), every, model.n)
    return solve(bends.T)[:, placed(every, psi.size)]


def _residual(x: jax.Array, u: jax.Array, model: Model) -> jax.Array:
    return pirls.score(u, unflatten(x, model), model)


def twice(
    function: Callable[[jax.Array], jax.Array], at: jax.Array, places: np.ndarray, size: int
) -> tuple[jax.Array, jax.Array]:
    """First derivatives along each of some coordinates, second ones along all pairs of them.

    What depends on the first of two directions alone is found once for all its partners.

    Parameters: places, of the coordinates; size, numbers that one direction takes.

    Returns: (places, ...), and (pairs, ...) in the order of `placed`.
    """
    eye = jnp.eye(at.size, dtype=at.dtype)

    def column(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def along(x: jax.Array) -> jax.Array:
            return jax.jvp(function, (x,), (eye[pair[0]],))[1]

        def entry(v: jax.Array) -> jax.Array:
            return jax.jvp(along, (at,), (v,))[1]

        return along(at), side_by_side(entry, eye[pair[1]], size)

    partners = _in_a_ring(places)
    slopes, bends = jax.lax.map(column, (jnp.asarray(places), jnp.asarray(partners)))
    return slopes, bends.reshape(partners.size, *bends.shape[2:])


def placed(places: np.ndarray, P: int) -> np.ndarray:
    """Where `twice` has the derivative along two of P coordinates, (P, P)."""
    partners = _in_a_ring(places)
    number = np.arange(partners.size).reshape(partners.shape)
    out = np.zeros((P, P), int)
    out[places[:, None], partners] = out[partners, places[:, None]] = number
    return out


def _in_a_ring(places: np.ndarray) -> np.ndarray:
    """Partners of each place, (places, half of them): itself and those that follow, so that every
    pair of two occurs."""
    return np.stack([np.roll(places, -k) for k in range(places.size // 2 + 1)], axis=1)
