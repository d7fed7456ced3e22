"""log(F(b) - F(a)): the probability of an interval, stable however far out or short it is.

F = g^-1 of a link onto (0, 1) and b - a = exp(log_gap) > 0. With L(x) = log(1 - exp(-exp(x))):

    logit     log F(b) + log(1 - F(a)) + L(log_gap)
    cloglog   L(b + L(log_gap)) - exp(a)
    loglog    that of cloglog over (-b, -a)
    cauchit   log(atan2(b - a, 1 + a b) / pi)
    probit    short intervals by Gauss-Legendre quadrature of the density about the midpoint, long
              ones by the difference of log Phi on the side where it is small
    others    the difference of log F or of log(1 - F), whichever is the smaller

The first four are exact identities without cancellation. The difference of two values of F would
lose all digits in a tail, and for thresholds that lie close together.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax import links, normal
from glmm_jax.links import Link
from glmm_jax.tails import log_one_minus_exp_neg_exp, softplus

# Half the nodes of the 10-point rule; the others are their negatives.
_NODES, _WEIGHTS = (tuple(part[5:]) for part in np.polynomial.legendre.leggauss(10))
# The rule integrates exp(-m s - s^2 / 2), |s| <= half, to 1e-16 where half (1 + |m|) is below this.
_SHORT = 1.0
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def log_interval(link: Link, a: Array, log_gap: Array) -> Array:
    """log(F(a + exp(log_gap)) - F(a)), elementwise, with derivatives as stable as the value.

    Args:
        link: a link whose means are probabilities; F is its inverse and must increase.
        a: the lower end.
        log_gap: log of the length.
    """
    if isinstance(link, links.Logit):
        b = a + jnp.exp(log_gap)
        return log_one_minus_exp_neg_exp(log_gap) - softplus(-b) - softplus(a)
    if isinstance(link, links.Cloglog):
        return _cloglog(a, a + jnp.exp(log_gap), log_gap)
    if isinstance(link, links.Loglog):
        return _cloglog(-(a + jnp.exp(log_gap)), -a, log_gap)
    if isinstance(link, links.Cauchit):
        gap = jnp.exp(log_gap)
        return jnp.log(jnp.arctan2(gap, 1.0 + a * (a + gap)) / math.pi)
    if isinstance(link, links.Probit):
        return _probit(a, log_gap)
    b = a + jnp.exp(log_gap)
    left = link.log_mean(b) < link.log_complement(a)
    return jnp.where(
        left,
        _difference(link.log_mean(b), link.log_mean(a), left),
        _difference(link.log_complement(a), link.log_complement(b), ~left),
    )


def _cloglog(a: Array, b: Array, log_gap: Array) -> Array:
    # exp(-e^a) (1 - exp(-(e^b - e^a))), and log(e^b - e^a) = b + log(1 - exp(-gap)).
    return log_one_minus_exp_neg_exp(b + log_one_minus_exp_neg_exp(log_gap)) - jnp.exp(a)


def _difference(larger: Array, smaller: Array, used: Array) -> Array:
    """log(exp(larger) - exp(smaller)); where not used, anything finite."""
    d = jnp.where(used, larger - smaller, 1.0)
    return larger + jnp.log(-jnp.expm1(-d))


def _probit(a: Array, log_gap: Array) -> Array:
    half = 0.5 * jnp.exp(log_gap)
    middle = a + half
    short = half * (1.0 + jnp.abs(middle)) < _SHORT
    # With s = half * node: log(gap phi(m)) + log sum w / 2 (e^(-m s) + e^(m s)) / 2 e^(-s^2 / 2).
    kept = jnp.where(short, half, 0.0)
    # Along an axis in front the nodes take the instructions of one.
    nodes, weights = (
        jnp.asarray(row, middle.dtype).reshape(-1, *(1,) * middle.ndim)
        for row in (_NODES, _WEIGHTS)
    )
    s = nodes * kept[None]
    total = jnp.sum(weights * jnp.cosh(middle[None] * s) * jnp.exp(-0.5 * s * s), axis=0)
    near = log_gap - 0.5 * middle * middle - _LOG_SQRT_2PI + jnp.log(total)
    # Reflected to the left of zero, where both values of Phi are small together.
    turned = jnp.where(middle > 0, -middle, middle)
    upper, lower = normal.log_probability(jnp.stack([turned + half, turned - half]))
    far = _difference(upper, lower, ~short)
    return jnp.where(short, near, far)
