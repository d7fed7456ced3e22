"""Eigenvalues of a few parameters against LAPACK: random, graded, equal and singular matrices."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from glmm_jax.linalg.symmetric import spectrum


def matrices(size: int) -> np.ndarray:
    draw = np.random.default_rng(size)
    plain = draw.normal(size=(400, size, size))
    plain = plain + np.swapaxes(plain, 1, 2)
    scale = np.exp(draw.uniform(-8, 8, size=(200, size)))
    plain[200:] *= scale[:, :, None] * scale[:, None, :]
    turn = np.linalg.qr(draw.normal(size=(size, size)))[0]
    repeated = np.where(np.arange(size) > 0, 1.0, 1e-14)
    special = [np.eye(size), np.ones((size, size)), np.zeros((size, size)), -np.eye(size)]
    return np.concatenate([plain, special, [turn @ np.diag(repeated) @ turn.T]])


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_values_and_vectors(size: int) -> None:
    M = matrices(size)
    values, V = map(np.asarray, jax.jit(jax.vmap(spectrum))(M))
    largest = np.max(np.abs(values), axis=1)[:, None]
    wanted = np.linalg.eigvalsh(M)
    assert np.all(np.abs(np.sort(values, axis=1) - wanted) <= 1e-14 * largest)
    again = V @ (values[:, :, None] * np.swapaxes(V, 1, 2))
    assert np.all(np.abs(again - M) <= 1e-14 * largest[:, :, None])
    np.testing.assert_allclose(np.swapaxes(V, 1, 2) @ V, np.eye(size)[None] + 0 * M, atol=1e-14)


def test_what_is_not_a_number_stays_so() -> None:
    values, _ = spectrum(jax.numpy.full((3, 3), np.nan))
    assert np.all(np.isnan(values))
