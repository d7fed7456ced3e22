"""Estimation: one optimum from any start and optimizer; an honest status where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from reference_cases import case

import glmm_jax as gj
from glmm_jax import Status, runtime

GROUSE = "TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|INDEX) + (1|LOCATION)"
GROUSE_DEVIANCE = 2 * 890.271330087  # tests/reference, gt_pois3
BETA = (0.37, 1.18, -0.98, -0.024)


@pytest.fixture(scope="module")
def grouse() -> gj.Model:
    return gj.build_model(GROUSE, gj.datasets.load("grouseticks"), "poisson")


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
def test_grouse_ticks_reaches_the_optimum_from_any_start(grouse: gj.Model, theta) -> None:
    start = gj.Params(jnp.array(BETA), jnp.array(theta))
    found = gj.estimate(grouse, start=start)
    assert found.status == Status.CONVERGED
    assert found.deviance == pytest.approx(GROUSE_DEVIANCE, abs=1e-6)
    assert np.all(found.params.theta > 0) and found.smallest_eigenvalue > 0


def frame(seed: int = 0, rows: int = 200, groups: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows // groups)
    x = rng.normal(size=rows)
    eta = 0.3 + 0.5 * x + rng.normal(size=groups)[g]
    return pd.DataFrame(
        {
            "g": g,
            "pair": np.arange(rows) // 2,
            "row": np.arange(rows),
            "one": 1,
            "x": x,
            "y": (rng.random(rows) < 1 / (1 + np.exp(-eta))).astype(int),
            "count": rng.poisson(np.exp(eta)),
            "z": eta + rng.normal(size=rows),
        }
    )


@pytest.mark.parametrize(
    "optimizer", ["newton", "lbfgs", optax.adam(0.1)], ids=["newton", "lbfgs", "adam"]
)
def test_every_optimizer_ends_at_the_same_certified_optimum(optimizer) -> None:
    model = gj.build_model("count ~ x + (1 | g)", frame(), "poisson")
    usual = gj.estimate(model)
    found = gj.estimate(model, optimizer=optimizer)
    assert usual.status == Status.CONVERGED and found.status == Status.CONVERGED
    assert found.deviance == pytest.approx(float(usual.deviance), abs=1e-8)
    np.testing.assert_allclose(found.params.beta, usual.params.beta, atol=1e-6)
    np.testing.assert_allclose(found.params.theta, usual.params.theta, atol=1e-6)
    # The Hessian belongs to this point: differences of the gradient there.
    gradient = jax.jit(jax.grad(lambda b: gj.deviance(gj.Params(b, found.params.theta), model)))
    h = 1e-5
    beta = found.params.beta
    columns = [(gradient(beta + h * e) - gradient(beta - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(found.hessian[:2, :2], columns, rtol=1e-4)


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
    data = frame().assign(y=value)
    fit = gj.glmer("y ~ x + (1 | g)", data, family="bernoulli")
    assert fit.status is Status.SEPARATION and "Intercept" in fit.message
    assert np.all(np.isfinite(fit.params)) and str(fit.summary())


def test_counts_all_zero() -> None:
    fit = gj.glmer("count ~ x + (1 | g)", frame().assign(count=0), family="poisson")
    assert fit.status is Status.SEPARATION and np.all(np.isfinite(fit.params))


@pytest.mark.parametrize("group", ["row", "pair", "one"])
def test_groups_of_one_of_two_and_only_one(group: str) -> None:
    fit = gj.glmer(f"y ~ x + (1 | {group})", frame(), family="bernoulli")
    assert fit.converged and np.all(np.isfinite(fit.bse)) and np.isfinite(fit.llf)


def test_no_fixed_effects() -> None:
    fit = gj.glmer("y ~ 0 + (1 | g)", frame(), family="bernoulli")
    assert fit.converged and fit.params.empty and fit.theta.iloc[0] > 0


def test_scale_of_covariates_and_response_does_not_matter() -> None:
    data = frame()
    usual = gj.glmer("y ~ x + (x | g)", data, family="bernoulli")
    large = gj.glmer("y ~ x + (x | g)", data.assign(x=1e6 * data["x"]), family="bernoulli")
    assert large.converged and large.llf == pytest.approx(usual.llf, abs=1e-7)
    assert large.params["x"] == pytest.approx(usual.params["x"] / 1e6, rel=1e-6)
    usual = gj.glmer("z ~ x + (1 | g)", data)
    large = gj.glmer("z ~ x + (1 | g)", data.assign(z=1e8 * data["z"] + 1e9))
    assert large.converged and large.sigma == pytest.approx(1e8 * usual.sigma, rel=1e-6)
    assert large.theta.iloc[0] == pytest.approx(1e8 * usual.theta.iloc[0], rel=1e-6)


def test_very_large_counts_whose_deviance_loses_digits() -> None:
    data = frame()
    rng = np.random.default_rng(1)
    counts = rng.poisson(1e6 * np.exp(rng.normal(size=20))[data["g"]])
    fit = gj.glmer("count ~ x + (1 | g)", data.assign(count=counts), family="poisson")
    assert fit.converged and 0.5 < fit.theta.iloc[0] < 1.5


def test_step_limit_is_a_status() -> None:
    fit = gj.glmer("y ~ x + (1 | g)", frame(), family="bernoulli", max_steps=1)
    assert fit.status is Status.STEP_LIMIT and not fit.converged and "limit" in fit.message


@pytest.fixture(scope="module")
def batch() -> tuple[gj.Model, np.ndarray, gj.Estimate]:
    """Six responses of one design estimated together; one lane is NaN, one all zeros."""
    data = gj.datasets.load("cbpp")
    formula = "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    model = gj.build_model(formula, data, "binomial")
    rng = np.random.default_rng(0)
    Y = rng.binomial(np.asarray(model.size).astype(int), 0.2, (6, model.n)).astype(float)
    Y[2], Y[4] = np.nan, 0.0
    together = jax.jit(jax.vmap(lambda y: gj.estimate(model.replace(y=y))))
    return model, Y, together(jnp.asarray(Y))


def test_lanes_of_a_batch_are_the_estimates_one_by_one(batch) -> None:
    model, Y, together = batch
    assert together.status[2] in (Status.MODE_FAILED, Status.NOT_FINITE)
    assert together.status[4] == Status.SEPARATION
    for lane in (0, 1, 3, 5):
        alone = gj.estimate(model.replace(y=jnp.asarray(Y[lane])))
        assert together.status[lane] == alone.status == Status.CONVERGED
        assert together.deviance[lane] == pytest.approx(float(alone.deviance), abs=1e-9)
        np.testing.assert_allclose(together.params.beta[lane], alone.params.beta, atol=1e-7)


def test_nan_in_a_model_is_a_status_not_an_exception(batch) -> None:
    model, Y, _ = batch
    found = gj.estimate(model.replace(y=jnp.asarray(Y[2])))
    assert found.status in (Status.MODE_FAILED, Status.NOT_FINITE)


def test_data_of_a_similar_size_reuse_the_program() -> None:
    gj.glmer("y ~ x + (1 | g)", frame(seed=1, rows=200, groups=20), family="bernoulli")
    before = set(runtime._programs)
    gj.glmer("y ~ x + (1 | g)", frame(seed=2, rows=209, groups=19), family="bernoulli")
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
def test_bad_arguments(batch, argument: str, value) -> None:
    with pytest.raises(ValueError, match=argument):
        gj.estimate(batch[0], **{argument: value})


def test_start_of_another_shape(batch) -> None:
    start = gj.Params(jnp.zeros(3), jnp.ones(1))
    with pytest.raises(ValueError, match=r"beta.*\(3,\).*\(4,\)"):
        gj.estimate(batch[0], start=start)


@pytest.mark.parametrize(("nagq", "reml"), [(0, False), (1, True)])
def test_estimates_with_beta_at_the_joint_mode_are_differentiable(nagq: int, reml: bool) -> None:
    model = gj.build_model("count ~ x + (1 | g)", frame(), "poisson")

    def numbers(offset: jax.Array) -> jax.Array:
        found = gj.estimate(model.replace(offset=offset), nagq, reml=reml)
        return jnp.append(jnp.concatenate([*found.params.beta[None], found.u]), found.deviance)

    direction = jnp.asarray(np.random.default_rng(3).normal(size=model.n))
    forward = jax.jvp(numbers, (model.offset,), (direction,))[1]
    h = 1e-3
    up, down = (numbers(model.offset + s * direction) for s in (h, -h))
    np.testing.assert_allclose(forward, (up - down) / (2 * h), rtol=1e-5, atol=2e-5)


def test_many_rare_events_are_not_separated() -> None:
    # Four events in 6,000 rows: no row holds information, all together hold enough.
    rare = np.zeros(6000)
    rare[[10, 2000, 3500, 5000]] = 1
    y = np.concatenate([np.random.default_rng(0).poisson(50, 300), rare])
    data = pd.DataFrame({"y": y, "b": (np.arange(6300) >= 300) * 1, "g": np.arange(6300) % 20})
    fit = gj.glmer("y ~ b + (1 | g)", data, family="poisson")
    assert fit.converged and fit.bse["b"] == pytest.approx(0.5, rel=0.02)


def test_every_separated_coefficient_is_named() -> None:
    data = frame()
    r1, r2 = np.zeros(200), np.zeros(200)
    r1[np.flatnonzero(data["y"] == 1)[:3]] = 1
    r2[np.flatnonzero(data["y"] == 0)[:7]] = 1
    fit = gj.glmer("y ~ r1 + r2 + x + (1 | g)", data.assign(r1=r1, r2=r2), family="bernoulli")
    assert list(fit.estimate.separated) == [False, True, True, False]


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
