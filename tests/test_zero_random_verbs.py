"""Random effects in the zero-inflation part, as analysts see them: every verb of a fit."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.special
from reference_cases import case

import glmm_jax as gj
from glmm_jax import pirls, predictors, structure
from glmm_jax.linalg import base
from glmm_jax.model import flatten, lambdas, unflatten
from glmm_jax.results import Fit

CASE = case("sal_zip_re/glmmTMB")
PREFIX = "logit(zero): "


@lru_cache(maxsize=1)
def fitted() -> Fit:
    return gj.glmer(**CASE.glmer_arguments())


@lru_cache(maxsize=1)
def without_random_zeros() -> Fit:
    return fitted().update(zero_inflation="~ mined", curvature="observed")


def rows() -> pd.DataFrame:
    return CASE.frame().iloc[[0, 50, 300]]


def test_parameters_have_names_of_their_own() -> None:
    fit = fitted()
    assert list(fit.theta.index) == ["site.Intercept", f"{PREFIX}site.Intercept"]
    assert fit.vcov_all.index.is_unique
    table = fit.varcorr()
    assert list(table["part"]) == ["conditional", "zero_inflation"]
    np.testing.assert_allclose(table["sdcor"], fit.theta)
    named = fit.conf_int(parameters="all").index
    assert {"sd(Intercept | site)", f"{PREFIX}sd(Intercept | site)"} <= set(named)
    tidy = fit.tidy()
    random = tidy[tidy["effect"] == "random"]
    assert list(random["part"]) == ["conditional", "zero_inflation"]
    assert list(tidy[tidy["effect"] == "zero_inflation"]["part"].unique()) == ["zero_inflation"]
    assert fit.glance()["levels_site"].item() == 23
    other = without_random_zeros()
    assert "part" not in other.varcorr() and "part" not in other.tidy()


def test_summary_has_a_block_of_the_zero_part() -> None:
    text = str(fitted().summary())
    main, zero = text.split("Model of logit(zero) (zero_inflation ~ 1 + mined + (1 | site)):")
    assert "0.2651" in main and "0.8173" not in main
    assert "0.8173" in zero and "Groups Name" in zero.splitlines()[1]
    assert "Number of obs: 644, groups:  site, 23" in main
    assert "0.8173" in fitted().summary()._repr_html_()


def test_effects_and_coefficients_by_part() -> None:
    fit = fitted()
    zero = fit.ranef(part="zero_inflation")["site"]
    assert np.std(zero["Intercept"]) > 2 * np.std(fit.ranef()["site"]["Intercept"])
    table = fit.coef(part="zero_inflation")["site"]
    assert list(table.columns) == ["Intercept", "mined[T.no]"]
    gamma = fit.dispersion_params
    expected = gamma[f"{PREFIX}Intercept"] + zero["Intercept"]
    np.testing.assert_allclose(table["Intercept"], expected)
    np.testing.assert_allclose(table["mined[T.no]"], gamma[f"{PREFIX}mined[T.no]"])
    with pytest.raises(ValueError, match=r"part='zi'; .*'conditional', 'zero_inflation'"):
        fit.ranef(part="zi")
    with pytest.raises(ValueError, match="part='dispersion'"):
        fit.coef(part="dispersion")


def by_definition(index: list[int]) -> dict[str, np.ndarray]:
    """Values and standard errors of eta, pi and the mean: dense matrices, derivatives of the mode.

    Var(h) = (dh/dpsi + dh/du du/dpsi)' V (...) + (dh/du)' H^-1 (dh/du).
    """
    fit = fitted()
    model = fit.model.replace(structure=structure.dense(fit.model.structure))
    u0, psi0 = jnp.asarray(fit.estimate.u), flatten(jax.tree.map(jnp.asarray, fit.estimate.params))

    def functions(psi: jax.Array, u: jax.Array) -> jax.Array:
        eta, logit = pirls.linear_predictor(unflatten(psi, model), model, u)[:, np.array(index)]
        pi = jax.nn.sigmoid(logit)
        return jnp.stack([eta, pi, (1 - pi) * jnp.exp(eta)])

    def total(psi: jax.Array) -> jax.Array:
        u = pirls.conditional_mode(unflatten(psi, model), model, u0, solved=True)
        return functions(psi, u)

    @jax.jit
    def variances(psi: jax.Array, u: jax.Array, V: jax.Array) -> tuple[jax.Array, jax.Array]:
        g, d = jax.jacfwd(total)(psi), jax.jacfwd(functions, argnums=1)(psi, u)
        at = unflatten(psi, model)
        eta = pirls.linear_predictor(at, model, u)
        weights = predictors.row_information(at, model, eta, "observed")
        H = base.dense_system(model.structure, model.Z, lambdas(at.theta, model), weights)[0]
        variance = jnp.einsum("kna,ab,knb->kn", g, V, g)
        return functions(psi, u), variance + jnp.einsum("knq,qr,knr->kn", d, jnp.linalg.inv(H), d)

    values, variance = variances(psi0, u0, fit.vcov_all.to_numpy())
    both = zip(("link", "zero", "response"), values, variance, strict=True)
    return {kind: np.stack([value, np.sqrt(var)]) for kind, value, var in both}


def test_predictions_and_their_errors_are_those_of_the_definition() -> None:
    expected = by_definition([0, 50, 300])
    for kind, known in expected.items():
        for newdata in (rows(), None):
            found = fitted().predict(newdata, kind, se=True)
            found = found if newdata is not None else found.iloc[[0, 50, 300]]
            np.testing.assert_allclose(found["fit"], known[0], rtol=1e-8, err_msg=kind)
            np.testing.assert_allclose(found["se"], known[1], rtol=1e-6, err_msg=kind)


def test_prediction_of_new_groups_and_of_the_population() -> None:
    fit = fitted()
    flat = fit.predict(rows().drop(columns="site"), "zero", random="population", se=True)
    X = fit.frame.parameter_models[0].X[[0, 50, 300]]
    logit = X @ fit.dispersion_params.to_numpy()
    np.testing.assert_allclose(flat["fit"], scipy.special.expit(logit))
    V = fit.vcov_all.to_numpy()[-2:, -2:]
    pi = flat["fit"]
    error = pi * (1 - pi) * np.sqrt(np.sum((X @ V) * X, axis=1))
    np.testing.assert_allclose(flat["se"], error)
    new = rows().assign(site="none of these")
    with pytest.raises(ValueError, match="'site' were not in the fit"):
        fit.predict(new, "zero")
    found = fit.predict(new, "zero", se=True, allow_new_levels=True)
    np.testing.assert_allclose(found["fit"], pi)
    wide = np.sqrt((error / (pi * (1 - pi))) ** 2 + fit.theta.iloc[1] ** 2)
    np.testing.assert_allclose(found["se"], pi * (1 - pi) * wide)


def test_fitted_values_residuals_and_leverage() -> None:
    fit = fitted()
    mu = fit.fittedvalues
    np.testing.assert_allclose(mu, fit.predict())
    pi = fit.predict(kind="zero").to_numpy()
    m = np.exp(fit.linear_predictor.to_numpy())
    pearson = (fit.frame.y - mu) / np.sqrt((1 - pi) * m * (1 + pi * m))
    np.testing.assert_allclose(fit.resid("pearson"), pearson, rtol=1e-9)
    h = fit.leverage()
    assert h.between(0, 1).all() and 8 < h.sum() < 8 + 23


def test_simulated_responses_have_the_zeros_of_their_groups() -> None:
    fit = fitted()
    draws = fit.simulate(400, seed=1, random="conditional")
    pi, eta = fit.predict(kind="zero").to_numpy(), fit.linear_predictor.to_numpy()
    zero = pi + (1 - pi) * np.exp(-np.exp(eta))
    site = fit.frame.blocks[0].index
    share = pd.DataFrame({"site": site, "found": (draws == 0).mean(axis=1), "known": zero})
    by_site = share.groupby("site").mean()
    error = np.sqrt(0.25 / (400 * np.bincount(site)))
    assert np.all(np.abs(by_site["found"] - by_site["known"]) < 4 * error)
    # New effects in both parts: the variance of a site's share of zeros, by integration.
    at = site == 8
    eta = fit.predict(kind="link", random="population").to_numpy()[at, None]
    pi = fit.predict(kind="zero", random="population").to_numpy()[at, None]
    variances = []
    for scale in (fit.theta.iloc[1], 0.0):
        b = np.random.default_rng(4).normal(size=(2, 1, 20_000)) * [
            [[fit.theta.iloc[0]]],
            [[scale]],
        ]
        share_of_one = scipy.special.expit(scipy.special.logit(pi) + b[1])
        p = share_of_one + (1 - share_of_one) * np.exp(-np.exp(eta + b[0]))
        variances.append(np.var(p.mean(axis=0)) + np.mean(p * (1 - p)) / at.sum())
    found = np.var((np.asarray(fit.simulate(400, seed=1))[at] == 0).mean(axis=0))
    assert found == pytest.approx(variances[0], rel=0.25)
    assert variances[0] > 1.6 * variances[1]  # or the test would not see the effects of zeros


def test_saved_and_loaded_again_it_is_the_same(tmp_path: Path) -> None:
    fit = fitted()
    fit.save(tmp_path / "fit")
    again = gj.load(tmp_path / "fit")
    assert again.llf == fit.llf and str(again.summary()) == str(fit.summary())
    pd.testing.assert_frame_equal(again.predict(rows(), se=True), fit.predict(rows(), se=True))


def test_refit_and_update() -> None:
    fit = fitted()
    again = fit.refit(fit.frame.y)
    assert again.llf == pytest.approx(fit.llf, abs=1e-7)
    fixed = without_random_zeros()
    assert len(fixed.theta) == 1 and fixed.llf < fit.llf
    table = gj.anova(fixed, fit).frame
    assert table["Chisq"].iloc[1] == pytest.approx(2 * (fit.llf - fixed.llf))


def test_check_names_the_part() -> None:
    page = str(fitted().check(n=40).findings["sentence"].to_list())
    assert "(Intercept | site) in zero_inflation=" in page and "(Intercept | site) look" in page


def test_figures_show_the_conditional_part() -> None:
    fit = fitted()
    for draw in (gj.plots.caterpillar, gj.plots.conditional_density, gj.plots.shrinkage):
        draw(fit, group="site")
    ax = gj.plots.caterpillar(fit, group="site")
    (line,) = (one for one in ax.lines if one.get_gid() == "modes" and len(one.get_xdata()) > 5)
    values = fit.ranef()["site"]["Intercept"]
    assert set(np.round(line.get_xdata(), 9)) <= set(np.round(values, 9))
