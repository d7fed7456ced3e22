"""Wald tests of hypotheses and of terms: car's values, the language, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from reference_cases import FOLDER, case

from glmm_jax import Fit, Status, datasets, glmer
from glmm_jax.formula.constraints import read_constraints
from glmm_jax.formula.fixed import term_columns
from glmm_jax.inference.term_tests import TermTests
from glmm_jax.inference.wald import wald

KNOWN = json.loads((FOLDER / "inference_tests.json").read_text(encoding="utf-8"))
# The reference agrees with itself to 3e-7 (the same rows of "inter" and "sum"); the estimates of a
# fit are good to some 1e-6 of their standard errors.
PRECISION = 1e-5
SUMS = "use ~ C(urban, Sum)*C(livch, Sum) + age + (1 | district)"


@cache
def fitted(key: str) -> Fit:
    if key in ("inter", "sum"):
        formula = SUMS if key == "sum" else KNOWN[key]["formula"]
        return glmer(formula, datasets.load("contraception"), "bernoulli")
    return glmer(**case(f"{key}/lme4").glmer_arguments())


def compare(table: TermTests, known: dict[str, Any]) -> None:
    frame = table.frame
    assert list(frame["Df"]) == known["Df"]
    np.testing.assert_allclose(frame["Chisq"], known["Chisq"], rtol=PRECISION)
    np.testing.assert_allclose(
        frame["Pr(>Chisq)"], scipy.stats.chi2.sf(known["Chisq"], known["Df"]), rtol=2e-3
    )


@pytest.mark.parametrize("kind", ["II", "III"])
@pytest.mark.parametrize("key", ["cm1", "cm3", "inter"])
def test_term_tests_are_those_of_car(key: str, kind: str) -> None:
    table = fitted(key).test_terms(kind)
    names = [name.replace("^", " ** ").strip("()") for name in KNOWN[key][kind]["terms"]]
    assert [name.strip("()") for name in table.frame.index] == names
    compare(table, KNOWN[key][kind])


def test_type_iii_in_sum_coding_is_that_of_car_and_needs_no_note() -> None:
    table = fitted("sum").test_terms("III")
    compare(table, KNOWN["sum"]["III"])
    assert table.notes == ()
    # Type II does not depend on the coding, Type III does.
    np.testing.assert_allclose(
        fitted("sum").test_terms("II").frame["Chisq"],
        fitted("inter").test_terms("II").frame["Chisq"],
        rtol=1e-5,
    )


def test_type_ii_is_a_difference_of_joint_tests() -> None:
    # b_t given b_r = 0 adds to the test of b_r what the test of both has more.
    fit = fitted("inter")
    found = fit.test_terms("II").frame
    columns = {t.name: list(range(t.start, t.stop)) for t in term_columns(fit.frame.design.fixed)}
    identity = np.eye(len(fit.params))
    above = fit.test(identity[columns["urban:livch"]]).statistic
    for name in ("urban", "livch"):
        both = fit.test(identity[columns[name] + columns["urban:livch"]]).statistic
        np.testing.assert_allclose(found.loc[name, "Chisq"], both - above, rtol=1e-8)


def test_type_iii_says_where_it_tests() -> None:
    (note,) = fitted("cm3").test_terms(3).notes
    assert "age where ch is N; ch where age is 0" in note
    (note,) = fitted("inter").test_terms("III").notes
    assert "urban where livch is 0; livch where urban is N" in note
    assert fitted("cm1").test_terms("III").notes == () == fitted("inter").test_terms(2).notes


def test_terms_print_as_in_r() -> None:
    table = fitted("cm3").test_terms("III")
    lines = str(table).splitlines()
    assert lines[0] == "Analysis of deviance table (Type III Wald chi-square tests)"
    assert lines[2] == "Response: use" and lines[3].split() == ["Chisq", "Df", "Pr(>Chisq)"]
    assert lines[4].split() == ["Intercept", "37.7802", "1", "7.918e-10", "***"]
    assert lines[12].startswith("Note: With interactions")
    assert len(lines) > 13 and max(map(len, lines[12:])) <= 90
    assert "Note: With interactions" in table._repr_html_() and "37.7802" in table._repr_html_()


def test_terms_without_columns_of_their_own() -> None:
    fit = fitted("cm1")
    design = fit.frame.design
    # As if livch[T.3+] had been left out for its rank, and urban too.
    kept = np.array([True, True, True, False, True, True, False])
    frame = replace(
        fit.frame,
        X=fit.frame.X[:, kept],
        X_names=tuple(np.array(fit.frame.X_names)[kept].tolist()),
        design=replace(design, kept=kept),
    )
    found, params = fit.estimate, fit.estimate.params
    free = np.append(kept, True)
    reduced = replace(
        fit,
        frame=frame,
        estimate=replace(
            found,
            params=replace(params, beta=np.asarray(params.beta)[kept]),
            hessian=np.asarray(found.hessian)[np.ix_(free, free)],
            gradient=np.asarray(found.gradient)[free],
        ),
    )
    table = reduced.test_terms("II")
    assert list(table.frame["Df"]) == [1, 1, 0, 2] and np.isnan(table.frame.loc["urban", "Chisq"])
    joint = reduced.test("livch[T.1] = 0, livch[T.2] = 0")
    np.testing.assert_allclose(table.frame.loc["livch", "Chisq"], joint.statistic, rtol=1e-10)
    assert table.notes[0].startswith("urban has no columns of its own")
    assert table.notes[1].startswith("livch is tested by 2 of its 3 columns")
    assert "urban" in str(table).splitlines()[6] and "NA" in str(table).splitlines()[6]


def test_hypotheses_are_those_of_car() -> None:
    fit = fitted("cm1")
    texts = (
        "urban[T.Y] = 0, age = 0",
        "livch[T.1] = livch[T.2] = livch[T.3+]",
        "urban[T.Y] = 0.5",
    )
    for text, known in zip(texts, KNOWN["cm1"]["hyp"], strict=True):
        found = fit.test(text)
        assert found.df == known["Df"]
        np.testing.assert_allclose(found.statistic, known["Chisq"], rtol=PRECISION)
        assert found.pvalue == pytest.approx(scipy.stats.chi2.sf(found.statistic, found.df))


def test_every_way_to_write_a_hypothesis_is_the_same() -> None:
    fit = fitted("cm1")
    L = np.zeros((2, 7))
    L[0, 3] = L[1, 1] = 1.0
    names = list(fit.params.index)
    shuffled = pd.DataFrame(L, columns=names)[names[::-1]]
    known = fit.test("urban[T.Y] = 0.5, age = 0")
    for hypothesis in (
        ["urban[T.Y] = 0.5", "age"],
        {"urban[T.Y]": 0.5, "age": 0},
        (L, [0.5, 0.0]),
        (shuffled, [0.5, 0.0]),
        "2*`urban[T.Y]` - 1 = 0, age + 1 = 1",
        "age = 0, urban[T.Y] + age = 0.5",  # another basis of the same space
    ):
        found = fit.test(hypothesis)
        assert found.df == 2
        np.testing.assert_allclose(found.statistic, known.statistic, rtol=1e-10)
    assert fit.test(L[1]).statistic == pytest.approx(fit.zvalues["age"] ** 2)
    assert fit.test(([0, 0, 0, 1, 0, 0, 0], 0.5)).frame["Value"].tolist() == [0.5]


def test_rows_hold_estimates_and_standard_errors() -> None:
    fit = fitted("cm1")
    found = fit.test("urban[T.Y] = 0.5, livch[T.1] - 2*livch[T.2] = 0")
    assert list(found.frame.index) == ["urban[T.Y] = 0.5", "livch[T.1] - 2*livch[T.2] = 0"]
    row = found.frame.iloc[0]
    assert row["Estimate"] == pytest.approx(fit.params["urban[T.Y]"]) and row["Value"] == 0.5
    assert row["Std. Error"] == pytest.approx(fit.bse["urban[T.Y]"])
    z = (fit.params["urban[T.Y]"] - 0.5) / fit.bse["urban[T.Y]"]
    assert row["z value"] == pytest.approx(z)
    assert row["Pr(>|z|)"] == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    lines = str(found).splitlines()
    assert lines[0] == "Wald test of linear hypotheses"
    assert lines[2].split() == "Estimate Value Std. Error z value Pr(>|z|)".split()
    assert lines[-1].startswith("Chisq = ") and " on 2 Df, Pr(>Chisq) " in lines[-1]
    assert "<th>urban[T.Y] = 0.5</th>" in found._repr_html_() and lines[-1][:10] in (
        found._repr_html_()
    )


def test_names_are_read_whole() -> None:
    names = ["Intercept", "age", "age:ch[T.Y]", "I(age ** 2)", "visit 2", "C(g, Treatment('b'))[a]"]
    for text, row, value in (
        ("age:ch[T.Y] = age", [0, -1, 1, 0, 0, 0], 0),
        ("I(age^2) = 0", [0, 0, 0, 1, 0, 0], 0),
        ("`I(age**2)` + I(age ** 2) = 1", [0, 0, 0, 2, 0, 0], 1),
        ("2 * `visit 2` = (Intercept)", [-1, 0, 0, 0, 2, 0], 0),
        ("visit 2 = 0", [0, 0, 0, 0, 1, 0], 0),
        ("C(g, Treatment('b'))[a] = 3", [0, 0, 0, 0, 0, 1], 3),
    ):
        L, c = read_constraints(text, names)
        np.testing.assert_array_equal(L, [row])
        np.testing.assert_array_equal(c, [value])


@pytest.mark.parametrize(
    ("hypothesis", "message"),
    [
        ("urban = 0", r"unrecognized token.*\n.*\n.*\nCoefficients: Intercept, age, I\(age"),
        ({"livch": 0}, r"'livch' is no coefficient\nCoefficients: Intercept"),
        (["age", "x"], "unrecognized token"),
        ("age*age = 0", "multiply one variable by another"),
        ("age == 0", "expected a noun"),
        ("0 = 0", "no variables appear"),
        ("", "a constraint is empty"),
        ([], "a matrix of shape .* came"),
        ({}, "give text such as 'age = 0'"),
        ({"age": "x"}, "could not convert string"),
        ("age/0 = 0", "must be finite"),
        ([0, np.nan, 0, 0, 0, 0, 0], "must be finite"),
        ("age = 0, 2*age = 0", r"2 constraints depend on one another \(rank 1\).*Coefficients"),
        ("age = 0, age = 1", "or contradict, the others"),
        (np.eye(8, 7), "8 constraints depend|constraint 8 involves no coefficient"),
        ([[0.0] * 7], "constraint 1 involves no coefficient"),
        ([[1.0, 0.0]], r"shape \(1, 2\) came; one or more rows of 7 numbers"),
        (np.ones((2, 2, 7)), r"shape \(2, 2, 7\) came"),
        (pd.DataFrame([[1.0]], columns=["age"]), "columns age are not the coefficients"),
        ((np.eye(7), [1, 2]), r"7 rows and constants of shape \(2,\)"),
        (("age", "age", 1), "a tuple of 3 came"),
        (None, "rows of 7 numbers"),
    ],
)
def test_bad_hypotheses_are_refused(hypothesis: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted("cm1").test(hypothesis)


def test_a_bad_kind_and_a_model_without_terms_are_refused() -> None:
    fit = fitted("cm1")
    with pytest.raises(ValueError, match="kind='I'; use 'II' or 'III'"):
        fit.test_terms("I")
    coding = replace(fit.frame.design.fixed, terms=(), names=("Intercept",))
    only = replace(fit, frame=replace(fit.frame, design=replace(fit.frame.design, fixed=coding)))
    with pytest.raises(ValueError, match="has no term to test"):
        only.test_terms("II")
    none = replace(fit, frame=replace(fit.frame, X_names=()))
    with pytest.raises(ValueError, match="no fixed effects to test"):
        none.test("age = 0")


def test_what_has_no_standard_error_is_told() -> None:
    statistic, (note,) = wald(np.ones(2), np.ones((2, 2)))
    assert np.isnan(statistic) and "singular" in note
    statistic, (note,) = wald(np.ones(1), np.zeros((1, 1)))
    assert np.isnan(statistic) and "singular" in note
    statistic, (note,) = wald(np.ones(1), np.full((1, 1), np.nan))
    assert np.isnan(statistic) and "not known" in note
    # Badly scaled is not singular.
    statistic, notes = wald(np.array([1e6, 2e-6]), np.diag([1e12, 1e-12]))
    assert statistic == pytest.approx(5.0) and notes == ()


def test_a_fit_that_did_not_converge_is_noted() -> None:
    fit = fitted("cm1")
    stopped = replace(fit, estimate=replace(fit.estimate, status=np.array(Status.STALLED)))
    assert stopped.test("age = 0").notes == (Status.STALLED.sentence,)
    assert stopped.test_terms("II").notes == (Status.STALLED.sentence,)
    assert "Note: Not converged" in str(stopped.test("age = 0"))
    unknown = replace(fit, estimate=replace(fit.estimate, hessian=np.full((8, 8), np.nan)))
    found = unknown.test("age = 0, urban[T.Y] = 0")
    assert np.isnan(found.statistic) and np.isnan(found.pvalue) and "not known" in found.notes[0]
    assert "Chisq = NA on 2 Df" in str(found)
    table = unknown.test_terms("II")
    assert np.all(np.isnan(table.frame["Chisq"])) and len(table.notes) == 4
