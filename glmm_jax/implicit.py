"""Implicit function theorem: derivatives of a root without a derivative of how it was found.

If r(x, a) = 0 defines x(a), then dx = -(dr/dx)^-1 (dr/da) da. The rule calls the differentiable
root again, so derivatives of any order, forward and reverse, follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax import rules


def root(
    find: Callable[[Any, Any], Any],
    residual: Callable[[Any, Any], Any],
    solve: Callable[[Any, Any, Any], Any],
    arguments: Any,
    guess: Any,
) -> Any:
    """x with residual(x, arguments) = 0, differentiable in the arguments.

    Parameters
    ----------
    find : (arguments, guess) -> x; never differentiated.
    residual : (x, arguments) -> r, shaped as x; differentiated in the arguments.
    solve : (x, arguments, r) -> (-dr/dx)^-1 r, linear in r.
    arguments : pytree of arrays; integer leaves carry no derivative.
    guess : where `find` starts; the root does not depend on it, so it carries no derivative.
    """

    def change(x: Any, arguments: Any, direction: Any) -> Any:
        moved = along(lambda moved: residual(x, moved), arguments, direction)
        return solve(x, arguments, moved)

    return known(find, change, arguments, guess)


def known(
    find: Callable[[Any, Any], Any],
    change: Callable[[Any, Any, Any], Any],
    arguments: Any,
    guess: Any,
) -> Any:
    """find(arguments, guess), shaped as the guess, whose derivative is said and not computed.

    Parameters
    ----------
    find : never differentiated.
    change : (x, arguments, direction) -> dx along a direction in which None is an array at rest;
        differentiated again for derivatives of higher order.
    arguments, guess : pytrees of arrays; the guess carries no derivative.
    """
    guesses, shape = jax.tree.flatten(guess)
    leaves, tree = jax.tree.flatten(arguments)
    count = len(guesses)
    # The search is traced where the program is lowered, outside of whatever context this is.
    precision = jax.config.values["jax_default_matmul_precision"]

    def function(*flat: Any) -> list[Any]:
        with jax.default_matmul_precision(precision):
            found = find(tree.unflatten(flat[count:]), shape.unflatten(flat[:count]))
        return jax.tree.leaves(found)

    def rule(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
        given, at = shape.unflatten(primals[:count]), tree.unflatten(primals[count:])
        x = known(find, change, at, given)
        return jax.tree.leaves(x), jax.tree.leaves(change(x, at, list(tangents[count:])))

    avals = [jax.typeof(a).update(weak_type=False) for a in guesses]
    out = rules.call(function, rule, avals, [*guesses, *leaves])
    return shape.unflatten(out)


def along(function: Callable[[Any], Any], at: Any, direction: Any) -> Any:
    """Derivative of a function of a pytree along a direction whose leaves may be None, for zero.

    Only what moves is differentiated: tangents of zero through all of a model cost as much as any.
    """
    leaves, tree = jax.tree.flatten(at)
    tangents = jax.tree.leaves(direction, is_leaf=lambda tangent: tangent is None)
    moving = [i for i, tangent in enumerate(tangents) if tangent is not None]
    if not moving:
        return jax.tree.map(jnp.zeros_like, function(at))

    def moved(*parts: Any) -> Any:
        whole = list(leaves)
        for i, part in zip(moving, parts, strict=True):
            whole[i] = part
        return function(tree.unflatten(whole))

    return jax.jvp(moved, [leaves[i] for i in moving], [tangents[i] for i in moving])[1]
