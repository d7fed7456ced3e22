"""Residuals: lme4's four kinds, and the randomised quantile residuals against exact ones."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from reference_cases import FOLDER, case

from glmm_jax import Fit, glmer
from glmm_jax.inference import quantile, residuals

REFERENCE = json.loads((FOLDER / "inference_residuals.json").read_text(encoding="utf-8"))
LME4S = ("response", "pearson", "deviance", "working")


@cache
def fitted(id: str) -> Fit:
    return glmer(**case(f"{id}/lme4").glmer_arguments())


# The programs end within about 1e-6 standard errors of the same optimum, which moves a residual by
# 1e-5 of the largest at most.
@pytest.mark.parametrize("id", ["cm3_cloglog", "cbpp", "gt_pois3", "sleep_corr_ml"])
def test_residuals_are_lme4s(id: str) -> None:
    for kind in LME4S:
        known = REFERENCE[id]["residuals"][kind]
        found = fitted(id).resid(kind).to_numpy()
        np.testing.assert_allclose(found[:12], known["first"], atol=1e-5 * known["largest"])
        assert np.sum(found) == pytest.approx(known["sum"], abs=1e-5 * np.sum(np.abs(found)))
        assert np.sum(found**2) == pytest.approx(known["squares"], rel=1e-5)
        assert len(found) == fitted(id).nobs


def test_working_residuals_keep_their_digits_in_the_tails() -> None:
    fit = fitted("cbpp")
    model = fit.model
    eta = jnp.where(jnp.arange(model.n) % 2 == 0, 40.0, -40.0)
    found = np.asarray(residuals._working(fit.estimate.params, model, eta))
    assert model.size is not None
    share, mu = np.asarray(model.y / model.size), 1 / (1 + np.exp(-40.0))
    # (share - mu) / (mu (1 - mu)), with 1 - mu = exp(-eta) mu written without a difference.
    high = -(1 - share) * np.exp(40.0) / mu + share / mu
    low = share * np.exp(40.0) / mu - (1 - share) / mu
    expected = np.where(np.arange(model.n) % 2 == 0, high, low)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.any(share == 0) and np.any(share > 0)


def test_quantile_residuals_of_a_gaussian_fit_are_its_standardised_residuals() -> None:
    fit, n = fitted("sleep_corr_ml"), 4000
    frame = fit.frame
    (block,) = frame.blocks
    Lambda = np.zeros((2, 2))
    Lambda[[0, 1, 1], [0, 0, 1]] = fit.theta
    marginal = np.sqrt(np.sum((block.Z @ Lambda) ** 2, axis=1) + fit.sigma**2)
    exact = {
        "conditional": (frame.y - fit.fittedvalues.to_numpy()) / fit.sigma,
        "new": (frame.y - frame.X @ fit.params.to_numpy()) / marginal,
    }
    for random, z in exact.items():
        found = fit.resid("quantile", n=n, seed=1, random=random).to_numpy()
        u, p = scipy.stats.norm.cdf(found), scipy.stats.norm.cdf(z)
        # A share of n simulated values below y, of binomial error; 180 rows, so 4.5 errors.
        assert np.all(np.abs(u - p) < 4.5 * np.sqrt(p * (1 - p) / n) + 2 / n)
        # Beyond three standard deviations 4,000 values say little; the data have some at five.
        near = np.abs(z) < 3
        assert near.sum() > 170 and np.corrcoef(found[near], z[near])[0, 1] > 0.998


def test_quantile_residuals_of_counts_lie_between_their_distribution_functions() -> None:
    fit, n = fitted("cbpp"), 4000
    y, size, mu = fit.frame.y, fit.frame.trials, fit.fittedvalues.to_numpy()
    found = scipy.stats.norm.cdf(fit.resid("quantile", n=n, random="conditional"))
    low = scipy.stats.binom.cdf(y - 1, size, mu)
    high = scipy.stats.binom.cdf(y, size, mu)
    slack = 4.5 * 0.5 / np.sqrt(n)
    assert np.all(found > low - slack) and np.all(found < high + slack)
    # Ties are broken at random: neither end is preferred.
    inside = (found - low) / (high - low)
    assert scipy.stats.kstest(np.clip(inside, 0, 1), "uniform").pvalue > 0.01


def test_quantile_residuals_repeat_by_seed() -> None:
    fit = fitted("gt_pois3")
    first = fit.resid("quantile", seed=3)
    assert first.equals(fit.resid("quantile", seed=3))
    assert not first.equals(fit.resid("quantile", seed=4))
    assert np.all(np.isfinite(first)) and first.name == "quantile"
    assert first.index.equals(fit.frame.index)


def test_quantile_residuals_do_not_depend_on_the_precision_of_jax(default_precision: None) -> None:
    assert jnp.ones(1).dtype == jnp.float32
    fit = fitted("cbpp")
    assert np.all(np.isfinite(fit.resid("quantile")))
    known = REFERENCE["cbpp"]["residuals"]["working"]
    np.testing.assert_allclose(fit.resid("working")[:12], known["first"], rtol=1e-5)


def test_positions_among_simulated_values() -> None:
    simulated = np.array([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    u = np.array([quantile.scaled(np.array([2.0, 5.0]), simulated, s) for s in range(500)])
    # One below and two ties: from 1/5 to 4/5; beyond all four: from 4/5 to 1.
    for column, (low, high) in zip(u.T, [(0.2, 0.8), (0.8, 1.0)], strict=True):
        assert scipy.stats.kstest(column, "uniform", (low, high - low)).pvalue > 0.01


def test_positions_are_uniform_if_the_model_is_true() -> None:
    draw = np.random.default_rng(0)
    for values in (draw.poisson(0.4, (41, 4000)), draw.normal(size=(41, 4000))):
        ranked = quantile.ranks(values[0].astype(float), values[1:].astype(float), 5)
        assert ranked.u.shape == (41, 4000)
        for row in (0, 1, 40):
            assert scipy.stats.kstest(ranked.u[row], "uniform").pvalue > 0.01
        np.testing.assert_array_less(ranked.u, 1.0)
        np.testing.assert_array_less(0.0, ranked.u)
    # A continuous value is beyond the 40 others with probability 2/41.
    assert ranked.outside.mean() == pytest.approx(2 / 41, abs=1e-12)


def test_beyond_all_others_means_without_ties() -> None:
    values = np.array([[0.0, 9.0, 0.0], [0.0, 1.0, 1.0], [1.0, 2.0, 2.0]])
    ranked = quantile.ranks(values[0], values[1:], 0)
    np.testing.assert_array_equal(
        ranked.outside, [[False, True, True], [False, True, False], [True, False, True]]
    )


def test_monte_carlo_p_values() -> None:
    statistics = np.array([5.0, 1.0, 2.0, 3.0, 5.0])
    assert quantile.monte_carlo_p(statistics, "upper") == pytest.approx(2 / 5)
    assert quantile.monte_carlo_p(statistics) == pytest.approx(4 / 5)
    assert quantile.monte_carlo_p(np.array([0.0, *range(1, 20)])) == pytest.approx(2 / 20)
    assert quantile.monte_carlo_p(np.zeros(4)) == 1.0
    assert np.isnan(quantile.monte_carlo_p(np.array([1.0, np.nan])))


def test_shape_of_residuals_is_lilliefors_distance() -> None:
    z = np.random.default_rng(2).normal(3.0, 2.0, size=(1, 200))
    u = scipy.stats.norm.cdf(z / 2)
    scores = (z[0] - z.mean()) / z.std()
    expected = scipy.stats.kstest(scores, "norm").statistic
    assert quantile.distance_from_normal(u)[0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "student"}, "kind='student'; use one of 'response', .* 'working', 'quantile'"),
        ({"kind": "quantile", "n": 0}, "n=0"),
        ({"kind": "quantile", "seed": -1}, "seed=-1"),
        ({"kind": "quantile", "random": "old"}, "random='old'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted("cbpp").resid(**arguments)
