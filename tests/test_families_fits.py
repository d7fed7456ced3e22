"""Fits of families with a dispersion: against glmmTMB, lme4, separate code and a known truth."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference_cases

import glmm_jax as gj
from glmm_jax.build import place
from glmm_jax.estimate import checked, program
from glmm_jax.families import (
    Exponential,
    InverseGaussian,
    Lognormal,
    Poisson,
    Truncated,
    Weibull,
)
from glmm_jax.families.base import as_dispersion
from glmm_jax.formula.frame import build_frame
from glmm_jax.runtime import engine, run
from glmm_jax.status import Status


def fit(formula, data, family, curvature):
    frame = build_frame(formula, data)
    with engine():
        model, _ = place(frame, family, curvature, padded=True)
        return run(program, model, None, **checked(model, 1, None, "quasi-newton", 500))


def test_inverse_gaussian_against_separate_code():
    """The Laplace approximation; lme4's objective is no likelihood, glmmTMB has no such family.

    The other optima of that code are compared with without a search, in test_objective_points.
    """
    case = reference_cases.case("ig_log/lme4")
    record = reference_cases.independent("ig_log", "observed")
    found = fit(case.formula, case.frame(), InverseGaussian(case.link), "observed")
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(-0.5 * found.deviance, record["logLik"], atol=1e-5)
    beta, se = np.array(record["beta"]), np.array(record["se"][:3])
    assert np.all(np.abs(found.params.beta - beta) < 1e-4 * se)
    np.testing.assert_allclose(np.abs(found.params.theta), record["sd"], rtol=1e-4)
    phi = np.exp(found.params.dispersion)
    np.testing.assert_allclose(phi, record["dispersion"]["value"], rtol=1e-4)


TRUTH = [
    (Exponential(), ()),
    (Weibull(), (np.log(1.7),)),
    (Lognormal(), (np.log(0.8),)),
    (Truncated(Poisson()), ()),
]


@pytest.mark.parametrize("truth", TRUTH, ids=lambda one: one[0].name)
def test_recovers_what_was_simulated(truth):
    """Within four standard errors; families without a reference fit."""
    family, parameters = truth
    rng = np.random.default_rng(11)
    group = np.repeat(np.arange(40), 10)
    x = rng.normal(size=400)
    eta = 0.5 + 0.4 * x + 0.4 * rng.normal(size=40)[group]
    dispersion = as_dispersion(tuple(map(jnp.asarray, parameters)))
    y = np.asarray(family.sample(jax.random.key(3), jnp.asarray(eta), dispersion))
    found = fit("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": group}), family, "observed")
    assert found.status == Status.CONVERGED
    se = np.sqrt(np.diag(2 * np.linalg.inv(found.hessian)))
    estimates = np.concatenate([found.params.beta, np.abs(found.params.theta)])
    expected = np.array([0.5, 0.4, 0.4])
    if parameters:
        estimates = np.append(estimates, found.params.dispersion)
        expected = np.append(expected, parameters)
    assert np.all(np.abs(estimates - expected) < 4 * se), (estimates, se)


# Families of the references, whose data were simulated: the truth, from simulated.json.
SIMULATED = {
    "beta_logit": ([-0.3, 0.6, 0.4], 0.6, [np.log(12)]),
    "betabinom": ([-0.5, 0.8], 0.7, [np.log(8)]),
    "tweedie_log": ([0.7, 0.4, -0.5], 0.5, [np.log(1.5), np.log(1.5)]),  # logit(1.6 - 1)
    "gamma_log": ([0.8, 0.5, -0.4], 0.5, [np.log(1 / 3)]),
    "genpois": ([1.2, 0.3], 0.3, [np.log(0.6)]),
    "compois": ([1.0, 0.3], 0.3, [np.log(1 / 1.8)]),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_estimates_of_the_references_recover_what_was_simulated(name):
    """Ours are those of glmmTMB to 1e-3 (test_reference_fits): these are near the truth."""
    case = reference_cases.case(f"{name}/glmmTMB")
    beta, sd, others = SIMULATED[name]
    assert np.all(np.abs(case.beta - beta) < 4 * case.se)
    # Of 40 groups or so.
    assert abs(np.log(case.theta[0] / sd)) < 4 / np.sqrt(2 * next(iter(case.ngroups.values())))
    # 400 to 800 rows; that of Tweedie's power is less sure.
    np.testing.assert_allclose(case.points[0].others, others, atol=0.35)


# --- models of the dispersion of a Gaussian response ---------------------------------------------


def test_residual_variances_that_depend_on_a_covariate():
    """Against glmmTMB; then from simulated data of the same shape, to what was put in."""
    text = (reference_cases.FOLDER / "families_dispersion.json").read_text(encoding="utf-8")
    known = json.loads(text)
    data = reference_cases.load("sleepstudy")
    found = gj.glmer(known["formula"], data, "gaussian", dispersion=known["dispersion"])
    assert found.converged
    assert found.llf == pytest.approx(known["logLik"], abs=1e-6)
    np.testing.assert_allclose(found.params, known["beta"], atol=1e-4 * known["se"][1])
    np.testing.assert_allclose(found.bse, known["se"], rtol=1e-4)
    np.testing.assert_allclose(found.dispersion_params, known["log_phi"], atol=1e-5)
    assert found.theta.iloc[0] == pytest.approx(known["sd"], rel=1e-5)
    table = found.tidy()
    se = table.loc[table["effect"] == "dispersion", "std_error"]
    np.testing.assert_allclose(se, known["se_log_phi"], rtol=1e-4)

    rng = np.random.default_rng(12)
    days, subject = data["Days"].to_numpy(), data["Subject"].cat.codes.to_numpy()
    scale = np.exp(0.5 * (3.0 + 0.3 * days))
    y = 100 + 5 * days + 8 * rng.normal(size=18)[subject] + scale * rng.normal(size=180)
    again = found.refit(y)
    truth = [100, 5, 8, 3.0, 0.3]
    estimates = np.concatenate([again.params, again.theta, again.dispersion_params])
    assert np.all(np.abs(estimates - truth) < 4 * np.sqrt(np.diag(again.vcov_all)))


# --- limits --------------------------------------------------------------------------------------


def less_variable(key):
    """The design of a reference, whose programs these are too, with a response that varies less.

    Less than Poisson, binomial and Student-t ones do.
    """
    arguments = reference_cases.case(key).glmer_arguments()
    data, rng = arguments["data"], np.random.default_rng(3)
    name = "site" if "site" in data else "g"
    g, n = data[name].cat.codes.to_numpy(), len(data)
    x = data["x"] if "x" in data else 1.0 * (data["mined"] == "no")
    eta = 0.5 * x + 0.4 * rng.normal(size=g.max() + 1)[g]
    if "fail" in data:
        hits = 12 / (1 + np.exp(-eta)) + rng.uniform(-0.6, 0.6, n)
        data["y"] = np.round(hits).clip(0, 12).astype(int)
        data["fail"] = 12 - data["y"]
    elif arguments["family"] == "t_family":
        data["y"] = eta + 0.5 * rng.uniform(-1, 1, n)
    else:
        response = arguments["formula"].split("~")[0].strip()
        trials = np.maximum(1, np.round(np.exp(1 + eta) / 0.4)).astype(int)
        data[response] = rng.binomial(trials, 0.4)
    return arguments


@pytest.mark.parametrize(
    ("key", "plain", "parameter"),
    [
        ("sal_nb2/glmmTMB", "poisson", "log(phi)"),
        ("sal_nb1/glmmTMB", "poisson", "log(phi)"),
        ("betabinom/glmmTMB", "binomial", "log(phi)"),
        ("t_dist/glmmTMB", "gaussian", "log(df)"),
    ],
)
def test_a_family_at_its_limit_is_the_plainer_one_and_says_so(key, plain, parameter):
    arguments = less_variable(key)
    found = gj.glmer(**arguments)
    limit = gj.glmer(**arguments | {"family": plain, "curvature": "expected"})
    assert found.status is gj.Status.CONVERGED
    assert found.estimate.evaluations < 100
    assert found.llf == pytest.approx(limit.llf, abs=1e-6)
    np.testing.assert_allclose(found.params, limit.params, atol=1e-4 * limit.bse.min())
    np.testing.assert_allclose(found.bse, limit.bse, rtol=1e-3)
    (sentence,) = found.warnings
    assert sentence.startswith(f"Not determined: {parameter} is ")
    assert f"{plain} responses" in sentence and sentence in str(found.summary()).replace(
        "\n  ", " "
    )
    assert limit.warnings == ()


def test_a_family_that_allows_less_variation_has_an_estimate_there():
    found = gj.glmer(**less_variable("genpois/glmmTMB"))
    assert found.converged and found.warnings == ()
    phi, error = found.dispersion_params.iloc[0], np.sqrt(found.vcov_all.iloc[-1, -1])
    assert phi + 3 * error < 0  # less than Poisson's, log(1)
