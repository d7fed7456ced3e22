"""Implicit function theorem: derivatives of a root without a derivative of how it was found.

If r(x, a) = 0 defines x(a), then dx = -(dr/dx)^-1 (dr/da) da. The rule calls the differentiable
root again, so derivatives of any order, forward and reverse, follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
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
    del residual, solve
    return find(arguments, guess)


def _root_jvp(find, residual, solve, primals, tangents):
    arguments, guess = primals
    x = root(find, residual, solve, arguments, guess)
    change = along(lambda moved: residual(x, moved), arguments, tangents[0])
    return x, solve(x, arguments, change)


root.defjvp(_root_jvp, symbolic_zeros=True)


def along(function: Callable[[Any], Any], at: Any, direction: Any) -> Any:
    """Derivative of a function of a pytree along a direction whose leaves may be `SymbolicZero`.

    Only what moves is differentiated: tangents of zero through all of a model cost as much as any.
    """
    leaves, tree = jax.tree.flatten(at)
    tangents = jax.tree.leaves(direction, is_leaf=_is_zero)
    moving = [i for i, tangent in enumerate(tangents) if not _is_zero(tangent)]
    if not moving:
        return jax.tree.map(jnp.zeros_like, function(at))

    def moved(*parts: Any) -> Any:
        whole = list(leaves)
        for i, part in zip(moving, parts, strict=True):
            whole[i] = part
        return function(tree.unflatten(whole))

    return jax.jvp(moved, [leaves[i] for i in moving], [tangents[i] for i in moving])[1]


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)
