"""Every way to factorise the system matrix against NumPy on matrices written out in full.

The derivatives have closed forms too. With G = Z Lambda H^-1 Lambda' Z', T = diag(t) and
a = Z Lambda H^-1 r, moving the row weights w along t changes

    log|H|       by   tr(GT),      -tr(GT GT),     2 tr(GT GT GT)
    r' H^-1 r    by  -a'Ta,       2 a'T G T a,    -6 a'T G T G T a     (orders one, two, three)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from designs import STRUCTURES, Design

import glmm_jax as gj
from glmm_jax import structure
from glmm_jax.linalg import base, block_diagonal, dense, segments, variances
from glmm_jax.model import Model
from glmm_jax.structure import Structure

# The remainder is accumulated by the cheaper of two ways: each structure is tried with both.
WAYS = {"pairs": 0.0, "product": math.inf}


@dataclass(frozen=True)
class System:
    """A structure with the numbers of H = Lambda' Z' W Z Lambda + I, and H by NumPy."""

    structure: Structure
    Z: tuple[jax.Array, ...]
    Lambda: tuple[jax.Array, ...]
    weights: jax.Array
    right: jax.Array
    ZLambda: np.ndarray
    H: np.ndarray

    @property
    def arrays(self):
        return self.structure, self.Z, self.Lambda, self.weights, self.right

    @property
    def twin(self):
        return structure.dense(self.structure), *self.arrays[1:]


def sparse() -> Model:
    """Crossed factors whose levels rarely meet: the list of pairs is cheaper than a product."""
    row = np.arange(120)
    codes = {"g": row // 2, "h": np.random.default_rng(0).permutation(row % 40)}
    data = pd.DataFrame({"y": row % 2, **codes})
    return gj.build_model("y ~ 1 + (1|g) + (1|h)", data, "bernoulli")


def system(name: str) -> System:
    model = sparse() if name == "sparse" else designs.model(Design(name))
    pattern = model.structure
    rng = np.random.default_rng(len(name))
    Lambda = [np.tril(rng.normal(size=(k, k))) for k in pattern.columns]
    weights = rng.uniform(0.05, 1.5, size=model.n)
    weights[::7] = 0.0  # padding
    weights[3::11] = -0.02  # the observed information of a row may be negative
    columns = np.zeros((model.n, pattern.q))
    start = 0
    for f, (levels, k) in enumerate(zip(pattern.levels, pattern.columns, strict=True)):
        rows = np.asarray(model.Z[f]) @ Lambda[f]
        for i, level in enumerate(np.asarray(pattern.index[f])):
            columns[i, start + level * k : start + (level + 1) * k] = rows[i]
        start += levels * k
    H = columns.T @ (weights[:, None] * columns) + np.eye(pattern.q)
    assert np.linalg.eigvalsh(H).min() > 0.2
    return System(
        pattern,
        model.Z,
        tuple(map(jnp.asarray, Lambda)),
        jnp.asarray(weights),
        jnp.asarray(rng.normal(size=(pattern.q, 3))),
        columns,
        H,
    )


def close(actual, wanted, tolerance: float = 1e-10) -> None:
    """Equal relative to the largest element."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@jax.jit
def solution(pattern: Structure, Z, Lambda, weights, right):
    """log|H|, H^-1 right and the diagonal blocks of H^-1."""
    factor = base.factorise(pattern, Z, Lambda, weights)
    blocks = variances.level_covariances(pattern, Z, Lambda, weights)
    solved = base.solve(pattern, factor, right)
    return base.logdet(factor), solved, base.solve(pattern, factor, right[:, 0]), blocks


# Terms of one factor share its blocks: "two_terms" is "slope" here, "diagonal_and_full" is
# "crossed_slopes".
DISTINCT = [name for name in STRUCTURES if name not in ("two_terms", "diagonal_and_full", "nested")]
WITH_REMAINDER = [name for name in DISTINCT if name.startswith(("crossed", "nested_and"))]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "product") for name in DISTINCT if name != "nested_and_crossed_twice"),
        *((name, "pairs") for name in ("crossed_slopes", "nested_and_crossed_twice", "sparse")),
        *((name, "dense twin") for name in ("slopes", "crossed_three")),
    ],
)
def test_logdet_solve_and_variances(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way in WAYS:
        monkeypatch.setattr(structure, "SCATTER_COST", WAYS[way])
    one = system(name)
    assert bool(one.structure.rest) == (name in [*WITH_REMAINDER, "sparse"])
    assert bool(one.structure.pairs) == (way == "pairs" or (way != "product" and name == "sparse"))
    logdet, solved, single, blocks = solution(*(one.twin if way == "dense twin" else one.arrays))
    inverse = np.linalg.inv(one.H)
    close(logdet, np.linalg.slogdet(one.H)[1])
    close(solved, np.linalg.solve(one.H, one.right))
    close(single, np.linalg.solve(one.H, one.right)[:, 0])
    start = 0
    for block, levels, k in zip(blocks, one.structure.levels, one.structure.columns, strict=True):
        assert block.shape == (levels, k, k)
        for level in range(levels):
            place = slice(start + level * k, start + (level + 1) * k)
            close(block[level], inverse[place, place])
        start += levels * k


@pytest.mark.parametrize("name", ["slopes", "nested_and_crossed_twice"])
def test_products_with_Z_Lambda(name: str) -> None:
    one = system(name)
    u, rows = np.asarray(one.right), np.asarray(one.ZLambda)[:, :2] + 1.0
    pattern = one.structure, one.Z, one.Lambda
    forwards, backwards = jax.jit(base.multiply), jax.jit(base.multiply_transposed)
    close(forwards(*pattern, one.right[:, 0]), one.ZLambda @ u[:, 0], 1e-14)
    close(backwards(*pattern, jnp.asarray(rows)), one.ZLambda.T @ rows, 1e-14)
    close(backwards(*pattern, jnp.asarray(rows[:, 0])), one.ZLambda.T @ rows[:, 0], 1e-14)
    for flat in (one.right, one.right[:, 0]):
        parts = base.split(one.structure, flat)
        assert [part.shape[:2] for part in parts] == [
            *zip(one.structure.levels, one.structure.columns, strict=True)
        ]
        np.testing.assert_array_equal(base.join(parts), flat)


def test_vmap_is_one_by_one() -> None:
    one = system("crossed")
    many = jnp.stack([one.weights, 2.0 * one.weights + 0.1, jnp.zeros_like(one.weights)])

    def of(weights):
        factor = base.factorise(one.structure, one.Z, one.Lambda, weights)
        return base.logdet(factor), base.solve(one.structure, factor, one.right)

    logdets, solved = jax.jit(jax.vmap(of))(many)
    for i, weights in enumerate(many):
        H = one.ZLambda.T @ (np.asarray(weights)[:, None] * one.ZLambda) + np.eye(len(one.H))
        np.testing.assert_allclose(logdets[i], np.linalg.slogdet(H)[1], rtol=1e-10, atol=1e-14)
        close(solved[i], np.linalg.solve(H, one.right))


@pytest.mark.parametrize(
    ("name", "way"),
    [("scalar", ""), ("five_columns", ""), ("crossed_three", ""), ("crossed_three", "dense twin")],
)
def test_nan_where_not_definite(name: str, way: str) -> None:
    one = system(name)
    arrays = one.twin if way == "dense twin" else one.arrays
    logdet, solved, _, _ = solution(*arrays[:3], -3.0 * jnp.abs(one.weights) - 1.0, one.right)
    assert np.isnan(logdet)
    assert np.isnan(solved).any()


# Derivatives


def functionals(weights, Lambda, pattern, Z, right) -> jax.Array:
    """log|H| and r' H^-1 r, (2,)."""
    factor = base.factorise(pattern, Z, Lambda, weights)
    return jnp.stack([base.logdet(factor), right @ base.solve(pattern, factor, right)])


def forward(f: Callable, t: jax.Array) -> Callable:
    """The derivative of f along t by forward mode."""
    return lambda w: jax.jvp(f, (w,), (t,))[1]


def reverse(f: Callable, t: jax.Array) -> Callable:
    """The same by reverse mode, for a function with two values."""
    return lambda w: jax.vmap(jax.vjp(f, w)[1])(jnp.eye(2))[0] @ t


@partial(jax.jit, static_argnames=("mixes",))
def derivatives(weights, t, Lambda, pattern, Z, right, mixes) -> dict[str, jax.Array]:
    """Directional derivatives in the weights; "fr" is forward over reverse, and so on."""
    out = {}
    for mix in mixes:

        def f(w):
            return functionals(w, Lambda, pattern, Z, right)

        for mode in reversed(mix):
            f = forward(f, t) if mode == "f" else reverse(f, t)
        out[mix] = f(weights)
    return out


@pytest.mark.parametrize(
    ("name", "way", "mixes"),
    [
        ("five_columns", "product", ("f", "r", "ffr")),
        ("nested_three", "product", ("fr",)),
        ("crossed_slopes", "pairs", ("rr",)),
        ("crossed", "product", ("rr", "ffr")),
        ("crossed", "dense twin", ("f", "r", "rf", "rr", "ffr")),
    ],
)
def test_derivatives_in_the_weights(
    name: str, way: str, mixes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "SCATTER_COST", WAYS.get(way, 0.0))
    one = system(name)
    pattern = structure.dense(one.structure) if way == "dense twin" else one.structure
    t = np.random.default_rng(5).normal(size=len(one.weights))
    right = one.right[:, 0]
    numbers = one.weights, jnp.asarray(t), one.Lambda, pattern, one.Z, right
    found = derivatives(*numbers, mixes=mixes)
    solved = np.linalg.solve(one.H, one.ZLambda.T)
    GT = one.ZLambda @ solved * t
    a, Ta = right @ solved, t * (right @ solved)
    wanted = {
        1: (np.trace(GT), -a @ Ta),
        2: (-np.trace(GT @ GT), 2 * Ta @ GT @ a),
        3: (2 * np.trace(GT @ GT @ GT), -6 * Ta @ GT @ GT @ a),
    }
    for mix in mixes:
        np.testing.assert_allclose(found[mix], wanted[len(mix)], rtol=1e-9, err_msg=mix)


@jax.jit
def in_Lambda(Lambda, t, weights, pattern, Z, right):
    """Gradient of both functionals in Lambda, and its change along t."""

    def gradient(Lambda):
        return jax.jacrev(lambda L: functionals(weights, L, pattern, Z, right))(Lambda)

    return jax.jvp(gradient, (Lambda,), (t,))


def test_derivatives_in_Lambda_are_those_of_the_twin() -> None:
    one = system("crossed_slopes")
    t = jax.tree.map(lambda L: jnp.tril(jnp.cos(jnp.arange(L.size).reshape(L.shape))), one.Lambda)
    twin = structure.dense(one.structure)
    right = one.right[:, 1]
    found = in_Lambda(one.Lambda, t, one.weights, one.structure, one.Z, right)
    wanted = in_Lambda(one.Lambda, t, one.weights, twin, one.Z, right)
    jax.tree.map(close, found, wanted)
    # The twin itself: the derivative along t by differences of order four.
    step = 1e-3

    def at(multiple: int) -> np.ndarray:
        moved = jax.tree.map(lambda L, d: L + multiple * step * d, one.Lambda, t)
        return np.asarray(functionals(one.weights, moved, twin, one.Z, right))

    difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
    slopes = [np.tensordot(g, d, 2) for g, d in zip(wanted[0], t, strict=True)]
    np.testing.assert_allclose(np.sum(slopes, axis=0), difference, rtol=1e-8)


# Small blocks


def positive(*shape: int, seed: int = 1) -> np.ndarray:
    """Random symmetric positive definite matrices, (*shape[:-1], k, k) for k = shape[-1]."""
    root = np.random.default_rng(seed).normal(size=(*shape, shape[-1]))
    return root @ np.swapaxes(root, -1, -2) + 0.3 * np.eye(shape[-1])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_blocks(k: int) -> None:
    blocks, right = positive(5, k), np.random.default_rng(2).normal(size=(5, k, 2))
    lower = block_diagonal.cholesky(jnp.asarray(blocks))
    close(lower, np.linalg.cholesky(blocks), 1e-13)
    close(block_diagonal.solve_lower(lower, jnp.asarray(right)), np.linalg.solve(lower, right))
    transposed = np.swapaxes(np.asarray(lower), -1, -2)
    close(block_diagonal.solve_upper(lower, jnp.asarray(right)), np.linalg.solve(transposed, right))
    close(block_diagonal.logdet(lower), np.linalg.slogdet(blocks)[1].sum(), 1e-13)


@pytest.mark.parametrize("k", [3, 5])
def test_derivatives_of_blocks(k: int) -> None:
    blocks, change = jnp.asarray(positive(3, k)), jnp.asarray(positive(3, k, seed=4))

    def logdet(s):
        return block_diagonal.logdet(block_diagonal.cholesky(blocks + s * change))

    step = np.linalg.solve(blocks, change)
    first, second = jax.jit(jax.value_and_grad(jax.jacfwd(logdet)))(0.0)
    close(first, np.trace(step, axis1=1, axis2=2).sum())
    close(second, -np.trace(step @ step, axis1=1, axis2=2).sum())


@pytest.mark.parametrize("k", [1, 3, 5])
def test_one_block_that_is_not_definite_leaves_the_others(k: int) -> None:
    blocks = positive(3, k)
    blocks[1] -= 2 * np.linalg.eigvalsh(blocks[1])[0] * np.eye(k)  # one eigenvalue turned negative
    lower = np.asarray(block_diagonal.cholesky(jnp.asarray(blocks)))
    assert np.isnan(lower[1]).any()
    close(lower[[0, 2]], np.linalg.cholesky(blocks[[0, 2]]), 1e-13)


# One dense matrix


@pytest.mark.parametrize("what", ["logdet", "inverse", "solve"])
def test_dense_rules(what: str) -> None:
    """Three orders along a line S + s D, by every mix, for right-hand sides that move as well."""
    S, D = jnp.asarray(positive(4)), jnp.asarray(positive(4, seed=3) - positive(4, seed=7))
    B, C = (jnp.asarray(np.random.default_rng(i).normal(size=(4, 2))) for i in (8, 9))
    projection = jnp.asarray(np.random.default_rng(11).normal(size=(4, 4)))

    def f(s):
        matrix = S + s * D
        lower = dense.cholesky(matrix)
        if what == "logdet":
            return dense.logdet(matrix, lower)
        if what == "inverse":
            return jnp.sum(projection * dense.inverse(matrix, lower))
        return jnp.sum(projection[:, :2] * dense.solve(matrix, lower, B + s * C))

    inverse, K = np.linalg.inv(S), np.linalg.solve(S, D)  # along the line S^-1 -> -K S^-1
    if what == "logdet":
        wanted = [np.trace(K), -np.trace(K @ K), 2 * np.trace(K @ K @ K)]
    elif what == "inverse":
        powers = [-K, 2 * K @ K, -6 * K @ K @ K]
        wanted = [np.sum(projection * (power @ inverse)) for power in powers]
    else:
        x, y, P = inverse @ B, inverse @ C, projection[:, :2]
        wanted = [
            np.sum(P * (y - K @ x)),
            np.sum(P * (2 * K @ K @ x - 2 * K @ y)),
            np.sum(P * (6 * K @ K @ y - 6 * K @ K @ K @ x)),
        ]

    @jax.jit
    def all_mixes(s):
        out = {}
        for mix in ("f", "r", "ff", "fr", "rf", "rr", "ffr", "frr"):
            g = f
            for mode in reversed(mix):
                g = jax.jacfwd(g) if mode == "f" else jax.jacrev(g)
            out[mix] = g(s)
        return out

    for mix, found in all_mixes(0.0).items():
        np.testing.assert_allclose(found, wanted[len(mix) - 1], rtol=1e-10, err_msg=mix)


def test_inverse_of_many_rows() -> None:
    """By halves, of unequal sizes."""
    rows = 2 * dense.LARGEST_WHOLE + 3
    S = jnp.asarray(positive(rows))
    close(jax.jit(dense.inverse)(S, dense.cholesky(S)), np.linalg.inv(S), 1e-11)


def test_a_remainder_of_no_rows() -> None:
    empty = jnp.zeros((0, 0))
    assert dense.logdet(empty, dense.cholesky(empty)) == 0.0


def test_take_and_total() -> None:
    rng = np.random.default_rng(0)
    index, values = rng.integers(6, size=20), rng.normal(size=(20, 2, 3))
    wanted = np.zeros((7, 2, 3))
    np.add.at(wanted, index, values)  # level 6 has no row
    close(segments.total(jnp.asarray(values), jnp.asarray(index), 7), wanted, 1e-15)
    taken = segments.take(jnp.asarray(wanted), jnp.asarray(index))
    np.testing.assert_array_equal(taken, wanted[index])


def test_the_twin_is_a_matrix() -> None:
    one = system("crossed")
    matrix, lower = base.factorise(*one.twin[:-1])
    close(matrix, one.H, 1e-14)
    close(lower, np.linalg.cholesky(one.H), 1e-13)
