"""The bootstrap refits what `simulate` draws, counts what fails, and agrees with lme4's bootMer."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reference_cases import FOLDER, case

from glmm_jax import Fit, driver, glmer
from glmm_jax.inference import parameter_names, simulate
from glmm_jax.inference.bootstrap_table import Bootstrap
from glmm_jax.status import Status

REFERENCE = json.loads((FOLDER / "inference_bootstrap.json").read_text(encoding="utf-8"))
N, SEED = 1000, 0


@pytest.fixture(scope="module")
def fit() -> Fit:
    return glmer(**case("cbpp/lme4").glmer_arguments())


@pytest.fixture(scope="module")
def boot(fit: Fit) -> Bootstrap:
    return fit.bootstrap(N, SEED)


def test_its_columns_are_the_parameters(fit: Fit, boot: Bootstrap) -> None:
    assert list(boot.estimates.columns) == parameter_names.names(fit)
    assert boot.estimates.shape == (N, 5)
    assert (boot.estimates.index[0], boot.estimates.index[-1]) == (1, N)
    assert list(boot.theta.columns) == list(fit.theta.index)
    assert boot.n == N and boot.seed == SEED
    np.testing.assert_array_equal(boot.original.iloc[:4], fit.params)
    np.testing.assert_array_equal(boot.original.iloc[4:], fit.theta)


def test_each_replicate_is_the_refit_of_its_draw(fit: Fit, boot: Bootstrap) -> None:
    draws = fit.simulate(N, SEED)
    # Five from the start, the middle and the padded last chunk, and one with a variance of zero.
    singular = int(np.flatnonzero(boot.is_singular)[0])
    for i in (0, 1, 63, 64, N - 1, singular):
        found = fit.refit(draws[f"sim_{i + 1}"])
        assert found.converged == boot.converged[i]
        row = boot.estimates.iloc[i]
        assert np.max(np.abs(row.iloc[:4] - found.params) / found.bse) < 1e-4
        assert row.iloc[4] == pytest.approx(found.theta.iloc[0], abs=1e-4)
        assert bool(boot.is_singular[i]) == found.is_singular
    assert boot.theta.iloc[singular, 0] == 0.0


def test_failures_are_rows_of_nan_counted_and_told(fit: Fit, boot: Bootstrap) -> None:
    """Here they are draws in which a whole period has no case (or only cases)."""
    draws = fit.simulate(N, SEED).to_numpy()
    period = fit.frame.X
    successes = np.stack([draws[period[:, j] == 1].sum(axis=0) for j in (1, 2, 3)])
    separated = np.any(successes == 0, axis=0)
    assert boot.failed == np.sum(separated) > 0
    np.testing.assert_array_equal(boot.status == Status.SEPARATION, separated)
    np.testing.assert_array_equal(boot.converged, ~separated)
    assert np.all(np.isnan(boot.estimates[separated])) and np.all(np.isnan(boot.theta[separated]))
    assert np.all(np.isfinite(boot.estimates[~separated]))
    text = str(boot)
    assert f"{boot.failed} of {N} refits failed" in text
    assert f"{boot.failed}: Separation: a combination of the covariates" in text
    assert f"{boot.singular} of {N} refits are singular" in text
    assert boot.singular > 0


def test_standard_errors_and_quantiles_as_lme4_bootstraps_them(boot: Bootstrap) -> None:
    """Two Monte-Carlo samples of a thousand, so to about four of their standard errors.

    The fourth period is left out of the standard errors: bootMer keeps separated responses with
    whatever estimate its optimizer stopped at.
    """
    known = REFERENCE["bootMer"]["cbpp"]
    plain = [0, 1, 2, 4]
    # A standard error has a relative error of 1 / sqrt(2 N) in each sample.
    apart = np.log(boot.bse.to_numpy() / known["se"])[plain]
    assert np.max(np.abs(apart)) < 4 * np.sqrt(2 / (2 * N))
    limits = boot.conf_int()
    # The density of a normal at its 2.5 % point is 0.058: sqrt(p (1 - p) / N) / 0.058 = 0.085 sd.
    error = np.sqrt(2) * 0.085 * boot.bse.to_numpy()
    tails = np.column_stack([known["lower"], known["upper"]])
    assert np.max(np.abs(limits.to_numpy() - tails)[plain] / error[plain, None]) < 4
    assert np.abs(limits.iloc[3, 1] - known["upper"][3]) < 4 * error[3]
    means = np.abs(boot.estimates.mean().to_numpy() - known["mean"])
    assert np.max((means / boot.bse.to_numpy())[plain]) < 4 * np.sqrt(2 / N)


def test_a_replicate_does_not_depend_on_chunks_threads_or_n(
    fit: Fit, boot: Bootstrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = fit.bootstrap(70, SEED)
    pd.testing.assert_frame_equal(few.estimates, boot.estimates.iloc[:70])
    monkeypatch.setattr(driver, "_cores", lambda: 1)
    one_thread = fit.bootstrap(150, SEED)
    pd.testing.assert_frame_equal(one_thread.estimates, boot.estimates.iloc[:150])
    monkeypatch.setattr(simulate, "TOGETHER", 7)
    chunks = fit.bootstrap(20, SEED)
    np.testing.assert_allclose(chunks.estimates, boot.estimates.iloc[:20], rtol=1e-9, atol=1e-9)
    assert not fit.bootstrap(7, SEED + 1).estimates.equals(few.estimates.iloc[:7])
    assert threading.active_count() == 1


def test_intervals_are_quantiles(boot: Bootstrap) -> None:
    values = boot.estimates["period[T.2]"].dropna().sort_values().to_numpy()
    place = (len(values) + 1) * 0.05
    k = int(place)
    q = values[k - 1] + (place - k) * (values[k] - values[k - 1])
    upper = (len(values) + 1) * 0.95
    k = int(upper)
    Q = values[k - 1] + (upper - k) * (values[k] - values[k - 1])
    found = boot.conf_int(level=0.9).loc["period[T.2]"]
    assert list(found.index) == ["5 %", "95 %"]
    np.testing.assert_allclose(found, [q, Q], rtol=1e-12)
    basic = boot.conf_int(0.9, "basic").loc["period[T.2]"]
    t = boot.original["period[T.2]"]
    np.testing.assert_allclose(basic, [2 * t - Q, 2 * t - q], rtol=1e-12)
    np.testing.assert_allclose(boot.bias["period[T.2]"], values.mean() - t)
    np.testing.assert_allclose(boot.bse["period[T.2]"], values.std(ddof=1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "bca"}, "kind='bca'; use 'percentile' or 'basic'"),
        ({"level": 95}, "level=95"),
        ({"level": True}, "level=True"),
        ({"level": 0.9999}, "replicates have an estimate and intervals of this level need 19999"),
    ],
)
def test_wrong_intervals_are_refused(
    boot: Bootstrap, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        boot.conf_int(**arguments)


def test_too_few_replicates_have_no_interval(boot: Bootstrap) -> None:
    few = first(boot, 20)
    with pytest.raises(ValueError, match=r"need 39; use a larger n or a lower level"):
        few.conf_int()
    assert few.frame["2.5 %"].isna().all()
    assert "need 39 replicates or more" in str(few)
    assert np.isfinite(few.conf_int(0.5).to_numpy()).all()
    none = replace(few, status=np.full(20, int(Status.STALLED)), estimates=few.estimates * np.nan)
    assert "20 of 20 refits failed" in str(none)


def first(boot: Bootstrap, n: int) -> Bootstrap:
    return replace(
        boot,
        estimates=boot.estimates.iloc[:n],
        theta=boot.theta.iloc[:n],
        status=boot.status[:n],
        is_singular=boot.is_singular[:n],
    )


def test_it_prints_a_table(boot: Bootstrap) -> None:
    lines = str(boot).splitlines()
    assert lines[0] == f"Parametric bootstrap: {N} replicates, seed {SEED}"
    assert lines[2].split() == ["Estimate", "Bias", "Std.Error", "2.5", "%", "97.5", "%"]
    assert [line.split()[0] for line in lines[3:7]] == list(boot.estimates.columns[:4])
    assert max(map(len, lines)) <= 90
    html = boot._repr_html_()
    assert html.count("<tr>") == 6 + 1 + len(boot.notes)
    assert repr(boot) == str(boot)


def test_conditional_replicates_say_what_they_are(fit: Fit, boot: Bootstrap) -> None:
    conditional = fit.bootstrap(60, SEED, random="conditional")
    assert any("random='conditional'" in note for note in conditional.notes)
    # The herds are the same in every replicate, so the intercept varies less.
    assert conditional.bse["Intercept"] < 0.95 * boot.bse["Intercept"]


def test_weights_of_likelihoods_are_told(boot: Bootstrap) -> None:
    assert not boot.weighted
    assert "was not drawn as two rows are" in str(replace(boot, weighted=True))


def test_correlations_and_sigma_have_columns(fit: Fit) -> None:
    """Against the asymptotic standard errors of a Gaussian design, whose searches are short."""
    gaussian = glmer(**case("sim_gauss_slope_ml/lme4").glmer_arguments())
    boot = gaussian.bootstrap(200, seed=1)
    columns = ["sd(Intercept | g)", "sd(x | g)", "cor(Intercept, x | g)", "sigma"]
    assert list(boot.estimates.columns[2:]) == columns
    found = boot.bse
    assert found["x"] == pytest.approx(gaussian.bse["x"], rel=0.15)
    # Residuals have a degree of freedom a row, less two a group: sd(sigma) = sigma / sqrt(2 df).
    freedom = gaussian.nobs - 2 * gaussian.frame.blocks[0].index.max() - 2
    assert found["sigma"] == pytest.approx(gaussian.sigma / np.sqrt(2 * freedom), rel=0.15)
    assert boot.estimates[columns[2]].dropna().between(-1 - 1e-9, 1 + 1e-9).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n=0"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"random": "old"}, "random='old'"),
        ({"progress": "bar"}, "progress='bar'"),
    ],
)
def test_wrong_arguments_are_named(fit: Fit, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit.bootstrap(**{"n": 10, **arguments})


def test_a_bar_moves(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit.bootstrap(70, SEED, progress=True)
    assert "bootstrap: 100%" in capsys.readouterr().err
    fit.bootstrap(5, SEED)
    assert capsys.readouterr().err == ""
