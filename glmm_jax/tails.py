"""Elementwise functions behind the links, accurate relative to their value in both tails.

Automatic differentiation of the textbook formulas loses digits where a probability is near 0 or 1;
these are written, or given derivative rules, so that the first three derivatives keep them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax.rules import with_rule

# exp(-exp(8)) is 0 in float64 (and float32): beyond it a complementary log-log tail is exactly
# what rounding makes of it, and its derivatives are exactly zero.
DOUBLE_EXPONENTIAL_UNDERFLOW = 8.0

# With Bernoulli numbers B, for e <= 1, where the first term left out is below 1e-17 of the sum:
#   log(sinh(z) / z)          = sum over k >= 1 of  2^(2k-1) B_2k / (k (2k)!)  z^2k,   z = e / 2
#   e / expm1(e) - 1 + e / 2  = sum over k >= 1 of  B_2k / (2k)!  e^2k
_LOG_SINHC = (
    1 / 6,
    -1 / 180,
    1 / 2835,
    -1 / 37800,
    1 / 467775,
    -691 / 3831077250,
    2 / 127702575,
    -3617 / 2605132530000,
    43867 / 350813659321125,
    -174611 / 15313294652906250,
)
_EVEN_PART = tuple(2 * k * c / 4**k for k, c in enumerate(_LOG_SINHC, 1))


def polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, coefficients in ascending order."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def elementwise_derivative(function: Callable[[Array], Array], x: Array) -> Array:
    """Derivative of an elementwise function at each element of x, the shape of its value."""
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


# A logistic function whose derivative is a product, not s (1 - s): the latter loses one digit
# for each digit that s has in common with 1. The three functions share one exponential.
@with_rule
def logistic_density(x: Array) -> Array:
    """Density of the standard logistic distribution, exp(-|x|) / (1 + exp(-|x|))^2."""
    e = jnp.exp(-jnp.abs(x))
    return e / jnp.square(1.0 + e)


@logistic_density.defjvp
def _logistic_density_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    value = logistic_density(x)
    return value, tangent * (value * (1.0 - 2.0 * logistic(x)))


@with_rule
def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)), accurate relative to its value in the left tail."""
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0, e, 1.0) / (1.0 + e)


@logistic.defjvp
def _logistic_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return logistic(x), tangent * logistic_density(x)


@with_rule
def softplus(x: Array) -> Array:
    """log(1 + exp(x)) for any real x, with derivatives accurate in both tails."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return softplus(x), tangent * logistic(x)


# With e = exp(x), D = e / expm1(e) and q = e + D - 1:
#   d/dx log(1 - exp(-e)) = D,    dD/dx = -D q,    dq/dx = e - D q.
# q is about e/2 for small e, where the sum loses all its digits: hence the series. The derivative
# of q loses one bit. The rules also keep programs small: differentiating the formulas below three
# times in reverse took XLA 15 s to compile.
def _bounded_exp(x: Array) -> Array:
    """exp(x), held where exp(-exp(x)) has become zero, so that no product is 0 * inf."""
    bound = DOUBLE_EXPONENTIAL_UNDERFLOW
    return jnp.where(x > bound, math.exp(bound), jnp.exp(x))


def _slope_and_excess(x: Array) -> tuple[Array, Array]:
    """D and q."""
    e = _bounded_exp(x)
    left = x < 0
    series = 0.5 * e + e * e * polynomial(_EVEN_PART, jnp.where(left, e * e, 1.0))
    tail = jnp.exp(-e)
    # 1/2 stands in for 1 - exp(-e) where that is zero and not used.
    quotient = e * tail / jnp.where(left, 0.5, 1.0 - tail)
    return jnp.where(left, 1.0 - e + series, quotient), jnp.where(left, series, e + quotient - 1.0)


@with_rule
def log_one_minus_exp_neg_exp(x: Array) -> Array:
    """log(1 - exp(-exp(x))), accurate in both tails with its derivatives.

    With e = exp(x): for e < 1 it is x - e/2 + log(sinh(e/2) / (e/2)), the last term by its series;
    otherwise log1p(-exp(-e)).
    """
    e = _bounded_exp(x)
    left = x < 0
    square = jnp.where(left, 0.25 * e * e, 0.25)
    small = x - 0.5 * e + square * polynomial(_LOG_SINHC, square)
    return jnp.where(left, small, jnp.log1p(-jnp.exp(-e)))


@log_one_minus_exp_neg_exp.defjvp
def _log_one_minus_exp_neg_exp_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return log_one_minus_exp_neg_exp(x), tangent * _double_exponential_slope(x)


@with_rule
def _double_exponential_slope(x: Array) -> Array:
    return _slope_and_excess(x)[0]


@_double_exponential_slope.defjvp
def _double_exponential_slope_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    slope = _double_exponential_slope(x)
    return slope, -tangent * (slope * _double_exponential_excess(x))


@with_rule
def _double_exponential_excess(x: Array) -> Array:
    return _slope_and_excess(x)[1]


@_double_exponential_excess.defjvp
def _double_exponential_excess_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    excess = _double_exponential_excess(x)
    return excess, tangent * (_bounded_exp(x) - _double_exponential_slope(x) * excess)


def double_exponential_information(x: Array) -> Array:
    """mu'^2 / (mu (1 - mu)) for mu = 1 - exp(-exp(x)): D exp(x), zero where exp(-exp(x)) is."""
    return _double_exponential_slope(x) * _bounded_exp(x)


def cauchy_tail(a: Array) -> Array:
    """P(C > a) of a standard Cauchy variable for a >= 0: atan(1 / a) / pi, in (0, 1/2]."""
    return jnp.arctan2(jnp.ones_like(a), a) / math.pi
