"""Standard errors and intervals of variances and correlations, and the terms of theta."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from reference_cases import FOLDER, case

from glmm_jax import glmer
from glmm_jax.formula.frame import build_frame
from glmm_jax.inference import varcorr
from glmm_jax.results import Fit

REFERENCE = json.loads((FOLDER / "inference_random_effects.json").read_text(encoding="utf-8"))
KEYS = ("cm4", "cbpp", "sleep_corr_ml", "pastes_nested_ml")


@cache
def fitted(key: str) -> Fit:
    return glmer(**case(key).glmer_arguments())


def sds_of(table: pd.DataFrame, group: str) -> pd.DataFrame:
    return table[(table["group"] == group) & table["name2"].isna()]


@pytest.mark.parametrize("key", KEYS)
def test_standard_errors_and_limits_are_those_of_glmmtmb(key: str) -> None:
    """glmmTMB's parameters are log(sd) and a function of r, its intervals Wald on log(sd)."""
    table = fitted(f"{key}/lme4").varcorr()
    reference: dict[str, Any] = REFERENCE[key]
    for term in reference["terms"]:
        found = sds_of(table, term["group"])
        np.testing.assert_allclose(found["sdcor"], np.atleast_1d(term["sd"]), rtol=1e-4)
        for ours, theirs in (("se", "se"), ("2.5 %", "lower"), ("97.5 %", "upper")):
            np.testing.assert_allclose(found[ours], np.atleast_1d(term[theirs]), rtol=2e-4)
        if "r" in term:
            (row,) = table[table["name2"].notna()].to_dict("records")
            assert row["sdcor"] == pytest.approx(term["r"], abs=1e-4)
            assert row["se"] == pytest.approx(term["r_se"], rel=2e-4)
    if "sigma" in reference:
        row = table.iloc[-1]
        assert row["group"] == "Residual"
        assert row["sdcor"] == pytest.approx(reference["sigma"], rel=1e-4)
        assert row["se"] == pytest.approx(reference["sigma_se"], rel=2e-4)
        spread = np.exp(1.959963984540054 * row["se"] / row["sdcor"])
        assert row["2.5 %"] == pytest.approx(row["sdcor"] / spread)
        assert row["97.5 %"] == pytest.approx(row["sdcor"] * spread)


def test_correlation_limits_are_symmetric_about_its_inverse_hyperbolic_tangent() -> None:
    table = fitted("cm4/lme4").varcorr(level=0.9)
    assert list(table.columns[-2:]) == ["5 %", "95 %"]
    (row,) = table[table["name2"].notna()].to_dict("records")
    r, half = row["sdcor"], 1.6448536269514722 * row["se"] / (1 - row["sdcor"] ** 2)
    assert row["5 %"] == pytest.approx(np.tanh(np.arctanh(r) - half))
    assert row["95 %"] == pytest.approx(np.tanh(np.arctanh(r) + half))
    assert -1 < row["5 %"] < r < row["95 %"] < 1


def test_standard_errors_are_the_delta_method_for_any_number_of_columns() -> None:
    """Three columns with a correlation each, against differences of sd and r in theta."""
    rng = np.random.default_rng(3)
    L = np.tril(rng.normal(size=(3, 3))) + 2.0 * np.eye(3)
    root = rng.normal(size=(6, 6))
    V = root @ root.T / 50
    frame = pd.DataFrame({"g": np.repeat(np.arange(40), 8), "x": rng.normal(size=320)})
    frame["z"] = rng.normal(size=320)
    frame["y"] = rng.normal(size=320)
    (term,) = varcorr.covariance_terms(build_frame("y ~ 1 + (x + z | g)", frame))
    theta = L[term.kind.entries()]

    def table(theta: np.ndarray) -> np.ndarray:
        rows = varcorr._term_rows(term, term.triangle(theta), V, np.zeros((6, 0)), 1.96)
        return np.array([row.sdcor for row in rows])

    step = 1e-6
    moved = [table(theta + step * e) - table(theta - step * e) for e in np.eye(6)]
    J = np.array(moved).T / (2 * step)
    rows = varcorr._term_rows(term, term.triangle(theta), V, np.zeros((6, 0)), 1.96)
    np.testing.assert_allclose([row.se for row in rows], np.sqrt(np.diag(J @ V @ J.T)), rtol=1e-8)
    names = [(row.name1, row.name2) for row in rows]
    assert names[:3] == [("Intercept", None), ("x", None), ("z", None)]
    assert names[3:] == [("Intercept", "x"), ("Intercept", "z"), ("x", "z")]


def test_the_boundary_has_no_standard_errors() -> None:
    scalar = fitted("singular_pois/lme4")
    assert scalar.is_singular
    row = scalar.varcorr().iloc[0]
    assert row["sdcor"] == 0
    assert row[["se", "2.5 %", "97.5 %"]].isna().all()

    slope = fitted("singular_pois_slope/lme4")
    assert slope.is_singular
    table = slope.varcorr()
    on_boundary = (table["sdcor"] == 0) | table["sdcor"].isna() | table["name2"].notna()
    assert on_boundary.any()
    assert table.loc[on_boundary, ["se", "2.5 %", "97.5 %"]].isna().all(axis=None)
    assert table.loc[~on_boundary, ["se", "2.5 %", "97.5 %"]].notna().all(axis=None)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_its_range_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=f"level={level}; use a number between 0 and 1"):
        fitted("cbpp/lme4").varcorr(level=level)


def test_terms_take_their_parts_of_theta_in_order() -> None:
    fit = fitted("pastes_nested_ml/lme4")
    terms = list(varcorr.covariance_terms(fit.frame))
    assert [term.block.grouping for term in terms] == ["cask:batch", "batch"]
    assert [term.part for term in terms] == [slice(0, 1), slice(1, 2)]
    found = [term.triangle([3.0, 4.0]).tolist() for term in terms]
    assert found == [[[3.0]], [[4.0]]]
