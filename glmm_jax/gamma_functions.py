"""Differences of log-gamma functions that keep their digits for large and for small arguments.

A density such as the negative binomial has log Gamma(k + y) - log Gamma(k), which loses every digit
for large k (the Poisson limit) when formed from two values of log Gamma. The functions here are
those differences with the large parts cancelled by hand. They are elementary expressions, so every
derivative follows by automatic differentiation and costs a few operations.

Arguments that are exponentials in a likelihood are given by their logarithms: no tail underflows.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from glmm_jax.tails import polynomial, softplus

# B_2k / (2k (2k - 1)): Stirling's series in 1 / x, odd powers from the first. From x = 8 the first
# term left out is below 1e-16, also after four derivatives.
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
    43867 / 244188,
    -174611 / 125400,
)
_SHIFT = 8
# Above exp(80) each function here is zero to rounding: the argument is held, so that no product
# in a derivative overflows.
_HELD = 80.0

# (1 + d) log(1 + d) - d = sum over k >= 2 of (-d)^k / (k (k - 1)); enough for |d| < 0.03.
_ENTROPY_SERIES = tuple((-1) ** k / (k * (k - 1)) for k in range(2, 13))
_ENTROPY_RADIUS = 0.03


def _held(log_x: Array) -> Array:
    return jnp.where(log_x > _HELD, _HELD, log_x)


def _series(x: Array) -> Array:
    inverse = 1.0 / x
    return inverse * polynomial(_STIRLING, inverse * inverse)


def stirling_remainder(log_x: Array) -> Array:
    """S(x) = log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2 for x = exp(log_x) > 0.

    About 1 / (12 x) for large x and -log(x) / 2 for small x. Below 8 by eight steps of
    Gamma(x + 1) = x Gamma(x), then Stirling's series. Absolute error about 1e-15.
    """
    log_x = _held(log_x)
    x = jnp.exp(log_x)
    low = x < _SHIFT
    small = jnp.where(low, x, 1.0)
    product = small + 1.0
    for step in range(2, _SHIFT):
        product = product * (small + step)
    there = small + _SHIFT
    shifted = (
        (there - 0.5) * jnp.log(there)
        - _SHIFT
        - (small + 0.5) * jnp.where(low, log_x, 0.0)
        - jnp.log(product)
    )
    series = _series(jnp.where(low, there, x))
    return series + jnp.where(low, shifted, 0.0)


def log_rising(log_a: Array, y: Array) -> Array:
    """log Gamma(a + y) - log Gamma(a) - y log a, for a = exp(log_a) > 0 and y >= 0.

    For an integer y the sum over j < y of log(1 + j / a); zero in the limit of large a. Absolute
    error about 1e-15 max(1, y), in the value and in derivatives with respect to log a.
    """
    log_a = _held(log_a)
    a = jnp.exp(log_a)
    positive = y > 0
    y = jnp.where(positive, y, 1.0)
    near, far = jnp.ones_like(a * y), jnp.ones_like(a * y)
    for step in range(1, _SHIFT // 2):
        near = near * (1.0 + y / (a + step))
    for step in range(_SHIFT // 2, _SHIFT):
        far = far * (1.0 + y / (a + step))
    b = a + _SHIFT
    # log Gamma(b + y) - log Gamma(b) - y log b by Stirling, then eight steps down from b to a.
    upper = (b + y - 0.5) * jnp.log1p(y / b) - y + _series(b + y) - _series(b)
    steps = softplus(jnp.log(y) - log_a) + jnp.log(near) + jnp.log(far)
    value = upper + y * softplus(math.log(_SHIFT) - log_a) - steps
    return jnp.where(positive, value, 0.0)


def entropy_excess(d: Array) -> Array:
    """(1 + d) log(1 + d) - d for d > -1, accurate relative to its value near 0 (d^2 / 2)."""
    near = jnp.abs(d) < _ENTROPY_RADIUS
    small = jnp.where(near, d, 0.0)
    other = jnp.where(near, 1.0, d)
    direct = (1.0 + other) * jnp.log1p(other) - other
    return jnp.where(near, small * small * polynomial(_ENTROPY_SERIES, small), direct)
