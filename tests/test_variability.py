"""Dispersion and zeros: the statistics by plain NumPy, the verdicts on data of known kind."""

from __future__ import annotations

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from reference_cases import FOLDER, case

from glmm_jax import Fit, glmer
from glmm_jax.inference import variability
from glmm_jax.inference.replicates import Replicates, replicates
from glmm_jax.inference.simulate import simulate_array

REFERENCE = json.loads((FOLDER / "inference_residuals.json").read_text(encoding="utf-8"))


@cache
def fitted(id: str) -> Fit:
    return glmer(**case(f"{id}/lme4").glmer_arguments())


@cache
def overdispersion(id: str) -> variability.VariabilityTest:
    return fitted(id).overdispersion()


@cache
def zero_inflated() -> Fit:
    draw = np.random.default_rng(8)
    g = np.repeat(np.arange(12), 10)
    mean = np.exp(1.2 + 0.3 * draw.normal(size=12)[g])
    y = np.where(draw.random(120) < 0.25, 0, draw.poisson(mean))
    return glmer("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": g}), "poisson")


def made_up(statistics: list[float]) -> Replicates:
    values = np.array(statistics)
    return Replicates(values, values, (), np.empty((len(values), 0)), np.empty((len(values), 0)))


@pytest.mark.parametrize("id", ["gt_pois3", "cbpp"])
def test_chi_square_is_that_of_lme4s_residuals(id: str) -> None:
    known = REFERENCE[id]["dispersion"]
    row = overdispersion(id).frame.loc["chi-square"]
    assert row["statistic"] == pytest.approx(known["chisq"], rel=1e-5)
    assert row["expected"] == known["df"]
    assert row["ratio"] == pytest.approx(known["chisq"] / known["df"], rel=1e-5)
    assert row["p"] == pytest.approx(known["p"], rel=1e-3, abs=1e-12)


def test_replicates_are_those_of_dense_newton_iterations() -> None:
    fit = fitted("cbpp")
    frame, (sd,) = fit.frame, fit.theta
    (block,) = frame.blocks
    simulated = simulate_array(fit, 3, 5, "new")
    found = replicates(fit, simulated)
    Z = np.eye(len(block.levels))[block.index] * sd
    p, size = frame.X.shape[1], frame.trials
    # u and beta together, u penalised.
    both = np.hstack([Z, frame.X])
    penalty = np.diag([1.0] * Z.shape[1] + [0.0] * p)
    for i, y in enumerate([frame.y, *simulated]):
        x = np.concatenate([np.zeros(Z.shape[1]), fit.params])
        for _ in range(30):
            mu = scipy.special.expit(both @ x)
            W = size * mu * (1 - mu)
            H = both.T @ (W[:, None] * both) + penalty
            x += np.linalg.solve(H, both.T @ (y - size * mu) - penalty @ x)
        mu, u = scipy.special.expit(both @ x), x[: Z.shape[1]]
        pearson = np.sum((y - size * mu) ** 2 / (size * mu * (1 - mu)))
        assert found.pearson[i] == pytest.approx(pearson, rel=1e-9)
        excess = np.sum((y == 0) - scipy.stats.binom.pmf(0, size, mu))
        assert found.excess_zeros[i] == pytest.approx(excess, rel=1e-8, abs=1e-9)
        assert found.largest[i, 0] == pytest.approx(np.max(np.abs(u)), rel=1e-9)
        assert found.skewness[i, 0] == pytest.approx(scipy.stats.skew(u), rel=1e-7)
    assert found.effects == (("herd", "Intercept"),)


def test_the_simulated_comparison_allows_for_many_coefficients() -> None:
    """Thirty coefficients take up a quarter of the variation of 120 rows; the simulated responses
    must have theirs estimated too, or true models look underdispersed."""
    rng = np.random.default_rng(4)
    g = np.arange(120) % 10
    frame = pd.DataFrame(rng.normal(size=(120, 30)), columns=[f"x{i}" for i in range(30)])
    fit, ratios, p = None, [], []
    for _ in range(12):
        y = rng.poisson(np.exp(0.8 + 0.5 * rng.normal(size=10)[g])).astype(float)
        formula = f"y ~ {' + '.join(frame.columns)} + (1 | g)"
        data = frame.assign(y=y, g=g)
        fit = glmer(formula, data, "poisson") if fit is None else fit.refit(y)
        row = fit.overdispersion(n=60).frame.loc["simulation"]
        ratios.append(row["ratio"])
        p.append(row["p"])
    # Standard error of the mean: sqrt(2 / 80 / 12) = 0.05. With fixed coefficients it is 0.76.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.12)
    assert np.mean(np.array(p) < 0.05) <= 0.3


def test_modes_are_divided_by_the_standard_deviation_of_their_effect() -> None:
    fit = fitted("sleep_corr_ml")
    found = replicates(fit, simulate_array(fit, 1, 0, "new"))
    b = fit.ranef()["Subject"][["Intercept", "Days"]].to_numpy()
    sd = fit.varcorr()["sdcor"].to_numpy()[:2]
    np.testing.assert_allclose(found.largest[0], np.max(np.abs(b), axis=0) / sd, rtol=1e-9)
    np.testing.assert_allclose(found.skewness[0], scipy.stats.skew(b), rtol=1e-7)
    assert found.effects == (("Subject", "Intercept"), ("Subject", "Days"))


def test_overdispersed_binomial_counts_are_found() -> None:
    test = fitted("betabinom_as_binom").overdispersion()
    assert test.frame.loc["simulation", "p"] == pytest.approx(2 / 251)
    assert test.frame.loc["simulation", "ratio"] > 2
    assert "Overdispersion" in test.message and "(1 | row)" in test.message
    assert "beta-binomial" in test.message and "quasi-binomial" in test.message


def test_an_effect_per_row_takes_up_the_overdispersion() -> None:
    before, after = (overdispersion(id) for id in ("gt_pois2", "gt_pois3"))
    assert before.frame.loc["simulation", "p"] < 0.01 and "negative binomial" in before.message
    assert after.frame.loc["simulation", "p"] > 0.05
    assert after.message.startswith("No sign of over- or underdispersion")
    # Degrees of freedom do not count the effect per row, so that the ratio says nothing there.
    assert after.frame.loc["chi-square", "ratio"] < 0.5
    assert after.frame.loc["simulation", "ratio"] == pytest.approx(1.0, abs=0.2)


def test_messages_say_what_to_do() -> None:
    fit = fitted("gt_pois3")
    assert variability.has_row_effect(fit) and not variability.has_row_effect(fitted("gt_pois2"))
    most = variability.dispersion_test(fit, made_up([163.0, *[80.0] * 99]))
    assert "The random effect per row does not remove it" in most.message
    least = variability.dispersion_test(fit, made_up([163.0, *[400.0] * 99]))
    assert least.message.startswith("Underdispersion") and "too large" in least.message
    failed = variability.dispersion_test(fit, made_up([163.0, np.nan, *[80.0] * 98]))
    assert "were not found: no test" in failed.message


def test_prior_weights_are_mentioned() -> None:
    test = overdispersion("wts_pois_int")
    assert "Prior weights multiply the log density" in test.message
    assert test.frame.loc["simulation", "ratio"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("cm3", "A 0/1 response cannot be overdispersed"),
        ("sleep_corr_ml", "The Gaussian family has a dispersion"),
    ],
)
def test_nothing_to_test_is_said(id: str, message: str) -> None:
    test = fitted(id).overdispersion()
    assert test.frame.empty and test.message.startswith(message)
    assert str(test).startswith("Overdispersion\n") and message in test._repr_html_()


def test_zeros_of_a_fit_that_is_right() -> None:
    fit = fitted("gt_pois3")
    frame = fit.zero_inflation().frame
    assert np.all(frame["observed"] == np.sum(fit.frame.y == 0))
    assert np.all(frame["p"] > 0.05)
    low, seen, high = frame[["2.5 %", "observed", "97.5 %"]].to_numpy().T
    assert np.all(low < seen) and np.all(seen < high)
    simulated = simulate_array(fit, 250, 0, "new")
    assert frame.loc["new effects", "expected"] == pytest.approx(np.mean(np.sum(simulated == 0, 1)))
    # At the modes of the data themselves the number is known much better.
    new_effects, own_modes = high - low
    assert own_modes < 0.8 * new_effects


def test_too_many_zeros_are_found() -> None:
    test = zero_inflated().zero_inflation()
    assert test.frame.loc["own modes", "p"] == pytest.approx(2 / 251)
    assert test.frame.loc["own modes", "ratio"] > 2
    assert test.message.startswith("Too many zeros") and "zero_inflation='~ 1'" in test.message


def test_too_few_zeros_are_found() -> None:
    fit = fitted("gt_pois3")
    made = made_up([-30.0, *np.linspace(-5, 5, 99)])
    test = variability.zero_test(fit, simulate_array(fit, 99, 0, "new"), made)
    assert test.message.startswith("Too few zeros")
    assert test.frame.loc["own modes", "expected"] == pytest.approx(np.sum(fit.frame.y == 0) + 30)


@pytest.mark.parametrize(
    ("id", "message"), [("cm3", "A 0/1 response"), ("sleep_corr_ml", "continuous responses")]
)
def test_zeros_of_other_responses_are_no_question(id: str, message: str) -> None:
    """As `overdispersion` has it: a table without rows, and a sentence."""
    test = fitted(id).zero_inflation()
    assert test.frame.empty and message in test.message and test.message.endswith(".")
    assert list(test.frame.columns) == list(zero_inflated().zero_inflation().frame.columns)
    for wrong in (fitted(id).zero_inflation, fitted(id).overdispersion):
        with pytest.raises(ValueError, match="n=0"):
            wrong(n=0)


def test_tests_do_not_depend_on_the_precision_of_jax(default_precision: None) -> None:
    assert jnp.ones(1).dtype == jnp.float32
    fit = fitted("cbpp")
    found = replicates(fit, simulate_array(fit, 3, 5, "new"))
    assert found.pearson.dtype == np.float64
    with jax.enable_x64(True):
        expected = replicates(fit, simulate_array(fit, 3, 5, "new"))
    np.testing.assert_array_equal(found.pearson, expected.pearson)


def test_printing() -> None:
    test = overdispersion("cbpp")
    lines = str(test).splitlines()
    assert lines[2].split() == ["statistic", "expected", "ratio", "p"]
    assert lines[3].split()[:3] == ["chi-square", "63.08", "51.00"]
    assert "<td>63.08</td>" in test._repr_html_() and repr(test) == str(test)
