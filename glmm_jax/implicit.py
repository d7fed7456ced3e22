"""Implicit function theorem: derivatives of a root without a derivative of how it was found.

If r(x, a) = 0 defines x(a), then dx = -(dr/dx)^-1 (dr/da) da. The rule calls the differentiable
root again, so derivatives of any order, forward and reverse, follow from it.

The rule belongs to a primitive of its own and not to a `jax.custom_jvp`: in reverse mode
`jax.lax.scan` and `jax.lax.map` drop a `custom_jvp` and keep the plain function (jax 0.10), so that
a second derivative would be that of the search, or zero where the root was given, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Flat = Sequence[Any]  # leaves of a pytree


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
    # The primitive is traced where it is lowered, outside of whatever context this is.
    precision = jax.config.values["jax_default_matmul_precision"]

    def function(*flat: Any) -> Flat:
        with jax.default_matmul_precision(precision):
            found = find(tree.unflatten(flat[count:]), shape.unflatten(flat[:count]))
        return jax.tree.leaves(found)

    def rule(primals: Flat, tangents: Flat) -> tuple[Flat, Flat]:
        given, at = shape.unflatten(primals[:count]), tree.unflatten(primals[count:])
        x = known(find, change, at, given)
        return jax.tree.leaves(x), jax.tree.leaves(change(x, at, list(tangents[count:])))

    out = _known.bind(*guesses, *leaves, function=function, rule=rule, count=count)
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


# Of the leaves of a guess, `count` of them, and of arguments: function gives the result, shaped as
# the guess; rule takes the same leaves and their tangents, None for zero.
_known = Primitive("known")
_known.multiple_results = True


@_known.def_impl
def _value(*flat: Any, function: Callable, rule: Callable, count: int) -> Flat:
    return function(*flat)


@_known.def_abstract_eval
def _shapes(*flat: Any, function: Callable, rule: Callable, count: int) -> Flat:
    return [a.update(weak_type=False) for a in flat[:count]]


def _jvp(
    primals: Flat, tangents: Flat, *, function: Callable, rule: Callable, count: int
) -> tuple[Flat, Flat]:
    def resting(tangent: Any) -> bool:
        return isinstance(tangent, ad.Zero) or tangent.dtype == jax.dtypes.float0

    return rule(primals, [None if resting(tangent) else tangent for tangent in tangents])


def _batched(
    flat: Flat, axes: Sequence[int | None], *, function: Callable, rule: Callable, count: int
) -> tuple[Flat, Flat]:
    size = next(a.shape[axis] for a, axis in zip(flat, axes, strict=True) if axis is not None)
    # The result has an axis of lanes if any of the arrays has, and so must the guess.
    guesses = [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(flat[:count], axes[:count], strict=True)
    ]
    axes = (*[0] * count, *axes[count:])

    def lanes(primals: Flat, tangents: Flat) -> tuple[Flat, Flat]:
        moving = [i for i, tangent in enumerate(tangents) if tangent is not None]

        def lane(primals: Flat, moved: Flat) -> tuple[Flat, Flat]:
            parts = dict(zip(moving, moved, strict=True))
            return rule(primals, [parts.get(i) for i in range(len(axes))])

        mapped = jax.vmap(lane, in_axes=(list(axes), [axes[i] for i in moving]))
        return mapped(list(primals), [tangents[i] for i in moving])

    out = _known.bind(
        *guesses, *flat[count:], function=jax.vmap(function, in_axes=axes), rule=lanes, count=count
    )
    return out, [0] * len(out)


ad.primitive_jvps[_known] = _jvp
batching.primitive_batchers[_known] = _batched
mlir.register_lowering(_known, mlir.lower_fun(_value, multiple_results=True))
