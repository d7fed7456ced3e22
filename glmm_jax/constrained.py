"""The lowest deviance with one parameter held, found from a start near to it.

A BFGS search with exact gradients in the coordinates of `optimize.coordinates`. It starts at a
prediction from neighbouring points of the profile, with their inverse Hessian, so that most points
take one to three gradients.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glmm_jax import covariance
from glmm_jax.model import Model, in_order, pivots, unflatten
from glmm_jax.objective.marginal import marginal
from glmm_jax.optimize.coordinates import Target, place, settled
from glmm_jax.optimize.quasi_newton import (
    ARMIJO,
    SMALLEST_FRACTION,
    direction_from,
    updated,
)

# Half of g' H^-1 g, in units of the deviance: what a point may be above its minimum.
TOLERANCE = 1e-8
# The deviance is even in a column of Lambda: from a pivot of exactly zero no gradient leads away,
# though the best value may have moved off zero. So a search starts with pivots of this size at
# least, in natural units of eta, and finds back to zero where that is best.
NUDGE = 1e-2


class Point(NamedTuple):
    """A constrained minimum: flat parameters (P,), x (P,), mode u (q,), deviance () and its total
    derivative in w along the profile, (); inverse Hessian in x, (P, P); gradients computed, ();
    whether the minimum was found, ()."""

    flat: jax.Array
    x: jax.Array
    u: jax.Array
    deviance: jax.Array
    slope: jax.Array
    B: jax.Array
    evaluations: jax.Array
    converged: jax.Array


class _Search(NamedTuple):
    x: jax.Array
    u: jax.Array
    value: jax.Array
    gradient: jax.Array
    slope: jax.Array
    B: jax.Array
    direction: jax.Array
    fraction: jax.Array
    first: jax.Array
    converged: jax.Array
    stalled: jax.Array
    evaluations: jax.Array


@partial(jax.jit, static_argnames=("max_steps", "nagq"))
def point(
    model: Model,
    target: Target,
    w: jax.Array,
    x: jax.Array,
    u: jax.Array,
    B: jax.Array,
    natural: jax.Array,
    *,
    max_steps: int,
    nagq: int = 1,
) -> Point:
    """Minimise the deviance with the target held at w, by BFGS with exact gradients.

    The gradient in w comes with that in x, and at the minimum it is the derivative of the profile.

    Parameters: x (P,), u (q,), B (P, P), where to start, most often predicted from neighbouring
    points; natural (P,), size of each parameter; max_steps, limit on the gradients computed; nagq,
    nodes of the quadrature, 1 for Laplace.
    """
    slack = 50 * float(jnp.finfo(x.dtype).eps)

    def deviance(x: jax.Array, w: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = unflatten(place(x, w, target, model), model)
        return marginal(params, model, jax.lax.stop_gradient(u), nagq)

    evaluate = jax.value_and_grad(deviance, argnums=(0, 1), has_aux=True)

    def trip(s: _Search) -> _Search:
        move = s.fraction * s.direction
        x = s.x + move
        (value, u), (gradient, slope) = evaluate(x, w, s.u)
        fall = move @ s.gradient
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        enough = value <= s.value + ARMIJO * fall + slack * jnp.abs(s.value)
        # A gain that is lost in the rounding of the deviance is judged by the gradient alone.
        closer = gradient @ (s.B @ gradient) <= 0.25 * (s.gradient @ (s.B @ s.gradient))
        accept = sound & (s.first | enough | ((jnp.abs(fall) <= 1e-3) & closer))
        B = updated(s.B, move, s.gradient, gradient, accept & ~s.first)
        here = jnp.where(accept, x, s.x)
        here_gradient = jnp.where(accept, gradient, s.gradient)
        decrement = 0.5 * here_gradient @ (B @ here_gradient)
        # A quadratic through the two values and the slope, kept within a tenth and a half.
        bend = value - s.value - fall
        guess = -0.5 * fall / jnp.where(bend > 0, bend, 1.0)
        shorter = s.fraction * jnp.where(sound & (bend > 0), jnp.clip(guess, 0.1, 0.5), 0.25)
        small = decrement <= jnp.maximum(TOLERANCE, slack * jnp.abs(value))
        return _Search(
            x=here,
            u=jnp.where(accept, u, s.u),
            value=jnp.where(accept, value, s.value),
            gradient=here_gradient,
            slope=jnp.where(accept, slope, s.slope),
            B=B,
            direction=jnp.where(
                accept, direction_from(B, here_gradient, here, natural), s.direction
            ),
            fraction=jnp.where(accept, 1.0, shorter),
            first=s.first & ~accept,
            converged=accept & small,
            stalled=~accept & (s.first | (shorter < SMALLEST_FRACTION)),
            evaluations=s.evaluations + 1,
        )

    def unfinished(s: _Search) -> jax.Array:
        return ~s.converged & ~s.stalled & (s.evaluations < max_steps)

    one, zero = jnp.ones((), x.dtype), jnp.zeros((), x.dtype)
    state = _Search(
        x=_nudged(x, model, natural),
        u=u,
        value=jnp.inf * one,
        gradient=jnp.zeros_like(x),
        slope=zero,
        B=B,
        direction=jnp.zeros_like(x),
        fraction=one,
        first=jnp.asarray(True),
        converged=jnp.asarray(False),
        stalled=jnp.asarray(False),
        evaluations=jnp.asarray(0),
    )
    s = jax.lax.while_loop(unfinished, trip, state)
    return Point(
        flat=place(s.x, w, target, model),
        x=settled(s.x, target, model, natural),
        u=s.u,
        deviance=s.value,
        slope=s.slope,
        B=s.B,
        evaluations=s.evaluations,
        converged=s.converged,
    )


def _nudged(x: jax.Array, model: Model, natural: jax.Array) -> jax.Array:
    """x with every pivot of Lambda at least `NUDGE` in size, and correlations off their ends."""
    theta = slice(model.p, model.p + model.m)
    least = NUDGE * natural[theta]
    kept = jnp.where(x[theta] < 0, -1.0, 1.0) * jnp.maximum(jnp.abs(x[theta]), least)
    x = x.at[theta].set(jnp.where(pivots(model), kept, x[theta]))
    for term in in_order(model):
        if isinstance(term.covariance, covariance.Structured):
            part = slice(model.p + term.start, model.p + term.stop)
            own = covariance.inward(term.covariance, x[part], natural[part], NUDGE)
            x = x.at[part].set(own)
    return x
