"""Likelihood-ratio tests: values, order, layout, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from reference_cases import case

from glmm_jax import Fit, Status, anova, datasets, families, glmer
from glmm_jax.formula.frame import Frame, build_frame
from glmm_jax.inference.anova import mixture
from glmm_jax.inference.nesting import Verdict, nesting


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


def cm(number: int) -> Fit:
    return fitted(f"cm{number}/lme4")


def contraception(formula: str) -> Frame:
    return build_frame(formula, datasets.load("contraception"))


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
    # cm5 adds a variance to cm6; cm5 is in the interior of cm4.
    assert len(table.notes) == 1 and table.notes[0].startswith("One variance of cm5 is zero in cm6")
    assert frame["Pr(>Chibarsq)"].iloc[1] == frame["Pr(>Chisq)"].iloc[1] / 2
    assert np.isnan(frame["Pr(>Chibarsq)"].iloc[2])


def test_layout_is_lme4s() -> None:
    lines = str(anova(cm(4), cm(3))).splitlines()
    assert lines[:3] == [
        "Models:",
        "model2: use ~ age*ch + I(age^2) + urban + (1|district)",
        "model1: use ~ age*ch + I(age^2) + urban + (urban|district)",
    ]
    header = "npar AIC BIC logLik -2*log(L) Chisq Df Pr(>Chisq) Pr(>Chibarsq)"
    assert lines[3].split() == header.split()
    assert lines[4].split() == "model2 7 2379.181 2418.153 -1182.591 2365.181".split()
    assert lines[5].split()[:5] == "model1 9 2371.530 2421.636 -1176.765".split()
    assert lines[5].split()[6:] == ["11.651", "2", "0.002951", "**", "0.001796", "**"]
    assert lines[7].startswith("Signif. codes:")
    assert lines[8].startswith("Note: One variance of model1 is zero in model2")
    assert max(map(len, lines[8:])) <= 90
    plain = str(anova(cm(2), cm(1))).splitlines()
    assert plain[3].split() == header.split()[:-1]
    assert plain[5].split()[6:] == ["0.45711", "2", "0.7957"] and len(plain) == 6


def test_html_holds_the_formulas_escaped() -> None:
    page = anova(cm(4), cm(3))._repr_html_()
    assert "<td>use ~ age*ch + I(age^2) + urban + (urban|district)</td>" in page
    assert "Pr(&gt;Chisq)" in page and "-1176.765" in page


def test_one_model_in_two_guises_is_not_tested() -> None:
    table = anova(cm(3), replace(cm(3)))
    assert list(table.frame.index) == ["model1", "model2"] and table.notes == ()
    assert table.frame["Df"].iloc[1] == 0 and np.isnan(table.frame["Pr(>Chisq)"].iloc[1])


def test_the_p_value_of_one_variance_is_that_of_half_a_space() -> None:
    # cm4 adds one variance and one covariance to cm3, and chi-square on 0 Df is always zero.
    table = anova(cm(3), cm(4)).frame
    statistic = 2 * (case("cm4/lme4").log_likelihood - case("cm3/lme4").log_likelihood)
    expected = scipy.stats.chi2.sf(statistic, [1, 2]).mean()
    np.testing.assert_allclose(table["Pr(>Chibarsq)"].iloc[1], expected, rtol=1e-5)
    # Simulated: Gaussian scores, of which one component counts only where it is positive.
    rng = np.random.default_rng(20)
    for df in (1, 2, 4):
        z = rng.standard_normal((200_000, df))
        z[:, 0] = np.maximum(z[:, 0], 0)
        ratio = np.sum(z**2, axis=1)
        for at in (0.5, 2.0, 6.0):
            share = np.mean(ratio >= at)
            assert abs(mixture(at, df) - share) < 4 * np.sqrt(share / len(z))
    assert mixture(0.0, 1) == mixture(-1e-9, 1) == 1.0


def test_what_the_boundary_does_is_said() -> None:
    two = "use ~ age*ch + I(age^2) + urban + (age_s*urban | district)"
    table = anova(cm(3), replace(cm(4), frame=contraception(two)))
    assert "Pr(>Chibarsq)" not in table.frame
    assert table.notes[0].startswith("3 variances of model2 are zero in model1")
    assert "simulate from model1" in table.notes[0]
    found = cm(3).estimate
    singular = replace(cm(3), estimate=replace(found, singular=np.ones_like(found.singular)))
    (note,) = anova(singular, cm(4)).notes
    assert "model1 is singular itself" in note
    # The same two variances written as terms of their own: nested, but by no rule known here.
    split = "use ~ age*ch + I(age^2) + urban + (0+urban_n|district) + (0+rural_n|district)"
    table = anova(cm(6), replace(cm(4), frame=contraception(split)))
    assert "could not be decided" in table.notes[0] and "Pr(>Chibarsq)" not in table.frame


def test_a_larger_model_that_fits_worse_is_noted() -> None:
    worse = replace(cm(4), estimate=replace(cm(4).estimate, deviance=np.array(2400.0)))
    table = anova(cm(3), worse)
    assert table.frame["Chisq"].iloc[1] < 0 and table.frame["Pr(>Chisq)"].iloc[1] == 1
    assert table.notes[0] == (
        "model2 has more parameters but a lower likelihood than model1: one is not at its maximum."
    )
    assert "Note: model2 has more" in str(table)


def test_models_that_are_not_nested_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the fixed effects .* of cm6 are no linear combinations"):
        anova(cm(1), cm(6), names=["cm1", "cm6"])
    with pytest.raises(ValueError, match="the random effects of model1 have covariances that"):
        anova(cm(3), cm(6))
    with pytest.raises(ValueError, match=r"compare AIC or BIC by anova\(\.\.\., test=False\)"):
        anova(cm(3), cm(6), cm(4))
    table = anova(cm(1), cm(6), test=False)
    assert list(table.frame.columns) == ["npar", "AIC", "BIC", "logLik", "-2*log(L)"]
    assert str(table).splitlines()[-1].split()[:3] == ["model1", "8", "2388.729"]


# Smaller, larger, verdicts on the fixed and random parts, variances at zero.
INSIDE, OUTSIDE = Verdict.INSIDE, Verdict.OUTSIDE
NESTINGS = [
    ("1 + (1|g)", "x + (x|g)", INSIDE, INSIDE, 1),
    ("1 + (1|g)", "1 + (x + w|g)", INSIDE, INSIDE, 2),
    ("1 + (x||g)", "1 + (x|g)", INSIDE, INSIDE, 0),
    ("1 + (x|g)", "1 + (x||g)", INSIDE, OUTSIDE, None),
    ("1 + (1|g)", "1 + (0 + x|g)", INSIDE, OUTSIDE, None),
    ("1 + (1|g)", "1 + (1|h)", INSIDE, OUTSIDE, None),
    ("1 + (1|g)", "1 + (1|h) + (1|g)", INSIDE, INSIDE, 1),
    ("1 + (1|g)", "1 + (1|g) + (1|u:g) + (1|h)", INSIDE, INSIDE, 2),
    ("1 + (1|g)", "1 + (1|u:g)", INSIDE, OUTSIDE, None),
    ("1 + (1|u:g)", "1 + (1|g)", INSIDE, OUTSIDE, None),
    # Compound symmetry: inside the unstructured covariance of the levels of u, not of x.
    ("1 + (1|u:g)", "1 + (u|g)", INSIDE, INSIDE, 0),
    ("1 + (1|u:g) + (1|g)", "1 + (0 + u|g)", INSIDE, INSIDE, 0),
    ("1 + (1|t:g)", "1 + (t|g)", INSIDE, INSIDE, 0),
    ("1 + (1|t:g)", "1 + (u|g)", INSIDE, OUTSIDE, None),
    ("1 + (x|u:g)", "1 + (u*x|g)", INSIDE, INSIDE, 0),
    ("1 + (1|u:g)", "1 + (x|g)", INSIDE, OUTSIDE, None),
    # Other columns of one space.
    ("x + (x|g)", "I(2*x - 1) + (I(2*x - 1)|g)", INSIDE, INSIDE, 0),
    ("0 + u + (1|g)", "u + (0 + u|g)", INSIDE, INSIDE, 1),
    ("x + (1|g)", "w + u + (1|g)", OUTSIDE, INSIDE, 0),
    ("x + offset(w) + (1|g)", "x + u + (1|g)", OUTSIDE, INSIDE, 0),
    ("x + offset(w) + (1|g)", "x + w + (1|g)", INSIDE, INSIDE, 0),
    ("x + offset(w) + (1|g)", "x + u + offset(w) + (1|g)", INSIDE, INSIDE, 0),
]


@pytest.mark.parametrize(("small", "large", "fixed", "random", "zero"), NESTINGS)
def test_nesting_is_read_off_the_design(
    small: str, large: str, fixed: Verdict, random: Verdict, zero: int | None
) -> None:
    rng = np.random.default_rng(3)
    n = 240
    data = pd.DataFrame(
        {
            "y": rng.standard_normal(n),
            "x": rng.standard_normal(n),
            "w": 1e4 + rng.standard_normal(n),  # badly scaled on purpose
            "u": rng.choice(["a", "b"], n),
            "t": rng.choice(["p", "q", "r"], n),
            "g": rng.integers(0, 12, n).astype(str),
            "h": rng.integers(0, 7, n).astype(str),
        }
    )
    frames = [build_frame(f"y ~ {text}", data) for text in (small, large)]
    found = nesting(*frames)
    assert (found.fixed, found.random, found.zero) == (fixed, random, zero)


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
        (replace(base, numbers=replace(base.numbers, curvature="observed")), "differ in curvature"),
    ):
        with pytest.raises(ValueError, match=message):
            anova(base, fit)


def test_a_fit_that_did_not_converge_is_noted() -> None:
    fit = cm(3)
    stopped = replace(fit, estimate=replace(fit.estimate, status=np.array(Status.STALLED)))
    assert anova(stopped, cm(4)).notes[0] == f"model1: {Status.STALLED.sentence}"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="fits: 1 given; anova compares two or more"):
        anova(cm(3))
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="give 2 different names"):
            anova(cm(3), cm(4), names=names)
