"""optax behind one adapter: any gradient transformation as the first phase of a search."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import optax

NAMES = ("quasi-newton", "newton", "lbfgs")
# The first phase ends when a step changes nothing that the second would not settle in one round.
GRADIENT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class FirstOrder:
    """A method of search: its name, and for optax methods the gradient transformation."""

    name: str
    transformation: optax.GradientTransformation | None = None

    @staticmethod
    def of(optimizer: Any) -> FirstOrder:
        """The method that an `optimizer=` argument names.

        Raises:
            ValueError: neither a known name nor an optax gradient transformation.
        """
        if isinstance(optimizer, FirstOrder):
            return optimizer
        if optimizer == "lbfgs":
            return FirstOrder("lbfgs", _lbfgs())
        if isinstance(optimizer, str) and optimizer in NAMES:
            return FirstOrder(optimizer)
        # Whoever has a transformation has imported optax; others need not wait for it.
        optax: Any = sys.modules.get("optax")
        given: Any = optimizer
        if optax is not None and isinstance(given, optax.GradientTransformation):
            return FirstOrder("optax", given)
        raise ValueError(
            f"optimizer={optimizer!r}; use one of {', '.join(map(repr, NAMES))} or an optax "
            "gradient transformation such as optax.adam(0.05)"
        )


@cache
def _lbfgs() -> optax.GradientTransformation:
    import optax

    return optax.lbfgs()


def descend(
    method: FirstOrder, evaluate: Callable, x: jax.Array, aux: Any, max_steps: int
) -> tuple[jax.Array, Any, jax.Array]:
    """Follow the transformation until the gradient is small: x, aux and the evaluations used."""
    import optax

    assert method.transformation is not None
    transformation = optax.with_extra_args_support(method.transformation)

    def value_fn(x: jax.Array, aux: Any) -> jax.Array:
        return evaluate(x, aux)[0][0]

    def body(state):
        x, aux, inner, _, steps = state
        (value, new_aux), gradient = evaluate(x, aux)
        updates, inner = transformation.update(
            gradient, inner, x, value=value, grad=gradient, value_fn=lambda z: value_fn(z, aux)
        )
        new = x + updates
        sound = jnp.isfinite(value)
        aux = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new_aux, aux)
        active = sound & (jnp.max(jnp.abs(gradient)) > GRADIENT_TOLERANCE)
        return jnp.where(active, new, x), aux, inner, active, steps + 1

    state = x, aux, transformation.init(x), jnp.asarray(True), jnp.asarray(0)
    x, aux, _, _, steps = jax.lax.while_loop(lambda s: s[3] & (s[4] < max_steps), body, state)
    return x, aux, steps
