"""Penalties: on which coefficients they may be, which are none, and what they do to a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize

import glmm_jax as gj


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    g, x = np.repeat(np.arange(30), 6), rng.normal(size=180)
    y = rng.poisson(np.exp(0.3 + 0.5 * rng.normal(size=30)[g])) * (rng.random(180) < 0.7)
    return pd.DataFrame({"g": g, "x": x, "y": y})


def test_a_prior_on_a_coefficient_of_another_parameter(data: pd.DataFrame) -> None:
    """Narrow enough it holds the coefficient at its mean, as leaving the column out would."""
    prior = gj.priors.Normal(sd=1e-4, of="logit(zero): x")
    held = gj.glmer("y ~ x + (1 | g)", data, "poisson", zero_inflation="~ x", priors=prior)
    without = gj.glmer("y ~ x + (1 | g)", data, "poisson", zero_inflation="~ 1")
    assert held.converged
    assert abs(held.dispersion_params["logit(zero): x"]) < 1e-5
    assert held.llf == pytest.approx(without.llf, abs=1e-4)
    np.testing.assert_allclose(held.params, without.params, atol=1e-4)
    assert any(w.startswith("Penalised") for w in held.warnings)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gj.priors.Normal(sd="a"), "sd='a'; use a positive number"),
        (lambda: gj.priors.Normal(sd=None), "sd=None"),
        (lambda: gj.priors.Normal(mean="a"), "mean='a'; use a number"),
        (lambda: gj.priors.StudentT(df=0), "df=0"),
        (lambda: gj.priors.Wishart(df=1.5), r"Wishart\(df=1.5\) has no largest density"),
        (lambda: gj.priors.Normal(of="z"), "'z' is no coefficient of this model; it has Intercept"),
        (lambda: "normal", "'normal' is no penalty"),
        (lambda: gj.priors.Normal, "is no penalty"),
    ],
)
def test_what_is_no_penalty(data: pd.DataFrame, make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gj.glmer("y ~ x + (1 | g)", data, "poisson", priors=make())


def test_a_prior_on_a_variance_by_reml() -> None:
    """Against the restricted likelihood in so many words, whose own maximum is a variance of 0."""
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(8), 5), rng.normal(size=40)
    y = 1.0 + 0.5 * x + rng.normal(size=40)
    y = y - np.array([y[g == k].mean() for k in range(8)])[g] + 0.1 * rng.normal(size=8)[g]
    X = np.column_stack([np.ones(40), x])
    same = (g[:, None] == g).astype(float)

    def criterion(at: np.ndarray) -> float:
        sd, log_variance = at
        V = sd**2 * same + np.exp(log_variance) * np.eye(40)
        A = X.T @ np.linalg.solve(V, X)
        r = y - X @ np.linalg.solve(A, X.T @ np.linalg.solve(V, y))
        logdets = np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1]
        plain = logdets + r @ np.linalg.solve(V, r) + 38 * np.log(2 * np.pi)
        return plain - 3.0 * np.log(abs(sd))

    best = scipy.optimize.minimize(criterion, [0.3, 0.0], method="Nelder-Mead", tol=1e-10)
    table = pd.DataFrame({"g": g, "x": x, "y": y})
    fit = gj.glmer("y ~ x + (1 | g)", table, reml=True, priors=gj.priors.Wishart())
    assert fit.converged and fit.theta.iloc[0] > 0.1
    assert float(fit.estimate.deviance) == pytest.approx(best.fun, abs=1e-8)
    np.testing.assert_allclose(fit.theta.iloc[0], abs(best.x[0]), rtol=1e-4)
    assert fit.deviance == pytest.approx(best.fun + 3.0 * np.log(abs(best.x[0])), abs=1e-4)
    assert str(fit.summary()).startswith("Linear mixed model fit by penalised REML\n")
    assert any("the REML criterion is without them" in warning for warning in fit.warnings)
    with pytest.raises(ValueError, match=r"priors on coefficients.*Wishart"):
        fit.update(priors=gj.priors.Normal())
