"""Covariance of one random-effects term: theta to its small lower-triangular factor Lambda.

A term with k columns has Var(b_level) = Lambda Lambda', the same for every level. Lambda is
absolute (not relative to a residual standard deviation) in every family.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


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
        column, row = np.triu_indices(self.columns)
        return row, column


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


Covariance = Full | Diagonal


def factor(covariance: Covariance, theta: jax.Array) -> jax.Array:
    """Lambda of one term, (k, k) lower triangular, from its parameters, (size,)."""
    row, column = covariance.entries()
    k = covariance.columns
    return jnp.zeros((k, k), theta.dtype).at[row, column].set(theta)


def parameters(covariance: Covariance, Lambda: jax.Array) -> jax.Array:
    """theta, (size,), of a lower-triangular Lambda, (k, k): the inverse of `factor`."""
    row, column = covariance.entries()
    return Lambda[row, column]


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
