"""The error of the Laplace approximation, told in log-likelihood and in standard errors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from reference_cases import case

from glmm_jax import glmer
from glmm_jax.inference.laplace_error import importance_program
from glmm_jax.results import Fit
from glmm_jax.runtime import engine, run


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


def test_quadrature_gives_the_exact_likelihood_and_the_shift() -> None:
    fit = fitted("cm3/lme4")
    found = fit.laplace_error()
    assert found.method == "quadrature" and found.settled and found.standard_error == 0
    exact = case("cm3_agq25/lme4")
    # Two points of one function, at its maximum and near it: at most 1e-3 lower.
    assert exact.log_likelihood - 1e-3 < found.integral <= exact.log_likelihood + 1e-6
    assert found.error == pytest.approx(found.laplace - found.integral)
    assert found.laplace == pytest.approx(fit.llf, abs=1e-9)
    assert found.shift is not None and not found.matters
    # The estimates by quadrature, from another program.
    theta = (exact.theta[0] - fit.theta.iloc[0]) / np.sqrt(fit.vcov_all.iloc[-1, -1])
    assert found.shift.iloc[-1] == pytest.approx(theta, rel=0.05)
    beta = (exact.beta - fit.params.reindex(exact.names())) / fit.bse.reindex(exact.names())
    np.testing.assert_allclose(found.shift.reindex(exact.names()), beta, atol=2e-3)
    assert "good enough" in str(found)


def test_importance_sampling_agrees_with_quadrature() -> None:
    fit = fitted("cm3/lme4")
    exact = fit.laplace_error().integral
    with engine():
        arguments = fit.estimate.params, fit.model, jnp.asarray(fit.estimate.u)
        sample = run(importance_program, *arguments, jax.random.key(1), pairs=500)
    value, error, effective = (float(part) for part in sample)
    assert 0 < error < 0.2 and effective > 50
    assert abs(value - exact) < 4 * error


def test_sentences_about_importance_sampling_are_careful() -> None:
    found = fitted("cm3/lme4").laplace_error()
    sampled = replace(
        found,
        integral=found.laplace - 0.02,
        method="importance sampling",
        shift=None,
        standard_error=0.01,
        effective=400.0,
    )
    assert "unlikely to be off" in sampled.message and not sampled.matters
    large = replace(sampled, integral=sampled.laplace + 1.0)
    assert large.matters and "cannot be told without gradients" in large.message
    few = replace(sampled, settled=False)
    assert "raise pairs=" in few.message


def test_an_optimum_of_the_approximation_alone_is_not_trusted() -> None:
    fit = fitted("toenail_slope/lme4")
    found = fit.laplace_error()
    # The integral there is about -621 where the approximation has -480.76.
    assert found.laplace == pytest.approx(-480.76, abs=0.02) and found.integral < -600
    assert found.matters
    assert any("optimum of the Laplace approximation alone" in one for one in fit.warnings)


def test_an_optimum_of_the_approximation_alone_of_one_random_effect() -> None:
    """Levels that are all 0 or all 1, but for a few: the approximation has no finite variance."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(20), 8)  # as in test_predict, whose program serves here too
    y = (rng.uniform(size=20) < 0.4)[g].astype(int)
    y[[0, 7, 33]] = 1 - y[[0, 7, 33]]
    data = pd.DataFrame({"y": y, "x": rng.normal(size=160), "g": g.astype(str)})
    fit = glmer("y ~ x + (1 | g)", data, "bernoulli")
    assert fit.theta.iloc[0] > 5
    assert any("optimum of the Laplace approximation alone" in one for one in fit.warnings)
    found = fit.laplace_error()
    assert found.matters and abs(found.error) > 0.5
    assert "not to be trusted" in found.message or "which matters" in found.message


def test_districts_of_many_rows_give_no_warning() -> None:
    assert fitted("cm3/lme4").warnings == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"pairs": 1}, "pairs=1"), ({"pairs": 2.5}, "pairs=2.5"), ({"seed": "a"}, "seed='a'")],
)
def test_other_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted("cm3/lme4").laplace_error(**arguments)
