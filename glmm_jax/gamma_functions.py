"""Differences of log-gamma functions that keep their digits for large and for small arguments.

A density such as the negative binomial has log Gamma(k + y) - log Gamma(k), which loses every digit
for large k (the Poisson limit) when formed from two values of log Gamma. The functions here are
those differences with the large parts cancelled by hand. Arguments that are exponentials in a
likelihood are given by their logarithms: no tail underflows.

Derivatives with respect to log x follow by rules, the k-th from

    (x d/dx)^k log Gamma(x) = sum over m of S(k, m) x^m psi^(m-1)(x),

S(k, m) Stirling's numbers of the second kind, and from the asymptotic series of psi^(m-1) after
eight steps of the recurrence. Differentiating the formulas of the values automatically gives the
same digits, but programs that take XLA a minute to compile.
"""

from __future__ import annotations

import math
from functools import partial

import jax.numpy as jnp
from jax import Array

from glmm_jax.rules import part, with_rule
from glmm_jax.tails import elementwise_derivative, polynomial, softplus

# Bernoulli numbers B_2, B_4, ...: from x = 8 the first term left out is below 1e-15 of the leading
# one in every function here.
_BERNOULLI = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)
_SHIFT = 8
# Above exp(80) each function here is zero to rounding (for counts below 1e9): the argument is held,
# so that no product overflows; in single precision above exp(40).
_HELD, _HELD_SINGLE = 80.0, 40.0

# (1 + d) log(1 + d) - d = sum over k >= 2 of (-d)^k / (k (k - 1)); enough for |d| < 0.03.
_ENTROPY_SERIES = tuple((-1) ** k / (k * (k - 1)) for k in range(2, 13))
_ENTROPY_RADIUS = 0.03


def _held(log_x: Array) -> Array:
    held = _HELD_SINGLE if jnp.finfo(log_x.dtype).bits < 64 else _HELD
    return jnp.where(log_x > held, held, log_x)


def _second_kind(k: int, m: int) -> int:
    """Stirling's number of the second kind."""
    if m in (0, k):
        return int(m == k)
    return m * _second_kind(k - 1, m) + _second_kind(k - 1, m - 1)


def _series(m: int, x: Array) -> Array:
    """sum over k of B_2k (2k + m - 2)! / (2k)! x^(1 - 2k): of log Gamma (m = 0) and psi^(m-1)."""
    inverse = 1.0 / x
    coefficients = tuple(
        b * math.factorial(2 * k + m - 2) / math.factorial(2 * k)
        for k, b in enumerate(_BERNOULLI, 1)
    )
    return inverse * polynomial(coefficients, inverse * inverse)


def _remainder_far(order: int, x: Array) -> Array:
    """(x d/dx)^order of S for x >= 8."""
    inverse = 1.0 / x
    coefficients = tuple(
        b / (2 * k * (2 * k - 1)) * (1 - 2 * k) ** order for k, b in enumerate(_BERNOULLI, 1)
    )
    return inverse * polynomial(coefficients, inverse * inverse)


def stirling_series(x: Array) -> Array:
    """S(x) of `stirling_remainder` by its asymptotic series, for x >= 8."""
    return _series(0, x)


def _steps(x: Array) -> Array:
    """(x + 1) (x + 2) ... (x + 7), factors paired as x (x + 8) + j (8 - j)."""
    w = x * (x + 8.0)
    return (w + 7.0) * (w + 12.0) * (w + 15.0) * (x + 4.0)


def _remainder_near(order: int, x: Array, log_x: Array) -> Array:
    """(x d/dx)^order of S for x < 8."""
    there = x + _SHIFT
    if order == 0:
        upper = (there - 0.5) * jnp.log(there) - _SHIFT + _series(0, there)
        return upper - (x + 0.5) * log_x - jnp.log(_steps(x))
    # Less the derivatives of (x - 1/2) log x - x.
    value = -x * log_x - (order - 1) * x if order > 1 else 0.5 - x * log_x
    share = x / there
    shares = [x / (x + step) for step in range(1, _SHIFT)]
    for m in range(1, order + 1):
        lead = -x * jnp.log(there) if m == 1 else math.factorial(m - 2) * x * share ** (m - 1)
        rest = share**m * (0.5 * math.factorial(m - 1) + _series(m, there))
        steps = math.factorial(m - 1) * (1.0 + sum(r**m for r in shares))
        value = value + (-1) ** m * _second_kind(order, m) * (lead + rest + steps)
    return value


def stirling_remainder(log_x: Array) -> Array:
    """S(x) = log Gamma(x) - (x - 1/2) log x + x - log(2 pi) / 2 for x = exp(log_x) > 0.

    About 1 / (12 x) for large x and -log(x) / 2 for small x. Absolute error about 1e-14, in the
    derivatives with respect to log x too.
    """
    return _remainder(0, log_x)


@partial(with_rule, static_argnums=(0,))
def _remainder(order: int, log_x: Array) -> Array:
    log_x = _held(log_x)
    x = jnp.exp(log_x)
    low = x < _SHIFT
    far = _remainder_far(order, jnp.where(low, float(_SHIFT), x))
    near = _remainder_near(order, jnp.where(low, x, 1.0), jnp.where(low, log_x, 0.0))
    return jnp.where(low, near, far)


@_remainder.defjvp
def _remainder_jvp(order, primals, tangents):
    return _remainder(order, *primals), _remainder(order + 1, *primals) * tangents[0]


def log_factorial(y: Array) -> Array:
    """log Gamma(y + 1) for y >= 0, a third of the price of `jax.scipy.special.gammaln`."""
    x = y + 1.0
    near = x < _SHIFT
    low = jnp.where(near, x, 1.0)  # the product of large numbers would overflow
    steps = low
    for i in range(1, _SHIFT):
        steps = steps * (low + i)
    far = jnp.where(near, x + _SHIFT, x)
    stirling = (far - 0.5) * jnp.log(far) - far + _series(0, far) + 0.5 * math.log(2.0 * math.pi)
    return stirling - jnp.where(near, jnp.log(steps), 0.0)


def log_rising(log_a: Array, y: Array) -> Array:
    """log Gamma(a + y) - log Gamma(a) - y log a, for a = exp(log_a) > 0 and y >= 0.

    For an integer y the sum over j < y of log(1 + j / a); zero in the limit of large a. Absolute
    error about 1e-14 max(1, y), in the value and in derivatives with respect to log a.
    """
    return _rising(0, log_a, y)


@partial(with_rule, static_argnums=(0,))
def _rising(order: int, log_a: Array, y: Array) -> Array:
    return _rising_value(order, log_a, y)


@_rising.defjvp
def _rising_jvp(order, primals, tangents):
    log_a, y = primals
    value = _rising(order, log_a, y)
    # The response is data in nearly every use.
    along_y = part(
        lambda: elementwise_derivative(
            lambda y: _rising_value(order, log_a, y), y * jnp.ones_like(value)
        ),
        tangents[1],
    )
    return value, part(lambda: _rising(order + 1, log_a, y), tangents[0]) + along_y


def _rising_value(order: int, log_a: Array, y: Array) -> Array:
    log_a = _held(log_a)
    a = jnp.exp(log_a)
    positive = y > 0
    y = jnp.where(positive, y, 1.0)
    b = a + _SHIFT
    if order == 0:
        # log Gamma(b + y) - log Gamma(b) - y log b by Stirling, then eight steps down from b to a.
        upper = (b + y - 0.5) * jnp.log1p(y / b) - y + _series(0, b + y) - _series(0, b)
        w, v = a * b, (a + y) * (b + y)
        near = (v + 7.0) / (w + 7.0) * ((v + 12.0) / (w + 12.0))
        far = (v + 15.0) / (w + 15.0) * ((a + y + 4.0) / (a + 4.0))
        steps = softplus(jnp.log(y) - log_a) + jnp.log(near) + jnp.log(far)
        value = upper + y * softplus(math.log(_SHIFT) - log_a) - steps
        return jnp.where(positive, value, 0.0)
    low, high = a / b, a / (b + y)
    value = -y if order == 1 else jnp.zeros_like(y)
    for m in range(1, order + 1):
        if m == 1:
            lead = -a * jnp.log1p(y / b)
        else:
            # a (high^(m-1) - low^(m-1)), without the cancellation for large a.
            powers = sum(high**i * low ** (m - 2 - i) for i in range(m - 1))
            lead = -math.factorial(m - 2) * y * low * high * powers
        half = 0.5 * math.factorial(m - 1)
        rest = high**m * (half + _series(m, b + y)) - low**m * (half + _series(m, b))
        steps = sum((a / (a + y + j)) ** m - (a / (a + j)) ** m for j in range(_SHIFT))
        total = lead + rest + math.factorial(m - 1) * steps
        value = value + (-1) ** m * _second_kind(order, m) * total
    return jnp.where(positive, value, 0.0)


def entropy_excess(d: Array) -> Array:
    """(1 + d) log(1 + d) - d for d > -1, accurate relative to its value near 0 (d^2 / 2)."""
    near = jnp.abs(d) < _ENTROPY_RADIUS
    small = jnp.where(near, d, 0.0)
    other = jnp.where(near, 1.0, d)
    direct = (1.0 + other) * jnp.log1p(other) - other
    return jnp.where(near, small * small * polynomial(_ENTROPY_SERIES, small), direct)
