"""The page of findings: what is fine, what is found, and what it says to do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from reference_cases import case

from glmm_jax import Fit, Status, glmer
from glmm_jax.inference import check as check_module
from glmm_jax.inference import findings, simulate
from glmm_jax.inference.check import Check


@cache
def fitted(id: str) -> Fit:
    return glmer(**case(f"{id}/lme4").glmer_arguments())


@cache
def checked(id: str) -> Check:
    return fitted(id).check()


def of(page: Check, topic: str) -> list[tuple[str, str]]:
    rows = page.findings[page.findings["topic"] == topic]
    return list(zip(rows["severity"], rows["sentence"], strict=True))


@pytest.mark.parametrize("id", ["cm4", "sleep_corr_ml"])
def test_nothing_is_said_against_a_good_model(id: str) -> None:
    page = checked(id)
    assert page.verdict == "Verdict: nothing was found that speaks against this model."
    assert set(page.findings["severity"]) == {"fine"}
    assert list(page.findings.columns) == ["topic", "severity", "sentence"]
    assert {"Convergence", "Levels", "Collinearity", "Leverage", "Dispersion", "Distribution",
            "Outliers", "Random effects"} <= set(page.findings["topic"])  # fmt: skip


def test_the_page_is_wrapped_and_ends_with_the_verdict() -> None:
    page = checked("cm4")
    lines = str(page).splitlines()
    assert lines[0].startswith("Check of use ~ age*ch + I(age^2) + urban + (urban|district) (bern")
    assert all(len(line) <= 90 for line in lines) and "\xa0" not in str(page)
    assert lines[3].startswith("fine    Convergence: Converged: no step lowers the deviance")
    assert lines[-1] == page.verdict and repr(page) == str(page)
    html = page._repr_html_()
    assert "<td>fine</td>" in html and "(1|district)" not in html and page.verdict in html


def test_collinearity_by_construction_is_no_fault() -> None:
    ((severity, sentence),) = of(checked("cm4"), "Collinearity")
    assert severity == "fine" and "age:ch (12.0)" in sentence and "Centring" in sentence


def test_overdispersion_is_a_problem() -> None:
    page = checked("gt_pois2")
    ((severity, sentence),) = of(page, "Dispersion")
    assert severity == "problem" and "(1 | row)" in sentence
    # The zeros that it brings are told with it.
    ((severity, sentence_on_zeros),) = of(page, "Zeros")
    assert severity == "problem" and "Overdispersion alone can cause them" in sentence_on_zeros
    assert page.verdict.startswith("Verdict: 2 problems")
    # The same sentence and the same numbers as the function alone.
    assert sentence == fitted("gt_pois2").overdispersion().message


def test_separation_stops_the_examination() -> None:
    page = checked("separation")
    ((severity, sentence),) = of(page, "Separation")
    assert severity == "problem" and "predicts part of the response perfectly" in sentence
    assert of(page, "Design and data") == [
        ("note", "Not examined, because there is no usable estimate.")
    ]
    assert page.tests == 0


def test_a_search_that_did_not_converge_is_a_problem() -> None:
    fit = fitted("gt_pois2")
    stopped = replace(fit, estimate=replace(fit.estimate, status=np.array(Status.STALLED)))
    found = findings.of_estimate(stopped)
    assert found[0].severity == "problem" and "no step along the search direction" in found[0][2]
    assert sum(Status.STALLED.sentence in finding.sentence for finding in found) == 1


def test_a_singular_fit_is_noted() -> None:
    found = of(checked("singular_pois"), "Random effects")
    assert found[0][0] == "note" and "(Intercept | g) is estimated as zero" in found[0][1]
    # An effect without a variance has no modes to look at.
    assert len(found) == 1


def test_rank_deficiency_is_noted() -> None:
    found = {finding.topic: finding for finding in findings.of_estimate(fitted("contra_rankdef"))}
    assert found["Fixed effects"].severity == "note"
    assert "livch[T.3+]" in found["Fixed effects"].sentence


def test_the_joint_mode_is_noted() -> None:
    fit = fitted("gt_pois2")
    quick = replace(fit, estimate=replace(fit.estimate, nagq=0))
    (note,) = [f for f in findings.of_estimate(quick) if f.topic == "Approximation"]
    assert note.severity == "note" and "nagq=1" in note.sentence


def test_small_clusters_of_zeros_and_ones() -> None:
    (problem,) = findings._clusters(fitted("toenail_visit"))
    assert problem.severity == "problem" and "nagq='auto'" in problem.sentence
    assert "no more than 7 trials" in problem.sentence
    (fine,) = findings._clusters(fitted("cm4"))
    assert fine.severity == "fine" and "district 26" in fine.sentence
    assert findings._clusters(fitted("gt_pois2")) == []


def two_groups() -> Fit:
    """Two levels, collinear covariates, and a row far away in a covariate."""
    draw = np.random.default_rng(4)
    x = draw.normal(size=60)
    x[7] = 40.0
    g = np.repeat(["a", "b", "c"], 20)
    z = x + 0.05 * draw.normal(size=60)
    y = draw.normal(size=60) + 0.3 * x + np.repeat([-1.0, 0.0, 1.0], 20)
    frame = pd.DataFrame({"y": y, "x": x, "z": z, "g": g}, [f"row{i}" for i in range(60)])
    return glmer("y ~ x + z + (1 | g)", frame)


def test_few_levels_collinear_covariates_and_a_far_row() -> None:
    found = {finding.topic: finding for finding in findings.of_design(two_groups())}
    assert all(found[t].severity == "note" for t in ("Levels", "Collinearity", "Leverage"))
    assert "g has only 3 levels" in found["Levels"].sentence
    assert "x (" in found["Collinearity"].sentence and "z (" in found["Collinearity"].sentence
    assert "row7" in found["Leverage"].sentence


def test_an_extreme_level_and_a_wrong_distribution_are_found() -> None:
    draw = np.random.default_rng(11)
    data = case("t_dist/glmmTMB").frame()  # 40 levels of 20 rows
    b = 0.5 * draw.normal(size=40)
    b[13] = 6.0
    noise = draw.exponential(size=800) - 1.0
    fit = glmer("y ~ x + (1|g)", data.assign(y=b[data["g"].cat.codes] + noise))
    page = fit.check()
    ((severity, sentence),) = of(page, "Distribution")
    assert severity == "problem" and "less normal" in sentence
    found = of(page, "Random effects")[1]
    assert found[0] == "problem" and "level 14" in found[1]


def test_rows_beyond_every_simulated_value_are_named() -> None:
    draw = np.random.default_rng(3)
    data = case("t_dist/glmmTMB").frame()
    y = 0.5 * draw.normal(size=40)[data["g"].cat.codes] + draw.standard_t(3, size=800)
    fit = glmer("y ~ x + (1|g)", data.assign(y=y))
    ((severity, sentence),) = of(fit.check(), "Outliers")
    assert severity == "problem" and "tails that are too light" in sentence
    assert str(int(np.argmax(np.abs(y)))) in sentence or " more." in sentence


def test_fitted_probabilities_of_one_are_noted() -> None:
    draw = np.random.default_rng(6)
    arguments = case("separation/lme4").glmer_arguments()
    x, s = np.r_[draw.normal(size=449), 60.0], draw.normal(size=450)
    y = np.r_[draw.random(449) < 1 / (1 + np.exp(-x[:449])), True].astype(float)
    fit = glmer(**arguments | {"data": arguments["data"].assign(x=x, s=s, y=y)})
    (note,) = findings._nearly_separated(fit)
    assert note.severity == "note" and note.sentence.startswith("The fitted probability of 1 row")


def test_a_link_that_cannot_be_simulated_from_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("random='new': in 3 of 250 draws the identity link has no valid mean")

    monkeypatch.setattr(simulate, "simulate_array", refuse)
    page = fitted("gt_pois2").check()
    ((severity, sentence),) = of(page, "Data")
    assert severity == "note" and "the identity link has no valid mean" in sentence
    assert page.tests == 0


def test_the_page_repeats_by_seed_and_refuses_bad_numbers() -> None:
    fit = fitted("sleep_corr_ml")
    assert str(fit.check(n=60, seed=2)) == str(fit.check(n=60, seed=2))
    with pytest.raises(ValueError, match="n=0"):
        fit.check(n=0)
    with pytest.raises(ValueError, match="seed=-1"):
        fitted("separation").check(seed=-1)


def test_severity_of_p_values() -> None:
    levels = [check_module._severity(p) for p in (0.5, 0.05, 0.049, 0.01, 0.0099, np.nan)]
    assert levels == ["fine", "fine", "note", "note", "problem", "note"]
