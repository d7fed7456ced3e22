"""How the maximum moves with the numbers it was computed from, by the implicit function theorem.

Let d(psi; delta) be the deviance of parameters psi = (beta, theta, dispersion) after a disturbance
delta, (n,), one number a row: of its weight, response, offset or covariate. At the maximum
G = dd/dpsi = 0 with Hessian H, so

    dpsi/ddelta = -H^-1 C,     C = d^2 d / dpsi ddelta,     (P, n).

C and H come together from P derivatives of the gradient in (psi, delta), the mode of the random
effects moving along: all n rows at the price of one Hessian. Nothing here knows a name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import expansion
from glmm_jax.information import side_by_side
from glmm_jax.model import Model, Params, flatten, unflatten
from glmm_jax.objective.marginal import at_mode, marginal
from glmm_jax.pirls import linear_predictor, mode_from, score, solver
from glmm_jax.predictors import row_arguments


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["y", "X", "Z", "offset", "weights", "dispersion_X"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Rates:
    """What one unit of a row's disturbance adds to that row of each array, in its shape."""

    y: Any
    X: Any
    Z: Any
    offset: Any
    weights: Any
    dispersion_X: Any


def no_rates(model: Model) -> Rates:
    """Rates of zero."""
    return Rates(*jax.tree.map(jnp.zeros_like, [getattr(model, name) for name in _FIELDS]))


_FIELDS = ("y", "X", "Z", "offset", "weights", "dispersion_X")


def disturbed(model: Model, rates: Rates, delta: jax.Array, bends: Rates | None = None) -> Model:
    """The model with a + delta rates + delta^2 bends / 2 for each of its arrays a."""

    def moved(array: jax.Array, rate: jax.Array, bend: jax.Array | None = None) -> jax.Array:
        # Z may hold several pseudo-rows of each row.
        each = jnp.tile(delta, array.shape[0] // delta.shape[0])
        each = each.reshape(-1, *[1] * (array.ndim - 1))
        out = array + each * rate
        return out if bend is None else out + 0.5 * jnp.square(each) * bend

    changed = {}
    for name in _FIELDS:
        trees = [getattr(model, name), getattr(rates, name)]
        trees += [] if bends is None else [getattr(bends, name)]
        changed[name] = jax.tree.map(moved, *trees)
    return replace(model, **changed)


class Local(NamedTuple):
    """Derivatives of the deviance at a point: gradient (P,), hessian (P, P), mixed (P, n), which is
    C of the module, and slope (n,), dd/ddelta with psi held."""

    gradient: Any
    hessian: Any
    mixed: Any
    slope: Any


def _value(model: Model, rates: Rates, u: jax.Array, nagq: int, bends: Rates | None = None) -> Any:
    """d(psi, delta), whose mode u at the point of derivation is known."""

    def value(psi: jax.Array, delta: jax.Array) -> jax.Array:
        here = disturbed(model, rates, delta, bends)
        return marginal(unflatten(psi, model), here, u, nagq, solved=True)[0]

    return value


@partial(jax.jit, static_argnames="nagq")
def local(params: Params, model: Model, u: jax.Array, rates: Rates, *, nagq: int) -> Local:
    """The derivatives from which those of the estimate follow.

    Parameters: params, the estimate; u (q,), the mode there; rates, of the disturbance.
    """
    psi, delta = flatten(params), jnp.zeros(model.n, u.dtype)
    gradient = jax.grad(_value(model, rates, u, nagq), argnums=(0, 1))
    (here, slope) = gradient(psi, delta)

    def column(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda x: gradient(x, delta), (psi,), (v,))[1]

    H, C = side_by_side(column, jnp.eye(psi.size, dtype=psi.dtype), model.n)
    return Local(here, 0.5 * (H + H.T), C, slope)


@partial(jax.jit, static_argnames="nagq")
def bent(
    params: Params,
    model: Model,
    u: jax.Array,
    rates: Rates,
    left: jax.Array,
    right: jax.Array,
    *,
    nagq: int,
) -> tuple[jax.Array, jax.Array]:
    """Derivatives of left' H right in psi, (k, P), and in delta, (k, n), for k pairs (k, P)."""
    psi, delta = flatten(params), jnp.zeros(model.n, u.dtype)
    value = _value(model, rates, u, nagq)

    def one(pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def form(x: jax.Array, delta: jax.Array) -> jax.Array:
            def slope(x: jax.Array) -> jax.Array:
                return jax.jvp(lambda x: value(x, delta), (x,), (pair[1],))[1]

            return jax.jvp(slope, (x,), (pair[0],))[1]

        return jax.grad(form, argnums=(0, 1))(psi, delta)

    return jax.lax.map(one, (left, right))


@partial(jax.jit, static_argnames="nagq")
def third(params: Params, model: Model, u: jax.Array, *, nagq: int) -> tuple[jax.Array, jax.Array]:
    """Hessian, (P, P), and third derivatives, (P, P, P), of the deviance in the parameters.

    With d(psi, u) the deviance as a function of the mode as well and s the score of the mode,

        L(psi, u, l) = d(psi, u) + l' s(psi, u),     l = H^-1 dd/du,

    is stationary in u and l where d is the deviance. Third derivatives of what is stationary need
    the first of u and l alone: they are those of L along straight lines, with no solve inside. So
    are second ones.

    Those of the gradient of L along pairs of parameters that are in one half of them: of any three,
    two are in the same half. That is little more than half of all pairs.
    """
    psi = flatten(params)
    zero, eye = jnp.zeros_like(psi), jnp.eye(psi.size, dtype=psi.dtype)
    solve = solver(params, model, u)
    U = expansion.line(params, model, u, solve)

    def lagrangian(x: jax.Array, v: jax.Array, multiplier: jax.Array) -> jax.Array:
        there = unflatten(psi + x, model)
        return at_mode(there, model, v, nagq) + multiplier @ score(v, there, model)

    slope = jax.grad(lagrangian, argnums=1)
    multiplier = solve(slope(zero, u, jnp.zeros_like(u)))

    def turn(v: jax.Array) -> jax.Array:
        return jax.jvp(lambda x: slope(x, u + U @ x, multiplier), (zero,), (v,))[1]

    turns = solve(jax.lax.map(turn, eye).T)

    def value(x: jax.Array) -> jax.Array:
        return lagrangian(x, u + U @ x, multiplier + turns @ x)

    every = np.arange(psi.size)
    half = every >= psi.size // 2
    slopes, bends, place = [], [], np.zeros((psi.size,) * 2, int)
    for own in (every[~half], every[half]):
        if own.size:
            first, second = expansion.twice(jax.grad(value), zero, own, model.n)
            inside = np.ix_(own, own)
            place[inside] = sum(map(len, bends)) + expansion.placed(own, psi.size)[inside]
            slopes.append(first)
            bends.append(second)
    H = jnp.concatenate(slopes)
    a, b, c = np.indices((psi.size,) * 3)
    cases = [half[a] == half[b], half[a] == half[c]]
    one, two, rest = (np.select(cases, (x, y), z) for x, y, z in ((a, a, b), (b, c, c), (c, b, a)))
    return 0.5 * (H + H.T), jnp.concatenate(bends)[place[one, two], rest]


@partial(jax.jit, static_argnames="nagq")
def second(
    params: Params,
    model: Model,
    u: jax.Array,
    rates: Rates,
    bends: Rates,
    colours: jax.Array,
    carried: jax.Array,
    *,
    nagq: int,
) -> tuple[jax.Array, jax.Array]:
    """Sums of second derivatives of the gradient G, (P,) each: of d^2 G / de^2 along each of k
    disturbances `colours` (k, n), and of (d^2 G / dpsi_b ddelta) along row b of `carried` (P, n).
    """
    psi, zero = flatten(params), jnp.zeros(model.n, u.dtype)
    value = _value(model, rates, u, nagq, bends)

    def moved(direction: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.grad(value)(x, t * direction)

    def slope(direction: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.jvp(lambda t: moved(direction, x, t), (t,), (jnp.ones_like(t),))[1]

    start = zero[0]

    def own(direction: jax.Array) -> jax.Array:
        return jax.jvp(lambda t: slope(direction, psi, t), (start,), (start + 1.0,))[1]

    def mixed(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.jvp(lambda x: slope(pair[1], x, start), (psi,), (pair[0],))[1]

    eye = jnp.eye(psi.size, dtype=psi.dtype)
    both = jax.lax.map(own, colours), jax.lax.map(mixed, (eye, carried))
    return jnp.sum(both[0], axis=0), jnp.sum(both[1], axis=0)


class Seen(NamedTuple):
    """Changes, (k, n) each, of the linear predictor and of the conditional mean of every row."""

    link: Any
    response: Any


@partial(jax.jit, static_argnames="together")
def seen(
    params: Params,
    model: Model,
    u: jax.Array,
    rates: Rates,
    dpsi: jax.Array,
    ddelta: jax.Array,
    *,
    together: int,
) -> Seen:
    """How eta and mu change along k directions (dpsi, ddelta), (k, P) and (k, n), the mode too."""
    psi, delta = flatten(params), jnp.zeros(model.n, u.dtype)

    def means(x: jax.Array, delta: jax.Array) -> Seen:
        there, here = unflatten(x, model), disturbed(model, rates, delta)
        mode = mode_from(there, here, u, solved=True)
        eta, phi = row_arguments(there, here, linear_predictor(there, here, mode))
        return Seen(eta, model.family.mean(eta, phi))

    def one(direction: tuple[jax.Array, jax.Array]) -> Seen:
        return jax.jvp(means, (psi, delta), direction)[1]

    return jax.lax.map(one, (dpsi, ddelta), batch_size=together)
