"""What JAX traced, computed by NumPy one operation after another.

A derivative of an estimate of second order is a program of 40,000 operations, which XLA compiles
for half a minute and which a test on sixty rows runs a few times, in a second each. What is tested
is the derivative, not its compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

ELEMENTWISE: dict[str, Callable] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "neg": np.negative, "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p,
    "sqrt": np.sqrt, "square": np.square, "abs": np.abs, "max": np.maximum, "eq": np.equal,
    "ne": np.not_equal, "gt": np.greater, "ge": np.greater_equal, "lt": np.less,
    "le": np.less_equal, "stop_gradient": np.asarray,
}  # fmt: skip


def _broadcast(a: Any, *, shape: tuple, broadcast_dimensions: tuple, **_: Any) -> np.ndarray:
    wide = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, np.shape(a), strict=True):
        wide[axis] = size
    return np.broadcast_to(np.reshape(a, wide), shape)


def _slice(
    a: Any, *, start_indices: tuple, limit_indices: tuple, strides: tuple | None
) -> np.ndarray:
    steps = strides or (1,) * np.ndim(a)
    return np.asarray(a)[tuple(map(slice, start_indices, limit_indices, steps))]


def _dot(a: Any, b: Any, *, dimension_numbers: tuple, **_: Any) -> np.ndarray:
    (summed, summed_b), (batch, batch_b) = dimension_numbers
    left, right = list(range(np.ndim(a))), [np.ndim(a) + i for i in range(np.ndim(b))]
    for i, j in zip((*summed, *batch), (*summed_b, *batch_b), strict=True):
        right[j] = left[i]
    free = [i for i in left if i not in (*summed, *batch)]
    own = [k for j, k in enumerate(right) if j not in (*summed_b, *batch_b)]
    return np.einsum(a, left, b, right, [*batch, *free, *own])


def _iota(*, dtype: Any, shape: tuple, dimension: int, **_: Any) -> np.ndarray:
    along = [-1 if axis == dimension else 1 for axis in range(len(shape))]
    return np.broadcast_to(np.arange(shape[dimension], dtype=dtype).reshape(along), shape)


def _pad(a: Any, filler: Any, *, padding_config: tuple) -> np.ndarray:
    sizes = []
    for size, (low, high, between) in zip(np.shape(a), padding_config, strict=True):
        sizes.append(low + size + high + max(size - 1, 0) * between)
    out, inside, kept = np.full(sizes, filler), [], []
    for size, wide, (low, _, between) in zip(np.shape(a), sizes, padding_config, strict=True):
        at = low + np.arange(size) * (between + 1)  # some may be cut off
        seen = (at >= 0) & (at < wide)
        inside.append(at[seen])
        kept.append(np.flatnonzero(seen))
    out[np.ix_(*inside)] = np.asarray(a)[np.ix_(*kept)]
    return out


STRUCTURAL: dict[str, Callable] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *parts, dimension: np.concatenate(parts, dimension),
    "convert_element_type": lambda a, *, new_dtype, **_: np.asarray(a, new_dtype),
    "dot_general": _dot,
    "iota": _iota,
    "integer_pow": lambda a, *, y: np.asarray(a) ** float(y),
    "pad": _pad,
    "reduce_sum": lambda a, *, axes, **_: np.sum(a, axis=tuple(axes)),
    "reshape": lambda a, *, new_sizes, **_: np.reshape(a, new_sizes),
    "select_n": lambda which, *cases: np.choose(which, cases),
    "slice": _slice,
    "squeeze": lambda a, *, dimensions: np.squeeze(a, tuple(dimensions)),
    "transpose": lambda a, *, permutation: np.transpose(a, permutation),
}


def interpreted(function: Callable, *example: Any) -> Callable:
    """The function of pytrees of arrays, traced once for shapes and types as in the example."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
    tree, inner = jax.tree.structure(shape), {}

    def run(closed: Any, values: list) -> list:
        found = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
        found |= zip(closed.jaxpr.invars, values, strict=True)

        def read(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else found[atom]

        for equation in closed.jaxpr.eqns:
            at = list(map(read, equation.invars))
            out = results(equation.primitive, equation.params, at)
            found.update(zip(equation.outvars, out, strict=True))
        return list(map(read, closed.jaxpr.outvars))

    def results(primitive: Any, params: dict, at: list) -> list:
        name = primitive.name
        if name in ELEMENTWISE:
            return [ELEMENTWISE[name](*at)]
        if name in STRUCTURAL:
            return [STRUCTURAL[name](*at, **params)]
        if name == "jit":
            return run(params["jaxpr"], at)
        if name == "ruled":  # a function whose derivative is said, see `rules`: here its value
            known = params["function"]
            if known not in inner:
                inner[known] = jax.make_jaxpr(known)(*at)
            return run(inner[known], at)
        if name == "custom_linear_solve":
            counts = params["const_lengths"]
            first, last = sum(counts[:2]), sum(counts[:3])
            return run(params["jaxprs"].solve, at[first:last] + at[sum(counts) :])
        out = primitive.bind(*at, **params)
        return list(map(np.asarray, out if primitive.multiple_results else [out]))

    def call(*args: Any) -> Any:
        values = list(map(np.asarray, jax.tree.leaves(args)))
        with np.errstate(all="ignore"):  # branches that are not taken
            return jax.tree.unflatten(tree, run(closed, values))

    return call
