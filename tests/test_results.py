"""What a fit returns besides its summary: random effects, residuals, intervals, covariances."""

from __future__ import annotations

import copy
import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from reference_cases import Case, case, map_names
from test_ranef import crossed, small_counts

from glmm_jax import Fit, datasets, glmer
from glmm_jax.inference import ranef, varcorr

# A vector-valued term, trials, three factors, a residual variance, prior weights and precisions.
KEYS = (
    "cm4/lme4",
    "cbpp/lme4",
    "gt_pois3/lme4",
    "sleep_corr_ml/lme4",
    "wts_pois_int/lme4",
    "sim_gauss_w_ml/lme4",
)


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


each = pytest.mark.parametrize("key", KEYS)


def reference_names(known: Case, terms: tuple[str, ...]) -> list[str]:
    return map_names(terms, known.frame())


@each
def test_conditional_modes_and_deviations_are_those_of_lme4(key: str) -> None:
    known, found = case(key), fitted(key).ranef()
    assert set(found) == set(known.ngroups)
    for effects in known.effects:
        table = found[effects.group]
        assert len(table) == known.ngroups[effects.group]
        assert table.index.name == effects.group
        rows = table.set_axis(table.index.astype(str)).loc[list(effects.levels)]
        names = reference_names(known, effects.terms)
        sd = rows[[f"{name} (sd)" for name in names]].to_numpy()
        assert np.all(np.abs(rows[names].to_numpy() - effects.mode) < 1e-3 * sd)
        np.testing.assert_allclose(sd, effects.conditional_sd, rtol=1e-3)


@each
def test_fitted_values_are_those_of_lme4(key: str) -> None:
    known, fit = case(key), fitted(key)
    np.testing.assert_allclose(fit.fittedvalues.iloc[:10], known.fitted10, rtol=2e-4)
    np.testing.assert_allclose(fit.linear_predictor.iloc[:10], known.eta10, rtol=2e-4, atol=2e-4)


@each
def test_variances_and_criteria_are_those_of_lme4(key: str) -> None:
    known, fit = case(key), fitted(key)
    table = fit.varcorr()
    for component in known.components:
        names = reference_names(known, component.terms)
        part = table[table["group"] == component.group]
        sd = part[part["name2"].isna()].set_index("name1")["sdcor"]
        np.testing.assert_allclose(sd[names], component.sd, rtol=1e-3)
        for _, row in part[part["name2"].notna()].iterrows():
            assert component.corr is not None
            i, j = names.index(row["name1"]), names.index(row["name2"])
            assert row["sdcor"] == pytest.approx(component.corr[i, j], abs=1e-3)
            assert row["vcov"] == pytest.approx(
                component.corr[i, j] * component.sd[i] * component.sd[j], rel=3e-3
            )
    residual = table[table["group"] == "Residual"]
    assert len(residual) == (known.family == "gaussian")
    if len(residual):
        assert residual["sdcor"].item() == pytest.approx(known.sigma, rel=1e-3)
    assert fit.aic == pytest.approx(known.aic, abs=1e-3)
    assert fit.bic == pytest.approx(known.bic, abs=1e-3)
    assert fit.df == known.df


def test_the_table_of_variances_has_lme4s_shape() -> None:
    for key, missing in (("cm4/lme4", [True, True, False]), ("sleep_corr_ml/lme4", [1, 1, 0, 1])):
        table = fitted(key).varcorr()
        assert list(table.columns[:5]) == ["group", "name1", "name2", "vcov", "sdcor"]
        assert list(table["name2"].isna()) == list(map(bool, missing))
    scalar = fitted("cbpp/lme4").varcorr()
    assert scalar["name2"].isna().all() and scalar["name2"].dtype == table["name2"].dtype


def test_names_of_theta_are_lme4s() -> None:
    frame = fitted("cm4/lme4").frame
    assert varcorr.theta_names(frame) == [
        "district.Intercept",
        "district.urban[T.Y].Intercept",
        "district.urban[T.Y]",
    ]


def test_zero_columns_are_found() -> None:
    frame = fitted("cm4/lme4").frame
    assert varcorr.held(frame, np.array([1.0, 0.5, 0.0])).tolist() == [False, False, True]
    assert varcorr.held(frame, np.array([0.0, 0.0, 1.0])).tolist() == [True, True, False]
    # A column whose diagonal element alone is zero still moves the deviance.
    assert not varcorr.held(frame, np.array([0.0, 0.5, 1.0])).any()


def test_conditional_covariance_is_that_of_the_dense_system() -> None:
    fit = fitted("cm4/lme4")
    frame, block = fit.frame, fit.frame.blocks[0]
    levels, k = len(block.levels), 2
    (Lambda,) = varcorr.triangles(frame, fit.theta)
    ZLambda = np.zeros((fit.nobs, levels, k))
    ZLambda[np.arange(fit.nobs), block.index] = block.Z @ Lambda
    ZLambda = ZLambda.reshape(fit.nobs, -1)
    mu = fit.fittedvalues.to_numpy()
    H = ZLambda.T @ ((mu * (1 - mu))[:, None] * ZLambda) + np.eye(levels * k)
    inverse = np.linalg.inv(H).reshape(levels, k, levels, k)
    (found,) = ranef.conditional(fit)
    for j in (0, 17, levels - 1):
        expected = Lambda @ inverse[j, :, j, :] @ Lambda.T
        np.testing.assert_allclose(found.covariance[j], expected, rtol=1e-9, atol=1e-12)


def test_binomial_residuals() -> None:
    fit, data = fitted("cbpp/lme4"), datasets.load("cbpp")
    size, y = data["size"].to_numpy(float), data["incidence"].to_numpy(float)
    mu = fit.fittedvalues.to_numpy()
    difference = y / size - mu
    np.testing.assert_allclose(fit.resid("response"), difference, atol=1e-14)
    np.testing.assert_allclose(fit.resid(), difference * np.sqrt(size / (mu * (1 - mu))), rtol=1e-9)
    log_density = scipy.stats.binom.logpmf
    d = 2 * (log_density(y, size, y / size) - log_density(y, size, mu))
    np.testing.assert_allclose(
        fit.resid("deviance"), np.sign(difference) * np.sqrt(np.maximum(d, 0)), rtol=1e-6
    )


def test_weighted_poisson_residuals() -> None:
    fit = fitted("wts_pois_int/lme4")
    y, w, mu = fit.frame.y, fit.frame.weights, fit.fittedvalues.to_numpy()
    assert w is not None and w.max() > 1
    np.testing.assert_allclose(fit.resid("pearson"), (y - mu) * np.sqrt(w / mu), rtol=1e-9)
    d = 2 * w * (scipy.stats.poisson.logpmf(y, y) - scipy.stats.poisson.logpmf(y, mu))
    expected = np.sign(y - mu) * np.sqrt(np.maximum(d, 0))
    np.testing.assert_allclose(fit.resid("deviance"), expected, rtol=1e-6, atol=1e-7)


def test_gaussian_residuals_are_weighted_and_not_scaled() -> None:
    fit = fitted("sim_gauss_w_ml/lme4")
    y, w, mu = fit.frame.y, fit.frame.weights, fit.fittedvalues.to_numpy()
    assert w is not None and np.ptp(w) > 0
    for kind in ("pearson", "deviance"):
        np.testing.assert_allclose(fit.resid(kind), (y - mu) * np.sqrt(w), rtol=1e-9)


def test_an_unknown_kind_of_residual_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kind='studentized'; use one of 'response', 'pearson'"):
        fitted("cbpp/lme4").resid("studentized")


def test_wald_intervals() -> None:
    fit = fitted("cm4/lme4")
    table = fit.conf_int(level=0.9)
    assert list(table.columns) == ["5 %", "95 %"]
    half = scipy.stats.norm.ppf(0.95) * fit.bse
    np.testing.assert_allclose(table["95 %"] - table["5 %"], 2 * half, rtol=1e-12)
    np.testing.assert_allclose(table.mean(axis=1), fit.params, rtol=1e-12)
    assert list(fit.conf_int().columns) == ["2.5 %", "97.5 %"]
    with pytest.raises(ValueError, match=r"method='exact'; available: 'wald'"):
        fit.conf_int(method="exact")
    with pytest.raises(ValueError, match="level=95"):
        fit.conf_int(level=95)


def test_rows_keep_their_labels_when_others_are_dropped() -> None:
    data = datasets.load("sleepstudy").set_axis(range(1000, 1180))
    data.loc[1003, "Reaction"] = np.nan
    fit = glmer("Reaction ~ Days + (Days | Subject)", data)
    assert fit.nobs == 179 and fit.frame.n_missing == 1
    for series in (fit.fittedvalues, fit.resid(), fit.linear_predictor):
        assert 1003 not in series.index and series.index[3] == 1004
    expected = data["Reaction"].drop(1003) - fit.fittedvalues
    pd.testing.assert_series_equal(fit.resid("response"), expected, check_names=False)


def test_a_zero_variance_leaves_no_random_effects() -> None:
    data = datasets.load("cbpp")
    data["incidence"] = np.round(0.2 * data["size"])  # herds that differ less than by chance
    fit = glmer("cbind(incidence, size - incidence) ~ period + (1 | herd)", data, "binomial")
    (table,) = fit.ranef().values()
    assert np.all(table == 0)
    assert fit.is_singular and fit.varcorr()["sdcor"].item() == 0
    assert np.all(fit.bse > 0)


def test_two_terms_of_one_factor_share_a_table() -> None:
    fit = crossed()
    tables = fit.ranef()
    assert list(tables["g"].columns) == ["Intercept", "x", "Intercept (sd)", "x (sd)"]
    b, rest = (tables[name].to_numpy() for name in ("g", "h"))
    index = {block.grouping: block.index for block in fit.frame.blocks}
    eta = fit.frame.X @ fit.params.to_numpy() + rest[index["h"], 0]
    eta += b[index["g"], 0] + b[index["g"], 1] * small_counts()["x"].to_numpy()
    np.testing.assert_allclose(fit.linear_predictor, eta, rtol=1e-12)


def test_results_are_exact_where_jax_computes_in_single_precision(
    default_precision: None,
) -> None:
    fit = glmer(**case("cbpp/lme4").glmer_arguments())
    double = fitted("cbpp/lme4")
    assert jnp.ones(1).dtype == jnp.float32
    assert fit.llf == pytest.approx(double.llf, abs=1e-10)
    pd.testing.assert_frame_equal(fit.ranef()["herd"], double.ranef()["herd"], rtol=1e-9)
    for kind in ("response", "pearson", "deviance"):
        pd.testing.assert_series_equal(fit.resid(kind), double.resid(kind), rtol=1e-9)
    assert str(fit.summary()) == str(double.summary())
    assert jax.config.jax_enable_x64 is False


def test_a_fit_can_be_copied_and_pickled() -> None:
    fit = fitted("cbpp/lme4")
    for twin in (copy.deepcopy(fit), pickle.loads(pickle.dumps(fit))):
        assert str(twin.summary()) == str(fit.summary())
        pd.testing.assert_frame_equal(twin.ranef()["herd"], fit.ranef()["herd"])
