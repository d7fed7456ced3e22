"""Quasi-Newton search with exact gradients, certified by an exact Hessian.

A round is a BFGS search of a few steps followed by the Hessian at its end. The search evaluates the
gradient once per trip: a trial point that lowers the deviance enough becomes the current one and
updates the inverse Hessian B, one that does not shortens the step. The Hessian then says what the
end is:

    positive semidefinite, Newton decrement negligible   a minimum: stop;
    positive semidefinite                                next round, with B the inverse Hessian;
    a negative eigenvalue                                a saddle: leave along its eigenvector.

The deviance is even in each column of Lambda, so a variance of zero is always a stationary point:
only the Hessian can tell whether it is the answer. Newton's method is the same loop with the
Hessian renewed after every step. All of it is one `while_loop` inside another, so that it compiles
to a single program with one copy of the gradient and one of the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from glmm_jax.linalg.symmetric import spectrum
from glmm_jax.optimize.needed import needed

# Decrements are in units of the deviance: half of g' B g is what a step can still gain.
SEARCH_TOLERANCE = 1e-9
FINAL_TOLERANCE = 1e-10
EXACT = 1e-16  # nothing is left to polish
# A point this near to where the Hessian was computed (squared distance in its metric) keeps it:
# about 1e-4 standard errors, over which it changes by some 1e-6 of itself.
NEAR = 1e-8
NEGATIVE = -1e-4  # an eigenvalue below this, in the natural scale of the parameters, is negative
SMALLEST_CURVATURE = 1e-3  # steps along flatter directions are as if the curvature were this
SMALLEST_FRACTION = 1e-9
LARGEST_MOVE = 2.0  # of any parameter in one step, relative to max(1, its size)
ARMIJO = 1e-4

Objective = Callable[[jax.Array, Any], tuple[tuple[jax.Array, Any], jax.Array]]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "x", "aux", "value", "gradient", "hessian", "decrement", "smallest", "evaluations",
        "hessians", "gave_up", "certified",
    ],
    meta_fields=[],
)  # fmt: skip
@dataclass(frozen=True)
class Minimum:
    """Where the search ended, in scaled coordinates.

    x, gradient (P,), hessian (P, P); aux, what the objective returned beside its value; decrement,
    half of g' H^-1 g; smallest, the smallest eigenvalue of the Hessian; evaluations of the gradient
    and of the Hessian; gave_up, whether no step descends any more (else a limit was reached);
    certified, whether the end is a minimum by gradient and Hessian.
    """

    x: jax.Array
    aux: Any
    value: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    decrement: jax.Array
    smallest: jax.Array
    evaluations: jax.Array
    hessians: jax.Array
    gave_up: jax.Array
    certified: jax.Array


class _Search(NamedTuple):
    x: jax.Array
    aux: Any
    value: jax.Array
    gradient: jax.Array
    B: jax.Array  # inverse Hessian
    direction: jax.Array
    bend: jax.Array  # d' H d of a direction of negative curvature, else zero
    fraction: jax.Array
    accepted: jax.Array  # steps in this search
    finished: jax.Array
    stalled: jax.Array
    ended: jax.Array  # finished by its own criterion, not cut at a length
    anew: jax.Array  # nothing is known at x yet: the next evaluation is there
    evaluations: jax.Array


class _Curvature(NamedTuple):
    hessian: jax.Array
    at: jax.Array  # where the Hessian was computed
    B: jax.Array  # its inverse, flat and falling directions as if they curved a little
    smallest: jax.Array  # eigenvalue, and its eigenvector
    lowest: jax.Array


class _Round(NamedTuple):
    search: _Search
    curvature: _Curvature
    decrement: jax.Array
    certified: jax.Array
    gave_up: jax.Array
    hessians: jax.Array


def direction_from(
    B: jax.Array, gradient: jax.Array, x: jax.Array, natural: jax.Array | float
) -> jax.Array:
    """-B gradient, (P,), shortened so that no parameter moves by more than `LARGEST_MOVE` of its
    size, or of its natural one if that is more."""
    d = -_product(B, gradient)
    excess = jnp.max(jnp.abs(d) / (LARGEST_MOVE * jnp.maximum(natural, jnp.abs(x))))
    return d / jnp.maximum(1.0, excess)


def updated(
    B: jax.Array, move: jax.Array, before: jax.Array, after: jax.Array, wanted: jax.Array
) -> jax.Array:
    """The inverse Hessian B, (P, P), after a BFGS update; B itself unless the update is `wanted`
    and the gradients `before` and `after` the move show a positive curvature along it."""
    change = after - before
    curved = move @ change
    update = wanted & (curved > 1e-10 * jnp.abs(move @ before)) & (curved > 0)
    rho = 1.0 / jnp.where(update, curved, 1.0)
    bent = _product(B, change)
    cross = rho * jnp.outer(move, bent)
    square = rho * (1.0 + rho * (change @ bent)) * jnp.outer(move, move)
    return jnp.where(update, B - cross - cross.T + square, B)


def _curvature(hessian: jax.Array, at: jax.Array) -> _Curvature:
    """What a search needs of a Hessian; its smallest eigenvalue is NaN if it is not finite."""
    sound = jnp.all(jnp.isfinite(hessian))
    values, vectors = spectrum(jnp.where(sound, hessian, jnp.eye(at.shape[0], dtype=at.dtype)))
    lowest = jnp.where(jnp.arange(at.shape[0]) == jnp.argmin(values), vectors, 0.0)
    return _Curvature(
        hessian=hessian,
        at=at,
        B=(vectors / jnp.maximum(jnp.abs(values), SMALLEST_CURVATURE)[None]) @ vectors.T,
        smallest=jnp.where(sound, jnp.min(values), jnp.nan),
        lowest=jnp.sum(lowest, axis=1),
    )


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """matrix @ vector for a few parameters: fused with what is around it, where XLA compiles and
    starts a kernel for each product of matrices."""
    return jnp.sum(matrix * vector[None, :], axis=1)


def minimise(
    objective: Objective,
    hessian: Callable[[jax.Array, Any], jax.Array],
    canonical: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    aux: Any,
    metric: jax.Array,
    max_steps: int | jax.Array,
    longest: int,
) -> Minimum:
    """Minimise from x.

    Parameters
    ----------
    objective : (x, aux) -> ((value, aux), gradient); aux carries the conditional mode along.
    hessian : (x, aux) -> (P, P).
    canonical : x -> an equivalent x (signs and rotations of Lambda, exact zeros).
    x : (P,), start, in coordinates whose natural size is one.
    aux : what the first evaluation is given.
    metric : (P, P), approximate Hessian at the start.
    max_steps : limit on the evaluations of the gradient.
    longest : accepted steps in a round; 1 is Newton's method.
    """
    eps = float(jnp.finfo(x.dtype).eps)
    # Differences of the deviance below its rounding error are not to be judged.
    slack = 50 * eps

    def trip(s: _Search, tolerance: jax.Array) -> _Search:
        move = s.fraction * s.direction
        x = s.x + move
        (value, aux), gradient = objective(x, s.aux)
        slope = s.gradient @ s.direction
        first = s.anew
        predicted = s.fraction * slope + 0.5 * s.fraction**2 * s.bend
        sound = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
        enough = value <= s.value + ARMIJO * predicted + slack * jnp.abs(s.value)
        # A gain that is lost in the rounding of the deviance is judged by the gradient alone.
        tiny = (jnp.abs(predicted) <= 1e-3) & (s.bend == 0)
        closer = gradient @ _product(s.B, gradient) <= 0.25 * (
            s.gradient @ _product(s.B, s.gradient)
        )
        lost = jnp.abs(predicted) <= slack * jnp.abs(s.value)
        accept = sound & (first | enough | (tiny & (closer | lost)))
        B = updated(s.B, move, s.gradient, gradient, accept & ~first)
        here = jnp.where(accept, x, s.x)
        here_gradient = jnp.where(accept, gradient, s.gradient)
        decrement = 0.5 * here_gradient @ _product(B, here_gradient)
        # A quadratic through the two values and the slope, kept within a tenth and a half.
        fall = s.fraction * slope
        guess = -0.5 * fall / jnp.where(value - s.value - fall > 0, value - s.value - fall, 1.0)
        shorter = s.fraction * jnp.where(sound & (slope < 0), jnp.clip(guess, 0.1, 0.5), 0.25)
        accepted = s.accepted + (accept & ~first)
        stalled = ~accept & ((shorter < SMALLEST_FRACTION) | first)
        close = decrement <= tolerance
        stop = close | (accepted >= longest)
        stepped = accept & ((accepted > 0) | first)
        return _Search(
            x=here,
            aux=jax.tree.map(lambda a, b: jnp.where(accept, a, b), aux, s.aux),
            value=jnp.where(accept, value, s.value),
            gradient=here_gradient,
            B=B,
            direction=jnp.where(accept, direction_from(B, here_gradient, here, 1.0), s.direction),
            bend=jnp.where(accept, 0.0, s.bend),
            fraction=jnp.where(accept, 1.0, shorter),
            accepted=accepted,
            finished=(stepped & stop) | stalled,
            stalled=stalled,
            ended=(stepped & (close | (longest == 1))) | stalled,
            anew=first & ~accept,
            evaluations=s.evaluations + 1,
        )

    def search(s: _Search, tolerance: jax.Array) -> _Search:
        def unfinished(s: _Search) -> jax.Array:
            return ~s.finished & (s.evaluations < max_steps)

        return jax.lax.while_loop(unfinished, lambda s: trip(s, tolerance), s)

    def go_on(r: _Round) -> jax.Array:
        return ~r.certified & ~r.gave_up & (r.search.evaluations < max_steps)

    def one_round(r: _Round) -> _Round:
        tolerance = jnp.where(r.hessians == 0, SEARCH_TOLERANCE, FINAL_TOLERANCE).astype(x.dtype)
        s = search(r.search, tolerance)
        turned = canonical(s.x)
        # An equivalent point has another mode and gradient: they are found before anything else.
        moved = jnp.any(turned != s.x)
        known = r.curvature
        apart = turned - known.at
        near = (known.smallest >= NEGATIVE) & (apart @ _product(known.hessian, apart) <= NEAR)
        # In a batch a lane that has come to its end asks for nothing.
        renew = ~moved & ~near & go_on(r)
        c = needed(renew, lambda: _curvature(hessian(s.x, s.aux), s.x), known)
        sound = jnp.isfinite(c.smallest)
        decrement = 0.5 * s.gradient @ _product(c.B, s.gradient)
        minimum = c.smallest >= NEGATIVE
        # What the rounding of a large deviance hides is nothing once a search has come to its end.
        hidden = jnp.where(s.ended, slack * jnp.abs(s.value), 0.0)
        small = decrement <= jnp.maximum(FINAL_TOLERANCE, hidden)
        # One Newton step with the exact Hessian ends a search at rounding, not at a tolerance.
        polished = (r.hessians > 0) | (decrement <= EXACT)
        certified = ~moved & sound & minimum & small & polished
        # Along negative curvature the gradient may vanish: a unit step, downhill if either way is.
        v = c.lowest * jnp.where(c.lowest @ s.gradient > 0, -1.0, 1.0)
        escape = sound & ~minimum & (decrement <= 1e-3 * jnp.maximum(1.0, jnp.abs(c.smallest)))
        direction = jnp.where(escape, v, direction_from(c.B, s.gradient, s.x, 1.0))
        # A search that stalled from a fresh Hessian will stall again.
        gave_up = ~moved & (~sound | (s.stalled & (s.accepted == 0) & (r.hessians > 0)))
        flip = jnp.where(turned * s.x < 0, -1.0, 1.0)
        s = s._replace(
            x=turned,
            anew=moved,
            B=jnp.where(moved, jnp.outer(flip, flip) * s.B, c.B),
            direction=jnp.where(moved, 0.0, direction),
            bend=jnp.where(escape & ~moved, c.smallest, 0.0),
            fraction=jnp.ones((), x.dtype),
            accepted=jnp.asarray(0),
            finished=jnp.asarray(False),
        )
        return _Round(
            search=s,
            curvature=c,
            decrement=decrement,
            certified=certified,
            gave_up=gave_up,
            hessians=r.hessians + renew,
        )

    one, zero = jnp.ones((), x.dtype), jnp.zeros((), x.dtype)
    # Only a guess: nothing is near to where it was made.
    guessed = _curvature(metric, x)._replace(smallest=jnp.nan * one)
    begin = _Search(
        x=x,
        aux=aux,
        value=jnp.inf * one,
        gradient=jnp.zeros_like(x),
        B=guessed.B,
        direction=jnp.zeros_like(x),
        bend=zero,
        fraction=one,
        accepted=jnp.asarray(0),
        finished=jnp.asarray(False),
        stalled=jnp.asarray(False),
        ended=jnp.asarray(False),
        anew=jnp.asarray(True),
        evaluations=jnp.asarray(0),
    )
    state = _Round(
        search=begin,
        curvature=guessed,
        decrement=jnp.inf * one,
        certified=jnp.asarray(False),
        gave_up=jnp.asarray(False),
        hessians=jnp.asarray(0),
    )
    r = jax.lax.while_loop(go_on, one_round, state)
    s = r.search
    return Minimum(
        x=s.x,
        aux=s.aux,
        value=s.value,
        gradient=s.gradient,
        hessian=r.curvature.hessian,
        decrement=r.decrement,
        smallest=r.curvature.smallest,
        evaluations=s.evaluations,
        hessians=r.hessians,
        gave_up=r.gave_up,
        certified=r.certified,
    )
