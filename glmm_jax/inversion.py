"""Inverse of an elementwise monotone function, by bracketing and bisection.

For what has no inverse in closed form: a link known by its inverse alone, the linear predictor at
which a truncated or an ordinal response has a given mean.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Brackets are sought between neighbours of 0, +-2^-10, +-2^-9, ..., +-2^40. Within one of them 60
# halvings leave the rounding of float64, and no more than it where the root is not near zero.
_POWERS = np.exp2(np.arange(-10.0, 41.0))
_GRID = np.concatenate([-_POWERS[::-1], [0.0], _POWERS])
_HALVINGS = 60


def inverse_of(function: Callable[[Array], Array], target: Array) -> Array:
    """x with function(x) = target, elementwise; NaN where no |x| <= 2^40 has that value.

    Args:
        function: elementwise, shape to the same shape; monotone where it is defined, NaN elsewhere.
            It may be increasing or decreasing, and may close over arrays that broadcast with
            `target` and over which is differentiated.
        target: the values, any shape.

    Returns:
        x in the shape of `target`, to the rounding of `function`; differentiable to any order, by
        the implicit function theorem.
    """

    def find(excess: Callable[[Array], Array], guess: Array) -> Array:
        # The sign at each point of the grid, NaN where the function is not defined.
        grid = jnp.asarray(_GRID, guess.dtype)
        signs = jax.vmap(lambda x: jnp.sign(excess(jnp.full_like(guess, x))))(grid)
        bracket = signs[:-1] * signs[1:] <= 0
        found = jnp.any(bracket, axis=0)
        first = jnp.argmax(bracket, axis=0)
        below = jnp.take_along_axis(signs, first[None], axis=0)[0]

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = 0.5 * (low + high)
            same = jnp.sign(excess(middle)) == below
            return jnp.where(same, middle, low), jnp.where(same, high, middle)

        ends = jax.lax.fori_loop(0, _HALVINGS, halve, (grid[first], grid[first + 1]))
        # A zero at the lower end has no sign to compare with.
        x = jnp.where(below == 0, grid[first], 0.5 * (ends[0] + ends[1]))
        return jnp.where(found, x, jnp.nan)

    def solve(linear: Callable[[Array], Array], right: Array) -> Array:
        return right / linear(jnp.ones_like(right))

    return jax.lax.custom_root(lambda x: function(x) - target, jnp.zeros_like(target), find, solve)
