"""Random effects in the zero-inflation part: engine, reference fits, integrals, errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.special
from reference_cases import case

import glmm_jax as gj
from glmm_jax import families, pirls, structure
from glmm_jax.build import place
from glmm_jax.formula.frame import Frame, build_frame
from glmm_jax.model import Model, Params, flatten, unflatten
from glmm_jax.objective import importance
from glmm_jax.objective.laplace import laplace_joint
from glmm_jax.objective.marginal import marginal
from glmm_jax.results import Fit
from glmm_jax.status import Status

KNOWN = json.loads((Path(__file__).parent / "reference" / "zero_random.json").read_text())
CASE = case("sal_zip_re/glmmTMB")


@dataclass(frozen=True)
class Design:
    """A model of simulated counts: formulas, family, parameters away from any optimum."""

    formula: str
    zeros: str
    family: str
    theta: tuple[float, ...]
    dispersion: tuple[float, ...]


DESIGNS = {
    "one factor for both": Design(
        "y ~ x + (1 | g)", "~ x + (1 | g)", "poisson", (0.5, 0.8), (-0.5, 0.3)
    ),
    "slopes": Design(
        "y ~ x + (1 | g)", "~ z + (x | g)", "negative_binomial", (0.5, 0.6, 0.2, 0.4),
        (0.8, -0.5, 0.3),
    ),
    "crossed": Design(
        "y ~ x + (1 | g) + (1 | h)", "~ 1 + (1 | h)", "hurdle_poisson", (0.5, 0.7, 0.4), (-0.5,)
    ),
}  # fmt: skip
BETA = (0.6, 0.4)
designs = pytest.mark.parametrize("name", DESIGNS)


def data() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n, g, h = 60, rng.integers(0, 6, 60), rng.integers(0, 4, 60)
    x, z = rng.normal(size=(2, n))
    mean = np.exp(0.6 + 0.4 * x + 0.5 * rng.normal(size=6)[g])
    pi = scipy.special.expit(-0.5 + 0.8 * rng.normal(size=6)[g])
    y = np.where(rng.random(n) < pi, 0, rng.poisson(mean)).astype(float)
    weights = rng.integers(1, 3, n).astype(float)
    return pd.DataFrame({"y": y, "x": x, "z": z, "g": g, "h": h, "w": weights})


@cache
def built(name: str) -> tuple[Frame, Model, Params]:
    design = DESIGNS[name]
    frame = build_frame(design.formula, data(), weights="w", zero_inflation=design.zeros)
    family = families.with_zeros(families.get(design.family))
    model, _ = place(frame, family)
    numbers = (jnp.array(part) for part in (BETA, design.theta, design.dispersion))
    return frame, model, Params(*numbers)


# --- the same model, written without the engine ---------------------------------------------------


def log_density(y: Any, eta: Any, logit: Any, family: str, log_phi: Any) -> Any:
    """log p of each row in so many words, for NumPy and JAX arrays."""
    mu, pi = jnp.exp(eta), jax.nn.sigmoid(logit)
    lgamma = jax.scipy.special.gammaln
    if family == "negative_binomial":
        k = jnp.exp(log_phi)
        log_f = lgamma(y + k) - lgamma(k) - lgamma(y + 1.0)
        log_f += k * jnp.log(k / (k + mu)) + y * jnp.log(mu / (k + mu))
        f0 = (k / (k + mu)) ** k
    else:
        log_f, f0 = y * eta - mu - lgamma(y + 1.0), jnp.exp(-mu)
    if family.startswith("hurdle"):
        return jnp.where(y > 0, jnp.log1p(-pi) + log_f - jnp.log1p(-f0), jnp.log(pi))
    return jnp.where(y > 0, jnp.log1p(-pi) + log_f, jnp.log(pi + (1.0 - pi) * f0))


def predictors(name: str, params: Params, b: Any) -> Any:
    """(eta, logit) of each row from spherical effects, block after block, level after level."""
    frame, design = built(name)[0], DESIGNS[name]
    gamma = jnp.asarray(params.dispersion)[-frame.parameter_models[0].X.shape[1] :]
    out = [frame.X @ jnp.asarray(params.beta), frame.parameter_models[0].X @ gamma]
    at = start = 0
    for block in frame.blocks:
        k, levels = len(block.names), len(block.levels)
        L = np.zeros((k, k))
        column, row = np.triu_indices(k)
        L[row, column] = design.theta[start : start + len(row)]
        start += len(row)
        effects = b[at : at + levels * k].reshape(levels, k) @ L.T
        at += levels * k
        part = int(block.part != "conditional")
        out[part] = out[part] + jnp.sum(block.Z * effects[block.index], axis=1)
    return jnp.stack(out)


def objective(name: str, params: Params, b: Any) -> Any:
    """f = -2 sum_i w_i log p_i + |b|^2."""
    frame, design = built(name)[0], DESIGNS[name]
    eta, logit = predictors(name, params, b)
    rows = log_density(frame.y, eta, logit, design.family, params.dispersion[0])  # type: ignore[index]
    return -2.0 * jnp.sum(frame.weights * rows) + b @ b


def minimum(function: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a function is least, by a search that knows no random effects; its Hessian there."""
    value, hessian = jax.jit(jax.value_and_grad(function)), jax.jit(jax.hessian(function))
    x = np.zeros(size)
    found = scipy.optimize.minimize(value, x, jac=True, hess=hessian, method="trust-exact")
    x = found.x
    for _ in range(3):
        x = x - np.linalg.solve(hessian(x), value(x)[1])
    return x, hessian(x)


# --- the engine -----------------------------------------------------------------------------------


@jax.jit
def evaluated(x: jax.Array, model: Model) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The deviance, its gradient and the mode: one program for what these tests ask."""

    def value(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return marginal(unflatten(x, model), model, jnp.zeros(model.q), nagq=1)

    (deviance, u), gradient = jax.value_and_grad(value, has_aux=True)(x)
    return deviance, gradient, u


# Second derivatives are those that standard errors of the reference fit are made of.
@pytest.mark.parametrize("name", ["one factor for both", "crossed"])
def test_gradient_is_that_of_differences(name: str) -> None:
    _, model, params = built(name)
    x, step = flatten(params), 1e-5
    g = evaluated(x, model)[1]
    ends = [[evaluated(x + s * e, model)[0] for s in (step, -step)] for e in np.eye(len(x))]
    slopes = [(up - down) / (2 * step) for up, down in ends]
    np.testing.assert_allclose(g, slopes, rtol=1e-6, atol=1e-6 * np.max(np.abs(g)))


def test_gradient_of_a_factor_that_both_parts_share_is_that_of_the_dense_twin() -> None:
    _, model, params = built("one factor for both")
    x = flatten(params)
    twin = model.replace(structure=structure.dense(model.structure))
    g = evaluated(x, model)[1]
    np.testing.assert_allclose(g, evaluated(x, twin)[1], rtol=1e-10, atol=1e-10 * np.max(np.abs(g)))


@designs
def test_mode_and_deviance_are_those_of_the_joint_density(name: str) -> None:
    _, model, params = built(name)
    b, hessian = minimum(lambda b: objective(name, params, b), model.q)
    found, _, u = evaluated(flatten(params), model)
    ours = pirls.linear_predictor(params, model, u)
    np.testing.assert_allclose(ours, predictors(name, params, b), atol=1e-9)
    expected = objective(name, params, b) + np.linalg.slogdet(hessian / 2.0)[1]
    assert float(found) == pytest.approx(float(expected), rel=1e-11)


def test_joint_mode_and_restricted_likelihood() -> None:
    name = "one factor for both"
    _, model, params = built(name)

    def joint(x: Any) -> Any:
        return objective(name, replace(params, beta=x[:2]), x[2:])

    x, hessian = minimum(joint, 2 + model.q)
    guess = jnp.zeros(model.q), params.beta
    run = jax.jit(laplace_joint, static_argnames=("reml",))
    value, (_, beta) = run(params, model, guess, reml=True)
    np.testing.assert_allclose(beta, x[:2], atol=1e-9)
    expected = joint(x) + np.linalg.slogdet(hessian / 2.0)[1] - 2 * np.log(2 * np.pi)
    assert float(value) == pytest.approx(float(expected), rel=1e-11)


def test_padding_changes_nothing() -> None:
    frame, model, params = built("slopes")
    wide, _ = place(frame, model.family, padded=True)
    assert wide.n > model.n and wide.q > model.q
    plain, padded = evaluated(flatten(params), model)[0], jax.jit(gj.deviance)(params, wide)
    assert float(padded) == pytest.approx(float(plain), rel=1e-12)


def brute_force(name: str) -> float:
    """-2 log likelihood of one factor with two columns, by a fine grid over the plane."""
    frame, _, params = built(name)
    points = np.linspace(-9.0, 9.0, 181)
    grid = jnp.stack(jnp.meshgrid(points, points, indexing="ij"), -1).reshape(-1, 2)
    levels = len(frame.blocks[0].levels)

    def rows(pair: Any) -> Any:  # the same pair of effects in every level
        eta, logit = predictors(name, params, jnp.repeat(pair, levels))
        each = log_density(frame.y, eta, logit, DESIGNS[name].family, 0.0)
        by_level = jnp.zeros(levels).at[frame.blocks[0].index].add(frame.weights * each)
        return by_level - 0.5 * pair @ pair - jnp.log(2 * jnp.pi)

    values = jax.jit(jax.vmap(rows))(grid)
    area = (points[1] - points[0]) ** 2
    return float(-2.0 * np.sum(scipy.special.logsumexp(values, axis=0) + np.log(area)))


def test_quadrature_and_importance_sampling_are_the_integral() -> None:
    name = "one factor for both"
    _, model, params = built(name)
    exact = brute_force(name)
    run = jax.jit(gj.deviance, static_argnames=("nagq",))
    laplace, _, u = evaluated(flatten(params), model)
    fine = float(run(params, model, nagq=21))
    assert fine == pytest.approx(exact, abs=1e-6)
    assert abs(laplace - exact) > 1e-3  # or the test would not tell them apart
    key = jax.random.key(2)
    found = jax.jit(importance.sampled, static_argnames=("pairs",))(
        params, model, u, key, pairs=2000
    )
    assert float(found.standard_error) < 0.02
    assert abs(-2 * found.log_likelihood - exact) < 8 * found.standard_error


# --- fits -----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def salamanders() -> Fit:
    return gj.glmer(**CASE.glmer_arguments())


def test_the_reference_fit() -> None:
    fit = salamanders()
    assert fit.converged and fit.warnings == (), fit.message
    assert fit.llf == pytest.approx(CASE.log_likelihood, abs=1e-6) and fit.df == CASE.df
    beta = fit.params.reindex(CASE.names()).to_numpy()
    np.testing.assert_array_less(np.abs(beta - CASE.beta) / CASE.se, 1e-4)
    np.testing.assert_allclose(fit.bse.reindex(CASE.names()), CASE.se_hessian, rtol=1e-5)
    zero = CASE.record["zi"]
    gamma = fit.dispersion_params.to_numpy()
    np.testing.assert_array_less(np.abs(gamma - zero["beta"]) / zero["se"], 1e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.vcov_all))[-2:], zero["se"], rtol=1e-5)
    sds = [CASE.components[0].sd[0], CASE.record["varcomp_zi"][0]["sd"][0]]
    np.testing.assert_allclose(fit.theta, sds, rtol=1e-5)
    effects = CASE.effects[0]
    table = fit.ranef()["site"].loc[list(effects.levels)]
    np.testing.assert_allclose(table["Intercept"], effects.mode[:, 0], atol=1e-6)
    np.testing.assert_allclose(table["Intercept (sd)"], effects.conditional_sd[:, 0], rtol=1e-5)
    joint = fit.ranef(joint=True)["site"]["Intercept (sd)"].loc[list(effects.levels)]
    known = [sd for (sd,) in CASE.record["ranef"][0]["cond_sd_sdreport"]]
    np.testing.assert_allclose(joint, known, rtol=1e-5)
    np.testing.assert_allclose(fit.fittedvalues.iloc[:10], CASE.fitted10, rtol=1e-6)


@pytest.mark.parametrize("key", ["crossed", "slope", "hurdle"])
def test_likelihood_at_points_of_the_other_program(key: str) -> None:
    known = KNOWN[key]
    par = dict.fromkeys(known["par_names"], ())
    for name, value in zip(known["par_names"], known["par"], strict=True):
        par[name] = (*par[name], value)
    zero = np.exp(par["thetazi"][: 2 if key == "slope" else 1])
    if key == "slope":
        t = par["thetazi"][2]
        r = t / np.sqrt(1 + t * t)
        zero = [zero[0], r * zero[1], np.sqrt(1 - r * r) * zero[1]]
    family = {
        "poisson": "poisson", "nbinom2": "negative_binomial", "truncated_poisson": "hurdle_poisson"
    }[known["family"]]  # fmt: skip
    frame = gj.datasets.load("salamanders")
    model = gj.build_model(
        known["formula"], frame, families.with_zeros(families.get(family)),
        zero_inflation=known["ziformula"],
    )  # fmt: skip
    theta = jnp.array([np.exp(par["theta"][0]), *zero])
    others = jnp.array([*par.get("betad", ()), *par["betazi"]])
    params = Params(jnp.array(par["beta"]), theta, others)
    found = -0.5 * float(jax.jit(gj.deviance)(params, model))
    assert found == pytest.approx(known["logLik"], abs=1e-7)


# --- separation in the zero part ------------------------------------------------------------------


def test_coefficients_of_zeros_that_run_away_are_named() -> None:
    one = case("sal_zip/glmmTMB")  # its program serves here too
    rng, data = np.random.default_rng(8), one.frame()
    site = data["site"].cat.codes.to_numpy()
    mean = np.exp(1.5 + 0.3 * rng.normal(size=site.max() + 1)[site])
    data["count"] = np.where(rng.random(len(data)) < 0.4, 0, rng.poisson(mean))
    data.loc[data["mined"] == "no", "count"] += 1  # no zeros at all
    fit = gj.glmer(**one.glmer_arguments() | {"data": data})
    assert fit.status is Status.SEPARATION and not fit.converged
    flagged = fit.vcov_all.index.drop("site.Intercept")[fit.estimate.separated]
    assert list(flagged) == ["logit(zero): mined[T.no]"]
    (sentence,) = fit.warnings
    assert "logit(zero): mined[T.no]" in sentence and "model of another parameter" in sentence


def test_a_constant_at_its_limit_is_told() -> None:
    rng, g = np.random.default_rng(8), np.repeat(np.arange(12), 25)
    y = rng.poisson(np.exp(1.5 + 0.3 * rng.normal(size=12)[g]))
    y[np.flatnonzero(y == 0)[::2]] = 1  # fewer zeros than Poisson counts have
    fit = gj.glmer("y ~ 1 + (1 | g)", {"y": y, "g": g}, "zero_inflated_poisson")
    assert fit.converged
    assert any(w.startswith("Not determined: logit(zero)") for w in fit.warnings)


# --- what cannot be -------------------------------------------------------------------------------

FAULTS = [
    (dict(dispersion="~ x + (1 | g)", family="negative_binomial"),
     r"dispersion='~ x \+ \(1 \| g\)'; random terms are understood in the main formula and in"),
    (dict(zero_inflation="~ x + offset(z)"), "offsets are understood in the main formula only"),
    (dict(zero_inflation="~ (1 | g)", curvature="expected"),
     r"curvature='expected': with random effects in zero_inflation=.*use curvature='observed'"),
    (dict(zero_inflation="~ (1 | g) + (x | g)"),
     r"zero_inflation: 'Intercept' has a random effect by 'g' in two terms"),
    (dict(zero_inflation="~ (1 | absent)"), r"zero_inflation: .*'absent'"),
    (dict(zero_inflation="~ (1 | g)", family="gaussian"), "ZeroInflated|counts"),
    (dict(zero_inflation="~ (1 | h)", nagq=5), r"nagq=5: adaptive quadrature needs one grouping"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), FAULTS, ids=lambda one: str(one)[:40])
def test_faults(arguments: dict[str, Any], message: str) -> None:
    settings = {"family": "poisson", **arguments}
    with pytest.raises(ValueError, match=message):
        gj.glmer("y ~ x + (1 | g)", data(), **settings)


def test_expected_information_is_refused_later_too() -> None:
    _, model, _ = built("crossed")
    assert model.curvature == "observed"
    with pytest.raises(ValueError, match="curvature='expected'"):
        model.replace(curvature="expected")
