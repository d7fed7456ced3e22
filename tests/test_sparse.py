"""The solver that forms no remainder, against the dense twin: solutions to rounding, the
log-determinant within its Monte-Carlo error, its derivative that of the estimate itself."""

from __future__ import annotations

from dataclasses import dataclass

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from designs import Design

import glmm_jax as gj
from glmm_jax import structure
from glmm_jax.linalg import base, sparse, variances
from glmm_jax.structure import Structure

STEP = 1e-4


@jax.jit
def answers(pattern: Structure, Z, Lambda, weights, along, right):
    """log|H|, its derivatives in weights and Lambda, H^-1 right, L^-T right, blocks of H^-1."""

    def logdet(weights, Lambda):
        return base.logdet(base.factorise(pattern, Z, Lambda, weights))

    factor = base.factorise(pattern, Z, Lambda, weights)
    value, slopes = jax.value_and_grad(logdet, (0, 1))(weights, Lambda)
    forward = jax.jvp(lambda w: logdet(w, Lambda), (weights,), (along,))[1]
    solved = base.solve(pattern, factor, right)
    root = base.solve_transposed(pattern, factor, right)
    blocks = variances.level_covariances(pattern, Z, Lambda, weights)
    own = isinstance(factor, sparse.SparseFactor)
    each = sparse.values(pattern, factor.rest) if own else None
    return value, slopes, forward, solved, root, blocks, each


@dataclass(frozen=True)
class Twins:
    """What both solvers answer, and the arguments."""

    arguments: tuple
    exact: tuple
    iterative: tuple


@pytest.fixture(scope="module")
def twins() -> Twins:
    model = designs.model(Design("crossed_three"))  # two factors remain; one has slopes
    assert len(model.structure.rest) == 2 and 2 in model.structure.columns
    rng = np.random.default_rng(1)
    Lambda = tuple(jnp.asarray(0.7 * np.eye(k) + 0.2 * np.tri(k)) for k in model.structure.columns)
    weights, along = rng.uniform(0.05, 0.25, (2, model.n))
    weights[::7] = 0.0  # padding
    rest = model.Z, Lambda, jnp.asarray(weights), jnp.asarray(along), jnp.eye(model.q)
    estimated = structure.iterative(model.structure)
    return Twins(
        (estimated, *rest),
        answers(structure.dense(model.structure), *rest),
        answers(estimated, *rest),
    )


def test_solutions_are_those_of_the_dense_twin(twins: Twins) -> None:
    np.testing.assert_allclose(twins.iterative[3], twins.exact[3], rtol=0, atol=1e-9)


def test_the_log_determinant_is_within_its_error(twins: Twins) -> None:
    each = np.asarray(twins.iterative[-1])
    error = each.std(ddof=1) / np.sqrt(each.size)
    assert abs(twins.iterative[0] - twins.exact[0]) < 4 * error
    assert error < 0.03


def test_its_derivative_is_that_of_the_estimate(twins: Twins) -> None:
    pattern, Z, Lambda, weights, along, right = twins.arguments

    def value(amount: float, which: int | None = None):
        moved = [L + amount * (i == which) * jnp.tri(len(L)) for i, L in enumerate(Lambda)]
        w = weights + amount * along if which is None else weights
        return answers(pattern, Z, tuple(moved), w, along, right)[0].item()

    slope = (value(STEP) - value(-STEP)) / (2 * STEP)
    of_weights, of_Lambda = twins.iterative[1]
    assert jnp.sum(of_weights * along) == pytest.approx(slope, rel=1e-7)
    assert twins.iterative[2] == pytest.approx(slope, rel=1e-7)
    for i, found in enumerate(of_Lambda):
        slope = (value(STEP, i) - value(-STEP, i)) / (2 * STEP)
        assert jnp.sum(jnp.tril(found)) == pytest.approx(slope, rel=1e-6)


def test_roots_have_the_inverse_as_their_square(twins: Twins) -> None:
    root, inverse = np.asarray(twins.iterative[4]), twins.exact[3]
    np.testing.assert_allclose(root @ root.T, inverse, rtol=0, atol=1e-7)


def test_conditional_covariances_are_near(twins: Twins) -> None:
    for found, wanted in zip(twins.iterative[5], twins.exact[5], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1 * np.abs(wanted).max())


def test_second_derivatives_are_refused(twins: Twins) -> None:
    pattern, Z, Lambda, weights, *_ = twins.arguments

    def logdet(w):
        return base.logdet(base.factorise(pattern, Z, Lambda, w))

    with pytest.raises(ValueError, match="solver='exact'"):
        jax.eval_shape(jax.jacfwd(jax.grad(logdet)), weights)


def crossed(rows: int = 600, levels: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    g, h, x = (
        rng.integers(levels, size=rows),
        rng.integers(levels, size=rows),
        rng.normal(size=rows),
    )
    eta = 0.3 + 0.5 * x + rng.normal(size=levels)[g] + 0.7 * rng.normal(size=levels)[h]
    return pd.DataFrame({"g": g, "h": h, "x": x, "y": rng.poisson(np.exp(0.5 * eta))})


@pytest.fixture(scope="module")
def fits() -> dict[str, gj.Fit]:
    return {
        solver: gj.glmer("y ~ x + (1 | g) + (1 | h)", crossed(), "poisson", solver=solver)
        for solver in ("exact", "iterative")
    }


def test_fits_agree_within_their_monte_carlo_error(fits: dict[str, gj.Fit]) -> None:
    exact, found = fits["exact"], fits["iterative"]
    error = found.monte_carlo()
    assert exact.converged and found.converged
    assert exact.monte_carlo().llf == 0.0
    assert 0 < error.llf < 0.2 and abs(found.llf - exact.llf) < 4 * error.llf
    both = [np.concatenate([fit.params, fit.theta]) for fit in (exact, found)]
    assert np.all(np.abs(both[1] - both[0]) < 4 * error.params + 1e-8)
    errors = [np.sqrt(np.diag(fit.vcov_all)) for fit in (exact, found)]
    assert np.all(error.params < 0.1 * errors[0])
    np.testing.assert_allclose(errors[1], errors[0], rtol=0.02)


def test_the_summary_says_what_was_estimated(fits: dict[str, gj.Fit]) -> None:
    text = " ".join(str(fits["iterative"].summary()).split())
    assert "Iterative solver" in text and "Monte-Carlo standard error" in text
    assert "Iterative" not in str(fits["exact"].summary())


def test_auto_chooses_by_the_size_of_the_remainder() -> None:
    rows = np.arange(20_000)
    few = structure.build((rows, rows % 100), (20_000, 100), (1, 1), 1)
    assert few.solver == "schur"
    index = rows, (7 * rows + 3) % 9_000
    many = structure.build(index, (20_000, 9_000), (1, 1), 1)
    assert many.solver == "iterative" and not many.pairs
    single = structure.build((rows,), (20_000,), (1,), 1, solver="iterative")
    assert single.solver == "schur"  # nothing remains
    with pytest.raises(ValueError, match="relationship="):
        structure.build(index, (20_000, 9_000), (1, 1), 1, roots={1: np.eye(2)}, solver="iterative")
    with pytest.raises(ValueError, match="solver='cholesky'"):
        structure.build(index, (20_000, 9_000), (1, 1), 1, solver="cholesky")
