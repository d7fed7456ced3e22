"""The printed summary, its HTML form, and the sentences about how a fit ended."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from reference_cases import case

from glmm_jax import Fit, Params, Status, datasets, families, glmer
from glmm_jax.inference import diagnosis, digits

CBPP = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        ([612.10, 35.07, 654.94], 5, ["612.10", "35.07", "654.94"]),
        ([24.7407, 5.9221, 25.5918], 4, ["24.741", "5.922", "25.592"]),
        ([0.2253], 4, ["0.2253"]),
        ([0.5, 0.25], 4, ["0.50", "0.25"]),
        ([0.0], 4, ["0"]),
        ([3.1e-10, 2.0e-10], 4, ["3.1e-10", "2.0e-10"]),
        # Variances of a term for x and of one for x in millions.
        ([0.235312, 4.064833e9], 4, ["2.353e-01", "4.065e+09"]),
        ([1.5, float("nan"), float("-inf")], 4, ["1.5", "NA", "-Inf"]),
        ([], 4, []),
    ],
)
def test_common_decimals_are_those_of_r(
    values: list[float], count: int, expected: list[str]
) -> None:
    assert digits.common(values, count) == expected


def test_estimates_share_their_decimals() -> None:
    # cbpp in lme4: -1.3983 0.2312 / -0.9919 0.3032
    values = np.array([[-1.398343, 0.231243], [-0.991925, 0.303159]])
    assert digits.estimates(values) == [["-1.3983", "0.2312"], ["-0.9919", "0.3032"]]
    assert digits.estimates(np.array([[0.0, np.nan]])) == [["0", "NA"]]


def test_coefficients_of_covariates_in_very_different_units_are_all_shown() -> None:
    """A row is in one unit, a column is not: beside another row nothing is too small to print."""
    values = np.array([[975285.741, 60609.4321], [-1.126048e-08, 4.577e-08]])
    assert digits.estimates(values) == [["9.753e+05", "6.061e+04"], ["-1.126e-08", "4.577e-08"]]
    # What is left of an estimate of zero is not.
    values = np.array([[-1.398343, 0.231243], [3e-17, 0.303159]])
    assert digits.estimates(values) == [["-1.3983", "0.2312"], ["0.0000", "0.3032"]]


def test_p_values_are_those_of_r() -> None:
    # The coefficients of lm(mpg ~ wt + qsec + am, mtcars) and of cbpp, as R prints them.
    assert digits.p_values([0.177915165, 6.952711e-06, 0.000216174, 0.046715510]) == [
        "0.177915",
        "6.95e-06",
        "0.000216",
        "0.046716",
    ]
    assert digits.p_values([1e-20, 0.0, 0.0246]) == ["<2e-16", "<2e-16", "0.0246"]
    assert digits.p_values([1e-20, 2.92e-9, np.nan]) == ["< 2e-16", "2.92e-09", "NA"]


@pytest.mark.parametrize(
    ("p", "mark"),
    [
        (0.0, "***"),
        (0.001, "***"),
        (0.0011, "**"),
        (0.049, "*"),
        (0.1, "."),
        (0.5, ""),
        (np.nan, ""),
    ],
)
def test_stars(p: float, mark: str) -> None:
    assert digits.stars(p) == mark


def test_abbreviated_names_stay_distinct() -> None:
    short = digits.abbreviate(["(Intercept)", "I(age ** 2)", "age", "livch[T.1]", "livch[T.2]"])
    assert short[0] == "(Intr)" and short[2] == "age"
    assert len(set(short)) == len(short)


# --- layout -----------------------------------------------------------------------------------


def coefficient_lines(text: str, names: list[str]) -> dict[str, list[str]]:
    """Cells of each line of the table of fixed effects."""
    body = text.split("Fixed effects:\n")[1].split("\n---")[0].splitlines()[1:]
    assert [line[: len(name)] for line, name in zip(body, names, strict=True)] == names
    return {name: line[len(name) :].split() for line, name in zip(body, names, strict=True)}


def test_layout_is_lme4s() -> None:
    fit = fitted("cm4/lme4")
    text = str(fit.summary())
    parts = [
        "Generalized linear mixed model fit by maximum likelihood (Laplace Approximation)",
        " Family: bernoulli  ( logit )",
        "Formula: use ~ age*ch + I(age^2) + urban + (urban|district)",
        "Response: use (success: Y, failure: N)",
        "AIC",
        "2371.530 2421.636 -1176.765  2353.530     1925",
        "Scaled residuals:",
        "Random effects:",
        " Groups   Name       Variance Std.Dev. Corr",
        " district Intercept  0.3783   0.6151",
        "          urban[T.Y] 0.5261   0.7254   -0.79",
        "Number of obs: 1934, groups:  district, 60",
        "Fixed effects:",
        "Estimate Std. Error z value Pr(>|z|)",
        "Signif. codes:",
        "Converged:",
    ]
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)
    assert all(line == line.rstrip() for line in text.splitlines())
    found = coefficient_lines(text, list(fit.params.index))
    for name, (estimate, error, z, p, *marks) in found.items():
        assert float(estimate) == pytest.approx(fit.params[name], rel=2e-3)
        assert float(error) == pytest.approx(fit.bse[name], rel=2e-3)
        assert float(z) == pytest.approx(fit.zvalues[name], rel=2e-3)
        assert float(p) == pytest.approx(fit.pvalues[name], rel=1e-2)
        assert "".join(marks) == digits.stars(fit.pvalues[name])
    assert "Correlation" not in text and "Warning" not in text


def test_scaled_residuals_are_those_of_pearson_over_sigma() -> None:
    fit = fitted("sleep_corr_ml/lme4")
    expected = np.quantile(fit.resid() / fit.sigma, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(fit.summary().quantiles, expected, rtol=1e-12)


def test_a_gaussian_summary_has_a_residual_variance() -> None:
    text = str(fitted("sleep_corr_ml/lme4").summary())
    assert text.startswith("Linear mixed model fit by maximum likelihood\n")
    assert re.search(r"^ Residual +654\.94 +25\.592", text, re.MULTILINE)
    assert "z value" in text and "Response:" not in text


def test_correlations_of_the_fixed_effects_on_request() -> None:
    fit = fitted("cbpp/lme4")
    text = str(fit.summary(correlation=True))
    lines = text.split("Correlation of Fixed Effects:\n")[1].splitlines()
    cov = fit.cov_params().to_numpy()
    expected = cov[3, 1] / np.sqrt(cov[3, 3] * cov[1, 1])
    assert lines[0].split()[0] == "(Intr)"
    assert lines[3].split()[2] == f"{expected:.3f}"


def _observed(fit: Fit) -> Fit:
    return replace(fit, numbers=replace(fit.numbers, curvature="observed"))


def test_nagq_zero_and_observed_information_are_named() -> None:
    fit = fitted("cbpp/lme4")
    zero = replace(fit, estimate=replace(fit.estimate, nagq=0))
    assert (
        str(zero.summary())
        .splitlines()[0]
        .endswith("(Adaptive Gauss-Hermite Quadrature, nAGQ = 0)")
    )
    # For a canonical link the two informations are one.
    assert "observed" not in str(_observed(fit).summary())
    probit = replace(_observed(fit), family=families.Binomial("probit"))
    first = str(probit.summary()).splitlines()[0]
    assert first.endswith("(Laplace Approximation, observed information)")


def test_rows_dropped_for_missing_values_are_counted() -> None:
    data = datasets.load("cbpp")
    data["incidence"] = data["incidence"].astype(float)
    data.loc[[3, 4], "incidence"] = np.nan
    fit = glmer(CBPP, data, "binomial")
    assert "Number of obs: 54 (2 rows with missing values left out), groups:  herd, 15" in str(
        fit.summary()
    )


def test_html_is_escaped_and_complete() -> None:
    data = datasets.load("cbpp").rename(columns={"period": "p<b>", "herd": "h&h"})
    fit = glmer("cbind(incidence, size - incidence) ~ `p<b>` + (1 | `h&h`)", data, "binomial")
    page = fit._repr_html_()
    assert "p<b>" not in page and "h&h" not in page
    assert "p&lt;b&gt;[T.2]" in page and "h&amp;h" in page
    assert page.count("<table>") == page.count("</table>") == 4
    for value in ("Std. Error", "Pr(&gt;|z|)", f"{fit.llf:.3f}", ", 15</p>"):
        assert value in page


def test_a_model_without_fixed_effects_prints() -> None:
    summary = fitted("cbpp/lme4").summary()
    none = replace(summary, coefficients=summary.coefficients.iloc[:0])
    assert "Fixed effects:\n  (none)" in str(none)
    assert "No fixed effects" in none._repr_html_()


def test_rounding_noise_in_the_residuals_is_not_printed() -> None:
    quantiles = np.array([-2.364, -0.7914, -2.4e-5, 0.4387, 2.688])
    summary = replace(fitted("cbpp/lme4").summary(), quantiles=quantiles)
    assert "-2.3640 -0.7914 0.0000 0.4387 2.6880" in " ".join(str(summary).split())


# --- how it ended -----------------------------------------------------------------------------


def test_a_converged_fit_has_no_warnings() -> None:
    fit = fitted("cm4/lme4")
    assert fit.warnings == ()
    assert fit.message.startswith("Converged: ") and "Singular" not in fit.message


def test_a_zero_variance_is_named() -> None:
    data = datasets.load("cbpp")
    data["incidence"] = np.round(0.2 * data["size"])  # herds that differ less than by chance
    fit = glmer(CBPP, data, "binomial")
    sentence = "Singular fit: the variance of (Intercept | herd) is estimated as zero."
    assert fit.warnings == (sentence,)
    assert fit.message == f"{fit.status.sentence} {sentence}"
    assert str(fit.summary()).count("Singular fit") == 1


@pytest.mark.parametrize(
    ("theta", "sentence"),
    [
        ([0.5, 0.2, 0.0], "the columns of (Intercept + urban[T.Y] | district) are perfectly "
         "correlated: urban[T.Y] is a combination of those before."),
        ([0.5, 0.0, 0.0], "the variance of (urban[T.Y] | district) is estimated as zero."),
        ([0.0, 0.0, 0.5], "the variance of (Intercept | district) is estimated as zero."),
    ],
)  # fmt: skip
def test_each_way_to_be_singular_is_named(theta: list[float], sentence: str) -> None:
    fit = fitted("cm4/lme4")
    params = Params(fit.estimate.params.beta, np.array(theta))  # type: ignore[arg-type]
    zero = (np.array(theta) == 0) & np.array([True, False, True])
    singular = replace(fit, estimate=replace(fit.estimate, params=params, singular=zero))
    assert diagnosis.singular_terms(singular) == [f"Singular fit: {sentence}"]


def test_dropped_columns_are_named() -> None:
    data = datasets.load("cbpp").assign(late=lambda frame: frame["period"] == "4")
    fit = glmer(CBPP.replace("period", "period + late"), data, "binomial")
    (sentence,) = fit.warnings
    assert sentence.startswith("Rank deficient: ") and "late[T.True]" in sentence
    assert f"Warning: {sentence[:40]}" in str(fit.summary())


def test_separation_names_the_coefficient() -> None:
    data = datasets.load("cbpp")
    data.loc[data["period"] == "4", "incidence"] = 0
    fit = glmer(CBPP, data, "binomial")
    assert fit.status is Status.SEPARATION and not fit.converged
    assert fit.message.endswith("Coefficients without a finite estimate: period[T.4].")
    assert fit.warnings == (fit.message,)
    assert "Separation: " in str(fit.summary())


def test_a_search_that_stopped_warns() -> None:
    fit = fitted("cbpp/lme4")
    stopped = replace(fit, estimate=replace(fit.estimate, status=np.array(Status.STEP_LIMIT)))
    assert stopped.warnings == (Status.STEP_LIMIT.sentence,)
    assert "Not converged: the limit on the number" in str(stopped.summary())


def test_a_nearly_flat_direction_is_named() -> None:
    fit = fitted("cbpp/lme4")
    H = np.array(fit.estimate.hessian)
    size = np.sqrt(np.diag(H))
    # period[T.2] and period[T.3] as if they were the same column to ten digits.
    R = np.eye(len(H))
    R[1, 2] = R[2, 1] = 1 - 1e-10
    flat = replace(fit, estimate=replace(fit.estimate, hessian=R * np.outer(size, size)))
    (sentence,) = flat.warnings
    assert "along a combination of period[T.2], period[T.3];" in sentence


def test_the_summary_is_a_record() -> None:
    summary = fitted("cbpp/lme4").summary()
    assert isinstance(summary.coefficients, pd.DataFrame)
    assert summary.groups == (("herd", 15),)
    assert repr(summary) == str(summary)


def test_a_correlation_that_the_data_do_not_determine_is_named() -> None:
    # A row has one category, so no level has both columns: any correlation fits as well.
    draw = np.random.default_rng(1)
    n = 120
    category = np.where(draw.uniform(size=n) < 0.5, "a", "b")
    y = draw.poisson(np.exp(1.0 + 0.4 * draw.normal(size=n)))
    data = pd.DataFrame({"y": y, "c": category, "row": np.arange(n)})
    fit = glmer("y ~ 1 + (0 + c | row)", data, "poisson")
    (sentence,) = fit.warnings
    assert sentence.startswith("Not determined: the data say nothing about the correlation of c[a]")
    table = fit.varcorr()
    unknown = table["name2"].notna()
    assert table[unknown][["se", "2.5 %", "97.5 %"]].isna().all(axis=None)
    # What is determined keeps its standard error: it is that of independent columns.
    apart = glmer("y ~ 1 + diag(0 + c | row)", data, "poisson").varcorr()
    np.testing.assert_allclose(table["se"][~unknown], apart["se"], rtol=1e-4)
    assert fit.tidy()["std_error"].isna().sum() == 1
    assert fitted("cm4/lme4").warnings == ()
