"""The Conway-Maxwell-Poisson density at a given mean, by summation over counts.

With J = mu and t(j) = log j! - j log J + J, which is at least about zero, and smallest near J,

    log p(y) = (y - J) delta - nu t(y) - B,    B = log sum over j of exp((j - J) delta - nu t(j)),

delta = log lambda - nu log mu such that E[y] = J. Derivatives come from no loop: with V = Var(y),
C = Cov(y, t), D = Var(t) at fixed J and dL = (mu dlog mu + C dnu) / V,

    ddelta = dL - nu dlog mu,    dB = -delta mu dlog mu - E[t] dnu,
    dM_ab = (M_(a+1)b - a V M_(a-1)b - b C M_a(b-1)) dL
          - (M_a(b+1) - a C M_(a-1)b - b D M_a(b-1)) dnu - b M_(a+1)(b-1) dlog mu

for central moments M_ab = E[(y - J)^a (t - E t)^b]: derivatives of every order are exact sums.

A sum runs over blocks of counts until no row needs more. Where the mass is far from zero (mu >= 64,
mu nu >= 60), about Gaussian of standard deviation s = sqrt(mu / nu), these are all integers within
10 s below and 11 s above the mean, or for s > 3 multiples of s / 3, each standing for s / 3
integers (the trapezoidal rule of an analytic function: exact to rounding). Elsewhere all integers
up to 127, whose log j! is tabled, then where needed each h-th one, h >= 1, with Gregory's end
correction of order twelve, far enough that what is left out is below 1e-16. There h = 1 for
phi <= 2, so that the sum is complete; with h > 1 log p is within 1e-10 for phi <= 30 and within
1e-8 for phi <= 100.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jax.scipy.special import gammaln

from glmm_jax.gamma_functions import stirling_series
from glmm_jax.rules import part, with_rule
from glmm_jax.tails import softplus

_BLOCK = 32
_FAR, _FAR_MEAN = 60.0, 64.0  # of mu nu and of mu, from where zero is out of reach
_DEVIATIONS = 10.0
_PER_DEVIATION = 3.0
_LEAST = 8.0  # counts below it hold nothing there, and Stirling's series would not do
_HEAD = 128  # integers summed one by one elsewhere
_TAIL_TERMS = 192
_ORDER = 12  # of the end correction
_TAIL = 40.0  # log of what may be left out
_TRIPS = 100
# Moments that come with the solution: all that four derivatives of log p need.
_KNOWN = tuple((a, b) for a in range(5) for b in range(5 - a) if a + b > 1)
_NEGLIGIBLE = 1e-22  # part of the sum that a term may have where no more are taken

_Power = tuple[int, int]
_Sums = dict[_Power, Array]


def log_prob(y: Array, log_mu: Array, nu: Array) -> Array:
    """log p(y) at mean exp(log_mu), elementwise, differentiable in everything to any order."""
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


class _Rows(NamedTuple):
    """Which counts each element sums over, and what they are measured from, (...).

    base : about t(J). heads : number of the integers from zero on. rests : number of the counts
    start + k stride, each of which stands for `stride` integers; the first of them for what `end`
    (_BLOCK, ...) says instead, in the same unit.
    """

    log_mu: Array
    nu: Array
    base: Array
    heads: Array
    rests: Array
    start: Array
    stride: Array
    end: Array


class _Found(NamedTuple):
    """The solution: delta, B, E[t], and E[(y - J)^a (t - E t)^b] of the orders `_KNOWN`, (...)."""

    tilt: Array
    log_norm: Array
    mean_distance: Array
    moments: dict[str, Array]
    rows: _Rows


@jax.jit
def _find(log_mu: Array, nu: Array) -> _Found:
    """The solution at a mean, a constant of derivatives: they follow by the rules below."""
    log_mu, nu = jax.lax.stop_gradient((log_mu, nu))
    rows = _rows(log_mu, nu)
    tilt, sums = _solve(rows)
    total, mean, moments = _moments(sums, _KNOWN)
    log_norm = jnp.log(total) - nu * rows.base
    named = {f"{a},{b}": moment for (a, b), moment in moments.items()}
    return jax.lax.stop_gradient(_Found(tilt, log_norm, rows.base + mean, named, rows))


def _rows(log_mu: Array, nu: Array) -> _Rows:
    mu = jnp.exp(log_mu)
    far = (mu * nu >= _FAR) & (mu >= _FAR_MEAN)
    # Far from zero.
    deviation = jnp.sqrt(mu / nu)
    stride = jnp.maximum(1.0, deviation / _PER_DEVIATION)
    reach = jnp.ceil(_DEVIATIONS * deviation / stride) + 4.0
    middle = jnp.round(mu / stride)
    first = jnp.maximum(jnp.ceil(_LEAST / stride), middle - reach)
    window = middle + jnp.ceil(1.125 * reach) - first + 1.0
    # Near zero: the mass left of zero by Bernstein's bound, or that of a geometric variable.
    bound = (
        mu + _TAIL / (3.0 * nu) + jnp.sqrt((_TAIL / (3.0 * nu)) ** 2 + 2.0 * _TAIL * mu / nu) + 10.0
    )
    last = jnp.ceil(jnp.minimum(bound, _TAIL * (mu + 1.0)))
    spaced = jnp.maximum(1.0, jnp.ceil((last - _HEAD) / _TAIL_TERMS))
    tail = jnp.where(last < _HEAD, 0.0, jnp.ceil((last - _HEAD) / spaced) + 1.0)
    # A row that is no number sums nothing, and no other row waits for it.
    sound = jnp.isfinite(log_mu) & jnp.isfinite(nu) & jnp.isfinite(last)
    ends = jnp.ones((_BLOCK, *mu.shape), mu.dtype).at[:_ORDER].set(_end_weights(1.0 / spaced))
    return _Rows(
        log_mu,
        nu,
        0.5 * jnp.log1p(2.0 * math.pi * mu),  # t(J) to a twentieth, for any J
        jnp.where(sound & ~far, jnp.minimum(last + 1.0, float(_HEAD)), 0.0),
        jnp.where(sound, jnp.where(far, window, tail), 0.0),
        jnp.where(far, stride * first, float(_HEAD)),
        jnp.where(far, stride, spaced),
        jnp.where(far[None], 1.0, ends),
    )


def _sums(rows: _Rows, tilt: Array, powers: tuple[_Power, ...]) -> _Sums:
    """Sums over counts of exp((j - J) delta - nu d) (j - J)^a d^b, d = t(j) - base, for each a, b.

    The largest exponent is about zero at the solution: the density at the mean is at least about
    a third of that at the mode. Beyond the mean it falls ever faster, so that the sum is complete
    once a term is negligible there.
    """
    dtype, shape = tilt.dtype, tilt.shape
    steps = jnp.arange(_BLOCK, dtype=dtype).reshape((_BLOCK,) + (1,) * len(shape))
    table = jnp.asarray(scipy.special.gammaln(np.arange(_HEAD) + 1.0), dtype)
    tilt, end = tilt[None], rows.end
    log_mu, nu, base, heads, rests, start, stride = (value[None] for value in rows[:-1])
    mu = jnp.exp(log_mu)

    some = rests > 0
    mean, log_mean = jnp.where(some, mu, 1.0), jnp.where(some, log_mu, 0.0)
    first, second = (jnp.ceil(jnp.max(needed) / _BLOCK).astype(int) for needed in (heads, rests))

    def head(block):
        j = steps + _BLOCK * block.astype(dtype)
        log_factorial = jax.lax.dynamic_slice(table, (_BLOCK * block,), (_BLOCK,))
        distance = log_factorial.reshape(steps.shape) - j * log_mu + (mu - base)
        return j < heads, j - mu, distance, jnp.ones_like(distance)

    def rest(block):
        k = steps + _BLOCK * (block - first).astype(dtype)
        j = start + stride * k
        centred = j - mean
        # t(j) = j log(j / J) - (j - J) + log(2 pi j) / 2 + S(j)
        log_ratio = jnp.log1p(centred / mean)
        half = 0.5 * (math.log(2 * math.pi) + log_ratio + log_mean)
        distance = j * log_ratio - centred + half + stirling_series(j) - base
        return k < rests, centred, distance, stride * jnp.where(block == first, end, 1.0)

    def add(state):
        block, _, sums = state
        held, centred, distance, weight = jax.lax.cond(block < first, head, rest, block)
        mass = weight * jnp.exp(jnp.where(held, centred * tilt - nu * distance, -jnp.inf))
        # Behind a barrier, so that XLA computes the terms once and not within each sum.
        mass, centred, distance = jax.lax.optimization_barrier((mass, centred, distance))
        sums = {
            (a, b): sum_ + jnp.sum(mass * centred**a * distance**b, axis=0)
            for (a, b), sum_ in sums.items()
        }
        waits = (block < first) & (heads[0] == 0) & some[0]
        more = (centred[-1] < 0) | (mass[-1] > _NEGLIGIBLE * sums[0, 0])
        return block + 1, jnp.any(waits | (held[-1] & more)), sums

    begin = jnp.asarray(0), jnp.asarray(True), dict.fromkeys(powers, jnp.zeros(shape, dtype))
    go_on = lambda state: state[1] & (state[0] < first + second)  # noqa: E731
    return jax.lax.while_loop(go_on, add, begin)[2]


def _powers(orders: tuple[_Power, ...]) -> tuple[_Power, ...]:
    """Powers whose sums give the central moments of some orders."""
    return tuple(sorted({(0, 0), (0, 1)} | {(a, k) for a, b in orders for k in range(b + 1)}))


def _moments(sums: _Sums, orders: tuple[_Power, ...]) -> tuple[Array, Array, _Sums]:
    """The sum of all terms, E[d], and E[(y - J)^a (d - E d)^b] for each of the orders (a, b)."""
    total = sums[0, 0]
    raw = {power: value / total for power, value in sums.items()}
    mean = raw[0, 1]
    # d is about zero at the mean and varies as much as it is far from zero: no digits are lost.
    central = {
        (a, b): sum(
            (math.comb(b, k) * raw[a, k] * (-mean) ** (b - k) for k in range(b + 1)),
            jnp.zeros_like(mean),
        )
        for a, b in orders
    }
    return total, mean, central


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
    """What the first twelve terms h = 1 / s apart stand for, in units of h, (12, ...).

    With them the terms sum all integers from the first on.
    """
    powers = jnp.stack([s**power for power in range(_ORDER + 1)])
    return jnp.tensordot(jnp.asarray(_end_polynomials(), s.dtype), powers, 1)


def _solve(rows: _Rows) -> tuple[Array, _Sums]:
    """delta and the sums there, by a method of fourth order on log E[y], kept between its bounds by
    bisection.

    log E[y] is near linear in delta, for small and for large means. With g1, g2, g3 its derivatives
    (from cumulants) and r what is missing, the step is the inverse series
    r / g1 - g2 r^2 / (2 g1^3) + (3 g2^2 - g1 g3) r^3 / (6 g1^5).

    delta lies between 0 and (nu - 1) log(1 + 1 / mu): both follow from Jensen's inequality for
    E[y^nu] = lambda and E[(y + 1)^(1 - nu)] = E[y] / lambda.
    """
    log_mu, nu = rows.log_mu, rows.nu
    mu = jnp.exp(log_mu)
    edge = (nu - 1.0) * softplus(-log_mu)
    # The mean is about m - (nu - 1) / (2 nu) for a large m = lambda^(1/nu).
    shift = 0.5 * (nu - 1.0) / (nu * mu)
    usable = (shift > -0.5) & (shift < 1.0)
    guess = jnp.where(usable, nu * jnp.log1p(jnp.where(usable, shift, 0.0)), edge)
    low, high = jnp.minimum(edge, 0.0), jnp.maximum(edge, 0.0)
    powers = _powers((*_KNOWN, (1, 0)))

    def body(state):
        tilt, low, high, settled, _, trips, _ = state
        sums = _sums(rows, tilt, powers)
        excess, second, third, fourth = (sums[a, 0] / sums[0, 0] for a in range(1, 5))
        square = jnp.square(excess)
        variance = second - square
        k3 = third - 3.0 * excess * second + 2.0 * excess * square
        k4 = fourth - 4.0 * excess * third + 6.0 * square * second - 3.0 * square * square
        k4 = k4 - 3.0 * variance * variance
        low, high = jnp.where(excess < 0, tilt, low), jnp.where(excess > 0, tilt, high)
        g1, h3 = variance / (mu + excess), k3 / variance
        g2 = h3 - g1  # over g1, as is g3
        g3 = k4 / variance - 3.0 * g1 * h3 + 2.0 * g1 * g1
        r = -jnp.log1p(jnp.maximum(excess / mu, -1.0)) / g1
        there = tilt + r * (1.0 - r * (0.5 * g2 - r * (3.0 * g2 * g2 - g3) / 6.0))
        inside = (there >= low) & (there <= high)
        there = jnp.where(inside, there, 0.5 * (low + high))
        # An error e of delta is one of e sqrt(V) in standard deviations of the mean. After so small
        # a step it is rounding: the next trip takes the sums there and moves no more.
        small = jnp.finfo(mu.dtype).eps ** 0.3
        near = ~jnp.any(jnp.abs(there - tilt) * jnp.sqrt(variance) > small)
        return jnp.where(settled, tilt, there), low, high, near, settled, trips + 1, sums

    no, nothing = jnp.asarray(False), dict.fromkeys(powers, jnp.zeros_like(mu))
    state = (jnp.clip(guess, low, high), low, high, no, no, jnp.asarray(0), nothing)
    end = jax.lax.while_loop(lambda s: ~s[4] & (s[5] < _TRIPS), body, state)
    return end[0], end[-1]


# Without parts that are left out where an argument rests, programs grow tenfold.
# Moments are divided by V in their values, never in a rule: the square of a tiny V underflows.
@with_rule
def _tilt(log_mu: Array, nu: Array, found: _Found) -> Array:
    """delta."""
    return found.tilt


@_tilt.defjvp
def _tilt_jvp(primals, tangents):
    change = _rate_change(primals, tangents) - part(lambda: primals[1], tangents[0])
    return _tilt(*primals), change + jnp.zeros_like(primals[0])


@with_rule
def _log_norm(log_mu: Array, nu: Array, found: _Found) -> Array:
    """B."""
    return found.log_norm


@_log_norm.defjvp
def _log_norm_jvp(primals, tangents):
    along_mu = part(lambda: _tilt(*primals) * jnp.exp(primals[0]), tangents[0])
    along_nu = part(lambda: _mean_distance(*primals), tangents[1])
    return _log_norm(*primals), -(along_mu + along_nu) + jnp.zeros_like(primals[0])


@with_rule
def _mean_distance(log_mu: Array, nu: Array, found: _Found) -> Array:
    """E[t]."""
    return found.mean_distance


@_mean_distance.defjvp
def _mean_distance_jvp(primals, tangents):
    # E[dt] = 0: t(j) moves by (J - j) dlog mu.
    change = _ratio(1, 1, *primals) * _rate_change(primals, tangents)
    change = change - part(lambda: _ratio(0, 2, *primals), tangents[1])
    return _mean_distance(*primals), _variance(*primals) * change


@with_rule
def _variance(log_mu: Array, nu: Array, found: _Found) -> Array:
    """V."""
    return _central(2, 0, found)


@_variance.defjvp
def _variance_jvp(primals, tangents):
    value = _variance(*primals)
    return value, value * _log_variance_change(primals, tangents)


@with_rule
def _slope(log_mu: Array, nu: Array, found: _Found) -> Array:
    """mu / V, the slope of log(lambda) in log(mu)."""
    return jnp.exp(log_mu) / _central(2, 0, found)


@_slope.defjvp
def _slope_jvp(primals, tangents):
    change = part(lambda: jnp.ones_like(primals[0]), tangents[0])
    value = _slope(*primals)
    return value, value * (change - _log_variance_change(primals, tangents))


@partial(with_rule, static_argnums=(0, 1))
def _ratio(a: int, b: int, log_mu: Array, nu: Array, found: _Found) -> Array:
    """M_ab / V for a + b >= 2."""
    return _central(a, b, found) / _central(2, 0, found)


@_ratio.defjvp
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
    along_nu = part(lambda: lowered(ratio(a, b + 1), ratio(1, 1), ratio(0, 2)), tangents[1])
    along_mu = part(lambda: b * ratio(a + 1, b - 1), tangents[0]) if b else 0.0
    value = ratio(a, b)
    own = value * _log_variance_change(primals, tangents)
    return value, change - along_nu - along_mu - own


def _central(a: int, b: int, found: _Found) -> Array:
    """M_ab, the central moment of order a in y and b in t."""
    if (a, b) in _KNOWN:
        return found.moments[f"{a},{b}"]
    sums = _sums(found.rows, found.tilt, _powers(((a, b),)))
    return _moments(sums, ((a, b),))[2][a, b]


def _rate_change(primals, tangents) -> Array | float:
    """dL, the change of log(lambda) at fixed J: what keeps the mean at mu."""
    along_mu = part(lambda: _slope(*primals), tangents[0])
    return along_mu + part(lambda: _ratio(1, 1, *primals), tangents[1])


def _log_variance_change(primals, tangents) -> Array:
    """dV / V."""
    change = _ratio(3, 0, *primals) * _rate_change(primals, tangents)
    return change - part(lambda: _ratio(2, 1, *primals), tangents[1])
