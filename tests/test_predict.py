"""Predictions and their joint uncertainty, against lme4, glmmTMB, dense algebra and simulation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from reference_cases import FOLDER, load
from test_ranef import crossed, fitted, small_counts

from glmm_jax import families, glmer, runtime
from glmm_jax.inference import predict as predicting
from glmm_jax.inference import uncertainty
from glmm_jax.inference.varcorr import triangles
from glmm_jax.model import flatten, lambdas, unflatten
from glmm_jax.pirls import conditional_mode
from glmm_jax.results import Fit

REFERENCE = json.loads((FOLDER / "inference_prediction.json").read_text(encoding="utf-8"))


each = pytest.mark.parametrize("key", list(REFERENCE))


def new_data(key: str) -> pd.DataFrame:
    return pd.DataFrame(REFERENCE[key]["newdata"])


@each
def test_predictions_for_new_data_are_those_of_lme4(key: str) -> None:
    """To 1e-4 of a standard error: both optima are found to some 1e-5 of it."""
    fit, data, known = fitted(f"{key}/lme4"), new_data(key), REFERENCE[key]["lme4"]
    for random in ("conditional", "population"):
        link = fit.predict(data, "link", random, se=True)
        difference = np.abs(link["fit"] - known[f"{random}_link"])
        assert np.all(difference < 1e-4 * link["se"])
        response = fit.predict(data, random=random)
        assert isinstance(response, pd.Series) and response.name == "fit"
        np.testing.assert_allclose(response, known[f"{random}_response"], rtol=2e-5)


@each
def test_standard_errors_are_those_of_glmmtmb(key: str) -> None:
    """Its joint precision of parameters and random effects: beta, theta and modes together."""
    fit, data, known = fitted(f"{key}/lme4"), new_data(key), REFERENCE[key]["glmmTMB"]
    rtol = 2e-4  # glmmTMB's Hessian is made of differences: 1e-4 with raw age^2, else 1e-5
    for kind, random in (
        ("link", "conditional"), ("response", "conditional"), ("link", "population"),
    ):  # fmt: skip
        found = fit.predict(data, kind, random, se=True)
        np.testing.assert_allclose(found["se"], known[f"{random}_{kind}_se"], rtol=rtol)
    unseen = data.iloc[:3].assign(**{REFERENCE[key]["new_level_of"]: "new"})
    found = fit.predict(unseen, "link", se=True, allow_new_levels=True)
    np.testing.assert_allclose(found["se"], known["new_level_link_se"], rtol=rtol)
    expected = REFERENCE[key]["lme4"]["new_level_link"]
    assert np.all(np.abs(found["fit"] - expected) < 1e-4 * found["se"])


def dense_parts(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Z and Lambda of the frame's blocks as matrices, a column per random effect."""
    Z, Lambda = [], []
    for block, L in zip(fit.frame.blocks, triangles(fit.frame, fit.theta), strict=True):
        levels, k = len(block.levels), len(block.names)
        part = np.zeros((fit.nobs, levels, k))
        part[np.arange(fit.nobs), block.index] = block.Z
        Z.append(part.reshape(fit.nobs, levels * k))
        Lambda.append(np.kron(np.eye(levels), L))
    size = sum(len(L) for L in Lambda)
    whole, start = np.zeros((size, size)), 0
    for L in Lambda:
        whole[start : start + len(L), start : start + len(L)] = L
        start += len(L)
    return np.concatenate(Z, axis=1), whole


def conditional_variance(fit: Fit) -> np.ndarray:
    """z' Lambda H^-1 Lambda' z of the rows of a fit with canonical log link, by a dense H."""
    Z, Lambda = dense_parts(fit)
    ZL = Z @ Lambda
    H = ZL.T @ (fit.fittedvalues.to_numpy()[:, None] * ZL) + np.eye(len(Lambda))
    return np.einsum("ij,ji->i", ZL, np.linalg.solve(H, ZL.T))


def given_parameters(fit: Fit, V: np.ndarray | None = None) -> Fit:
    """The same fit with V (default: zero) as the covariance of its parameters."""
    known, whole = replace(fit), fit.vcov_all
    values = np.zeros_like(whole) if V is None else V
    known.__dict__["vcov_all"] = pd.DataFrame(values, whole.index, whole.columns)
    return known


def test_variance_of_eta_is_that_of_dense_matrices() -> None:
    """eta's derivative by differences of new conditional modes, and H^-1 of the whole design."""
    fit = crossed()
    variance = conditional_variance(fit)
    psi, model = np.asarray(flatten(fit.estimate.params)), fit.model

    def eta(psi, model):
        params = unflatten(psi, model)
        u, start, total = conditional_mode(params, model), 0, model.X @ params.beta
        parts = zip(lambdas(params.theta, model), model.structure.levels, model.Z, strict=True)
        for f, (L, levels, columns) in enumerate(parts):
            k = L.shape[0]
            b = u[start : start + levels * k].reshape(levels, k) @ L.T
            total = total + jnp.sum(columns * b[model.structure.index[f]], axis=1)
            start += levels * k
        return total

    predictor, step = jax.jit(eta), 1e-5
    columns = []
    for e in np.eye(len(psi)):
        high, low = (predictor(jnp.asarray(psi + s * step * e), model) for s in (1, -1))
        columns.append(np.asarray(high - low)[: fit.nobs] / (2 * step))
    G = np.array(columns).T
    variance += np.einsum("nP,PQ,nQ->n", G, fit.vcov_all.to_numpy(), G)

    found = fit.predict(kind="link", se=True)
    np.testing.assert_allclose(found["se"], np.sqrt(variance), rtol=1e-7)
    np.testing.assert_allclose(found["fit"], fit.linear_predictor)


@pytest.mark.parametrize("chunk", [uncertainty.LARGEST_BATCH, 1])
def test_covariances_of_three_nested_factors_are_those_of_dense_matrices(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertainty, "LARGEST_BATCH", chunk)
    fit = fitted("gt_pois3/lme4")
    found = given_parameters(fit).predict(kind="link", se=True)
    np.testing.assert_allclose(found["se"] ** 2, conditional_variance(fit), rtol=1e-9)


def test_new_levels_of_some_factors_keep_the_covariances_of_the_others() -> None:
    fit, data = crossed(), small_counts().iloc[:40]
    part = data.assign(h=[99 if i % 2 else h for i, h in enumerate(data["h"])])
    found = fit.predict(part, "link", se=True, allow_new_levels=True)
    whole = fit.predict(data, "link", se=True)
    np.testing.assert_array_equal(found.iloc[::2], whole.iloc[::2])
    # With g unseen as well, prior variances are left.
    variances = fit.varcorr().set_index(["group", "name1"])["vcov"]
    rows = fit.predict(part.iloc[1::2].assign(g=-1), "link", se=True, allow_new_levels=True)
    x = part["x"].to_numpy()[1::2]
    prior = variances.drop(("g", "x")).sum() + variances["g", "x"] * x**2
    population = fit.predict(part.iloc[1::2], "link", "population", se=True)
    np.testing.assert_allclose(rows["fit"], population["fit"])
    np.testing.assert_allclose(rows["se"] ** 2, population["se"] ** 2 + prior, rtol=1e-12)


def test_gaussian_prediction_errors_are_those_of_the_mixed_model_equations() -> None:
    """With known variances Var is exact: (X Z) C^-1 (X Z)' of Henderson's equations."""
    fit = fitted("sleep_corr_ml/lme4")
    Z, Lambda = dense_parts(fit)
    X = fit.frame.X
    phi = fit.sigma**2
    T = np.concatenate([X, Z], axis=1)
    C = T.T @ T / phi
    C[2:, 2:] += np.linalg.inv(Lambda @ Lambda.T)
    exact = np.einsum("ij,ji->i", T, np.linalg.solve(C, T.T))
    V = np.zeros_like(fit.vcov_all)
    marginal = Z @ Lambda @ Lambda.T @ Z.T + phi * np.eye(len(X))
    V[:2, :2] = np.linalg.inv(X.T @ np.linalg.solve(marginal, X))
    found = given_parameters(fit, V).predict(kind="link", se=True)
    np.testing.assert_allclose(found["se"] ** 2, exact, rtol=1e-9)
    # The variances' own uncertainty adds to it.
    assert np.all(fit.predict(kind="link", se=True)["se"] > found["se"])


def test_intervals_cover_the_linear_predictor() -> None:
    """120 simulated data sets of a Bernoulli design with 20 groups of 8 rows.

    The joint errors are of the size they should be, where those with the parameters held at their
    estimates are too small: in 200 data sets of other seeds 93 % and 89 % of the intervals covered.
    """
    rng = np.random.default_rng(2011)
    g, x = np.repeat(np.arange(20), 8), np.tile(np.linspace(-1.0, 1.0, 8), 20)
    joint, given = [], []
    for _ in range(120):
        eta = 0.3 + 0.8 * x + rng.normal(size=20)[g]
        y = rng.random(160) < 1 / (1 + np.exp(-eta))
        fit = glmer("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g}), "bernoulli")
        assert fit.converged
        for one, found in ((fit, joint), (given_parameters(fit), given)):
            table = one.predict(kind="link", se=True)
            if not fit.is_singular:
                found.append(np.abs(table["fit"] - eta) / table["se"])
    coverage = [np.mean(np.array(found) < 1.96) for found in (joint, given)]
    # Monte-Carlo error of a coverage: 0.007, rows of one data set being far from independent.
    assert 0.92 < coverage[0] < 0.97
    assert coverage[1] < coverage[0] - 0.02


def test_rows_of_the_fit_and_the_same_rows_as_new_data_agree() -> None:
    fit = crossed()
    own = fit.predict(level=0.9)
    assert list(own.columns) == ["fit", "se", "lower", "upper"]
    np.testing.assert_allclose(own["fit"], fit.fittedvalues)
    data = small_counts().sample(frac=1.0, random_state=1).assign(unused="text")
    del data["y"]
    again = fit.predict(data, level=0.9)
    assert again.index.equals(data.index)
    pd.testing.assert_frame_equal(again.sort_index(), own)
    link = fit.predict(data, "link", level=0.9)
    np.testing.assert_allclose(again[["lower", "upper"]], np.exp(link[["lower", "upper"]]))
    half = 1.6448536269514722 * link["se"]
    np.testing.assert_allclose(link["upper"] - link["fit"], half)
    np.testing.assert_allclose(link["fit"] - link["lower"], half)


def test_population_predictions_need_no_groups() -> None:
    fit = crossed()
    found = fit.predict(pd.DataFrame({"x": [0.5, -1.0]}), "link", "population", se=True)
    X = np.array([[1.0, 0.5], [1.0, -1.0]])
    np.testing.assert_allclose(found["fit"], X @ fit.params.to_numpy())
    variance = np.einsum("ij,jk,ik->i", X, fit.cov_params().to_numpy(), X)
    np.testing.assert_allclose(found["se"], np.sqrt(variance), rtol=1e-12)


def test_transforms_and_codings_are_those_of_the_fit() -> None:
    data = load("contraception")
    fit = glmer("use ~ scale(age) + livch + urban + (1 | district)", data, "bernoulli")
    own = fit.predict(kind="link")
    # Three rows have another mean of age and fewer categories than the fit.
    np.testing.assert_allclose(fit.predict(data.iloc[5:8], "link"), own.iloc[5:8])
    few = data.iloc[5:8].assign(livch=data["livch"].iloc[5:8].astype(str))
    np.testing.assert_allclose(fit.predict(few, "link"), own.iloc[5:8])


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"kind": "mean"}, "kind='mean'; use one of 'response', 'link'"),
        ({}, {"random": "marginal"}, "random='marginal'; use one of 'conditional', 'popul"),
        ({}, {"se": "x"}, "se='x'; use True or False"),
        ({}, {"allow_new_levels": 1}, "allow_new_levels=1; use True or False"),
        ({}, {"kind": "category"}, "kind='category': the poisson family has no categories"),
        ({}, {"kind": "category", "se": True}, "no standard errors or limits"),
        ({}, {"level": 95}, "level=95; use a number between 0 and 1"),
        ({"x": None}, {}, "'x'"),
        ({"h": None}, {}, "'h'"),
        ({"x": np.nan}, {}, "'x'"),
        ({"h": 77}, {}, "allow_new_levels=True"),
        ({"x": "high"}, {}, "'x'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    data = small_counts().iloc[:4]
    for name, value in changes.items():
        data = data.drop(columns=name) if value is None else data.assign(**{name: value})
    with pytest.raises(ValueError, match=message):
        crossed().predict(data, **arguments)


def test_an_offset_belongs_to_new_rows() -> None:
    fit, data = crossed(), small_counts()
    with pytest.raises(ValueError, match="offset= is for the rows of newdata"):
        fit.predict(offset=np.zeros(len(data)))
    shifted = fit.predict(data.iloc[:5], "link", offset=np.full(5, 0.25))
    np.testing.assert_allclose(shifted, fit.predict(data.iloc[:5], "link") + 0.25)


def test_limits_are_in_order_and_absent_where_the_link_folds() -> None:
    columns = {"fit": [2.0, 1.0, -2.0], "se": [0.5, 1.0, 0.5]}
    columns |= {"lower": [1.0, -1.0, -3.0], "upper": [3.0, 3.0, -1.0]}
    eta = {name: np.array(value) for name, value in columns.items()}
    found = predicting._on_response_scale(families.Gaussian("inverse"), eta)
    np.testing.assert_allclose(found["fit"], [0.5, 1.0, -0.5])
    np.testing.assert_allclose(found["se"], [0.125, 1.0, 0.125])
    np.testing.assert_allclose(found["lower"], [1 / 3, np.nan, -1.0])
    np.testing.assert_allclose(found["upper"], [1.0, np.nan, -1 / 3])


def test_as_many_rows_or_a_few_more_share_a_program() -> None:
    fit, data = crossed(), small_counts()
    fit.predict(data.iloc[:13], level=0.95)
    held = runtime.programs()
    for rows in (14, 9 + 4):
        fit.predict(data.iloc[:rows], level=0.95)
    assert runtime.programs() == held


def test_predictions_are_exact_where_jax_computes_in_single_precision(
    default_precision: None,
) -> None:
    del default_precision
    fit, known = fitted("cbpp/lme4"), REFERENCE["cbpp"]["glmmTMB"]
    found = fit.predict(new_data("cbpp"), "link", se=True)
    np.testing.assert_allclose(found["se"], known["conditional_link_se"], rtol=1e-6)
    assert found["fit"].dtype == np.float64


def test_no_mean_or_limit_lies_outside_what_the_family_can_have() -> None:
    draw = np.random.default_rng(3)
    g = np.repeat(np.arange(15), 20)
    x = draw.uniform(-1, 1, 300)
    b = 0.2 * draw.normal(size=15)
    y = draw.uniform(size=300) < np.exp(-1.2 + 0.4 * x + b[g])
    fit = glmer("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, "bernoulli", "log")
    new = pd.DataFrame({"x": [0.0, 2.5, 6.0], "g": [1, 1, 1]})
    found = fit.predict(new, level=0.999, random="population")
    eta = fit.predict(new, kind="link", level=0.999, random="population")
    # The second has a mean below one and an upper limit above, the third is above one itself.
    assert eta.loc[1, "fit"] < 0 < eta.loc[1, "upper"] and eta.loc[2, "fit"] > 0
    assert found.loc[0].notna().all() and found["fit"].isna().tolist() == [False, False, True]
    assert found["upper"].isna().tolist() == [False, True, True]
    assert found["lower"].isna().tolist() == [False, False, bool(eta.loc[2, "lower"] > 0)]
