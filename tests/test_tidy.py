"""Tidy frames of a fit: parameters, statistics, observations."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from reference_cases import case, map_names

import glmm_jax as gj

COLUMNS = ["effect", "group", "term", "estimate", "std_error", "statistic", "p_value"]


@pytest.fixture(scope="module")
def cm4() -> gj.Fit:
    return gj.glmer(**case("cm4/lme4").glmer_arguments())


@pytest.fixture(scope="module")
def cbpp() -> gj.Fit:
    return gj.glmer(**case("cbpp/lme4").glmer_arguments())


@pytest.fixture(scope="module")
def sleep() -> gj.Fit:
    """With two rows missing a response, and labels that occur more than once."""
    known = case("sleep_corr_ml/lme4").glmer_arguments()
    data = known["data"].copy()
    data.index = [f"r{i % 7}" for i in range(len(data))]
    data.iloc[[2, 100], list(data.columns).index("Reaction")] = np.nan
    return gj.glmer(**{**known, "data": data})


# --- tidy ----------------------------------------------------------------------------------------


def test_parameters_are_those_of_lme4(cm4: gj.Fit) -> None:
    known, table = case("cm4/lme4"), cm4.tidy()
    assert list(table.columns) == COLUMNS
    assert all(dtype == "float64" for dtype in table.dtypes.iloc[3:])
    fixed = table[table["effect"] == "fixed"].set_index("term")
    names = map_names(known.beta_names, known.frame())
    assert known.se_hessian is not None
    se = known.se_hessian
    assert np.all(np.abs(fixed.loc[names, "estimate"] - known.beta) < 1e-3 * se)
    np.testing.assert_allclose(fixed.loc[names, "std_error"], se, rtol=2e-3)
    z = fixed["estimate"] / fixed["std_error"]
    np.testing.assert_allclose(fixed["statistic"], z, rtol=1e-12)
    np.testing.assert_allclose(fixed["p_value"], 2 * scipy.stats.norm.sf(np.abs(z)), rtol=1e-9)
    assert fixed["group"].isna().all()
    random = table[table["effect"] == "random"].set_index("term")
    assert list(random.index) == ["sd__Intercept", "sd__urban[T.Y]", "cor__Intercept.urban[T.Y]"]
    assert set(random["group"]) == {"district"}
    (component,) = known.components
    assert component.corr is not None
    np.testing.assert_allclose(random["estimate"].iloc[:2], component.sd, rtol=1e-3)
    assert random["estimate"].iloc[2] == pytest.approx(component.corr[0, 1], abs=1e-3)
    assert random[["statistic", "p_value"]].isna().all(axis=None)
    assert random["std_error"].gt(0).all()
    assert len(fixed) + len(random) == len(table) == known.df


def test_intervals_come_on_request(cm4: gj.Fit) -> None:
    table = cm4.tidy(level=0.8)
    assert list(table.columns) == [*COLUMNS, "conf_low", "conf_high"]
    quantile = scipy.stats.norm.ppf(0.9)
    for row in table.to_dict("records"):
        estimate, se = row["estimate"], row["std_error"]
        limits = row["conf_low"], row["conf_high"]
        if row["effect"] == "fixed":
            expected = estimate - quantile * se, estimate + quantile * se
        elif row["term"].startswith("sd__"):
            ratio = np.exp(quantile * se / estimate)
            expected = estimate / ratio, estimate * ratio
        else:
            half = quantile * se / (1 - estimate**2)
            expected = np.tanh(np.arctanh(estimate) - half), np.tanh(np.arctanh(estimate) + half)
        assert limits == pytest.approx(expected, rel=1e-9)
    pd.testing.assert_frame_equal(table[COLUMNS], cm4.to_frame())


def test_a_dispersion_has_a_row(sleep: gj.Fit) -> None:
    last = sleep.tidy(0.95).iloc[-1]
    assert (last["effect"], last["group"], last["term"]) == (
        "random",
        "Residual",
        "sd__Observation",
    )
    assert last["estimate"] == sleep.sigma
    assert last["conf_low"] < sleep.sigma < last["conf_high"]


def test_a_model_without_coefficients_has_rows_of_one_kind(sleep: gj.Fit) -> None:
    frame = dataclasses.replace(sleep.frame, X=sleep.frame.X[:, :0], X_names=())
    m = len(sleep.theta)
    estimate = dataclasses.replace(
        sleep.estimate,
        params=dataclasses.replace(sleep.estimate.params, beta=np.zeros(0)),
        hessian=2.0 * np.eye(m + 1),
    )
    table = dataclasses.replace(sleep, frame=frame, estimate=estimate).tidy(0.9)
    assert set(table["effect"]) == {"random"}
    pd.testing.assert_series_equal(table.dtypes, sleep.tidy(0.9).dtypes)


def test_a_level_that_is_none_is_refused(cm4: gj.Fit) -> None:
    for level in (0, 1.0, 95):
        with pytest.raises(ValueError, match=f"level={level}"):
            cm4.tidy(level=level)


# --- glance --------------------------------------------------------------------------------------


def test_statistics_are_those_of_lme4(cm4: gj.Fit, cbpp: gj.Fit) -> None:
    for key, fit in (("cm4/lme4", cm4), ("cbpp/lme4", cbpp)):
        known, table = case(key), fit.glance()
        assert len(table) == 1
        row = table.iloc[0]
        assert row["llf"] == pytest.approx(known.log_likelihood, abs=1e-4)
        assert row["deviance"] == -2 * row["llf"]
        assert row["aic"] == pytest.approx(known.aic, abs=1e-3)
        assert row["bic"] == pytest.approx(known.bic, abs=1e-3)
        assert (row["nobs"], row["npar"], row["df_resid"]) == (
            known.n,
            known.df,
            known.n - known.df,
        )
        for group, levels in known.ngroups.items():
            assert row[f"levels_{group}"] == levels
        assert (row["family"], row["link"], row["nagq"]) == (
            fit.family.name,
            known.link,
            known.nagq,
        )
        assert row["converged"] and not row["singular"] and row["sigma"] == 1.0
    both = pd.concat([cm4.glance(), cbpp.glance()], ignore_index=True)
    assert list(both["nobs"]) == [cm4.nobs, cbpp.nobs]
    assert both["nobs"].dtype == "int64" and both["converged"].dtype == bool


# --- augment -------------------------------------------------------------------------------------


def test_rows_are_those_used_whatever_their_labels(sleep: gj.Fit) -> None:
    assert sleep.call.data is not None
    table, data = sleep.augment(se=True), sleep.call.data
    used = data.iloc[[i for i in range(len(data)) if i not in (2, 100)]]
    pd.testing.assert_frame_equal(table[list(data.columns)], used)
    assert list(table.columns)[len(data.columns) :] == [
        "observed",
        "fitted",
        "fitted_population",
        "linear_predictor",
        "resid_response",
        "resid_pearson",
        "resid_deviance",
        "fitted_se",
    ]
    np.testing.assert_array_equal(table["observed"], used["Reaction"])
    np.testing.assert_array_equal(table["resid_response"], table["observed"] - table["fitted"])
    b0, b1 = sleep.params
    population = b0 + b1 * table["Days"].to_numpy()
    np.testing.assert_allclose(table["fitted_population"], population, rtol=1e-12)
    modes = sleep.ranef()["Subject"].loc[table["Subject"].astype(str)]
    eta = population + modes["Intercept"].to_numpy() + modes["Days"].to_numpy() * table["Days"]
    np.testing.assert_allclose(table["linear_predictor"], eta, rtol=1e-12)
    assert table["fitted_se"].gt(0).all()


def test_trials_make_proportions(cbpp: gj.Fit) -> None:
    known, table = case("cbpp/lme4"), cbpp.augment()
    np.testing.assert_allclose(table["observed"], table["incidence"] / table["size"])
    np.testing.assert_allclose(table["fitted"].iloc[:10], known.fitted10, rtol=2e-4)
    np.testing.assert_allclose(table["linear_predictor"].iloc[:10], known.eta10, rtol=2e-4)
    eta = cbpp.frame.X @ cbpp.params.to_numpy()
    np.testing.assert_allclose(table["fitted_population"], 1 / (1 + np.exp(-eta)), rtol=1e-12)
    for kind in ("response", "pearson", "deviance"):
        np.testing.assert_array_equal(table[f"resid_{kind}"], cbpp.resid(kind))


def test_the_callers_data_stay_as_they_are(cbpp: gj.Fit) -> None:
    data = cbpp.call.data
    assert data is not None
    before = data.copy()
    table = cbpp.augment()
    table.loc[:, "size"] = 0
    table.loc[:, "fitted"] = 0.0
    pd.testing.assert_frame_equal(data, before)
    assert cbpp.fittedvalues.gt(0).all()


def test_names_that_clash_are_told(cbpp: gj.Fit) -> None:
    assert cbpp.call.data is not None
    data = cbpp.call.data.assign(fitted=1.0, observed=2.0)
    fit = dataclasses.replace(cbpp, call=dataclasses.replace(cbpp.call, data=data))
    with pytest.raises(ValueError, match=r"prefix=''.*'observed', 'fitted' already.*'fit_'"):
        fit.augment()
    table = fit.augment(prefix="fit_")
    assert table["fitted"].eq(1.0).all() and table["fit_fitted"].lt(1.0).all()
    with pytest.raises(ValueError, match="prefix=3; give a text"):
        cbpp.augment(prefix=3)  # type: ignore[arg-type]


def test_without_data_the_model_matrix_stands_in(
    cbpp: gj.Fit, sleep: gj.Fit, tmp_path: Path
) -> None:
    cbpp.save(tmp_path / "cbpp")
    table, full = gj.load(tmp_path / "cbpp").augment(), cbpp.augment()
    added = list(full.columns[full.columns.get_loc("observed") :])
    pd.testing.assert_frame_equal(table[added], full[added], check_exact=True)
    assert list(table.columns) == [*cbpp.frame.X_names, "herd", "trials", *added]
    assert list(table["herd"]) == list(full["herd"].astype(str))
    np.testing.assert_array_equal(table["trials"], full["size"])
    bare = dataclasses.replace(sleep, call=dataclasses.replace(sleep.call, data=None)).augment()
    assert list(bare.index) == list(sleep.frame.index)
    np.testing.assert_array_equal(bare["Days"], sleep.augment()["Days"])
