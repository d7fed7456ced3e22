"""Covariance of one random-effects term: theta to its small lower-triangular factor Lambda.

A term with k columns has Var(b_level) = Lambda Lambda', the same for every level. Lambda is
absolute (not relative to a residual standard deviation) in every family.

Two kinds have Lambda linear in theta: `Full` and `Diagonal`. Two have standard deviations and one
correlation, Lambda = diag(sd) C with C the Cholesky factor of a correlation matrix:

    CompoundSymmetry   every two columns have correlation rho; -1 / (k - 1) <= rho <= 1
    AR1                columns i and j have correlation rho^|i - j|; -1 <= rho <= 1; one sd

Their last parameter is an angle t with sin(t) = rho for AR1, and for compound symmetry
sin(t) = (2 (k - 1) rho - (k - 2)) / k, which maps the range of rho to -1 ... 1 too. Then C is a
smooth function of every real t, the ends of the range included (they are t = -pi/2 and pi/2), and
the deviance is even about each end: like a variance of zero, an end is a point and no limit.
The standard deviation of AR1 is theta_1, even in its sign. Those of compound symmetry are the
squares of their parameters, since a change of sign of one of several would change the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RIGHT_ANGLE = float(np.pi / 2)


@dataclass(frozen=True)
class Full:
    """Unstructured covariance; theta is the lower triangle of Lambda, column by column (lme4)."""

    columns: int

    @property
    def size(self) -> int:
        """Number of parameters, k (k + 1) / 2."""
        return self.columns * (self.columns + 1) // 2

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in Lambda of each element of theta."""
        # Copies: JAX remembers what it made of an array, in the precision of that moment.
        row, column = _triangle(self.columns)
        return row.copy(), column.copy()


@dataclass(frozen=True)
class Diagonal:
    """Independent columns; theta is the diagonal of Lambda."""

    columns: int

    @property
    def size(self) -> int:
        """Number of parameters, k."""
        return self.columns

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in Lambda of each element of theta."""
        diagonal = np.arange(self.columns)
        return diagonal, diagonal


@dataclass(frozen=True)
class CompoundSymmetry:
    """A standard deviation per column and one correlation; theta is sqrt(sd), (k,), and t."""

    columns: int

    @property
    def size(self) -> int:
        """Number of parameters, k + 1."""
        return self.columns + 1


@dataclass(frozen=True)
class AR1:
    """One standard deviation, correlation rho^|i - j|; theta is (sd, t)."""

    columns: int

    @property
    def size(self) -> int:
        """Number of parameters, 2."""
        return 2


@cache
def _triangle(columns: int) -> tuple[np.ndarray, np.ndarray]:
    column, row = np.triu_indices(columns)
    return row, column


@cache
def _placement(covariance: Linear) -> np.ndarray:
    """Which element of Lambda, (k k,), each parameter is, (size, k k): zeros and ones."""
    row, column = covariance.entries()
    k = covariance.columns
    return (np.arange(k * k) == (row * k + column)[:, None]).astype(float)


Linear = Full | Diagonal
Structured = CompoundSymmetry | AR1
Covariance = Linear | Structured

KINDS = {"us": Full, "diag": Diagonal, "cs": CompoundSymmetry, "ar1": AR1}


def factor(covariance: Covariance, theta: jax.Array) -> jax.Array:
    """Lambda of one term, (k, k) lower triangular, from its parameters, (size,)."""
    if isinstance(covariance, Structured):
        return structured_factor(covariance, theta, jnp)
    k = covariance.columns
    # No product of matrices, which an accelerator may round.
    placed = theta[:, None] * _placement(covariance).astype(theta.dtype)
    return jnp.sum(placed, axis=0).reshape(k, k)


def parameters(covariance: Covariance, Lambda: jax.Array) -> jax.Array:
    """theta, (size,), of a lower-triangular Lambda, (k, k): the inverse of `factor`.

    For a structured kind any Lambda is taken to one of the kind: with the standard deviations
    (AR1: their root mean square) and the mean correlation (AR1: of neighbours) of Lambda Lambda'.
    """
    if isinstance(covariance, Structured):
        return _projected(covariance, Lambda)
    row, column = covariance.entries()
    return Lambda[row, column]


def deviations(covariance: Structured, theta: Any) -> Any:
    """Standard deviations of a structured kind: (..., k), of AR1 (..., 1); NumPy or JAX."""
    if isinstance(covariance, AR1):
        return abs(theta[..., :1])
    return theta[..., :-1] ** 2


def correlation(covariance: Structured, angle: Any, xp: Any = np) -> Any:
    """rho from the angle t, elementwise; xp is NumPy or jax.numpy."""
    if isinstance(covariance, AR1):
        return xp.sin(angle)
    k = covariance.columns
    return (k - 2 + k * xp.sin(angle)) / (2 * (k - 1))


def angle_of(covariance: Structured, rho: Any, xp: Any = np) -> Any:
    """The angle t in -pi/2 ... pi/2 of a correlation, elementwise: the inverse of `correlation`."""
    k = covariance.columns
    sine = rho if isinstance(covariance, AR1) else (2 * (k - 1) * rho - (k - 2)) / k
    return xp.arcsin(xp.clip(sine, -1.0, 1.0))  # rounding may pass an end


def structured_factor(covariance: Structured, theta: Any, xp: Any = np) -> Any:
    """Lambda, (k, k), of a structured kind from its parameters, (size,); NumPy or jax.numpy.

    With m_j = 1 + (j - 1) rho and r = sqrt(1 - rho) the factor C of compound symmetry is

        C_11 = 1, C_i1 = rho,  C_jj = r sqrt(m_j+1 / m_j),  C_ij = rho r / sqrt(m_j m_j+1), i > j,

    where r = sqrt(k / (k - 1)) sin(pi/4 - t/2) and sqrt(m_k) = sqrt(k) cos(pi/4 - t/2) need no
    root; the other m_j are positive. That of AR1 is C_i1 = rho^(i-1), C_ij = cos(t) rho^(i-j).
    """
    k, t = covariance.columns, theta[-1]
    rho = correlation(covariance, t, xp)
    below = xp.asarray(np.tri(k), dtype=theta.dtype)
    one = xp.ones(1, theta.dtype)
    if isinstance(covariance, AR1):
        power = xp.cumprod(xp.concatenate([one, xp.broadcast_to(rho, (k - 1,))]))
        apart = np.abs(np.arange(k)[:, None] - np.arange(k)[None])
        own = xp.concatenate([one, xp.broadcast_to(xp.cos(t), (k - 1,))])
        return theta[0] * below * power[apart] * own[None, :]
    half = np.pi / 4 - 0.5 * t
    r = np.sqrt(k / (k - 1)) * xp.sin(half)
    known = xp.sqrt(1.0 + xp.asarray(np.arange(k - 1), dtype=theta.dtype) * rho)
    root = xp.concatenate([known, xp.reshape(np.sqrt(k) * xp.cos(half), (1,))])
    own = xp.concatenate([one, r * root[1:] / root[:-1]])
    shared = xp.concatenate([one * rho, rho * r / (root[:-2] * root[1:-1]), 0.0 * one])
    C = xp.asarray(np.eye(k), dtype=theta.dtype) * own[None, :]
    C = C + (below - xp.asarray(np.eye(k), dtype=theta.dtype)) * shared[None, :]
    return deviations(covariance, theta)[:, None] * C


def _projected(covariance: Structured, Lambda: jax.Array) -> jax.Array:
    k = covariance.columns
    square = jnp.sum(Lambda**2, axis=1)
    sd = jnp.sqrt(square)
    rows = Lambda / jnp.where(sd > 0, sd, 1.0)[:, None]
    R = rows @ rows.T
    if isinstance(covariance, AR1):
        mean = jnp.sum(jnp.diagonal(R, 1)) / (k - 1)
        first = jnp.sqrt(jnp.mean(square))[None]
    else:
        mean = jnp.sum(jnp.tril(R, -1)) / (k * (k - 1) // 2)
        first = jnp.sqrt(sd)
    return jnp.concatenate([first, angle_of(covariance, mean, jnp)[None]])


def natural(covariance: Covariance, rows: jax.Array) -> jax.Array:
    """Size of each parameter, (size,), from a standard deviation of each column, (k,)."""
    if isinstance(covariance, CompoundSymmetry):
        return jnp.concatenate([jnp.sqrt(rows), jnp.ones(1, rows.dtype)])
    if isinstance(covariance, AR1):
        # One standard deviation for all columns together.
        together = 1.0 / jnp.sqrt(jnp.sum(1.0 / rows**2))
        return jnp.stack([together, jnp.ones((), rows.dtype)])
    return parameters(covariance, rows[:, None] * jnp.ones((1, covariance.columns), rows.dtype))


def independent(covariance: Structured, scale: jax.Array, fraction: jax.Array) -> jax.Array:
    """theta, (size,), without correlation and with `fraction` of the natural deviations."""
    if isinstance(covariance, CompoundSymmetry):
        fraction = jnp.sqrt(fraction)
    return (scale * fraction).at[-1].set(angle_of(covariance, 0.0))


def pivots(covariance: Covariance) -> np.ndarray:
    """Which parameters are zero exactly where a variance is (of what is left), (size,) bool."""
    if isinstance(covariance, Structured):
        return np.arange(covariance.size) < covariance.size - 1
    row, column = covariance.entries()
    return row == column


def inward(covariance: Structured, theta: jax.Array, scale: jax.Array, least: float) -> jax.Array:
    """theta, (size,), of which every deviation and every distance of t from its ends is at least
    `least`, in units of `scale`."""
    sign = jnp.where(theta < 0, -1.0, 1.0)
    deviation = sign * jnp.maximum(jnp.abs(theta), least * scale)
    angle = jnp.clip(_folded(theta), -RIGHT_ANGLE + least, RIGHT_ANGLE - least)
    return jnp.where(pivots(covariance), deviation, angle)


def boundary(covariance: Covariance, theta: jax.Array) -> jax.Array:
    """Which parameters are exactly on the boundary, (size,) bool: a pivot of zero, or t at an end
    of its range."""
    zero = jnp.asarray(pivots(covariance)) & (theta == 0)
    if isinstance(covariance, Structured):
        return jnp.where(pivots(covariance), zero, jnp.abs(theta) == RIGHT_ANGLE)
    return zero


def held(covariance: Covariance, theta: Any, xp: Any = np) -> Any:
    """Which parameters, (size,) bool, are not free where theta is: NumPy or jax.numpy.

    Those in a column of Lambda that is exactly zero, and a correlation at an end of its range or
    of columns that do not vary. The deviance is even in each (or does not depend on it), so its
    gradient vanishes there by symmetry: no standard error, and no derivative of the estimate.
    """
    if isinstance(covariance, Structured):
        still = theta[:-1] == 0
        least = 1 if isinstance(covariance, AR1) else 2  # deviations that make a correlation
        end = (abs(theta[-1:]) == RIGHT_ANGLE) | (xp.sum(~still) < least)
        return xp.concatenate([still, end])
    _, column = covariance.entries()
    same = xp.asarray(column[:, None] == column[None, :])
    return ~xp.any(same & (theta != 0)[None, :], axis=1)


def canonical_parameters(
    covariance: Covariance, theta: jax.Array, scale: jax.Array, zero: float
) -> jax.Array:
    """The theta, (size,), of the same Lambda Lambda' that `canonical` chooses.

    For a structured kind: deviations >= 0, those below `zero` in natural units exactly zero; t in
    -pi/2 ... pi/2 and within `zero` of an end exactly there; t of no correlation where all of the
    deviations are zero, and where all but one are, see `_other_side`.
    """
    if isinstance(covariance, Linear):
        tolerance = zero * jnp.diagonal(factor(covariance, scale))
        return parameters(covariance, canonical(factor(covariance, theta), tolerance))
    size, natural_size = deviations(covariance, theta), deviations(covariance, scale)
    kept = size > zero * natural_size
    first = jnp.where(kept, jnp.abs(theta[:-1]), 0.0)
    t = _folded(theta[-1])
    t = jnp.where(jnp.cos(t) <= zero, jnp.sign(t) * RIGHT_ANGLE, t)
    if isinstance(covariance, CompoundSymmetry):
        t = jnp.where(jnp.sum(kept) == 1, _other_side(covariance, t), t)
    t = jnp.where(jnp.any(kept), t, angle_of(covariance, 0.0))
    return jnp.concatenate([first, t[None]])


def _other_side(covariance: CompoundSymmetry, angle: jax.Array) -> jax.Array:
    """An angle whose correlation has the other sign, unless it was chosen here already.

    With one deviation positive and the others zero the correlation changes nothing, but its sign
    decides whether the deviance rises or falls along the others. A search that has come to zero
    with one sign must be shown the other before the point can count as a minimum.
    """
    none = angle_of(covariance, 0.0)
    negative, positive = 0.5 * (none - RIGHT_ANGLE), 0.5 * (none + RIGHT_ANGLE)
    chosen = (angle == negative) | (angle == positive)
    return jnp.where(chosen, angle, jnp.where(angle > none, negative, positive))


def _folded(angle: jax.Array) -> jax.Array:
    """The angle in -pi/2 ... pi/2 with the same sine; one that is there keeps every bit."""
    return jnp.where(jnp.abs(angle) <= RIGHT_ANGLE, angle, jnp.arcsin(jnp.sin(angle)))


def canonical(Lambda: jax.Array, tolerance: jax.Array) -> jax.Array:
    """The one factor of Lambda Lambda' that has a diagonal >= 0 and, if singular, zero columns.

    The deviance depends on Lambda only through Lambda Lambda', so its columns may be rotated. Row
    after row, a Householder reflection gathers what the row has in the columns that are still free
    on the diagonal; where that is no longer than `tolerance`, the pivot is zero and its column
    stays free for the rows below. For a regular lower-triangular Lambda only signs change.

    Parameters: Lambda (k, k) lower triangular; tolerance (k,), per row, in the units of b.
    """
    k = Lambda.shape[0]
    position = np.arange(k)
    free = jnp.ones(k, bool)
    for j in range(k):
        row = jnp.where(free, Lambda[j], 0.0)
        others = jnp.sum(jnp.where(position == j, 0.0, row) ** 2)
        # A row that is on the diagonal already must keep its last bit: sqrt(x^2) need not be |x|.
        length = jnp.where(others > 0, jnp.sqrt(row[j] ** 2 + others), jnp.abs(row[j]))
        pivot = length > tolerance[j]
        target = jnp.where(position == j, length, 0.0)
        normal = jnp.where(pivot, row - target, 0.0)
        square = jnp.sum(normal**2)
        scale = 2.0 / jnp.where(square > 0, square, 1.0)
        Lambda = Lambda - scale * jnp.outer(Lambda @ normal, normal)
        # Row j is set to what the reflection gives without rounding.
        Lambda = Lambda.at[j].set(jnp.where(free, jnp.where(pivot, target, 0.0), Lambda[j]))
        free = jnp.where(position == j, ~pivot, free)
    return jnp.tril(Lambda)
