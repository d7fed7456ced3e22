"""Symmetric positive definite matrices known by their products only: solutions, log-determinants.

The matrix A, (r, r), has a unit diagonal on the average, so that log A is near A - I. Then

    log|A| = tr(A - I) + E z'(log A - (A - I)) z        for random signs z,

and the expectation is over a quantity that is of second order in A - I: with the trace known, some
tens of signs vectors do. z' log(A) z comes from m steps of the Lanczos recurrence, A Q = Q T + ...,
as |z|^2 e1' log(T) e1. The vectors z are given once and for all, so that the estimate is a smooth
function of A; its own derivative, and not another estimate of that of log|A|, is

    d z' log(A) z = sum_ij G_ij q_i' dA q_j,    G = |z|^2 U (F * c c') U',    T = U diag(e) U',

with c the first row of U and F_ab = (log e_a - log e_b) / (e_a - e_b).

Source: Ubaru, Chen and Saad (2017), SIAM J. Matrix Anal. Appl. 38, 1075-1099; Higham (2008),
Functions of Matrices, ch. 3 (the derivative).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Product = Callable[[jax.Array], jax.Array]  # v (r, c) -> A v

TOLERANCE = 1e-11  # of the residual of A x = b, relative to b
LANCZOS_TOLERANCE = 1e-9  # z' log(A) z is of second order in it
MOST_STEPS = 2_000  # of conjugate gradients
MOST_VECTORS = 100  # of the Lanczos recurrence


def tolerance(dtype: jnp.dtype) -> float:
    """Relative residual at which an iteration ends."""
    return max(TOLERANCE, 20 * float(jnp.finfo(dtype).eps))


def solve(apply: Product, right: jax.Array) -> jax.Array:
    """A^-1 B by conjugate gradients, (r, c), each column by itself; NaN where it does not converge.

    Parameters: apply, A times (r, c); right, B (r, c).
    """
    enough = tolerance(right.dtype) ** 2 * jnp.sum(right**2, axis=0)

    def body(state):
        x, residual, direction, square, trips = state
        image = apply(direction)
        curvature = jnp.sum(direction * image, axis=0)
        on = square > enough
        step = jnp.where(on, square / jnp.where(on, curvature, 1.0), 0.0)
        x = x + step[None] * direction
        residual = residual - step[None] * image
        after = jnp.where(on, jnp.sum(residual**2, axis=0), square)
        ratio = jnp.where(on, after / jnp.where(on, square, 1.0), 0.0)
        return x, residual, residual + ratio[None] * direction, after, trips + 1

    def unfinished(state):
        return jnp.any(state[3] > enough) & (state[4] < MOST_STEPS)

    square = jnp.sum(right**2, axis=0)
    start = jnp.zeros_like(right), right, right, square, jnp.asarray(0)
    x, _, _, square, _ = jax.lax.while_loop(unfinished, body, start)
    return jnp.where((square <= enough)[None], x, jnp.nan)


class Recurrence(NamedTuple):
    """Lanczos vectors Q (m, r, c) from c starts, T (c, m, m), |z|^2 (c,), and the steps taken.

    Rows beyond the last step are zero in Q and those of the identity in T.
    """

    vectors: jax.Array
    matrix: jax.Array
    square: jax.Array
    steps: jax.Array
    converged: jax.Array


def lanczos(apply: Product, start: jax.Array) -> Recurrence:
    """The recurrence from each column of a start, (r, c).

    It ends when conjugate gradients from there would have a small residual, which is the product
    of beta_i / delta_i, with delta the pivots of T: functions of A converge before.
    """
    rows, columns = start.shape
    most = min(MOST_VECTORS, rows)
    dtype = start.dtype
    norm = jnp.linalg.norm(start, axis=0)
    enough = max(LANCZOS_TOLERANCE, 20 * float(jnp.finfo(dtype).eps))

    def body(state):
        Q, alpha, beta, q, before, last, pivot, residual, j = state
        on = residual > enough
        Q = Q.at[j].set(q)
        w = apply(q) - last[None] * before
        a = jnp.sum(q * w, axis=0)
        w = w - a[None] * q
        b = jnp.linalg.norm(w, axis=0)
        pivot = a - jnp.where(j > 0, last**2 / pivot, 0.0)
        residual = jnp.where(on, residual * b / jnp.abs(pivot), residual)
        on_next = residual > enough
        b = jnp.where(on & on_next, b, 0.0)
        after = jnp.where((b > 0)[None], w / jnp.where(b > 0, b, 1.0)[None], 0.0)
        alpha = alpha.at[j].set(jnp.where(on, a, 1.0))
        beta = beta.at[j].set(b)
        pivot = jnp.where(on, pivot, 1.0)
        return Q, alpha, beta, after, q, b, pivot, residual, j + 1

    def unfinished(state):
        return jnp.any(state[7] > enough) & (state[8] < most)

    one = jnp.ones(columns, dtype)
    begin = (
        jnp.zeros((most, rows, columns), dtype),
        jnp.ones((most, columns), dtype),
        jnp.zeros((most, columns), dtype),
        start / jnp.where(norm > 0, norm, 1.0)[None],
        jnp.zeros_like(start),
        0.0 * one,
        one,
        jnp.where(norm > 0, one, 0.0),
        jnp.asarray(0),
    )
    Q, alpha, beta, *_, residual, steps = jax.lax.while_loop(unfinished, body, begin)
    # A link to a step that was not taken is none.
    beta = jnp.where(jnp.arange(most)[:, None] < steps - 1, beta, 0.0)[:-1]
    T = jax.vmap(lambda a, b: jnp.diag(a) + jnp.diag(b, 1) + jnp.diag(b, -1), in_axes=1)(
        alpha, beta
    )
    return Recurrence(Q, T, norm**2, steps, residual <= 1e3 * enough)


def quadratic_log(found: Recurrence) -> tuple[jax.Array, jax.Array]:
    """z' log(A) z of each start, (c,), NaN where A is not definite; and G, (c, m, m)."""
    e, U = jnp.linalg.eigh(found.matrix)
    first = U[:, 0, :]
    value = found.square * jnp.sum(first**2 * jnp.log(e), axis=1)
    total = e[:, :, None] + e[:, None, :]
    d = (e[:, :, None] - e[:, None, :]) / total
    near = jnp.abs(d) < 1e-4
    ratio = jnp.where(near, 1.0 + d**2 / 3.0, jnp.arctanh(d) / jnp.where(near, 1.0, d))
    F = 2.0 * ratio / total
    inner = F * first[:, :, None] * first[:, None, :]
    G = found.square[:, None, None] * (U @ inner @ jnp.swapaxes(U, -1, -2))
    return jnp.where(found.converged, value, jnp.nan), G


def inverse_root(apply: Product, start: jax.Array) -> jax.Array:
    """A^-1/2 z of each column, (r, c)."""
    found = lanczos(apply, start)
    e, U = jnp.linalg.eigh(found.matrix)
    weights = jnp.sqrt(found.square)[None] * jnp.einsum("cij,cj,cj->ic", U, e**-0.5, U[:, 0, :])
    result = jnp.einsum("mrc,mc->rc", found.vectors, weights)
    return jnp.where(found.converged[None], result, jnp.nan)
