"""Dispersions of many models: known, shared by all, drawn towards each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import glmm_jax as gj
from glmm_jax import ManyFits, families, glmer, glmer_many, priors
from glmm_jax.many.dispersions import prior_of

N, GROUPS, B = 96, 16, 24
FORMULA = "~ x + (1 | g)"
FAMILY = families.Gamma("log")  # its programs are small


@pytest.fixture(scope="module")
def design() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame({"x": rng.normal(size=N), "g": np.repeat(np.arange(GROUPS), N // GROUPS)})


@pytest.fixture(scope="module")
def phi() -> pd.Series:
    rng = np.random.default_rng(2)
    return pd.Series(np.exp(-0.5 + 0.3 * rng.normal(size=B)), [f"gene{i}" for i in range(B)])


@pytest.fixture(scope="module")
def responses(design: pd.DataFrame, phi: pd.Series) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    effect = 0.4 * rng.normal(size=(GROUPS, B))[design["g"]]
    mu = np.exp(0.7 + 0.2 * design["x"].to_numpy()[:, None] + effect)
    y = rng.gamma(1 / phi.to_numpy(), mu * phi.to_numpy())
    return pd.DataFrame(y, columns=phi.index)


@pytest.fixture(scope="module")
def each(design: pd.DataFrame, responses: pd.DataFrame) -> ManyFits:
    return glmer_many(FORMULA, design, FAMILY, responses=responses)


def test_a_known_dispersion_is_a_parameter_held(
    design: pd.DataFrame, responses: pd.DataFrame, each: ManyFits, tmp_path: Path
) -> None:
    """At its estimate it changes nothing but what the estimate of it costs."""
    data = design.assign(y=responses["gene3"])
    free = glmer("y " + FORMULA, data, FAMILY)
    held = glmer("y " + FORMULA, data, FAMILY, dispersion=float(free.dispersion))
    assert held.converged
    assert held.llf == pytest.approx(free.llf, abs=1e-9)
    assert held.df == free.df - 1
    np.testing.assert_allclose(held.params, free.params, atol=1e-6)
    assert "(known; variance phi mu^2)" in str(held.summary())
    rows = np.full(N, free.dispersion)
    by_row = glmer("y " + FORMULA, data, FAMILY, dispersion=rows)
    assert by_row.llf == pytest.approx(held.llf, abs=1e-12)
    # Everything that a fit can do knows it too.
    held.save(tmp_path / "fit")
    assert gj.load(tmp_path / "fit").llf == held.llf
    assert held.refit(data["y"]).llf == pytest.approx(held.llf, abs=1e-9)
    variance = float(free.dispersion) * held.fittedvalues**2
    pearson = (data["y"] - held.fittedvalues) / np.sqrt(variance)
    np.testing.assert_allclose(held.resid("pearson"), pearson, rtol=1e-8)
    np.testing.assert_allclose(held.resid("deviance"), free.resid("deviance"), rtol=1e-4, atol=1e-5)
    draws = held.simulate(400, seed=1)
    spread = draws.to_numpy().var() / data["y"].to_numpy().var()
    assert 0.5 < spread < 2.0


def test_density_of_rows_with_a_known_dispersion() -> None:
    y, eta, size = np.array([0.0, 3.0, 11.0]), np.array([0.2, 1.0, 2.0]), np.array([0.5, 2.0, 9.0])
    mu = np.exp(eta)
    found = families.Known(families.NegativeBinomial()).log_prob(y, eta, None, np.log(size))
    np.testing.assert_allclose(found, stats.nbinom(size, size / (size + mu)).logpmf(y), rtol=1e-12)


def test_known_dispersions_of_many(
    design: pd.DataFrame, responses: pd.DataFrame, phi: pd.Series
) -> None:
    """Each model has its own, found by its name."""
    found = glmer_many(FORMULA, design, FAMILY, responses=responses, dispersion=phi[::-1])
    assert found.converged.all()
    np.testing.assert_allclose(found.dispersion["log(phi)"], np.log(phi))
    for name in ("gene0", "gene20"):
        data = design.assign(y=responses[name])
        single = glmer("y " + FORMULA, data, FAMILY, dispersion=float(phi[name]))
        assert found.models.loc[name, "llf"] == pytest.approx(single.llf, abs=1e-6)
        assert found.models.loc[name, "df"] == single.df
        assert found.fit(name).llf == pytest.approx(single.llf, abs=1e-9)
    same = glmer_many(FORMULA, design, FAMILY, responses=responses, dispersion=phi.to_numpy())
    assert (same.columns.deviance == found.columns.deviance).all()
    # Compared under the same dispersions only; the fits less a name stand for a smaller formula.
    smaller = replace(found, parameters=found.parameters[1:])
    assert (found.compare(smaller)["p_value"] == 1.0).all()
    with pytest.raises(ValueError, match="other known dispersions"):
        found.compare(replace(smaller, known=None))


def test_a_shared_dispersion_is_the_maximum_for_all(
    design: pd.DataFrame, responses: pd.DataFrame
) -> None:
    shared = glmer_many(FORMULA, design, FAMILY, responses=responses, dispersion="shared")
    value = shared.dispersion["log(phi)"].unique()
    assert len(value) == 1
    best = shared.models["llf"].sum()
    for step in (-0.05, 0.05):
        moved = np.full(B, np.exp(value[0] + step))
        near = glmer_many(FORMULA, design, FAMILY, responses=responses, dispersion=moved)
        assert near.models["llf"].sum() < best


def test_shrunken_dispersions_lie_nearer_to_the_truth(
    design: pd.DataFrame, responses: pd.DataFrame, phi: pd.Series, each: ManyFits
) -> None:
    shrunken = glmer_many(FORMULA, design, FAMILY, responses=responses, dispersion="shrunken")
    assert shrunken.converged.all()
    before = each.dispersion["log(phi)"] - np.log(phi)
    after = shrunken.dispersion["log(phi)"] - np.log(phi)
    assert np.sqrt(np.mean(after**2)) < np.sqrt(np.mean(before**2))
    # Each is the mode of its likelihood and the prior that the estimates of all make.
    at = each.parameters.get_loc("log(phi)")
    mean, sd = prior_of(each.columns.estimates[:, at], each.columns.errors[:, at])
    prior = priors.Normal(sd=sd, of="log(phi)", mean=mean)
    data = design.assign(y=responses["gene11"])
    single = glmer("y " + FORMULA, data, FAMILY, priors=prior)
    assert shrunken.models.loc["gene11", "llf"] == pytest.approx(single.llf, abs=1e-6)
    expected = float(single.dispersion_params.iloc[0])
    assert shrunken.dispersion.loc["gene11", "log(phi)"] == pytest.approx(expected, abs=1e-5)


def test_the_prior_of_estimates() -> None:
    """Moments of the true values, whatever the errors of their estimates."""
    rng = np.random.default_rng(5)
    error = rng.uniform(0.2, 1.5, 4000)
    x = 1.0 + 0.7 * rng.normal(size=4000) + error * rng.normal(size=4000)
    mean, sd = prior_of(x, error)
    assert mean == pytest.approx(1.0, abs=0.06)
    assert sd == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize(
    ("family", "dispersion", "message"),
    [
        (FAMILY, -1.0, "dispersion: 96 values are not positive"),
        (FAMILY, np.ones(5), r"dispersion has shape \(5,\)"),
        (FAMILY, np.full(B, np.nan), "positive, finite"),
        (FAMILY, pd.Series(1.0, ["gene0"]), "no value for 23 responses"),
        ("poisson", 2.0, "a known dispersion is for a family whose one parameter is phi"),
        ("poisson", "shared", "has no parameter phi"),
        ("gaussian", 2.0, "a known dispersion is for a family"),
    ],
)
def test_what_is_refused(
    design: pd.DataFrame, responses: pd.DataFrame, family: str, dispersion: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        glmer_many(FORMULA, design, family, responses=responses, dispersion=dispersion)


def test_a_family_with_a_known_dispersion_needs_it(
    design: pd.DataFrame, responses: pd.DataFrame
) -> None:
    data = design.assign(y=responses["gene3"])
    with pytest.raises(ValueError, match="give its values"):
        glmer("y " + FORMULA, data, families.Known(families.NegativeBinomial()))
