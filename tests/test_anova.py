"""Likelihood-ratio tests: values, order, layout, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy.stats
from reference_cases import case

from glmm_jax import Fit, Status, anova, families, glmer


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


def cm(number: int) -> Fit:
    return fitted(f"cm{number}/lme4")


def test_models_are_ordered_and_tested_against_the_one_above() -> None:
    table = anova(cm(4), cm(6), cm(5), names=["cm4", "cm6", "cm5"])
    frame = table.frame
    assert list(frame.index) == ["cm6", "cm5", "cm4"]
    assert list(frame["npar"]) == [7, 8, 9]
    expected = [2 * (case(f"cm{b}/lme4").log_likelihood - case(f"cm{a}/lme4").log_likelihood)
                for a, b in ((6, 5), (5, 4))]  # fmt: skip
    np.testing.assert_allclose(frame["Chisq"].iloc[1:], expected, atol=1e-5)
    np.testing.assert_allclose(
        frame["Pr(>Chisq)"].iloc[1:], scipy.stats.chi2.sf(expected, 1), atol=1e-4
    )
    assert np.isnan(frame["Chisq"].iloc[0]) and np.isnan(frame["Pr(>Chisq)"].iloc[0])
    assert table.notes == ()


def test_layout_is_lme4s() -> None:
    lines = str(anova(cm(4), cm(3))).splitlines()
    assert lines[:3] == [
        "Models:",
        "model2: use ~ age*ch + I(age^2) + urban + (1|district)",
        "model1: use ~ age*ch + I(age^2) + urban + (urban|district)",
    ]
    assert lines[3].split() == "npar AIC BIC logLik -2*log(L) Chisq Df Pr(>Chisq)".split()
    assert lines[4].split() == "model2 7 2379.181 2418.153 -1182.591 2365.181".split()
    assert lines[5].split()[:5] == "model1 9 2371.530 2421.636 -1176.765".split()
    assert lines[5].split()[6:] == ["11.651", "2", "0.002951", "**"]
    assert lines[-1].startswith("Signif. codes:")


def test_html_holds_the_formulas_escaped() -> None:
    page = anova(cm(4), cm(3))._repr_html_()
    assert "<td>use ~ age*ch + I(age^2) + urban + (urban|district)</td>" in page
    assert "Pr(&gt;Chisq)" in page and "-1176.765" in page


def test_models_of_equal_size_are_not_tested() -> None:
    table = anova(cm(3), cm(6))
    assert list(table.frame.index) == ["model1", "model2"]
    assert table.frame["Df"].iloc[1] == 0 and np.isnan(table.frame["Pr(>Chisq)"].iloc[1])


def test_a_larger_model_that_fits_worse_is_noted() -> None:
    # cm1 is not inside cm6, and less likely with one parameter more.
    table = anova(cm(1), cm(6))
    assert table.frame["Chisq"].iloc[1] < 0 and table.frame["Pr(>Chisq)"].iloc[1] == 1
    assert "not nested" in table.notes[0] and "Note: model1" in str(table)


def test_fits_that_do_not_compare_are_refused() -> None:
    base = fitted("cbpp/lme4")
    frame, found = base.frame, base.estimate
    other = np.where(np.arange(56) == 0, 1.0, frame.y)
    for fit, message in (
        (
            replace(base, estimate=replace(found, nagq=0)),
            r"model1 and model2 differ in nagq \(1, 0",
        ),
        (replace(base, frame=replace(frame, y=frame.y[1:])), "use 56 and 55 rows; fit both"),
        (replace(base, frame=replace(frame, index=frame.index + 1)), "rows with different labels"),
        (replace(base, frame=replace(frame, y=other)), "different responses"),
        (replace(base, frame=replace(frame, trials=None)), "different responses"),
        (replace(base, frame=replace(frame, weights=np.full(56, 2.0))), "different weights"),
        (replace(base, family=families.Binomial("probit")), "differ in family"),
        (replace(base, model=replace(base.model, curvature="observed")), "differ in curvature"),
    ):
        with pytest.raises(ValueError, match=message):
            anova(base, fit)


def test_a_fit_that_did_not_converge_is_noted() -> None:
    fit = cm(3)
    stopped = replace(fit, estimate=replace(fit.estimate, status=np.array(Status.STALLED)))
    assert anova(stopped, cm(4)).notes == (f"model1: {Status.STALLED.sentence}",)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="fits: 1 given; anova compares two or more"):
        anova(cm(3))
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="give 2 different names"):
            anova(cm(3), cm(4), names=names)
