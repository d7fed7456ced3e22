"""theta and its small factors: one the inverse of the other, and the factor that is canonical."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmm_jax.covariance import Diagonal, Full, canonical, factor, parameters

NONE = 1e-9


@jax.jit
def chosen(Lambda: jax.Array, tolerance: jax.Array) -> jax.Array:
    return canonical(Lambda, tolerance)


def choose(Lambda, tolerance: float = NONE) -> np.ndarray:
    Lambda = jnp.asarray(Lambda, float)
    return np.asarray(chosen(Lambda, jnp.full(Lambda.shape[0], tolerance)))


@pytest.mark.parametrize(
    "covariance", [Full(1), Full(2), Full(3), Full(5), Diagonal(1), Diagonal(4)]
)
def test_parameters_inverts_factor(covariance: Full | Diagonal) -> None:
    theta = jnp.arange(1.0, covariance.size + 1)
    Lambda = factor(covariance, theta)
    k = covariance.columns
    assert Lambda.shape == (k, k)
    np.testing.assert_array_equal(parameters(covariance, Lambda), theta)
    np.testing.assert_array_equal(jnp.tril(Lambda), Lambda)
    np.testing.assert_array_equal(factor(covariance, parameters(covariance, Lambda)), Lambda)


def test_order_of_theta() -> None:
    """By column, as lme4: (1,1), (2,1), (3,1), (2,2), (3,2), (3,3)."""
    full = factor(Full(3), jnp.arange(1.0, 7.0))
    np.testing.assert_array_equal(full, [[1, 0, 0], [2, 4, 0], [3, 5, 6]])
    np.testing.assert_array_equal(factor(Diagonal(2), jnp.array([3.0, 4.0])), [[3, 0], [0, 4]])
    assert (Full(3).size, Diagonal(3).size) == (6, 3)


@pytest.mark.parametrize("k", range(1, 6))
def test_a_regular_factor_changes_its_signs_alone(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(20):
        Lambda = np.tril(rng.normal(size=(k, k)))
        found = choose(Lambda)
        wanted = Lambda * np.where(np.diag(Lambda) < 0, -1.0, 1.0)
        np.testing.assert_allclose(found, wanted, rtol=2e-15, atol=0)  # a reflection rounds


@pytest.mark.parametrize("k", range(1, 6))
def test_a_canonical_factor_keeps_every_bit(k: int) -> None:
    rng = np.random.default_rng(k)
    for scale in (1.0, 1e-6, 1e12, 1e-170, 1e170):  # the last two have no square
        Lambda = scale * np.tril(rng.normal(size=(k, k)))
        Lambda[np.arange(k), np.arange(k)] = scale * rng.uniform(0.1, 1.0, size=k)
        np.testing.assert_array_equal(choose(Lambda, NONE * scale), Lambda)


def singular(k: int, rank: int, seed: int) -> np.ndarray:
    """Lower-triangular, of the given rank, zeros on the diagonal in random places."""
    rng = np.random.default_rng(seed)
    Lambda = np.tril(rng.normal(size=(k, k)))
    for j in rng.choice(k, size=k - rank, replace=False):
        # Row j becomes a combination of the rows above, with nothing of its own; rows below keep
        # what they have in its column.
        Lambda[j] = rng.normal(size=j) @ Lambda[:j]
    return Lambda


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_a_singular_factor(k: int) -> None:
    for seed in range(30):
        rank = seed % k
        Lambda = singular(k, rank, seed)
        wanted = Lambda @ Lambda.T
        found = choose(Lambda, 1e-7)
        np.testing.assert_allclose(found @ found.T, wanted, atol=1e-12 * max(1, wanted.max()))
        _is_canonical(found)
        assert np.sum(np.diag(found) > 0) == np.linalg.matrix_rank(wanted, tol=1e-9)
        np.testing.assert_array_equal(choose(found, 1e-7), found)  # nothing left to do


def _is_canonical(Lambda: np.ndarray) -> None:
    np.testing.assert_array_equal(np.tril(Lambda), Lambda)
    diagonal = np.diag(Lambda)
    assert np.all(diagonal >= 0) and not np.any(np.signbit(diagonal))
    # A zero pivot is an exact zero, and so is the column below it: no variance has its direction.
    np.testing.assert_array_equal(Lambda[:, diagonal == 0], 0.0)


def test_what_a_zero_pivot_leaves_in_its_column_moves_on() -> None:
    """The 3 x 3 case by hand: rows (0), (a, 0), (b, c, d): Var(b_1) = 0, so column 1 is free."""
    Lambda = np.array([[0.0, 0.0, 0.0], [-3.0, 4.0, 0.0], [1.0, 2.0, -2.0]])
    found = choose(Lambda)
    # Row 2 has length 5; row 3 meets it with (-3 + 8) / 5 = 1, and keeps sqrt(9 - 1) of its own.
    wanted = [[0, 0, 0], [0, 5, 0], [0, 1, np.sqrt(8.0)]]
    np.testing.assert_allclose(found, wanted, atol=1e-14)
    _is_canonical(found)


def test_perfect_correlation_in_three_columns() -> None:
    """Rank one: the second and the third row are multiples of the first."""
    Lambda = np.outer([2.0, -1.0, 0.5], [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(choose(Lambda), Lambda)
    rotated = np.outer([0.0, -1.0, 0.5], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(choose(rotated), [[0, 0, 0], [0, 1, 0], [0, -0.5, 0]], atol=1e-15)
    rank_two = np.array([[1.0, 0, 0], [0.5, 0, 0], [0.2, -0.7, 0]])
    np.testing.assert_allclose(choose(rank_two), [[1, 0, 0], [0.5, 0, 0], [0.2, 0, 0.7]])


def test_lengths_below_the_tolerance_become_exact_zeros() -> None:
    Lambda = np.array([[1e-5, 0.0], [2e-6, 1e-6]])
    np.testing.assert_array_equal(choose(Lambda, 3e-4), np.zeros((2, 2)))
    mixed = np.asarray(chosen(jnp.asarray([[1e-5, 0.0], [0.4, -0.3]]), jnp.asarray([3e-4, 3e-4])))
    np.testing.assert_allclose(mixed, [[0, 0], [0, 0.5]], atol=1e-15)
    # The tolerance is per row, in the units of that row: a tiny slope of a huge covariate stays.
    slope = np.array([[0.7, 0.0], [1e-8, -2e-8]])
    found = np.asarray(chosen(jnp.asarray(slope), jnp.asarray([3e-4, 3e-11])))
    np.testing.assert_array_equal(found, [[0.7, 0.0], [1e-8, 2e-8]])


def test_zero_stays_zero() -> None:
    for k in (1, 3):
        found = choose(-np.zeros((k, k)))
        np.testing.assert_array_equal(found, np.zeros((k, k)))
        assert not np.any(np.signbit(np.diag(found)))
