"""Fits of families with a dispersion: against glmmTMB, lme4, separate code and a known truth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference_cases

from glmm_jax import families
from glmm_jax.build import place
from glmm_jax.estimate import checked, program
from glmm_jax.families import Exponential, InverseGaussian, Lognormal, StudentT, Weibull
from glmm_jax.formula.frame import build_frame
from glmm_jax.runtime import engine, run
from glmm_jax.status import Status

CASES = [
    "gamma_log", "gamma_inv", "gt_nb2", "sal_nb2", "sal_nb2_inter", "sal_nb1", "nb1", "beta_logit",
    "betabinom", "cbpp_betabinom", "tweedie_log", "genpois", "compois", "t_dist",
]  # fmt: skip


def fit(formula, data, family, curvature, nagq=1):
    frame = build_frame(formula, data)
    with engine():
        model, _ = place(frame, family, curvature, padded=True)
        return run(program, model, None, **checked(model, nagq, None, "quasi-newton", 500))


def fit_case(case, curvature, nagq=1):
    family = families.get(reference_cases.FAMILIES[case.family], case.link)
    return fit(case.formula, case.frame(), family, curvature, nagq)


@pytest.mark.parametrize("name", CASES)
def test_against_glmmtmb(name):
    case = reference_cases.case(f"{name}/glmmTMB")
    found = fit_case(case, "observed")
    assert found.status == Status.CONVERGED
    assert -0.5 * found.deviance > case.log_likelihood - 1e-5
    assert -0.5 * found.deviance < case.log_likelihood + 1e-4
    assert np.all(np.abs(found.params.beta - case.beta) < 1e-4 * case.se)
    np.testing.assert_allclose(np.abs(found.params.theta), case.theta, atol=1e-5)
    ours = np.atleast_1d(found.params.dispersion)
    # glmmTMB's shape of the gamma family is 1 / phi.
    sign = -1.0 if case.family == "Gamma" else 1.0
    np.testing.assert_allclose(sign * ours[0], case.record["dispersion"]["betad"][0], atol=1e-5)
    further = case.record.get("family_params") or {}
    if name == "tweedie_log":
        np.testing.assert_allclose(1 + jax.nn.sigmoid(ours[1]), further["Tweedie power"], atol=1e-5)
    if name == "t_dist":
        np.testing.assert_allclose(np.exp(ours[1]), further["Student-t df"], rtol=1e-5)


@pytest.mark.parametrize("name", ["sal_nb2", "gt_nb2"])
def test_negative_binomial_with_expected_weights_against_lme4(name):
    case = reference_cases.case(f"{name}/lme4")
    found = fit_case(case, "expected")
    assert found.status == Status.CONVERGED
    assert -0.5 * found.deviance > case.log_likelihood - 1e-5
    assert -0.5 * found.deviance < case.log_likelihood + 1e-4
    assert np.all(np.abs(found.params.beta - case.beta) < 1e-3 * case.se)
    np.testing.assert_allclose(
        np.exp(found.params.dispersion), case.record["dispersion"]["value"], rtol=1e-4
    )


@pytest.mark.parametrize("criterion", ["observed", "exact"])
def test_inverse_gaussian_against_separate_code(criterion):
    """The Laplace approximation and the integral; lme4's objective here is no likelihood."""
    case = reference_cases.case("ig_log/lme4")
    record = reference_cases.independent("ig_log", criterion)
    found = fit_case(case, "observed", nagq=1 if criterion == "observed" else 25)
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
    (InverseGaussian(), (np.log(0.3),)),
    (StudentT(df=4), (np.log(0.5),)),
]


@pytest.mark.parametrize("truth", TRUTH, ids=lambda one: one[0].name)
def test_recovers_what_was_simulated(truth):
    """Within four standard errors; where there is no reference fit, or a variant of the family."""
    family, parameters = truth
    rng = np.random.default_rng(11)
    group = np.repeat(np.arange(40), 10)
    x = rng.normal(size=400)
    eta = 0.5 + 0.4 * x + 0.4 * rng.normal(size=40)[group]
    dispersion = jnp.asarray(parameters[0]) if parameters else None
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
