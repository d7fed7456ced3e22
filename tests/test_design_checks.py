"""Variance inflation against car, leverage against lme4 and a dense hat matrix."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from reference_cases import FOLDER, case, map_names

from glmm_jax import Fit, glmer

REFERENCE = json.loads((FOLDER / "inference_residuals.json").read_text(encoding="utf-8"))


@cache
def fitted(id: str) -> Fit:
    return glmer(**case(f"{id}/lme4").glmer_arguments())


@pytest.mark.parametrize("id", ["cm1", "cm4"])
def test_variance_inflation_is_cars(id: str) -> None:
    known, table = REFERENCE[id]["vif"], fitted(id).vif()
    found = table.loc[[term.replace("^", " ** ") for term in known["term"]]]
    assert len(table) == len(found)
    # lme4's covariance matrix comes from differences with step 1e-4.
    np.testing.assert_allclose(found["GVIF"], known["gvif"], rtol=2e-4)
    if "df" in known:
        np.testing.assert_array_equal(found["df"], known["df"])
        np.testing.assert_allclose(found["GVIF^(1/(2 df))"], known["scaled"], rtol=2e-4)


def test_vif_of_one_column_is_the_diagonal_of_the_inverse_correlation_matrix() -> None:
    fit = fitted("cm4")
    V = fit.cov_params().iloc[1:, 1:].to_numpy()
    sd = np.sqrt(np.diag(V))
    inverse = np.linalg.inv(V / np.outer(sd, sd))
    np.testing.assert_allclose(np.sort(fit.vif()["GVIF"]), np.sort(np.diag(inverse)), rtol=1e-8)


def test_a_dropped_column_takes_no_part() -> None:
    table = fitted("contra_rankdef").vif()
    assert list(table.index) == ["age", "ch", "livch", "urban"]
    # One of the three contrasts of livch was dropped.
    assert list(table["df"]) == [1, 1, 2, 1] and np.all(table["GVIF"] >= 1)


def test_one_term_and_none() -> None:
    one = fitted("sleep_corr_ml").vif()
    np.testing.assert_allclose(one.to_numpy(), [[1, 1, 1]], rtol=1e-12)
    none = fitted("pastes_nested_ml").vif()
    assert none.empty and list(none.columns) == list(one.columns)


@pytest.mark.parametrize("id", ["cm4", "cm3_cloglog", "cbpp", "sleep_corr_ml"])
def test_leverage_is_that_of_lme4s_parts(id: str) -> None:
    # For the linear model these are lme4's hatvalues; for the others its L, RX and RZX with the
    # working weights, which hatvalues leaves out.
    known, h = REFERENCE[id]["leverage"], fitted(id).leverage()
    assert h.name == "leverage" and h.index.equals(fitted(id).frame.index)
    np.testing.assert_allclose(h[:12], known["first"], rtol=2e-5, atol=1e-8)
    assert h.sum() == pytest.approx(known["sum"], rel=5e-5)
    assert h.max() == pytest.approx(known["largest"], rel=5e-5)


def hat(fit: Fit, information: np.ndarray) -> np.ndarray:
    """Diagonal of the hat matrix with every matrix written out."""
    frame, start = fit.frame, 0
    columns = []
    for block in frame.blocks:
        k = len(block.names)
        Lambda = np.zeros((k, k))
        for column in range(k):
            for row in range(column, k):
                Lambda[row, column] = fit.theta.iloc[start]
                start += 1
        wide = np.zeros((fit.nobs, len(block.levels), k))
        wide[np.arange(fit.nobs), block.index] = block.Z @ Lambda
        columns.append(wide.reshape(fit.nobs, -1))
    Z = np.concatenate(columns, axis=1)
    A = np.sqrt(information)[:, None] * np.concatenate([Z, frame.X], axis=1)
    P = np.diag(np.r_[np.ones(Z.shape[1]), np.zeros(frame.X.shape[1])])
    return np.einsum("ij,ji->i", A, np.linalg.solve(A.T @ A + P, A.T))


def test_leverage_of_crossed_factors_with_an_offset() -> None:
    fit = fitted("cross_pois")
    mu = fit.fittedvalues.to_numpy()
    np.testing.assert_allclose(fit.leverage(), hat(fit, mu), rtol=1e-9)


def test_leverage_with_precision_weights_and_a_slope() -> None:
    fit = fitted("sim_gauss_w_ml")
    assert fit.frame.weights is not None and fit.dispersion is not None
    information = fit.frame.weights / fit.dispersion
    h = fit.leverage().to_numpy()
    np.testing.assert_allclose(h, hat(fit, information), rtol=1e-9)
    assert np.all((h > 0) & (h < 1)) and fit.frame.X.shape[1] < h.sum()


def test_leverage_is_the_share_of_a_response_in_its_fitted_value() -> None:
    fit, step = fitted("sleep_corr_ml"), 1e-3
    # With the covariance parameters held, the fitted values are linear in the response.
    y = fit.frame.y.copy()
    h = fit.leverage().to_numpy()
    frame = fit.frame
    V = np.eye(180) * fit.sigma**2
    (block,) = frame.blocks
    Lambda = np.zeros((2, 2))
    Lambda[[0, 1, 1], [0, 0, 1]] = fit.theta
    same = block.index[:, None] == block.index[None, :]
    G = same * (block.Z @ Lambda @ Lambda.T @ block.Z.T)
    inverse = np.linalg.inv(V + G)

    def predicted(y: np.ndarray) -> np.ndarray:
        X = frame.X
        beta = np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ y)
        return X @ beta + G @ inverse @ (y - X @ beta)

    np.testing.assert_allclose(predicted(y), fit.fittedvalues, rtol=1e-6)
    for i in (0, 57, 179):
        moved = y.copy()
        moved[i] += step
        assert (predicted(moved)[i] - predicted(y)[i]) / step == pytest.approx(h[i], rel=1e-5)


def test_names_of_terms_are_those_of_the_formula() -> None:
    known = map_names(REFERENCE["cm1"]["vif"]["term"][:2], case("cm1/lme4").frame())
    assert list(fitted("cm1").vif().index[:2]) == known
