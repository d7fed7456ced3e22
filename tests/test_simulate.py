"""Simulated responses have the moments of the model, a seed, and the coding of the response."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.special
from reference_cases import case

from glmm_jax import Fit, datasets, glmer
from glmm_jax.inference.simulate import TOGETHER, simulate_array

DRAWS = 4000


@pytest.fixture(scope="module")
def cbpp() -> Fit:
    return glmer(**case("cbpp/lme4").glmer_arguments())


@pytest.fixture(scope="module")
def sleep() -> Fit:
    return glmer(**case("sleep_corr_ml/lme4").glmer_arguments())


def within_error(found: np.ndarray, expected: np.ndarray, error: np.ndarray) -> None:
    """Monte-Carlo means agree with their expectations: no |z| of a few hundred is above five."""
    assert np.max(np.abs(found - expected) / error) < 5.0


def test_a_frame_of_draws_in_the_rows_and_the_coding_of_the_response(cbpp: Fit) -> None:
    drawn = cbpp.simulate(3, seed=4)
    assert list(drawn.columns) == ["sim_1", "sim_2", "sim_3"]
    assert drawn.index.equals(cbpp.frame.index)
    values = drawn.to_numpy()
    assert np.all(values == np.round(values))
    assert np.all((values >= 0) & (values <= np.asarray(cbpp.frame.trials)[:, None]))
    assert np.array_equal(simulate_array(cbpp, 3, 4), values.T)


def test_rows_left_out_of_the_fit_have_no_draws() -> None:
    data = datasets.load("cbpp").set_axis([f"row {i}" for i in range(56)])
    data.loc[["row 3", "row 50"], "incidence"] = np.nan
    fit = glmer("cbind(incidence, size - incidence) ~ period + (1 | herd)", data, "binomial")
    drawn = fit.simulate()
    assert len(drawn) == 54
    assert list(drawn.index) == [row for row in data.index if row not in ("row 3", "row 50")]


def test_a_draw_depends_on_its_seed_and_its_number_alone(cbpp: Fit) -> None:
    many = cbpp.simulate(TOGETHER + 5, seed=7)
    pd.testing.assert_frame_equal(cbpp.simulate(2, seed=7), many.iloc[:, :2])
    pd.testing.assert_frame_equal(cbpp.simulate(1, seed=7), many.iloc[:, :1])
    assert many.T.drop_duplicates().shape[0] == TOGETHER + 5
    assert not cbpp.simulate(2, seed=8).equals(many.iloc[:, :2])
    assert not cbpp.simulate(2, seed=7, random="conditional").equals(many.iloc[:, :2])


def test_conditional_draws_have_the_fitted_means_and_variances(cbpp: Fit) -> None:
    y = simulate_array(cbpp, DRAWS, seed=1, random="conditional")
    trials, p = np.asarray(cbpp.frame.trials), cbpp.fittedvalues.to_numpy()
    variance = trials * p * (1 - p)
    within_error(y.mean(axis=0), trials * p, np.sqrt(variance / DRAWS))
    # Var of a sample variance from the fourth moment of a binomial.
    fourth = variance * (1 + 3 * variance - 6 * variance / trials)
    within_error(y.var(axis=0, ddof=1), variance, np.sqrt((fourth - variance**2) / DRAWS))


def test_new_draws_have_the_marginal_moments(cbpp: Fit) -> None:
    """Means, and covariances of two rows, by Gauss-Hermite quadrature over the herd's effect."""
    y = simulate_array(cbpp, DRAWS, seed=2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()
    eta = cbpp.frame.X @ cbpp.params.to_numpy()
    p = scipy.special.expit(eta[:, None] + cbpp.theta.iloc[0] * nodes)
    trials = np.asarray(cbpp.frame.trials)
    mean = trials * (p @ weights)
    within = trials * ((p * (1 - p)) @ weights)
    herd = cbpp.frame.blocks[0].index
    second = np.einsum("ik,jk,k->ij", trials[:, None] * p, trials[:, None] * p, weights)
    covariance = np.where(herd[:, None] == herd[None], second - np.outer(mean, mean), 0.0)
    covariance += np.diag(within)
    within_error(y.mean(axis=0), mean, np.sqrt(np.diag(covariance) / DRAWS))
    centred = y - mean
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(DRAWS)
    within_error(products.mean(axis=0), covariance, error)


def test_correlated_slopes_and_residuals_have_their_covariance(sleep: Fit) -> None:
    """Var(y) = Z Lambda Lambda' Z' + sigma^2 I within a subject, zero between subjects."""
    y = simulate_array(sleep, DRAWS, seed=3)
    block = sleep.frame.blocks[0]
    a, b, c = sleep.theta
    Lambda = np.array([[a, 0.0], [b, c]])
    same = block.index[:, None] == block.index[None]
    covariance = np.where(same, block.Z @ Lambda @ Lambda.T @ block.Z.T, 0.0)
    covariance += sleep.sigma**2 * np.eye(len(same))
    mean = sleep.frame.X @ sleep.params.to_numpy()
    variance = np.diag(covariance)
    within_error(y.mean(axis=0), mean, np.sqrt(variance / DRAWS))
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / DRAWS)
    assert np.max(np.abs(np.cov(y.T) - covariance) / error) < 5.5  # of 16,290 pairs


def test_precision_weights_divide_the_residual_variance() -> None:
    known = case("sim_gauss_w_ml/lme4").glmer_arguments()
    w = np.tile([1.0, 16.0], len(known["data"]) // 2)
    fit = glmer(**known | {"weights": w})
    y = simulate_array(fit, 300, seed=5, random="conditional") - fit.fittedvalues.to_numpy()
    few, many = y[:, w == 1], y[:, w == 16]
    # 90,000 residuals each: the standard error of a standard deviation is 0.24 %.
    assert np.std(few) == pytest.approx(fit.sigma, rel=0.01)
    assert np.std(many) == pytest.approx(fit.sigma / 4, rel=0.01)


def test_draws_do_not_depend_on_the_precision_of_the_session(
    cbpp: Fit, default_precision: None
) -> None:
    low = cbpp.simulate(2, seed=7)
    assert low.to_numpy().dtype == np.float64
    with jax.enable_x64(True):
        pd.testing.assert_frame_equal(cbpp.simulate(2, seed=7), low)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 2.5}, "n=2.5"),
        ({"n": True}, "n=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"seed": None}, "seed=None"),
        ({"random": "fixed"}, "random='fixed'"),
    ],
)
def test_wrong_arguments_are_named(cbpp: Fit, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cbpp.simulate(**arguments)


def test_random_effects_without_a_valid_mean_are_told() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 10)
    mean = 1.5 + rng.normal(size=20)[group].clip(-1.2, 3.0)
    data = pd.DataFrame({"y": rng.poisson(mean), "g": group})
    fit = glmer("y ~ 1 + (1 | g)", data, "poisson", link="identity")
    with pytest.raises(ValueError, match="identity link has no valid mean"):
        fit.simulate(300)
