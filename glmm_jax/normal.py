"""Standard normal distribution function and its logarithm, accurate in both tails to all orders.

`jax.scipy.special.log_ndtr` has a derivative formed from exp(-x^2/2 - log Phi(x)); at x = -700 the
two terms of the exponent are 245,000 and cancel, which leaves five digits in the second derivative.
Here everything follows from one function without cancellation, the excess of the normal hazard,

    r(a) = phi(a) / Phi(-a) - a,      a >= 0,      r(a) ~ 1 / a for large a,

by the identities, with h(a) = a + r(a) and m(x) = phi(x) / Phi(x) (the inverse Mills ratio),

    log Phi(-a) = -a^2/2 - log sqrt(2 pi) - log h(a)        log Phi(a) = log1p(-phi(a) / h(a))
    (log Phi)'  = m(x)        m'(x) = -m(x) (x + m(x))        x + m(x) = r(-x) for x < 0

One exponential, one rational function and one log1p give the value; derivatives reuse the first
two and need no other transcendental function.
"""

from __future__ import annotations

import math
from functools import partial

import jax.numpy as jnp
from jax import Array

from glmm_jax.rules import with_rule
from glmm_jax.tails import polynomial

_SQRT_2PI = math.sqrt(2 * math.pi)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)

# (a + 5) r(a) = N(w) / D(w), w = (a - 5) / (a + 5) in [-1, 1), on the whole half line a >= 0:
# rational interpolation at the 23 Chebyshev points of w, computed with 60 digits. The largest
# relative error of r is 1.2e-17, below the rounding of float64. All coefficients of D are
# positive and w is bounded, so nothing cancels much and nothing overflows, float32 included.
# Ascending powers of w.
_SHIFT = 5.0
_NUMERATOR = (
    1.8650396712584212,
    0.27269206651854205,
    2.0631559470930334,
    0.12798216475071236,
    0.8380628425573179,
    -0.009582284847775282,
    0.14590055768128002,
    -0.00953868391798986,
    0.009813471337123469,
    -0.0008615472363951462,
    0.00016730862036978171,
    -9.044779376489134e-06,
)
_DENOMINATOR = (
    1.0,
    0.8993352167354169,
    1.3874935961265182,
    0.8565784037441614,
    0.6804307320391246,
    0.28666267985717175,
    0.14104865777312264,
    0.03802564482213975,
    0.011385274581093889,
    0.001615326021083135,
    0.00024021625873557606,
    6.721076695410813e-06,
)


def _hazard_excess(a: Array) -> Array:
    """r(a) = phi(a) / Phi(-a) - a for a >= 0."""
    reciprocal = 1.0 / (a + _SHIFT)
    # Not (a - 5) * reciprocal: the derivative of that form cancels for large a.
    w = 1.0 - 2.0 * _SHIFT * reciprocal
    return reciprocal * (polynomial(_NUMERATOR, w) / polynomial(_DENOMINATOR, w))


def density(x: Array) -> Array:
    """Standard normal density phi(x)."""
    return jnp.exp(-0.5 * x * x) / _SQRT_2PI


def _in_own_tail(x: Array, upper: bool) -> Array:
    """Whether x lies on the side where the probability in question is below 1/2."""
    return x > 0 if upper else x < 0


# The two probabilities of one x are written in |x| and x * x alone, so that the compiler shares the
# exponential and the rational function between them. |x| is differentiated only where x is not 0.
@partial(with_rule, static_argnums=(1,))
def log_probability(x: Array, upper: bool = False) -> Array:
    """log Phi(x), or log Phi(-x) if `upper`, elementwise, for any real x.

    The relative error is of the order of the rounding on both sides.
    """
    a = jnp.abs(x)
    hazard = a + _hazard_excess(a)
    tail = _in_own_tail(x, upper)
    # In the tail the argument 1 / hazard - 1 turns log1p into -log(hazard): one logarithm for both.
    leading = jnp.where(tail, -0.5 * x * x - _LOG_SQRT_2PI, 0.0)
    return leading + jnp.log1p(jnp.where(tail, 1.0 / hazard - 1.0, -density(x) / hazard))


@log_probability.defjvp
def _log_probability_jvp(upper, primals, tangents):
    (x,), (tangent,) = primals, tangents
    ratio = density_ratio(x, upper)
    return log_probability(x, upper), tangent * (-ratio if upper else ratio)


@partial(with_rule, static_argnums=(1,))
def density_ratio(x: Array, upper: bool = False) -> Array:
    """phi(x) / Phi(x), or the hazard phi(x) / Phi(-x) if `upper`, elementwise."""
    a = jnp.abs(x)
    hazard = a + _hazard_excess(a)
    phi = density(x)
    # Outside its tail the probability is 1 - phi / hazard >= 1/2, so the quotient is safe.
    return jnp.where(_in_own_tail(x, upper), hazard, phi * hazard / (hazard - phi))


@density_ratio.defjvp
def _density_ratio_jvp(upper, primals, tangents):
    (x,), (tangent,) = primals, tangents
    ratio = density_ratio(x, upper)
    # ratio + x (or ratio - x) is the excess r in the tail, where the sum itself would cancel.
    # Differentiating once more uses the rational function there and this very rule elsewhere.
    total = ratio - x if upper else ratio + x
    slope = ratio * jnp.where(_in_own_tail(x, upper), _hazard_excess(jnp.abs(x)), total)
    return ratio, tangent * (slope if upper else -slope)


@with_rule
def cdf(x: Array) -> Array:
    """Phi(x), elementwise; the relative error stays small until Phi underflows (x = -38)."""
    a = jnp.abs(x)
    tail = density(x) / (a + _hazard_excess(a))
    return jnp.where(x < 0, tail, 1.0 - tail)


@cdf.defjvp
def _cdf_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return cdf(x), tangent * density(x)
