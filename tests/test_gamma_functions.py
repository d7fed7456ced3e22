"""Differences of log-gamma functions, against sums in extended order and SciPy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from glmm_jax.gamma_functions import (
    entropy_excess,
    log_factorial,
    log_rising,
    stirling_remainder,
)


def rising(a, y):
    """log Gamma(a + y) - log Gamma(a) - y log a for an integer y, and its slope in log a."""
    value = math.fsum(math.log1p(j / a) for j in range(y))
    return value, -math.fsum(j / (a + j) for j in range(y))


@pytest.mark.parametrize("y", [0, 1, 2, 7, 60, 4000])
def test_log_rising_is_the_sum_of_logarithms(y):
    sizes = np.logspace(-8, 12, 21)
    got = jax.vmap(jax.value_and_grad(log_rising), (0, None))(jnp.log(sizes), jnp.asarray(float(y)))
    expected = np.array([rising(a, y) for a in sizes]).T
    tolerance = 1e-14 * max(1, y)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-14, atol=tolerance)
    np.testing.assert_allclose(got[1], expected[1], rtol=1e-14, atol=tolerance)


def test_log_factorial_and_its_slope_are_those_of_scipy():
    y = np.concatenate([np.arange(40.0), [6.9999, 7.0001, 0.3], np.logspace(2, 300, 30)])
    value, slope = jax.vmap(jax.value_and_grad(log_factorial))(jnp.asarray(y))
    np.testing.assert_allclose(value, special.gammaln(y + 1.0), rtol=2e-15, atol=1e-14)
    np.testing.assert_allclose(slope, special.digamma(y + 1.0), rtol=1e-13, atol=1e-13)


def test_log_rising_by_half_a_step():
    a = np.array([0.01, 0.5, 3.0, 40.0])
    expected = special.gammaln(a + 0.5) - special.gammaln(a) - 0.5 * np.log(a)
    np.testing.assert_allclose(log_rising(jnp.log(a), jnp.full(4, 0.5)), expected, atol=1e-14)


def test_stirling_remainder_against_scipy():
    x = np.concatenate([np.logspace(-12, 1, 40), [7.999999, 8.0, 8.000001]])
    got = stirling_remainder(jnp.log(x))
    plain = special.gammaln(x) - (x - 0.5) * np.log(x) + x - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(got, plain, rtol=1e-13, atol=1e-14)
    large = np.logspace(4, 30, 14)
    got = stirling_remainder(jnp.log(large))
    np.testing.assert_allclose(got, 1 / (12 * large) - 1 / (360 * large**3), rtol=1e-11)


def test_derivatives_of_stirling_remainder():
    """With respect to log x: x psi - x log x + 1/2, and once more by the trigamma function."""
    x = np.logspace(-6, 1.5, 30)
    first = jax.vmap(jax.grad(stirling_remainder))
    second = jax.vmap(jax.grad(jax.grad(stirling_remainder)))
    plain = x * special.digamma(x) - x * np.log(x) + 0.5
    np.testing.assert_allclose(first(jnp.log(x)), plain, atol=2e-14)
    plain = x * special.digamma(x) + x * x * special.polygamma(1, x) - x * np.log(x) - x
    np.testing.assert_allclose(second(jnp.log(x)), plain, atol=5e-14)


@pytest.mark.parametrize("log_a", [-700.0, -40.0, 40.0, 79.0, 81.0, 700.0])
def test_four_derivatives_are_finite_far_out(log_a):
    for function in (stirling_remainder, lambda a: log_rising(a, jnp.asarray(5.0))):
        derivatives = [function]
        for _ in range(4):
            derivatives.append(jax.jacfwd(derivatives[-1]))
        values = [float(f(jnp.asarray(log_a))) for f in derivatives]
        assert np.all(np.isfinite(values)), values


def test_entropy_excess_keeps_its_digits():
    d = np.array([-0.9, -0.4, -0.031, 0.031, 0.5, 10.0, 1e6])
    np.testing.assert_allclose(entropy_excess(jnp.array(d)), (1 + d) * np.log1p(d) - d, rtol=1e-13)
    tiny = np.array([-1e-150, -1e-8, 1e-12, 1e-150])
    np.testing.assert_allclose(entropy_excess(jnp.array(tiny)), tiny**2 / 2, rtol=1e-8)
    edge = np.array([-0.0299999, 0.0299999])
    series = sum((-edge) ** k / (k * (k - 1)) for k in range(2, 30))
    np.testing.assert_allclose(entropy_excess(jnp.array(edge)), series, rtol=1e-15)


def test_slope_of_log_rising_in_y():
    """psi(a + y) - log a, and its derivative in log a."""
    a, y = np.array([0.05, 1.0, 30.0]), np.array([1.0, 2.5, 700.0])
    slope = jax.grad(lambda y, log_a: jnp.sum(log_rising(log_a, y)))
    got = slope(jnp.array(y), jnp.log(a))
    np.testing.assert_allclose(got, special.digamma(a + y) - np.log(a), rtol=1e-11)
    mixed = jax.grad(lambda log_a: jnp.sum(slope(jnp.array(y), log_a)))(jnp.log(a))
    np.testing.assert_allclose(mixed, a * special.polygamma(1, a + y) - 1, rtol=1e-10)
