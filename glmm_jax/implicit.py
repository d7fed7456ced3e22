"""Implicit function theorem: derivatives of a root without a derivative of how it was found.

If r(x, a) = 0 defines x(a), then dx = -(dr/dx)^-1 (dr/da) da. The rule calls the differentiable
root again, so derivatives of any order, forward and reverse, follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax


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


@root.defjvp
def _root_jvp(find, residual, solve, primals, tangents):
    arguments, guess = primals
    x = root(find, residual, solve, arguments, guess)
    change = jax.jvp(lambda a: residual(x, a), (arguments,), (tangents[0],))[1]
    return x, solve(x, arguments, change)
