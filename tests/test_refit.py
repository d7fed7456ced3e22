"""A refit is the fit of the other response: against R, against a fresh fit, by label."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from reference_cases import FOLDER, case

from glmm_jax import Fit, datasets, glmer
from glmm_jax.fitting import Fitted
from glmm_jax.inference import refit as refits
from glmm_jax.status import Status

REFERENCE = json.loads((FOLDER / "inference_bootstrap.json").read_text(encoding="utf-8"))["refit"]
HERDS = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


def agrees(found: Fit, known: dict[str, Any]) -> None:
    """To the tolerances of the reference fits: 1e-5 in logLik, 1e-4 standard errors."""
    assert found.converged
    assert found.llf == pytest.approx(known["logLik"], abs=1e-5)
    assert np.all(np.abs(found.params.to_numpy() - known["beta"]) < 2e-4 * found.bse.to_numpy())


def test_binomial_counts_as_r_fits_them() -> None:
    fit = fitted("cbpp/lme4")
    size = np.asarray(fit.frame.trials)
    y = np.minimum(fit.frame.y[::-1], size)
    found = fit.refit(y)
    agrees(found, REFERENCE["cbpp_reversed"])
    assert np.array_equal(found.frame.y, y)
    assert found.theta.iloc[0] == pytest.approx(REFERENCE["cbpp_reversed"]["sd"], abs=1e-4)
    # The fit that was asked is what it was.
    agrees(fit, {"logLik": case("cbpp/lme4").log_likelihood, "beta": case("cbpp/lme4").beta})


def test_binary_responses_as_r_fits_them() -> None:
    data = datasets.load("contraception")
    fit = glmer("use ~ urban + livch + (1 | district)", data, "bernoulli")
    labels = np.roll(np.asarray(data["use"], object), -1)
    found = fit.refit(labels)
    known = REFERENCE["contraception_rotated"]
    agrees(found, known)
    assert found.theta.iloc[0] == pytest.approx(known["sd"], abs=1e-4)


def test_correlated_slopes_as_r_fits_them() -> None:
    fit = fitted("sleep_corr_ml/lme4")
    found = fit.refit(fit.frame.y[::-1])
    known = REFERENCE["sleepstudy_reversed"]
    agrees(found, known)
    assert found.sigma == pytest.approx(known["sigma"], rel=1e-5)


@pytest.mark.parametrize("key", ["cbpp/lme4", "singular_pois/lme4", "sleep_corr_ml/lme4"])
def test_a_warm_refit_ends_where_a_cold_one_does(key: str) -> None:
    """Also from a fit on the boundary (singular_pois: its variance is zero)."""
    fit = fitted(key)
    responses = fit.simulate(3, seed=11)
    # One far from the fit as well.
    responses["far"] = np.roll(fit.frame.y, 17) if fit.frame.trials is None else 0.0
    if fit.frame.trials is not None:
        responses.loc[responses.index[::3], "far"] = np.asarray(fit.frame.trials)[::3]
    for name in responses:
        cold, warm = fit.refit(responses[name]), fit.refit(responses[name], warm=True)
        assert warm.converged and cold.converged, name
        assert warm.llf == pytest.approx(cold.llf, abs=1e-8)
        apart = np.abs(warm.params - cold.params) / cold.bse
        assert np.max(apart) < 1e-4


def test_a_refit_of_the_own_response_is_the_fit() -> None:
    fit = fitted("cbpp/lme4")
    again = fit.refit(fit.frame.y)
    assert again.llf == fit.llf
    assert np.array_equal(again.params, fit.params)
    assert again.call is fit.call


def test_a_simulated_frame_of_one_column_is_a_response() -> None:
    fit = fitted("cbpp/lme4")
    draws = fit.simulate(1, seed=4)
    found = fit.refit(draws)
    np.testing.assert_array_equal(found.frame.y, draws["sim_1"])
    assert found.llf == fit.refit(draws["sim_1"]).llf != fit.llf


def test_a_series_is_aligned_by_its_labels() -> None:
    fit = fitted("cbpp/lme4")
    y = fit.simulate(1, seed=3)["sim_1"]
    expected = fit.refit(y.to_numpy()).llf
    assert fit.refit(y).llf == expected
    shuffled = y.sample(frac=1.0, random_state=1)
    assert not shuffled.index.equals(y.index)
    assert fit.refit(shuffled).llf == expected
    assert fit.refit(list(y)).llf == expected
    assert fit.refit(jnp.asarray(y.to_numpy())).llf == expected


def test_rows_that_the_fit_left_out_are_ignored() -> None:
    data = datasets.load("cbpp").assign(x=1.0)
    data.loc[3, "incidence"] = np.nan
    fit = glmer(HERDS, data, "binomial")
    y = datasets.load("cbpp")["incidence"]
    kept = y.drop(index=3)
    assert fit.refit(y).llf == fit.refit(kept.to_numpy()).llf
    with pytest.raises(ValueError, match=r"y has shape \(56,\).*55 rows"):
        fit.refit(y.to_numpy())


def two_levels() -> tuple[Fit, np.ndarray]:
    rng = np.random.default_rng(3)
    group, x = np.repeat(np.arange(20), 8), rng.normal(size=160)  # as in test_predict
    p = 1 / (1 + np.exp(-x - rng.normal(size=20)[group]))
    outcomes = rng.random((2, len(p))) < p
    names = np.where(outcomes, "recovered", "ill")
    categories = pd.Categorical(names[0], ["recovered", "ill"])  # so that "ill" is the success
    data = pd.DataFrame({"y": categories, "x": x, "g": group})
    return glmer("y ~ x + (1 | g)", data, "bernoulli"), names[1]


def test_two_levels_come_as_labels_as_truth_values_or_as_numbers() -> None:
    fit, names = two_levels()
    assert fit.frame.response_levels == ("recovered", "ill")
    ill = names == "ill"
    found = fit.refit(names)
    assert np.array_equal(found.frame.y, ill.astype(float))
    for same in (ill, ill.astype(int), pd.Series(names, dtype="category"), names.astype(object)):
        assert fit.refit(same).llf == found.llf
    with pytest.raises(ValueError, match=r"'dead'.*no level.*'recovered' and 'ill'"):
        fit.refit(np.where(ill, "dead", "ill"))
    with pytest.raises(ValueError, match="y must be 0 or 1; got 2"):
        fit.refit(ill + 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y[:-1], r"y has shape \(55,\); give one value for each of the 56"),
        (lambda y: y[:, None], r"y has shape \(56, 1\)"),
        (lambda y: 3.0, r"y has shape \(\)"),
        (lambda y: np.where(np.arange(56) == 5, np.nan, y), "1 missing values.*position 5"),
        (lambda y: np.where(np.arange(56) == 5, np.inf, y), "1 infinite values.*position 5"),
        (lambda y: y + 0.5, "y must be an integer number of successes; got 2.5 in row 0"),
        (lambda y: y - 3, "y must be non-negative"),
        (lambda y: y + 100, "y must be at most the number of trials"),
        (lambda y: np.repeat("a", 56), "was fitted as numbers"),
        (lambda y: pd.DataFrame({"a": y, "b": y}), "data frame of 2 columns"),
        (lambda y: pd.Series(y, np.arange(56) + 3), "no value for 3 of the 56 rows.*row 0"),
        (lambda y: pd.Series(y, np.zeros(56, int)), "labels occur twice"),
    ],
)
def test_wrong_responses_are_told(change: Any, words: str) -> None:
    fit = fitted("cbpp/lme4")
    with pytest.raises(ValueError, match=words):
        fit.refit(change(fit.frame.y))


def test_a_constant_gaussian_response_is_refused() -> None:
    fit = fitted("sleep_corr_ml/lme4")
    with pytest.raises(ValueError, match="constant"):
        fit.refit(np.ones(fit.nobs))


def test_a_warm_search_without_an_estimate_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted("cbpp/lme4")
    y = fit.simulate(1, seed=3)["sim_1"]
    cold = fit.refit(y)
    starts = []

    def search(frame: Any, family: Any, call: Any, start: Any, progress: Any) -> Fitted:
        del frame, family, call, progress
        starts.append(start)
        code = Status.STALLED if start is not None else Status.CONVERGED
        found = cold.estimate.__class__(**{**vars(cold.estimate), "status": np.asarray(int(code))})
        return Fitted(cold.numbers, cold.placement, found)

    monkeypatch.setattr(refits, "fit_frame", search)
    assert fit.refit(y, warm=True).converged
    assert [start is None for start in starts] == [False, True]
