"""The Conway-Maxwell-Poisson density at a given mean, by summation over counts.

With J = mu and t(j) = log j! - j log J + J, which is at least about zero, and smallest near J,

    log p(y) = (y - J) delta - nu t(y) - B,    B = log sum over j of exp((j - J) delta - nu t(j)),

delta = log lambda - nu log mu such that E[y] = J. Derivatives come from no loop: with V = Var(y),
C = Cov(y, t), D = Var(t) at fixed J and dL = (mu dlog mu + C dnu) / V,

    ddelta = dL - nu dlog mu,    dB = -delta mu dlog mu - E[t] dnu,

and those of a central moment M_ab = E[(y - J)^a (t - E t)^b] are other central moments, so that
derivatives of every order are exact sums.

The sum has 256 terms whatever the data. Where mu nu >= 64 the mass is far from zero, about
Gaussian of standard deviation s = sqrt(mu / nu): all integers within 120 of the mean, or for
s > 12 multiples of s / 12, each standing for s / 12 integers (the trapezoidal rule of an analytic
function: exact to rounding). Elsewhere all integers up to 63, then multiples of a stride h >= 1 with
Gregory's end correction of order eight, far enough that what is left out is below 1e-16. All are
integers (h = 1) for phi <= 0.5 or so; with h > 1 the error of log p grows from 1e-13 (phi = 3) to
1e-9 (phi = 30 at a mean of 100).
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from glmm_jax.gamma_functions import entropy_excess, stirling_remainder
from glmm_jax.tails import softplus

_TERMS = 256
_FAR = 64.0  # of mu nu, from where zero is out of reach
_BELOW = 120
_PER_DEVIATION = 12.0
_HEAD = 64  # integers summed one by one elsewhere
_ORDER = 8  # of the end correction
_TAIL = 40.0  # log of what may be left out
_TRIPS = 100


def log_prob(y: Array, log_mu: Array, nu: Array) -> Array:
    """log p(y) at mean exp(log_mu), elementwise, differentiable in everything to any order."""
    y, log_mu, nu = jnp.broadcast_arrays(y, log_mu, nu)
    found = _solve(jax.lax.stop_gradient(log_mu), jax.lax.stop_gradient(nu))
    mu = jnp.exp(log_mu)
    distance = gammaln(y + 1.0) - y * log_mu + mu
    tilt = _tilt(log_mu, nu, found)
    return (y - mu) * tilt - nu * distance - _log_norm(log_mu, nu, found)


def log_rate(log_mu: Array, nu: Array) -> Array:
    """log(lambda), elementwise."""
    log_mu, nu = jnp.broadcast_arrays(log_mu, nu)
    found = _solve(jax.lax.stop_gradient(log_mu), jax.lax.stop_gradient(nu))
    return _tilt(log_mu, nu, found) + nu * log_mu


def log_slope(log_mu: Array, nu: Array) -> Array:
    """log(mu / Var(y)), the slope of log(lambda) in log(mu), elementwise."""
    log_mu, nu = jnp.broadcast_arrays(log_mu, nu)
    found = _solve(jax.lax.stop_gradient(log_mu), jax.lax.stop_gradient(nu))
    return log_mu - jnp.log(_moment(2, 0, log_mu, nu, found))


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
    weight = jnp.where(tail < 0, 1.0, spaced + _end_correction(spaced, tail))
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


def _end_correction(h: Array, position: Array) -> Array:
    """What the first eight of terms h apart stand for beyond h, so that they sum all integers.

    With E = 1 + Delta the shift by h, the sum over integers less h times the sum over terms is
    1 / (1 - E^(1/h)) + h / Delta, a power series in Delta.
    """
    # E^(1/h) = sum of g_k Delta^k; e_k = h g_(k+1)
    e, g = [], 1.0 / h
    for k in range(1, _ORDER + 2):
        e.append(h * g)
        g = g * (1.0 / h - k) / (k + 1)
    r = [jnp.ones_like(h)]
    for k in range(1, _ORDER + 1):
        r.append(-sum((e[i] * r[k - i] for i in range(1, k + 1)), jnp.zeros_like(h)))
    out = jnp.zeros_like(h * position)
    for i in range(_ORDER):
        share = jnp.zeros_like(h)
        for k in range(i, _ORDER):
            share = share - (-1) ** (k - i) * math.comb(k, i) * h * r[k + 1]
        out = jnp.where(position == i, share, out)
    return out


def _weights(grid: _Grid, nu: Array, tilt: Array) -> tuple[Array, Array]:
    """Probabilities of the terms, (..., terms), and B."""
    exponent = grid.centred * tilt[..., None] - nu[..., None] * grid.distance
    top = jnp.max(exponent, axis=-1)
    mass = grid.weight * jnp.exp(exponent - top[..., None])
    total = jnp.sum(mass, axis=-1)
    return mass / total[..., None], top + jnp.log(total)


def _solve(log_mu: Array, nu: Array) -> Array:
    """delta by Newton's method on log E[y], kept between the bounds by bisection.

    delta lies between 0 and (nu - 1) log(1 + 1 / mu): both follow from Jensen's inequality for
    E[y^nu] = lambda and E[(y + 1)^(1 - nu)] = E[y] / lambda.
    """
    grid, mu = _grid(log_mu, nu), jnp.exp(log_mu)
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


# In each of the following `found` is delta, a constant of derivatives: they follow by the rules.
@jax.custom_jvp
def _tilt(log_mu: Array, nu: Array, found: Array) -> Array:
    return found


@_tilt.defjvp
def _tilt_jvp(primals, tangents):
    log_mu, nu, found = primals
    change = _rate_change(primals, tangents)
    return _tilt(log_mu, nu, found), change - nu * tangents[0]


@jax.custom_jvp
def _log_norm(log_mu: Array, nu: Array, found: Array) -> Array:
    """B."""
    return _weights(_grid(log_mu, nu), nu, found)[1]


@_log_norm.defjvp
def _log_norm_jvp(primals, tangents):
    log_mu, nu, found = primals
    change = -_tilt(log_mu, nu, found) * jnp.exp(log_mu) * tangents[0]
    return _log_norm(*primals), change - _mean_distance(*primals) * tangents[1]


@jax.custom_jvp
def _mean_distance(log_mu: Array, nu: Array, found: Array) -> Array:
    """E[t]."""
    grid = _grid(log_mu, nu)
    return jnp.sum(_weights(grid, nu, found)[0] * grid.distance, axis=-1)


@_mean_distance.defjvp
def _mean_distance_jvp(primals, tangents):
    # E[dt] = 0: t(j) moves by (J - j) dlog mu.
    change = _moment(1, 1, *primals) * _rate_change(primals, tangents)
    return _mean_distance(*primals), change - _moment(0, 2, *primals) * tangents[1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _moment(a: int, b: int, log_mu: Array, nu: Array, found: Array) -> Array:
    """M_ab, the central moment of order a in y and b in t."""
    if a + b < 2:
        return jnp.full_like(log_mu, float(a + b == 0))
    grid = _grid(log_mu, nu)
    probability, _ = _weights(grid, nu, found)
    value = probability * grid.centred**a
    if b:
        mean = jnp.sum(probability * grid.distance, axis=-1)
        value = value * (grid.distance - mean[..., None]) ** b
    return jnp.sum(value, axis=-1)


@_moment.defjvp
def _moment_jvp(a, b, primals, tangents):
    dlog_mu, dnu, _ = tangents

    def moment(a: int, b: int) -> Array:
        return _moment(a, b, *primals)

    along_rate, along_nu = moment(a + 1, b), moment(a, b + 1)
    if a:
        along_rate = along_rate - a * moment(2, 0) * moment(a - 1, b)
        along_nu = along_nu - a * moment(1, 1) * moment(a - 1, b)
    if b:
        along_rate = along_rate - b * moment(1, 1) * moment(a, b - 1)
        along_nu = along_nu - b * moment(0, 2) * moment(a, b - 1)
    change = along_rate * _rate_change(primals, tangents) - along_nu * dnu
    if b:
        change = change - b * moment(a + 1, b - 1) * dlog_mu
    return moment(a, b), change


def _rate_change(primals, tangents) -> Array:
    """dL, the change of log(lambda) at fixed J: what keeps the mean at mu."""
    mu = jnp.exp(primals[0])
    return (mu * tangents[0] + _moment(1, 1, *primals) * tangents[1]) / _moment(2, 0, *primals)
