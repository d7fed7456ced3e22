"""The maximum with other numbers in some of the rows, without searching for it again.

With other weights and responses in a group of rows (zero weights: without the group) let d_ be the
deviance, G_ its gradient. At the maximum of the rows as they are G = 0, hence G_ there is what the
change contributes: exactly, the modes of the random effects found anew with it (a level with no
other rows goes to its prior). Then

    first order    s = -H^-1 G_(psi)                      the derivative in the group's share
    second order   t = -B G_(psi + s)                     a chord step, exact in G_,

B being H^-1 corrected by the BFGS formula so that it maps G_(psi + s) - G_(psi) to s: the curvature
after the change along the way it moved. Two gradients a group, where a search takes ten or more.

Where the group is left out and is a level of the only grouping factor, d - d_ is -2 log of the
marginal likelihood of its rows, for every psi; in other designs it is that of its rows given all
the others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from glmm_jax import lanes
from glmm_jax.model import Model, Params, flatten, unflatten
from glmm_jax.objective.marginal import marginal
from glmm_jax.optimize import boundary, start
from glmm_jax.optimize.quasi_newton import updated
from glmm_jax.pirls import linear_predictor


class Changed(NamedTuple):
    """Of each of k groups: gradient (k, P), G_ at the maximum before; first, second (k, P), how far
    the maximum moves to these orders. NaN where no mode was found."""

    gradient: Any
    first: Any
    second: Any


class Consequences(NamedTuple):
    """What leaving a group out does, (k,) each: log_density of its rows given the others, at the
    parameters without them; own, how much the linear predictor of its rows falls, on average;
    others, the root mean square of the change in the other rows. NaN where no mode was found."""

    log_density: Any
    own: Any
    others: Any


@partial(jax.jit, static_argnames=("nagq", "together"))
def changed(
    params: Params,
    model: Model,
    u: jax.Array,
    inverse: jax.Array,
    member: jax.Array,
    groups: jax.Array,
    count: jax.Array,
    weights: jax.Array,
    y: jax.Array,
    *,
    nagq: int,
    together: int,
) -> Changed:
    """The maximum with other weights and responses in each of some groups of rows, one at a time.

    Parameters
    ----------
    params, u : the maximum with the rows as they are, and the mode there, (q,).
    inverse : (P, P), H^-1; zero for parameters that are held.
    member : (n,) integers, the group of each row. groups : (block,), of which the first `count` are
        changed (see `lanes.first`).
    weights, y : (n,), what a row has instead when its group is changed.
    together : how many groups side by side.
    """
    psi = flatten(params)

    def one(group: jax.Array) -> Changed:
        own = member == group
        here = replace(
            model,
            weights=jnp.where(own, weights, model.weights),
            y=jnp.where(own, y, model.y),
        )

        def value(x: jax.Array) -> jax.Array:
            return marginal(unflatten(x, model), here, u, nagq)[0]

        # One gradient in a loop of two trips: the program holds a single copy of it.
        def trip(state: tuple[jax.Array, ...], k: jax.Array) -> tuple[tuple[jax.Array, ...], None]:
            x, last, step, B, first = state
            g = jax.grad(value)(x)
            B = updated(B, step, last, g, k > 0)
            move = -B @ g
            return (x + move, g, move, B, jnp.where(k > 0, first, g)), None

        zero = jnp.zeros_like(psi)
        state = (psi, zero, zero, inverse, zero)
        (x, _, last, _, first), _ = jax.lax.scan(trip, state, jnp.arange(2))
        return Changed(gradient=first, first=x - last - psi, second=x - psi)

    return lanes.first(one, groups, count, together)


@partial(jax.jit, static_argnames=("nagq", "together"))
def consequences(
    params: Params,
    model: Model,
    u: jax.Array,
    moved: jax.Array,
    member: jax.Array,
    groups: jax.Array,
    count: jax.Array,
    *,
    nagq: int,
    together: int,
) -> Consequences:
    """What leaving each of the first `count` groups out does, given the parameters without it,
    `moved` (block, P)."""
    eta = _eta(params, model, u)

    def one(lane: tuple[jax.Array, jax.Array]) -> Consequences:
        own, there = member == lane[0], unflatten(lane[1], model)
        here = replace(model, weights=jnp.where(own, 0.0, model.weights))
        rest, mode = marginal(there, here, u, nagq)
        everything, _ = marginal(there, model, u, nagq)
        change = eta - _eta(there, model, mode)
        kept = here.weights > 0
        return Consequences(
            log_density=-0.5 * (everything - rest),
            own=jnp.sum(jnp.where(own, change, 0.0)) / jnp.sum(own),
            others=jnp.sqrt(jnp.sum(jnp.where(kept, change**2, 0.0)) / jnp.sum(kept)),
        )

    return lanes.first(one, (groups, moved), count, together)


@jax.jit
def canonical(moved: jax.Array, model: Model) -> jax.Array:
    """Parameters (k, P) with signs of theta as an estimate has them."""
    theta = slice(model.p, model.p + model.m)
    scale = start.scales(model)[theta]
    turned = jax.vmap(lambda theta: boundary.canonical(theta, model, scale))(moved[:, theta])
    return moved.at[:, theta].set(turned)


def _eta(params: Params, model: Model, u: jax.Array) -> jax.Array:
    """eta of every row, (n,), the first of several linear predictors."""
    eta = linear_predictor(params, model, u)
    return eta[0] if model.random_parameters else eta
