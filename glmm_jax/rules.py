"""Functions whose derivative is said and not computed, to any order and through every loop.

A rule belongs to a primitive of its own and not to a `jax.custom_jvp`: in reverse mode
`jax.lax.scan` and `jax.lax.map` drop a `custom_jvp` and keep the plain function (jax 0.10), so that
a second derivative would be that of how the value was found, or zero where it was given, without
a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import update_wrapper
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

Flat = Sequence[Any]  # leaves of a pytree
Function = Callable[..., Flat]  # of leaves
Rule = Callable[[Flat, Flat], tuple[Flat, Flat]]  # of leaves and their tangents, None for rest


class with_rule:
    """Function of arrays, differentiated by the rule that `defjvp` gives it.

    The rule takes what `jax.custom_jvp` hands to one: the static arguments, the other arguments as
    a tuple, and their tangents. The tangent of an argument at rest is None (see `part`). The rule
    calls the function again, so that derivatives of any order follow.

    Raises
    ------
    TypeError : a derivative without the shape and type of its value.

    Parameters
    ----------
    function : of pytrees of arrays.
    static_argnums : positions of arguments that are no arrays; hashable.
    """

    def __init__(self, function: Callable, static_argnums: tuple[int, ...] = ()):
        update_wrapper(self, function)
        self._signature = inspect.signature(function)
        self._static = static_argnums
        # One trace for all calls with the same shapes.
        self._compiled = jax.jit(function, static_argnums=static_argnums, inline=True)

    def defjvp(self, rule: Callable) -> Callable:
        """Take the rule; to be used as a decorator."""
        self._rule = rule
        return rule

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.args
        static = tuple(arguments[i] for i in self._static)
        arrays = tuple(a for i, a in enumerate(arguments) if i not in self._static)
        leaves, tree = jax.tree.flatten(arrays)
        traced = self._compiled.trace(*arguments)

        def rule(primals: Flat, tangents: Flat) -> tuple[Flat, Flat]:
            at, moved = tree.unflatten(primals), tree.unflatten(tangents)
            moved = tuple(map(_whole, at, moved))
            value, change = map(jax.tree.leaves, self._rule(*static, at, moved))
            for v, c in zip(value, change, strict=True):
                if jnp.shape(v) != jnp.shape(c) or jnp.result_type(v) != jnp.result_type(c):
                    raise TypeError(
                        f"{self._rule.__name__}: a derivative of shape {jnp.shape(c)} and type "
                        f"{jnp.result_type(c)} of a value of shape {jnp.shape(v)} and type "
                        f"{jnp.result_type(v)}"
                    )
            return value, change

        # The settings that held here are in the trace, whenever the program is lowered.
        out = call(jaxpr_as_fun(traced.jaxpr), rule, traced.jaxpr.out_avals, leaves)
        return traced.out_tree.unflatten(out)


def part(coefficient: Callable[[], Any], tangent: Any) -> Any:
    """coefficient * tangent; 0, and no coefficient computed, for an argument at rest."""
    return 0.0 if tangent is None else coefficient() * tangent


def _whole(at: Any, moved: Any) -> Any:
    """Tangent of one argument: None where all of it rests, zeros for a part that does."""
    leaves, tree = jax.tree.flatten(at)
    tangents = tree.flatten_up_to(moved)
    if all(tangent is None for tangent in tangents):
        return None
    pairs = zip(leaves, tangents, strict=True)
    return tree.unflatten([_zero(a) if t is None else t for a, t in pairs])


def _zero(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)


def call(function: Function, rule: Rule, avals: Iterable[Any], leaves: Flat) -> Flat:
    """function(*leaves), of given shapes and types, to be differentiated by the rule."""
    return _ruled.bind(*leaves, function=function, rule=rule, avals=tuple(avals))


_ruled = Primitive("ruled")
_ruled.multiple_results = True


@_ruled.def_impl
def _value(*leaves: Any, function: Function, **_: Any) -> Flat:
    return function(*leaves)


@_ruled.def_abstract_eval
def _shapes(*_: Any, avals: Flat, **__: Any) -> Flat:
    return avals


def _jvp(primals: Flat, tangents: Flat, *, rule: Rule, **_: Any) -> tuple[Flat, Flat]:
    def rests(tangent: Any) -> bool:
        return isinstance(tangent, ad.Zero) or tangent.dtype == jax.dtypes.float0

    return rule(primals, [None if rests(tangent) else tangent for tangent in tangents])


def _batched(
    leaves: Flat, axes: Flat, *, function: Function, rule: Rule, avals: Flat
) -> tuple[Flat, Flat]:
    size, mesh, spread = next(
        (a.shape[axis], a.sharding.mesh, a.sharding.spec[axis])
        for a, axis in zip(map(jax.typeof, leaves), axes, strict=True)
        if axis is not None
    )

    def wider(aval: Any) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(spread, *aval.sharding.spec))
        return aval.update(shape=(size, *aval.shape), sharding=sharding)

    def lanes(primals: Flat, tangents: Flat) -> tuple[Flat, Flat]:
        moving = [i for i, tangent in enumerate(tangents) if tangent is not None]

        def lane(primals: Flat, moved: Flat) -> tuple[Flat, Flat]:
            parts = dict(zip(moving, moved, strict=True))
            return rule(primals, [parts.get(i) for i in range(len(axes))])

        mapped = jax.vmap(lane, in_axes=(list(axes), [axes[i] for i in moving]))
        return mapped(list(primals), [tangents[i] for i in moving])

    mapped = jax.vmap(function, in_axes=tuple(axes))
    return call(mapped, lanes, map(wider, avals), leaves), [0] * len(avals)


ad.primitive_jvps[_ruled] = _jvp
batching.primitive_batchers[_ruled] = _batched
mlir.register_lowering(_ruled, mlir.lower_fun(_value, multiple_results=True))
