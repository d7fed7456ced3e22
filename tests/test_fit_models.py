"""Fits by quadrature, by REML, and with models of several parameters, through their verbs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from reference_cases import case

import glmm_jax as gj
from glmm_jax import families
from glmm_jax.results import Fit

# Compared with the references in test_reference_fits.
KEYS = (
    "cm3_agq11/lme4", "cbpp_agq9/lme4", "sleep_corr_reml/lme4", "sim_gauss_w_reml/lme4",
    "sal_nb2_disp/glmmTMB", "sal_zip/glmmTMB", "hurdle_pois/glmmTMB", "t_dist/glmmTMB",
)  # fmt: skip


# Tests of one model stand side by side.
@lru_cache(maxsize=3)
def fitted(key: str) -> Fit:
    if fitted.cache_info().misses % 8 == 7:
        jax.clear_caches()  # a process may hold the memory maps of some forty programs only
    return gj.glmer(**case(key).glmer_arguments())


@pytest.mark.parametrize("key", KEYS)
def test_saved_and_loaded_again_it_is_the_same(key: str, tmp_path: Path) -> None:
    fit = fitted(key)
    fit.save(tmp_path / "fit")
    again = gj.load(tmp_path / "fit")
    assert again.llf == fit.llf and again.family == fit.family and again.reml == fit.reml
    assert str(again.summary()) == str(fit.summary())
    pd.testing.assert_series_equal(again.dispersion_params, fit.dispersion_params)


def test_summary_says_how_the_fit_was_made() -> None:
    text = str(fitted("sleep_corr_reml/lme4").summary())
    assert text.startswith("Linear mixed model fit by REML\n")
    assert "REML criterion at convergence: 1743.628" in text and "AIC" not in text
    assert "Quadrature, nAGQ = 11" in str(fitted("cm3_agq11/lme4").summary())


def test_restricted_fits_refuse_what_their_criterion_cannot_say() -> None:
    fit = fitted("sleep_corr_reml/lme4")
    with pytest.raises(ValueError, match=r"reml=False.*drop1"):
        fit.drop1()
    with pytest.raises(ValueError, match="REML"):
        fit.profile()
    smaller = fit.update("~ . - Days")
    with pytest.raises(ValueError, match=r"different fixed effects.*reml=False"):
        gj.anova(fit, smaller)
    with pytest.raises(ValueError, match="by REML and by maximum likelihood"):
        gj.anova(fit, fit.update(reml=False))
    random = fit.update("~ Days + (1 | Subject)")
    table = gj.anova(random, fit).frame
    assert table["Chisq"].iloc[1] == pytest.approx(2 * (fit.llf - random.llf))
    assert fit.glance()["reml"].item()


def test_refit_and_bootstrap_keep_the_criterion() -> None:
    fit = fitted("sleep_corr_reml/lme4")
    assert fit.refit(fit.frame.y).llf == pytest.approx(fit.llf, abs=1e-8)
    draws = fit.simulate(2, seed=3)
    found = fit.bootstrap(2, seed=3, progress=False)
    one = fit.refit(draws["sim_2"])
    np.testing.assert_allclose(found.theta.iloc[1], one.theta, rtol=1e-4)


# --- excess zeros ---------------------------------------------------------------------------------


def test_prediction_of_zero_inflated_counts() -> None:
    one, fit = case("sal_zip/glmmTMB"), fitted("sal_zip/glmmTMB")
    data = one.frame().iloc[[0, 50, 300]]
    zero = fit.predict(data, "zero", se=True, level=0.9)
    eta = fit.predict(data, "link")
    mean = fit.predict(data, se=True, level=0.95)
    np.testing.assert_allclose(mean["fit"], (1 - zero["fit"]) * np.exp(eta), rtol=1e-12)
    model = fit.frame.parameter_models[0]
    gamma = fit.dispersion_params.to_numpy()
    X = model.X[[0, 50, 300]]
    np.testing.assert_allclose(zero["fit"], scipy.special.expit(X @ gamma), rtol=1e-12)
    V = fit.vcov_all.to_numpy()
    q = len(gamma)
    se = np.sqrt(np.sum((X @ V[-q:, -q:]) * X, axis=1))
    np.testing.assert_allclose(zero["se"], zero["fit"] * (1 - zero["fit"]) * se, rtol=1e-10)
    # At the population level log(mean) = log(1 - pi) + x' beta, by the delta method.
    flat = fit.predict(data, se=True, random="population")
    rows = fit.frame.X[[0, 50, 300]]
    g = np.zeros((3, len(V)))
    g[:, : rows.shape[1]] = rows
    g[:, -q:] = -np.asarray(zero["fit"])[:, None] * X
    expected = flat["fit"] * np.sqrt(np.sum((g @ V) * g, axis=1))
    np.testing.assert_allclose(flat["se"], expected, rtol=1e-10)
    half = np.log(mean["upper"] / mean["fit"])
    np.testing.assert_allclose(half, 1.959964 * mean["se"] / mean["fit"], rtol=1e-6)
    np.testing.assert_allclose(fit.predict()[:10], one.fitted10, rtol=1e-6)


def test_residuals_of_zero_inflated_counts() -> None:
    fit = fitted("sal_zip/glmmTMB")
    pi = fit.predict(kind="zero").to_numpy()
    m = np.exp(fit.linear_predictor.to_numpy())
    mean, variance = (1 - pi) * m, (1 - pi) * (m + pi * m**2)
    expected = (fit.frame.y - mean) / np.sqrt(variance)
    np.testing.assert_allclose(fit.resid("pearson"), expected, rtol=1e-10)
    with pytest.raises(ValueError, match="no unit deviance; use response, Pearson or quantile"):
        fit.resid("deviance")
    assert "resid_deviance" not in fit.augment()
    assert abs(np.mean(fit.resid("quantile"))) < 0.15
    with pytest.raises(ValueError, match="not defined for the zero-inflated poisson family"):
        fit.r_squared()


def test_zero_inflation_comes_and_goes_by_update() -> None:
    fit = fitted("sal_zip/glmmTMB")
    plain = fit.update(zero_inflation=None)
    assert plain.family == families.Poisson() and plain.df == fit.df - 8
    assert plain.update(zero_inflation="~ mined").family == fit.family
    with pytest.raises(ValueError, match="kind='zero': the poisson family has no excess zeros"):
        plain.predict(kind="zero")


def test_models_of_the_other_parameter_must_be_nested() -> None:
    fit = fitted("sal_zip/glmmTMB")
    constant = fit.update(zero_inflation="~ 1")
    table = gj.anova(constant, fit).frame
    assert table["Df"].iloc[1] == 7
    # Both references: -896.677141062 and -875.74688017.
    assert table["Chisq"].iloc[1] == pytest.approx(2 * (896.677141062 - 875.74688017), abs=1e-5)
    other = fit.update(zero_inflation="~ Wtemp")
    with pytest.raises(ValueError, match=r"the model of logit\(zero\)"):
        gj.anova(other, fit)


# --- models of the dispersion -------------------------------------------------------------------


def test_names_tables_and_intervals_of_a_dispersion_model() -> None:
    fit = fitted("sal_nb2_disp/glmmTMB")
    assert list(fit.dispersion_params.index) == ["log(phi): Intercept", "log(phi): DOY"]
    assert fit.dispersion is None and fit.sigma == 1.0
    table = fit.tidy(0.95)
    rows = table[table["effect"] == "dispersion"]
    assert list(rows["term"]) == ["Intercept", "DOY"]
    assert "Model of log(phi) (dispersion ~ 1 + DOY):" in str(fit.summary())
    wald = fit.conf_int(parameters="all").loc["log(phi): DOY"]
    np.testing.assert_allclose(wald, np.asarray(rows[["conf_low", "conf_high"]])[1], rtol=1e-12)
    profiled = fit.profile("log(phi): DOY", level=0.95, joint=False).conf_int(0.95)
    # Close to quadratic: the profile is near Wald's interval, and not the same.
    np.testing.assert_allclose(profiled.loc["log(phi): DOY"], wald, atol=0.05)
    assert "Residual" not in fit.varcorr()["group"].to_list()


def test_variance_of_the_rows_in_a_dispersion_model() -> None:
    fit = fitted("sal_nb2_disp/glmmTMB")
    mu = fit.fittedvalues.to_numpy()
    phi = np.exp(fit.frame.parameter_models[0].X @ fit.dispersion_params.to_numpy())
    expected = (fit.frame.y - mu) / np.sqrt(mu + mu**2 / phi)
    np.testing.assert_allclose(fit.resid("pearson"), expected, rtol=1e-9)
    draws = fit.simulate(300, seed=1, random="conditional").to_numpy()
    z = (draws.mean(axis=1) - mu) / np.sqrt((mu + mu**2 / phi) / 300)
    assert np.abs(np.mean(z)) < 0.2 and np.std(z) == pytest.approx(1, abs=0.15)


def test_several_parameters() -> None:
    one, fit = case("t_dist/glmmTMB"), fitted("t_dist/glmmTMB")
    assert list(fit.dispersion_params.index) == ["log(phi)", "log(df)"]
    assert fit.dispersion == pytest.approx(one.sigma or np.nan, rel=1e-3) or one.sigma is None
    text = str(fit.summary())
    assert "phi: " in text and "df: " in text and "Residual" not in text
    phi, df = np.exp(fit.dispersion_params.to_numpy())
    expected = (fit.frame.y - fit.fittedvalues) / (phi * np.sqrt(df / (df - 2)))
    np.testing.assert_allclose(fit.resid("pearson"), expected, rtol=1e-9)
    names = fit.conf_int(parameters="all").index
    assert list(names[-2:]) == ["log(phi)", "log(df)"]
    assert "continuous responses" in fit.zero_inflation().message


# --- quadrature -----------------------------------------------------------------------------------


def test_profile_by_quadrature() -> None:
    fit = fitted("cbpp_agq9/lme4")
    found = fit.profile("sd(Intercept | herd)", level=0.95, joint=False)
    low, high = found.conf_int(0.95).loc["sd(Intercept | herd)"]
    # At the limits the deviance, with the other parameters free, is 1.96^2 higher.
    at = found.frame[np.isclose(found.frame["value"], high, rtol=1e-6)]
    assert low < fit.theta.iloc[0] < high
    rise = np.asarray(at["deviance"]) - fit.deviance
    np.testing.assert_allclose(rise, scipy.stats.chi2.ppf(0.95, 1), rtol=1e-3)


def test_nodes_are_added_until_nothing_moves() -> None:
    one = case("cbpp_agq9/lme4")
    arguments: dict[str, Any] = {**one.glmer_arguments(), "nagq": "auto"}
    fit = gj.glmer(**arguments)
    assert fit.nagq in (11, 21) and fit.call.nagq == fit.nagq and fit.call.settled
    assert "settled at" in fit.message
    assert fit.llf == pytest.approx(one.log_likelihood, abs=1e-4)
    with pytest.raises(ValueError, match="crossed"):
        gj.glmer("y ~ 1 + (1|a) + (1|b)", crossed(), "bernoulli", nagq="auto")


def crossed() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    a, b = np.repeat(np.arange(10), 10), np.tile(np.arange(10), 10)
    return pd.DataFrame({"y": rng.integers(0, 2, 100), "a": a.astype(str), "b": b.astype(str)})


# --- penalties ------------------------------------------------------------------------------------


def test_penalised_fits_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(20), 15)
    x = (rng.random(300) < 0.3).astype(float)
    y = ((rng.random(300) < 0.5) | (x > 0)).astype(float)
    data = pd.DataFrame({"y": y, "x": x, "g": g.astype(str)})
    prior = gj.priors.Normal(sd=2.5)
    fit = gj.glmer("y ~ x + (1|g)", data, "bernoulli", priors=prior)
    assert fit.converged and np.isfinite(fit.bse["x"])
    b = fit.params["x"]
    assert fit.penalty == pytest.approx(-2 * scipy.stats.norm.logpdf(b, scale=2.5))
    assert any(w.startswith("Penalised") for w in fit.warnings)
    assert "penalised maximum likelihood" in str(fit.summary())
    fit.save(tmp_path / "fit")
    assert gj.load(tmp_path / "fit").penalty == fit.penalty
    custom = gj.glmer("y ~ 1 + (1|g)", data, "bernoulli", priors=_custom)
    with pytest.raises(ValueError, match="penalised"):
        gj.anova(fit, custom)
    with pytest.raises(ValueError, match=r"priors: .* is a function"):
        custom.save(tmp_path / "other")


def _custom(params: gj.Params, model: gj.Model) -> jax.Array:
    return params.beta @ params.beta


# --- ordered categories ---------------------------------------------------------------------------


def test_two_ordered_categories_are_the_bernoulli_model() -> None:
    data = case("cm3/lme4").frame()
    data["ordered"] = pd.Categorical(data["use"], categories=["N", "Y"], ordered=True)
    two = gj.glmer("use ~ age + urban_n + (1 | district)", data, "bernoulli")
    fit = gj.glmer("ordered ~ age + urban_n + (1 | district)", data, "ordinal")
    assert fit.llf == pytest.approx(two.llf, abs=1e-8) and fit.df == two.df
    assert list(fit.params.index) == ["age", "urban_n"]
    np.testing.assert_allclose(fit.params, two.params.iloc[1:], rtol=1e-6)
    np.testing.assert_allclose(fit.dispersion_params["tau_1"], -two.params.iloc[0], rtol=1e-6)
    np.testing.assert_allclose(fit.bse, two.bse.iloc[1:], rtol=1e-5)
    # The mean number of the category is the probability of the second.
    new = data.iloc[:4]
    ours, theirs = (one.predict(new, se=True) for one in (fit, two))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(fit.resid("deviance"), two.resid("deviance"), rtol=1e-5)
    ours, theirs = (one.drop1().frame for one in (fit, two))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_ordered_categories_must_have_an_order() -> None:
    data = pd.DataFrame({"y": list("abcabc") * 5, "x": np.arange(30.0), "g": list("ppqqrr") * 5})
    with pytest.raises(ValueError, match=r"categorical without an order.*ordered=True"):
        gj.glmer("y ~ x + (1 | g)", data, "ordinal")
    data["y"] = pd.Categorical(data["y"], ordered=True)
    with pytest.raises(ValueError, match="leaves the intercept out"):
        gj.glmer("y ~ 0 + x + (1 | g)", data, "ordinal")


def test_names_of_ordered_categories_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    g, x = np.repeat(np.arange(30), 10), rng.normal(size=300)  # as in test_families_ordinal
    latent = 0.8 * x + 0.7 * rng.normal(size=30)[g] + rng.logistic(size=300)
    names = ["low", "middle", "high"]
    rating = pd.Categorical.from_codes(np.digitize(latent, [-0.7, 0.9]), names, ordered=True)
    data = pd.DataFrame({"rating": rating, "x": x, "g": g.astype(str)})
    fit = gj.glmer("rating ~ x + (1 | g)", data, "ordinal")
    assert fit.converged and fit.frame.response_levels == tuple(names)
    assert "rating (ordered: low < middle < high)" in str(fit.summary())
    # Simulated responses are ordered categories, and a response again.
    draws = fit.simulate(2, seed=1)
    assert draws["sim_2"].dtype == rating.dtype
    again = fit.refit(draws[["sim_1"]])
    assert again.converged and again.frame.response_levels == tuple(names)
    assert again.llf == fit.refit(draws["sim_1"].cat.codes).llf
    assert fit.refit(rating).llf == fit.llf
    with pytest.raises(ValueError, match=r"'none', which is no level .*'low', 'middle' and 'high'"):
        fit.refit(draws["sim_1"].astype(str).replace("low", "none"))
    # Probabilities of the categories, from the thresholds by hand.
    chance = fit.predict(data.iloc[:5], "category")
    assert list(chance.columns) == names
    first, gap = fit.dispersion_params
    cuts = np.array([first, first + np.exp(gap)])
    eta = fit.predict(data.iloc[:5], "link").to_numpy()
    below = scipy.special.expit(cuts[None] - eta[:, None])
    expected = np.diff(np.column_stack([np.zeros(5), below, np.ones(5)]), axis=1)
    np.testing.assert_allclose(chance, expected, rtol=1e-12)
    np.testing.assert_allclose(chance @ [0, 1, 2], fit.predict(data.iloc[:5]), rtol=1e-12)
    fit.save(tmp_path / "fit")
    found = gj.load(tmp_path / "fit")
    assert found.frame.response_levels == tuple(names)
    pd.testing.assert_frame_equal(found.predict(kind="category"), fit.predict(kind="category"))


def test_the_pure_layer_takes_zero_parts_and_categories_as_glmer_does() -> None:
    one = case("zip/glmmTMB")
    data, formula = one.frame(), one.formula
    model = gj.build_model(formula, data, "poisson", zero_inflation="~ x")
    assert model.family == families.ZeroInflated(families.Poisson()) and model.d == 2
    data["o"] = pd.Categorical(np.minimum(data["y"], 2), ordered=True)
    model = gj.build_model("o ~ x + (1 | g)", data, "ordinal")
    assert model.family == families.Ordinal(categories=3) and model.p == 1
