"""Joint standard deviations of random effects, and coefficients per level."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pandas as pd
import pytest
from reference_cases import FOLDER, case, load, map_names

from glmm_jax import glmer
from glmm_jax.inference import ranef, uncertainty
from glmm_jax.results import Fit

REFERENCE = json.loads((FOLDER / "inference_random_effects.json").read_text(encoding="utf-8"))


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


# Vector-valued, trials, nested, a residual variance, a link that is not canonical.
@pytest.mark.parametrize("key", ["cm4", "cbpp", "sleep_corr_ml", "pastes_nested_ml", "cm3_cloglog"])
def test_joint_deviations_are_those_of_glmmtmb(key: str) -> None:
    known = case(f"{key}/glmmTMB")
    # Where the link is canonical the curvatures are one: programs of other tests serve here.
    fit = fitted(f"{key}/glmmTMB" if "noncanonical" in known.tags else f"{key}/lme4")
    given, joint = fit.ranef(), fit.ranef(joint=True)
    for effects, record in zip(known.effects, known.record["ranef"], strict=True):
        names = map_names(effects.terms, known.frame())
        deviations = [f"{name} (sd)" for name in names]
        table = joint[effects.group]
        pd.testing.assert_frame_equal(table[names], given[effects.group][names])
        assert (table[deviations] > given[effects.group][deviations]).all(axis=None)
        rows = table.set_axis(table.index.astype(str)).loc[list(effects.levels), deviations]
        # glmmTMB's Hessian is made of differences: in age^2 of raw age to some 1e-5.
        np.testing.assert_allclose(rows, record["cond_sd_sdreport"], rtol=1e-4)


def small_counts() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    n = 160
    frame = pd.DataFrame({"g": rng.integers(0, 13, n), "h": rng.integers(0, 6, n)})
    frame["x"] = rng.normal(size=n)
    b = rng.normal(size=(13, 2)) * [0.7, 0.5]
    eta = 0.4 + 0.5 * frame["x"] + b[frame["g"], 0] + b[frame["g"], 1] * frame["x"]
    eta += 0.4 * rng.normal(size=6)[frame["h"]]
    frame["y"] = rng.poisson(np.exp(eta))
    return frame


@cache
def crossed() -> Fit:
    """Two terms of one factor, crossed with another: rows with levels that covary."""
    return glmer("y ~ x + (1 | g) + (0 + x | g) + (1 | h)", small_counts(), "poisson")


def test_two_terms_of_one_factor_have_their_own_joint_covariance() -> None:
    fit = crossed()
    V = fit.vcov_all.to_numpy()
    given, joint = ranef.conditional(fit), ranef.conditional(fit, joint=True)
    (f,) = {fit.placement.factor[i] for i, b in enumerate(fit.frame.blocks) if b.grouping == "g"}
    J = uncertainty.mode_derivatives(fit)[f]
    members = [i for i, block in enumerate(fit.frame.blocks) if block.grouping == "g"]
    assert len(members) == 2
    for column, i in enumerate(members):
        np.testing.assert_array_equal(given[i].mode, joint[i].mode)
        added = np.einsum("lP,PQ,lQ->l", J[:, column], V, J[:, column])
        expected = given[i].covariance[:, 0, 0] + added
        np.testing.assert_allclose(joint[i].covariance[:, 0, 0], expected, rtol=1e-12)


def test_covariances_of_a_level_on_request() -> None:
    fit = fitted("cm4/lme4")
    (table,) = fit.ranef(covariance=True).values()
    (known,) = ranef.conditional(fit)
    assert list(table.columns[-2:]) == ["urban[T.Y] (sd)", "Intercept, urban[T.Y] (cov)"]
    np.testing.assert_array_equal(table.iloc[:, -1], known.covariance[:, 0, 1])
    assert (table.iloc[:, -1] < 0).all()
    # Separate terms have no covariance before the data are seen, but have one given y.
    apart = crossed().ranef(joint=True, covariance=True)["g"]
    pairs = [name for name in apart if name.endswith("(cov)")]
    assert len(pairs) == 1
    names = pairs[0].removesuffix(" (cov)").split(", ")
    r = apart[pairs[0]] / (apart[f"{names[0]} (sd)"] * apart[f"{names[1]} (sd)"])
    assert np.all(np.abs(r) < 1) and np.all(np.abs(r) > 1e-6)


def test_a_zero_variance_leaves_no_uncertainty_of_random_effects() -> None:
    fit = fitted("singular_pois/lme4")
    (table,) = fit.ranef(joint=True).values()
    assert (table == 0).all(axis=None)


def test_joint_deviations_at_nagq_0_use_the_covariance_of_that_fit() -> None:
    fit = fitted("cm3_agq0/lme4")
    assert fit.nagq == 0
    (given,), (joint,) = ranef.conditional(fit), ranef.conditional(fit, joint=True)
    (J,) = uncertainty.mode_derivatives(fit)
    added = J @ fit.vcov_all.to_numpy() @ np.swapaxes(J, 1, 2)
    assert np.all(added > 0)
    np.testing.assert_allclose(joint.covariance, given.covariance + added)


def test_coefficients_per_level_are_those_of_lme4() -> None:
    sleep = glmer("Reaction ~ 1 + (0 + Days | Subject)", load("sleepstudy"), "gaussian")
    for fit, group, key in (
        (fitted("cm4/lme4"), "district", "cm4"),
        (sleep, "Subject", "sleep_slope"),
    ):
        reference = REFERENCE["coef"][key]
        table = fit.coef()[group]
        rows = table.set_axis(table.index.astype(str)).loc[reference["levels"]]
        names = map_names(reference["columns"], fit.call.data)
        assert set(rows.columns) == set(names) and table.index.name == group
        np.testing.assert_allclose(rows[names], reference["values"], rtol=1e-4, atol=1e-7)
    # A column without a fixed effect comes first, as in lme4.
    assert list(sleep.coef()["Subject"].columns) == ["Days", "Intercept"]


def test_coefficients_of_two_factors_leave_each_other_out() -> None:
    fit = crossed()
    tables, modes = fit.coef(), fit.ranef()
    assert set(tables) == {"g", "h"}
    np.testing.assert_allclose(tables["g"]["x"], fit.params["x"] + modes["g"]["x"])
    np.testing.assert_allclose(
        tables["g"]["Intercept"], fit.params["Intercept"] + modes["g"]["Intercept"]
    )
    np.testing.assert_allclose(tables["h"]["x"], fit.params["x"])
    # What is returned is the caller's: the fit's own numbers stay as they were.
    tables["g"].iloc[:] = 0.0
    assert not (fit.coef()["g"] == 0).any(axis=None)


def test_random_effects_are_exact_where_jax_computes_in_single_precision(
    default_precision: None,
) -> None:
    del default_precision
    fit = replace(crossed())
    with jax.enable_x64(True):
        expected = fit.ranef(joint=True)["g"]
    pd.testing.assert_frame_equal(fit.ranef(joint=True)["g"], expected)
