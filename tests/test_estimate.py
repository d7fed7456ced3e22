"""Estimation: one optimum from any start and optimizer; an honest status where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from interpreter import interpreted
from reference_cases import case

import glmm_jax as gj
from glmm_jax import Status, runtime
from glmm_jax.estimate import differentiable
from glmm_jax.optimize import boundary

BETA = (0.37, 1.18, -0.98, -0.024)


@pytest.mark.parametrize(
    "theta",
    [
        (0.5435, 0.9085, 0.0),  # the saddle: every component of the gradient is below 0.03
        (0.0, 0.0, 0.0),
        (1e-5, 1e-5, 1e-5),
        (0.01, 0.01, 0.01),
        (5.0, 5.0, 5.0),
        (-1.0, 2.0, -0.3),
    ],
)
def test_grouse_ticks_reaches_the_optimum_from_any_start(theta) -> None:
    reference = case("gt_pois3/lme4")
    start = gj.Params(np.array(BETA), np.array(theta))
    found = gj.glmer(**reference.glmer_arguments(), start=start)
    assert found.status is Status.CONVERGED
    assert found.llf == pytest.approx(reference.log_likelihood, abs=5e-7)
    assert np.all(found.theta > 0) and found.estimate.smallest_eigenvalue > 0


COUNTS = "y ~ x + (1|g)"  # as singular_pois, whose programs serve here too


def counts(mean: float = 1.0, spread: float = 1.0) -> pd.DataFrame:
    """The design of a reference with a response that has a variance between groups."""
    data, rng = case("singular_pois/lme4").frame(), np.random.default_rng(0)
    g = data["g"].cat.codes.to_numpy()
    eta = 0.3 + 0.5 * data["x"] + spread * rng.normal(size=g.max() + 1)[g]
    return data.assign(y=rng.poisson(mean * np.exp(eta)), z=eta + rng.normal(size=len(data)))


@pytest.mark.parametrize(
    "optimizer", ["newton", "lbfgs", optax.adam(0.1)], ids=["newton", "lbfgs", "adam"]
)
def test_every_optimizer_ends_at_the_same_certified_optimum(optimizer) -> None:
    usual = gj.glmer(COUNTS, counts(), "poisson")
    found = gj.glmer(COUNTS, counts(), "poisson", optimizer=optimizer)
    assert usual.converged and found.converged
    assert found.deviance == pytest.approx(usual.deviance, abs=1e-8)
    np.testing.assert_allclose(found.params, usual.params, atol=1e-6)
    np.testing.assert_allclose(found.theta, usual.theta, atol=1e-6)
    np.testing.assert_allclose(found.hessian, usual.hessian, rtol=1e-4, atol=1e-3)


def test_a_zero_variance_is_exactly_zero_and_named() -> None:
    fit = gj.glmer(**case("singular_pois/lme4").glmer_arguments())
    assert fit.converged and fit.is_singular and fit.theta.iloc[0] == 0.0
    assert "(Intercept | g)" in fit.message


def test_separation_is_named_with_its_coefficient() -> None:
    reference = case("separation/lme4")
    fit = gj.glmer(**reference.glmer_arguments())
    assert fit.status is Status.SEPARATION and not fit.converged
    assert "eparation" in fit.message and " s." in fit.message
    assert list(fit.estimate.separated) == [False, False, True]
    assert fit.llf == pytest.approx(reference.log_likelihood, abs=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_responses_all_alike(value: int) -> None:
    arguments = case("separation/lme4").glmer_arguments()
    fit = gj.glmer(**arguments | {"data": arguments["data"].assign(y=value)})
    assert fit.status is Status.SEPARATION and "Intercept" in fit.message
    assert np.all(np.isfinite(fit.params)) and str(fit.summary())


def test_every_separated_coefficient_is_named() -> None:
    arguments = case("separation/lme4").glmer_arguments()
    data, r1, r2 = arguments["data"], np.zeros(450), np.zeros(450)
    r1[np.flatnonzero(data["y"] == 1)[:3]] = 1
    r2[np.flatnonzero(data["y"] == 0)[:7]] = 1
    given = {"data": data.assign(r1=r1, r2=r2), "formula": "y ~ r1 + r2 + (1|g)"}
    fit = gj.glmer(**arguments | given)
    assert list(fit.estimate.separated) == [False, True, True]


def test_counts_all_zero() -> None:
    fit = gj.glmer(COUNTS, counts().assign(y=0), family="poisson")
    assert fit.status is Status.SEPARATION and np.all(np.isfinite(fit.params))


def test_very_large_counts_whose_deviance_loses_digits() -> None:
    fit = gj.glmer(COUNTS, counts(mean=1e6), family="poisson")
    assert fit.converged and 0.5 < fit.theta.iloc[0] < 1.5


def test_a_first_step_that_goes_astray_is_not_where_the_search_begins() -> None:
    data = counts(mean=1e4)
    data.loc[0, ["x", "y"]] = [999.0, 0.0]  # a code for a missing value
    fit = gj.glmer(COUNTS, data, family="poisson")
    assert fit.converged and abs(fit.params["x"]) < 0.1


@pytest.mark.parametrize("formula", ["y ~ x + (1 | row)", "y ~ x + (1 | one)", "y ~ 0 + (1 | g)"])
def test_groups_of_one_only_one_group_and_no_fixed_effects(formula: str) -> None:
    data = counts().iloc[:120]
    data = data.assign(y=1 * (data["y"] > 1), row=np.arange(120), one=1)
    fit = gj.glmer(formula, data, family="bernoulli")
    assert fit.converged and np.all(np.isfinite(fit.bse)) and np.isfinite(fit.llf)
    assert len(fit.params) == (0 if "0" in formula else 2)


def test_scale_of_covariates_and_response_does_not_matter() -> None:
    data, formula = counts(), "y ~ x + (x|g)"
    usual = gj.glmer(formula, data, family="poisson")
    large = gj.glmer(formula, data.assign(x=1e6 * data["x"]), family="poisson")
    assert large.converged and large.llf == pytest.approx(usual.llf, abs=1e-7)
    assert large.params["x"] == pytest.approx(usual.params["x"] / 1e6, rel=1e-6)
    arguments = case("sim_gauss_slope_ml/lme4").glmer_arguments()
    usual = gj.glmer(**arguments)
    scaled = arguments["data"].assign(y=1e8 * arguments["data"]["y"] + 1e9)
    large = gj.glmer(**arguments | {"data": scaled})
    assert large.converged and large.sigma == pytest.approx(1e8 * usual.sigma, rel=1e-6)
    assert large.theta.iloc[0] == pytest.approx(1e8 * usual.theta.iloc[0], rel=1e-6)


def test_step_limit_is_a_status() -> None:
    fit = gj.glmer(COUNTS, counts(), family="poisson", max_steps=1)
    assert fit.status is Status.STEP_LIMIT and not fit.converged and "limit" in fit.message


@pytest.fixture(scope="module")
def model() -> gj.Model:
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(6), 6), rng.normal(size=36)
    data = {"y": rng.poisson(np.exp(0.5 + rng.normal(size=6)[g])), "x": x, "g": g}
    return gj.build_model("y ~ x + (1 | g)", data, "poisson")


def test_data_of_a_similar_size_reuse_the_program() -> None:
    gj.glmer(COUNTS, counts(), family="poisson")
    before = set(runtime._programs)
    gj.glmer(COUNTS, counts().drop(index=range(0, 500, 25)), family="poisson")
    assert set(runtime._programs) == before


def test_programs_held_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "MOST_PROGRAMS", 2)
    monkeypatch.setattr(runtime, "_programs", type(runtime._programs)())
    scale = jax.jit(lambda a, power: a**power, static_argnames="power")
    for power in (1, 2, 3):
        assert runtime.run(scale, jnp.array(2.0), power=power) == 2.0**power
    assert runtime.programs() == 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("nagq", 1.0),
        ("nagq", -1),
        ("nagq", 102),
        ("optimizer", "bobyqa"),
        ("max_steps", 0),
        ("max_steps", 2.5),
    ],
)
def test_bad_arguments(model: gj.Model, argument: str, value) -> None:
    with pytest.raises(ValueError, match=argument):
        gj.estimate(model, **{argument: value})


def test_start_of_another_shape(model: gj.Model) -> None:
    start = gj.Params(jnp.zeros(3), jnp.ones(1))
    with pytest.raises(ValueError, match=r"beta.*\(3,\).*\(2,\)"):
        gj.estimate(model, start=start)


@pytest.mark.parametrize(("nagq", "reml"), [(0, False), (1, True)])
def test_estimates_with_beta_at_the_joint_mode_are_differentiable(
    nagq: int, reml: bool, model: gj.Model
) -> None:
    direction = jnp.asarray(np.random.default_rng(3).normal(size=model.n))

    def searched(offset: jax.Array) -> gj.Estimate:
        return gj.estimate(model.replace(offset=offset), nagq, reml=reml)

    def numbers(found: gj.Estimate) -> jax.Array:
        return jnp.append(jnp.concatenate([*found.params.beta[None], found.u]), found.deviance)

    def forward_mode(offset: jax.Array, found: gj.Estimate) -> jax.Array:
        def moved(offset: jax.Array) -> jax.Array:
            return numbers(differentiable(found, model.replace(offset=offset)))

        return jax.jvp(moved, (offset,), (direction,))[1]

    h, found = 1e-3, searched(model.offset)
    up, down = (numbers(searched(model.offset + s * direction)) for s in (h, -h))
    forward = interpreted(forward_mode, model.offset, found)(model.offset, found)
    np.testing.assert_allclose(forward, (up - down) / (2 * h), rtol=1e-5, atol=2e-5)


def test_many_rare_events_are_not_separated() -> None:
    # Four events in 60,000 rows: no row holds information, all together hold enough.
    b = (np.arange(60_300) >= 300) * 1
    y = np.where(b == 0, 50, 0)
    y[300::15_000] = 1
    rare = gj.build_model("y ~ b + (1 | g)", {"y": y, "b": b, "g": b % 2}, "poisson")
    best = np.log(50), np.log(4 / 60_000) - np.log(50)
    at = gj.Params(jnp.array(best), jnp.zeros(1))
    mean = jnp.exp(rare.X @ at.beta)
    assert jnp.all(mean[300:] < boundary.LITTLE) and jnp.sum(mean[300:]) == pytest.approx(4)
    assert not boundary.separated(at, rare, mean).any()
    # Where they hold none together either, only b is without a maximum: the other rows hold the
    # intercept.
    assert list(boundary.separated(at, rare, mean.at[300:].set(1e-9))) == [False, True]


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """What JAX compiles while the test runs."""
    seen: list[str] = []

    def listen(name: str, seconds: float, **_: object) -> None:
        if name.endswith("backend_compile_duration"):
            seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_call_outside_a_program_compiles_once(compilations: list[str]) -> None:
    """The loops of the deviance are in a program of its own, which serves other parameters too."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(6), 6)
    data = {"y": rng.poisson(1.0, 36), "x": rng.normal(size=36), "g": g}
    model = gj.build_model("y ~ x + (1 | g)", data, "poisson", zero_inflation="~ 1")
    first = gj.Params(jnp.zeros(2), jnp.ones(1), jnp.zeros(1))
    other = gj.Params(jnp.ones(2), 2.0 * jnp.ones(1), jnp.ones(1))
    for function in (gj.deviance, gj.conditional_mode, jax.grad(gj.deviance)):
        jax.block_until_ready(function(first, model))
        assert compilations  # so that the next line can fail
        compilations.clear()
        jax.block_until_ready(function(other, model))
        assert not compilations, function
        compilations.append("")
