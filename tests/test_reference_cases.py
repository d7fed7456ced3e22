"""The table of reference cases is consistent in itself and with its data."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import patsy
import pytest
import scipy.stats
from reference_cases import Case, case, cases, independent, map_names

from glmm_jax import families

EVERY = cases(plain=None)
ENGINE = cases(("binomial", "poisson", "gaussian"))


def test_every_fit_is_there() -> None:
    assert len(EVERY) == 169
    assert len({one.key for one in EVERY}) == 169
    assert {one.nagq for one in cases("binomial", "lme4")} == {0, 1, 5, 7, 9, 11, 15, 25}
    assert all(one.reml or one.ziformula or one.dispformula for one in cases(plain=False))


@pytest.mark.parametrize("one", EVERY, ids=str)
def test_sizes_agree(one: Case) -> None:
    frame = one.frame()
    assert len(frame) == one.n
    p, m = len(one.beta_names), len(one.theta_names)
    assert one.beta.shape == one.se.shape == (p,)
    assert one.theta.shape == (m,)
    for point in one.points:
        assert one.reml or (point.beta is not None and point.beta.shape == (p,))
        assert point.theta.shape == (m,)
        assert (point.sigma is not None) == (one.family == "gaussian")
    for effects in one.effects:
        shape = (len(effects.levels), len(effects.terms))
        assert effects.mode.shape == shape
        assert effects.conditional_sd is None or effects.conditional_sd.shape == shape
        assert set(effects.levels) <= _levels(effects.group, frame)


def _levels(group: str, frame: pd.DataFrame) -> set[str]:
    joined = frame[group.split(":")].astype(str)
    return set(joined.agg(":".join, axis=1)) if joined.shape[1] > 1 else set(joined.iloc[:, 0])


@pytest.mark.parametrize("one", EVERY, ids=str)
def test_theta_is_absolute(one: Case) -> None:
    # The standard deviations of a term are the lengths of the rows of its block of Lambda.
    start = 0
    for component in one.components:
        k = len(component.terms)
        block = np.zeros((k, k))
        rows, columns = np.tril_indices(k)
        by_column = np.lexsort((rows, columns))
        stop = start + k * (k + 1) // 2
        block[rows[by_column], columns[by_column]] = one.theta[start:stop]
        start = stop
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), component.sd, rtol=1e-9)
    assert start == len(one.theta)


@pytest.mark.parametrize("one", ENGINE, ids=str)
def test_arguments_of_glmer(one: Case) -> None:
    arguments = one.glmer_arguments()
    assert families.get(arguments["family"], arguments["link"]).link.name == one.link
    assert len(arguments["data"]) == one.n
    for name in ("weights", "trials"):
        assert name not in arguments or arguments[name] in arguments["data"].columns
    if arguments["family"] == "binomial":
        assert arguments["formula"].startswith("cbind(") or "trials" in arguments


def test_arguments_of_the_weighted_cases() -> None:
    proportion = case("cbpp_prop/lme4").glmer_arguments()
    assert (proportion["family"], proportion["trials"]) == ("binomial", "size")
    assert "weights" not in proportion
    weighted = case("wts_bin_int/lme4").glmer_arguments()
    assert (weighted["family"], weighted["weights"]) == ("bernoulli", "wi")
    assert case("sim_gauss_w_ml/lme4").glmer_arguments()["family"] == "gaussian"
    likelihood = families.Gaussian(weights="likelihood")
    assert case("sim_gauss_w_tmb/glmmTMB").glmer_arguments()["family"] == likelihood


def test_arguments_of_restricted_likelihood_and_other_parameters() -> None:
    assert case("sleep_corr_reml/lme4").glmer_arguments()["reml"] is True
    assert case("sal_zip/glmmTMB").glmer_arguments()["zero_inflation"] == "~spp + mined"
    assert case("sal_zip_re/glmmTMB").glmer_arguments()["zero_inflation"] == "~mined + (1|site)"
    assert case("sal_nb2_disp/glmmTMB").glmer_arguments()["dispersion"] == "~DOY"
    hurdle = case("hurdle_pois/glmmTMB").glmer_arguments()
    assert hurdle["family"] == "hurdle_poisson" and "link" not in hurdle


def test_names_in_patsys_spelling() -> None:
    frame = pd.DataFrame(
        {
            "f": pd.Categorical(["a:b", "c"]),
            "o": pd.Categorical(["1", "2"], ordered=True),
            "x": [1.0, 2.0],
        }
    )
    names = ["(Intercept)", "x", "fc", "o.L", "o^4", "I(x^2)", "x:fc"]
    expected = ["Intercept", "x", "f[T.c]", "o.Linear", "o^4", "I(x ** 2)", "x:f[T.c]"]
    assert map_names(names, frame) == expected
    with pytest.raises(ValueError, match="no column of the data gives the coefficient 'fd'"):
        map_names(["fd"], frame)


@pytest.mark.parametrize("one", [c for c in ENGINE if "large" not in c.tags], ids=str)
def test_names_are_those_patsy_gives(one: Case) -> None:
    fixed = one.formula.split("~")[1]
    fixed = re.sub(r"\+?\s*\([^()]*\|[^()]*\)|\+?\s*offset\(log\(\w+\)\)", "", fixed)
    fixed = re.sub(r"\bmonth\b", "C(month, Poly)", fixed.strip() or "1")
    names = patsy.dmatrix(fixed.replace("^", "**"), one.frame()).design_info.column_names
    names = {name.replace("C(month, Poly)", "month") for name in names}
    dropped = map_names(one.dropped_columns, one.frame())
    assert names - set(dropped) == set(one.names())
    assert set(dropped) <= names


@pytest.mark.parametrize(
    ("key", "groups", "slope"),
    [
        ("sleep_corr_ml/glmmTMB", ["Subject"], "Days"),
        ("sim_gauss_slope_ml/glmmTMB", ["g"], "x"),
        ("pastes_nested_ml/glmmTMB", ["cask:batch", "batch"], None),
        ("pastes_two/glmmTMB", ["sample", "batch"], None),
    ],
)
def test_gaussian_points_are_multivariate_normal(
    key: str, groups: list[str], slope: str | None
) -> None:
    """At beta, theta, sigma the response is normal with variance Z Lambda Lambda' Z' + sigma^2 I.

    Order, scale and sign of theta and the constants of the density are all in this number.
    """
    one = case(key)
    frame = one.frame()
    y = frame[one.formula.split("~")[0].strip()].to_numpy()
    intercept = np.ones(len(y))
    x = intercept[:, None] if slope is None else np.column_stack([intercept, frame[slope]])
    assert [component.group for component in one.components] == groups
    assert len(one.points) == 3
    for point in one.points:
        assert point.sigma is not None
        variance = point.sigma**2 * np.eye(len(y))
        for i, group in enumerate(groups):
            labels = frame[group.split(":")].astype(str).agg(":".join, axis=1).to_numpy()
            same = labels[:, None] == labels[None, :]
            if slope is None:
                variance += same * point.theta[i] ** 2
            else:
                a, b, c = point.theta
                factor = x @ np.array([[a, 0.0], [b, c]])
                variance += same * (factor @ factor.T)
        density = scipy.stats.multivariate_normal(x @ point.beta, variance)
        assert -2 * density.logpdf(y) == pytest.approx(point.deviance, rel=0, abs=2e-8)


@pytest.mark.parametrize("one", [c for c in ENGINE if c.points and c.nagq < 2], ids=str)
def test_deviance_is_the_laplace_value_of_separate_code(one: Case) -> None:
    name = f"laplace_{one.curvature}"
    for point in one.points:
        separate = getattr(point, name)
        if point.deviance is not None and separate is not None:
            assert point.deviance == pytest.approx(separate, rel=0, abs=1e-6)
    if one.other_objective is None and one.nagq == 1:
        assert one.points[0].deviance == pytest.approx(-2 * one.log_likelihood, abs=1e-6)


def test_saturated_constant_is_in_the_quadrature_values() -> None:
    one = case("cbpp_agq9/lme4")
    assert one.log_likelihood == pytest.approx(-91.983, abs=1e-3)
    for point in one.points:
        assert point.deviance == pytest.approx(point.exact, abs=1e-2)


def test_independent_optima() -> None:
    assert independent("cm3_probit", "exact")["logLik"] == pytest.approx(-1182.2088, abs=1e-4)
    assert independent("cm3_probit", "observed")["logLik"] == pytest.approx(-1182.2340, abs=1e-4)
    with pytest.raises(ValueError, match="unpack"):
        independent("no such model", "exact")
