"""The Conway-Maxwell-Poisson density at a given mean, by summation over counts.

With J = mu and t(j) = log j! - j log J + J, which is at least about zero, and smallest near J,

    log p(y) = (y - J) delta - nu t(y) - B,    B = log sum over j of exp((j - J) delta - nu t(j)),

delta = log lambda - nu log mu such that E[y] = J. Derivatives come from no loop: with V = Var(y),
C = Cov(y, t), D = Var(t) at fixed J and dL = (mu dlog mu + C dnu) / V,

    ddelta = dL - nu dlog mu,    dB = -delta mu dlog mu - E[t] dnu,
    dM_ab = (M_(a+1)b - a V M_(a-1)b - b C M_a(b-1)) dL
          - (M_a(b+1) - a C M_(a-1)b - b D M_a(b-1)) dnu - b M_(a+1)(b-1) dlog mu

for central moments M_ab = E[(y - J)^a (t - E t)^b]: derivatives of every order are exact sums.

The sum has 256 terms whatever the data. Where mu nu >= 40 the mass is far from zero, about
Gaussian of standard deviation s = sqrt(mu / nu): all integers within 120 of the mean, or for
s > 12 multiples of s / 12, each standing for s / 12 integers (the trapezoidal rule of an analytic
function: exact to rounding). Elsewhere all integers up to 63, then each h-th one, h >= 1, with
Gregory's end correction of order twelve, far enough that what is left out is below 1e-16. There
h = 1 for phi <= 2, so that the sum is complete; with h > 1 log p is within 1e-10 for phi <= 30 and
within 1e-8 for phi <= 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import gammaln

from glmm_jax.gamma_functions import entropy_excess, stirling_remainder
from glmm_jax.tails import polynomial, softplus

_TERMS = 256
_FAR = 40.0  # of mu nu, from where zero is out of reach
_BELOW = 120
_PER_DEVIATION = 12.0
_HEAD = 64  # integers summed one by one elsewhere
_ORDER = 12  # of the end correction
_TAIL = 40.0  # log of what may be left out
_TRIPS = 100


def log_prob(y: Array, log_mu: Array, nu: Array) -> Array:
    """log p(y) at mean exp(log_mu), elementwise, differentiable in everything to any order.

    Memory: three arrays of 256 numbers for each element.
    """
    y, log_mu, nu = jnp.broadcast_arrays(y, log_mu, nu)
    found = _find(log_mu, nu)
    mu = jnp.exp(log_mu)
    distance = gammaln(y + 1.0) - y * log_mu + mu
    return (y - mu) * _tilt(log_mu, nu, found) - nu * distance - _log_norm(log_mu, nu, found)


def log_rate(log_mu: Array, nu: Array) -> Array:
    """log(lambda), elementwise."""
    log_mu, nu = jnp.broadcast_arrays(log_mu, nu)
    return _tilt(log_mu, nu, _find(log_mu, nu)) + nu * log_mu


def log_slope(log_mu: Array, nu: Array) -> Array:
    """log(mu / Var(y)), the slope of log(lambda) in log(mu), elementwise."""
    log_mu, nu = jnp.broadcast_arrays(log_mu, nu)
    return jnp.log(_slope(log_mu, nu, _find(log_mu, nu)))


class _Found(NamedTuple):
    """The solution: delta, B, E[t] (n,); counts less J, t(j) - E[t], probabilities (n, terms)."""

    tilt: Array
    log_norm: Array
    mean_distance: Array
    centred: Array
    distance: Array
    probability: Array


def _find(log_mu: Array, nu: Array) -> _Found:
    """The solution at a mean, a constant of derivatives: they follow by the rules below.

    Behind a barrier, so that XLA computes the terms once and not within each moment.
    """
    log_mu, nu = jax.lax.stop_gradient((log_mu, nu))
    grid = _Grid(*jax.lax.optimization_barrier(tuple(_grid(log_mu, nu))))
    tilt = _solve(grid, log_mu, nu)
    probability, log_norm = _weights(grid, nu, tilt)
    mean = jnp.sum(probability * grid.distance, axis=-1)
    distance = grid.distance - mean[..., None]
    found = (tilt, log_norm, mean, grid.centred, distance, probability)
    return _Found(*jax.lax.stop_gradient(jax.lax.optimization_barrier(found)))


class _Grid(NamedTuple):
    """Counts j less J, t(j), and what each term stands for, all (..., terms)."""

    centred: Array
    distance: Array
    weight: Array


def _grid(log_mu: Array, nu: Array) -> _Grid:
    log_mu, nu = log_mu[..., None], nu[..., None]
    mu = jnp.exp(log_mu)
    steps = jnp.arange(_TERMS, dtype=mu.dtype).reshape((1,) * (mu.ndim - 1) + (_TERMS,))
    # Far from zero.
    stride = jnp.maximum(1.0, jnp.sqrt(mu / nu) / _PER_DEVIATION)
    first = jnp.maximum(0.0, jnp.round(mu / stride) - _BELOW)
    window = stride * (first + steps)
    # Near zero: the mass left of zero by Bernstein's bound, or that of a geometric variable.
    bound = (
        mu + _TAIL / (3.0 * nu) + jnp.sqrt((_TAIL / (3.0 * nu)) ** 2 + 2.0 * _TAIL * mu / nu) + 10.0
    )
    last = jnp.minimum(bound, _TAIL * (mu + 1.0))
    spaced = jnp.maximum(1.0, jnp.ceil((last - _HEAD) / (_TERMS - _HEAD - 1)))
    tail = steps - _HEAD
    head = jnp.where(tail < 0, steps, _HEAD + spaced * tail)
    ones = jnp.ones_like(spaced)
    weight = jnp.concatenate(
        [
            jnp.repeat(ones, _HEAD, axis=-1),
            spaced * _end_weights(1.0 / spaced),
            jnp.repeat(spaced, _TERMS - _HEAD - _ORDER, axis=-1),
        ],
        axis=-1,
    )
    far = mu * nu >= _FAR
    j = jnp.where(far, window, head)
    # t(j) = J entropy_excess((j - J) / J) + log(2 pi j) / 2 + S(j), and J at j = 0. The quotient
    # would overflow for a tiny J; there the parts are of one sign.
    some = j > 0
    positive = jnp.where(some, j, 1.0)
    log_j, centred = jnp.log(positive), j - mu
    close = jnp.abs(centred) < 0.5 * mu
    relative = jnp.where(close, centred, 0.0) / mu
    smooth = jnp.where(
        close, mu * entropy_excess(relative), positive * (log_j - log_mu) - (positive - mu)
    )
    rest = 0.5 * (math.log(2 * math.pi) + log_j) + stirling_remainder(log_j)
    return _Grid(
        centred,
        jnp.where(some, smooth + rest, mu),
        jnp.where(far, stride, weight),
    )


@cache
def _end_polynomials() -> np.ndarray:
    """Coefficients of the weights of `_end_weights` in powers of s, (order, order + 1).

    With E = 1 + Delta the shift by h = 1 / s, the sum over integers less h times the sum over terms
    is 1 / (1 - E^s) + h / Delta = -h sum over k of r_(k+1) Delta^k, r the reciprocal of the series
    (E^s - 1) / (s Delta), whose coefficients are polynomials in s. In exact fractions.
    """
    e: list[list[Fraction]] = [[Fraction(1)]]
    r: list[list[Fraction]] = [[Fraction(1)]]
    for k in range(1, _ORDER + 1):
        # e_k = e_(k-1) (s - k) / (k + 1)
        e.append(_times(e[-1], [Fraction(-k, k + 1), Fraction(1, k + 1)]))
        products = [_times(e[i], r[k - i]) for i in range(1, k + 1)]
        width = max(len(product) for product in products)
        columns = ([*product, *[Fraction(0)] * (width - len(product))] for product in products)
        r.append([-sum(column, Fraction(0)) for column in zip(*columns, strict=True)])
    out = np.zeros((_ORDER, _ORDER + 1))
    for i in range(_ORDER):
        total = [Fraction(0)] * (_ORDER + 1)
        total[0] += 1
        for k in range(i, _ORDER):
            for power, coefficient in enumerate(r[k + 1]):
                total[power] -= (-1) ** (k - i) * math.comb(k, i) * coefficient
        out[i] = [float(value) for value in total]
    return out


def _times(left: list[Fraction], right: list[Fraction]) -> list[Fraction]:
    """Product of two polynomials."""
    out = [Fraction(0)] * (len(left) + len(right) - 1)
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            out[i + j] += x * y
    return out


def _end_weights(s: Array) -> Array:
    """What the first twelve terms h = 1 / s apart stand for, in units of h, (..., 12).

    s is (..., 1). With them the terms sum all integers from the first on.
    """
    columns = [polynomial(tuple(row), s) for row in _end_polynomials().tolist()]
    return jnp.concatenate(columns, axis=-1)


def _weights(grid: _Grid, nu: Array, tilt: Array) -> tuple[Array, Array]:
    """Probabilities of the terms, (..., terms), and B."""
    exponent = grid.centred * tilt[..., None] - nu[..., None] * grid.distance
    top = jnp.max(exponent, axis=-1)
    mass = grid.weight * jnp.exp(exponent - top[..., None])
    total = jnp.sum(mass, axis=-1)
    return mass / total[..., None], top + jnp.log(total)


def _solve(grid: _Grid, log_mu: Array, nu: Array) -> Array:
    """delta by Newton's method on log E[y], kept between the bounds by bisection.

    delta lies between 0 and (nu - 1) log(1 + 1 / mu): both follow from Jensen's inequality for
    E[y^nu] = lambda and E[(y + 1)^(1 - nu)] = E[y] / lambda.
    """
    mu = jnp.exp(log_mu)
    edge = (nu - 1.0) * softplus(-log_mu)
    # The mean is about m - (nu - 1) / (2 nu) for a large m = lambda^(1/nu).
    shift = 0.5 * (nu - 1.0) / (nu * mu)
    usable = (shift > -0.5) & (shift < 1.0)
    guess = jnp.where(usable, nu * jnp.log1p(jnp.where(usable, shift, 0.0)), edge)
    low, high = jnp.minimum(edge, 0.0), jnp.maximum(edge, 0.0)

    def body(state):
        tilt, low, high, _, trips = state
        probability, _ = _weights(grid, nu, tilt)
        excess = jnp.sum(probability * grid.centred, axis=-1)
        variance = jnp.sum(probability * jnp.square(grid.centred - excess[..., None]), axis=-1)
        low, high = jnp.where(excess < 0, tilt, low), jnp.where(excess > 0, tilt, high)
        ratio = jnp.maximum(excess / mu, -1.0)
        step = -jnp.log1p(ratio) * (mu + excess) / variance
        there = tilt + step
        inside = (there >= low) & (there <= high)
        there = jnp.where(inside, there, 0.5 * (low + high))
        moved = jnp.abs(there - tilt) * jnp.sqrt(variance)
        # An error e of delta is one of e sqrt(V) in standard deviations of the mean.
        small = jnp.finfo(mu.dtype).eps ** 0.6
        return there, low, high, jnp.any(moved > small), trips + 1

    start = (jnp.clip(guess, low, high), low, high, jnp.asarray(True), jnp.asarray(0))
    return jax.lax.while_loop(lambda s: s[3] & (s[4] < _TRIPS), body, start)[0]


# The rules skip a direction that is not differentiated along: without that, programs grow tenfold.
def _along(coefficient: Callable[[], Array], tangent: Any) -> Array | float:
    """coefficient * tangent; 0 without computing it where the tangent is zero by construction."""
    return 0.0 if isinstance(tangent, SymbolicZero) else coefficient() * tangent


# Moments are divided by V in their values, never in a rule: the square of a tiny V underflows.
@jax.custom_jvp
def _tilt(log_mu: Array, nu: Array, found: _Found) -> Array:
    """delta."""
    return found.tilt


def _tilt_jvp(primals, tangents):
    change = _rate_change(primals, tangents) - _along(lambda: primals[1], tangents[0])
    return _tilt(*primals), change + jnp.zeros_like(primals[0])


@jax.custom_jvp
def _log_norm(log_mu: Array, nu: Array, found: _Found) -> Array:
    """B."""
    return found.log_norm


def _log_norm_jvp(primals, tangents):
    along_mu = _along(lambda: _tilt(*primals) * jnp.exp(primals[0]), tangents[0])
    along_nu = _along(lambda: _mean_distance(*primals), tangents[1])
    return _log_norm(*primals), -(along_mu + along_nu) + jnp.zeros_like(primals[0])


@jax.custom_jvp
def _mean_distance(log_mu: Array, nu: Array, found: _Found) -> Array:
    """E[t]."""
    return found.mean_distance


def _mean_distance_jvp(primals, tangents):
    # E[dt] = 0: t(j) moves by (J - j) dlog mu.
    change = _ratio(1, 1, *primals) * _rate_change(primals, tangents)
    change = change - _along(lambda: _ratio(0, 2, *primals), tangents[1])
    return _mean_distance(*primals), _variance(*primals) * change


@jax.custom_jvp
def _variance(log_mu: Array, nu: Array, found: _Found) -> Array:
    """V."""
    return _central(2, 0, found)


def _variance_jvp(primals, tangents):
    value = _variance(*primals)
    return value, value * _log_variance_change(primals, tangents)


@jax.custom_jvp
def _slope(log_mu: Array, nu: Array, found: _Found) -> Array:
    """mu / V, the slope of log(lambda) in log(mu)."""
    return jnp.exp(log_mu) / _central(2, 0, found)


def _slope_jvp(primals, tangents):
    change = _along(lambda: jnp.ones_like(primals[0]), tangents[0])
    value = _slope(*primals)
    return value, value * (change - _log_variance_change(primals, tangents))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _ratio(a: int, b: int, log_mu: Array, nu: Array, found: _Found) -> Array:
    """M_ab / V for a + b >= 2."""
    return _central(a, b, found) / _central(2, 0, found)


def _ratio_jvp(a, b, primals, tangents):
    def ratio(a: int, b: int) -> Array:
        return _ratio(a, b, *primals)

    def lowered(up: Array, by_y: Array | float, by_t: Array) -> Array:
        """M / V less what the moving means take off; a moment of order one is zero."""
        for times, factor, i, j in ((a, by_y, a - 1, b), (b, by_t, a, b - 1)):
            if times and i + j != 1:
                up = up - times * factor * _variance(*primals) * ratio(i, j)
        return up

    change = lowered(ratio(a + 1, b), 1.0, ratio(1, 1)) * _rate_change(primals, tangents)
    along_nu = _along(lambda: lowered(ratio(a, b + 1), ratio(1, 1), ratio(0, 2)), tangents[1])
    along_mu = _along(lambda: b * ratio(a + 1, b - 1), tangents[0]) if b else 0.0
    value = ratio(a, b)
    own = value * _log_variance_change(primals, tangents)
    return value, change - along_nu - along_mu - own


def _central(a: int, b: int, found: _Found) -> Array:
    """M_ab, the central moment of order a in y and b in t."""
    return jnp.sum(found.probability * found.centred**a * found.distance**b, axis=-1)


def _rate_change(primals, tangents) -> Array | float:
    """dL, the change of log(lambda) at fixed J: what keeps the mean at mu."""
    along_mu = _along(lambda: _slope(*primals), tangents[0])
    return along_mu + _along(lambda: _ratio(1, 1, *primals), tangents[1])


def _log_variance_change(primals, tangents) -> Array:
    """dV / V."""
    change = _ratio(3, 0, *primals) * _rate_change(primals, tangents)
    return change - _along(lambda: _ratio(2, 1, *primals), tangents[1])


_tilt.defjvp(_tilt_jvp, symbolic_zeros=True)
_log_norm.defjvp(_log_norm_jvp, symbolic_zeros=True)
_mean_distance.defjvp(_mean_distance_jvp, symbolic_zeros=True)
_variance.defjvp(_variance_jvp, symbolic_zeros=True)
_slope.defjvp(_slope_jvp, symbolic_zeros=True)
_ratio.defjvp(_ratio_jvp, symbolic_zeros=True)
