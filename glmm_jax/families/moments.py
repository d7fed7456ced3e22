"""Expressions that several families share: slope of the log mean, bounded starting values."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from glmm_jax.links import Link
from glmm_jax.tails import elementwise_derivative


def log_mean_slope(link: Link, eta: Array) -> Array:
    """d log(mu) / d eta, the shape of eta; it does not overflow where mu does."""
    return elementwise_derivative(link.log_mean, eta)


def log_start(value: Array, low: float, high: float) -> Array:
    """log(value) to start a parameter from, inside [log low, log high]; the middle for NaN.

    The limits concern the starting value alone: a search may leave them.
    """
    usable = jnp.isfinite(value) & (value > 0)
    logarithm = jnp.log(jnp.where(usable, value, 1.0))
    bounded = jnp.minimum(jnp.maximum(logarithm, math.log(low)), math.log(high))
    low_end = jnp.where(value <= 0, math.log(low), 0.5 * (math.log(low) + math.log(high)))
    return jnp.where(usable, bounded, low_end)
