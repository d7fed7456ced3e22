"""The conditional mode: stationary to rounding, the minimum that SciPy finds, in few steps.

SciPy minimises f with plain matrices and its own densities. The random effects stand in another
order there, so what is compared is Z Lambda u, row by row, and |u|^2.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from designs import Design
from scipy import optimize, special, stats

import glmm_jax as gj
from glmm_jax import pirls
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, flatten, lambdas, unflatten

CASES = [
    Design("five_columns", "bernoulli", "logit"),
    Design("crossed", "bernoulli", "probit"),
    Design("scalar", "bernoulli", "cloglog", offset=True),
    Design("slope", "bernoulli", "cauchit"),
    Design("slope", "binomial", "logit", offset=True, weights=True),
    Design("crossed_three", "poisson", "log", offset=True, weights=True),
    Design("two_terms", "poisson", "sqrt", weights=True),
    Design("crossed_slopes", "gaussian", "identity", weights=True),
    Design("nested_and_crossed", "gaussian", "log", offset=True),
]
NOT_CANONICAL = [one for one in CASES if not one.distribution.is_canonical]


@jax.jit
def find(params: Params, model: Model, guess: jax.Array) -> tuple[pirls.Mode, jax.Array, jax.Array]:
    """The mode, the score there, and Z Lambda u."""
    mode = pirls.find_mode(params, model, guess)
    random = base.multiply(model.structure, model.Z, lambdas(params.theta, model), mode.u)
    return mode, pirls.score(mode.u, params, model), random


@cache
def problem(case: Design) -> tuple[Params, Model]:
    return designs.params(case), designs.model(case)


def penalised(case: Design, params: Params):
    """f(u, beta) = -2 sum_i w_i log p(y_i | eta_i) + |u|^2 by SciPy, and Z Lambda."""
    rows = designs.plain(case)
    ZLambda = rows.Z @ rows.Lambda(np.asarray(params.theta))
    y, size = rows.y, rows.size

    def mean(eta: np.ndarray) -> np.ndarray:
        return {
            "logit": special.expit,
            "probit": stats.norm.cdf,
            "cloglog": lambda eta: -np.expm1(-np.exp(eta)),
            "cauchit": stats.cauchy.cdf,
            "log": np.exp,
            "sqrt": np.square,
            "identity": lambda eta: eta,
        }[case.link](eta)

    def log_density(mu: np.ndarray) -> np.ndarray:
        if case.family == "poisson":
            return stats.poisson.logpmf(y, mu)
        if case.family == "gaussian":
            sigma = np.exp(0.5 * params.dispersion)
            return stats.norm.logpdf(y, mu, sigma / np.sqrt(1.0 if size is None else size))
        return stats.binom.logpmf(y, 1 if size is None else size, mu)

    def f(u: np.ndarray, beta: np.ndarray) -> float:
        eta = rows.X @ beta + ZLambda @ u + rows.offset
        return -2.0 * np.sum(rows.weights * log_density(mean(eta))) + u @ u

    return f, ZLambda


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_mode(case: Design) -> None:
    params, model = problem(case)
    mode, score, random = find(params, model, jnp.zeros(model.q))
    assert mode.converged and mode.trips <= 12
    # What is left is rounding of the n terms that the score sums up.
    rows = jnp.abs(pirls.row_score(params, model, predictor(params, model, random)))
    assert jnp.max(jnp.abs(score)) < 1e-14 * jnp.maximum(1.0, jnp.sum(rows))
    np.testing.assert_array_equal(mode.beta, params.beta)

    f, ZLambda = penalised(case, params)
    beta = np.asarray(params.beta)
    found = optimize.minimize(f, np.zeros(ZLambda.shape[1]), beta, "BFGS", options={"gtol": 1e-5})
    np.testing.assert_allclose(random, ZLambda @ found.x, atol=2e-5)
    np.testing.assert_allclose(mode.u @ mode.u, found.x @ found.x, rtol=1e-4)

    # Where the search starts changes its cost alone.
    far = 4.0 * jnp.sin(jnp.arange(model.q) + 1.0) * (0.1 if case.link == "sqrt" else 1.0)
    from_afar = find(params, model, far)[0]
    assert from_afar.converged
    np.testing.assert_allclose(from_afar.u, mode.u, atol=1e-13)
    again = find(params, model, mode.u)[0]
    assert again.converged and again.trips == 1
    np.testing.assert_allclose(again.u, mode.u, atol=1e-14)


@pytest.mark.parametrize("case", [one for one in CASES if "crossed" in one.structure], ids=str)
def test_a_factor_that_is_kept(case: Design, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a factor serves more than one step the mode is the same, with beta or without."""
    params, model = problem(case)
    joint = case.family != "bernoulli"
    made = []
    factorise = pirls.factorise

    def counted(*args):
        jax.debug.callback(lambda: made.append(1))
        return factorise(*args)

    monkeypatch.setattr(pirls, "factorise", counted)
    wave = jnp.sin(jnp.arange(model.q) + 1.0)
    starts = jnp.stack([jnp.zeros(model.q), 0.5 * wave, 4.0 * wave])  # the last overshoots
    modes = []
    for least in (10**6, 1):
        monkeypatch.setattr(pirls, "KEPT_FROM", least)
        run = jax.jit(lambda u: pirls.find_mode(params, model, u, joint))
        modes.append([run(u) for u in starts])
        jax.effects_barrier()
        counts, made = len(made), []
        if least == 1:
            assert counts < sum(int(mode.trips) for mode in modes[1])
        else:
            assert counts == sum(int(mode.trips) for mode in modes[0])
    for newton, kept in zip(*modes, strict=True):
        assert newton.converged and kept.converged
        assert kept.trips <= newton.trips + 4
        np.testing.assert_allclose(kept.u, newton.u, atol=1e-13)
        np.testing.assert_allclose(kept.beta, newton.beta, atol=1e-13)


def predictor(params: Params, model: Model, random: jax.Array) -> jax.Array:
    return model.X @ params.beta + random + model.offset


@pytest.mark.parametrize("case", NOT_CANONICAL, ids=str)
def test_convergence_is_quadratic_for_every_link(case: Design) -> None:
    """From an error of 1e-3 to 1e-6 to 1e-12: scoring with the expected information takes more."""
    params, model = problem(case)
    mode = find(params, model, jnp.zeros(model.q))[0]
    near = find(params, model, mode.u + 1e-3 * jnp.cos(jnp.arange(model.q)))[0]
    assert near.converged and near.trips <= 3
    np.testing.assert_allclose(near.u, mode.u, atol=1e-14)


def test_gaussian_mode_is_the_ridge_solution() -> None:
    case = Design("crossed_slopes", "gaussian", "identity", weights=True)
    params, model = problem(case)
    mode, _, random = find(params, model, jnp.ones(model.q))
    assert mode.trips <= 2
    _, ZLambda = penalised(case, params)
    rows = designs.plain(case)
    W = rows.size * np.exp(-params.dispersion)
    left = ZLambda.T @ (W[:, None] * ZLambda) + np.eye(ZLambda.shape[1])
    u = np.linalg.solve(left, ZLambda.T @ (W * (rows.y - rows.X @ np.asarray(params.beta))))
    np.testing.assert_allclose(random, ZLambda @ u, atol=1e-12)


# Trouble


def test_no_mode_is_nan_and_harms_no_other() -> None:
    case = Design("scalar", "bernoulli", "cloglog", offset=True)
    good, model = problem(case)
    wrong = [
        replace(good, theta=good.theta.at[0].set(jnp.nan)),
        replace(good, beta=good.beta.at[0].set(jnp.inf)),
        replace(good, beta=good.beta.at[2].set(jnp.nan)),
    ]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *wrong, good)
    modes, deviances = jax.jit(
        jax.vmap(lambda params: (gj.conditional_mode(params, model), gj.deviance(params, model)))
    )(batch)
    assert np.isnan(modes[:3]).all() and np.isnan(deviances[:3]).all()
    expected = find(good, model, jnp.zeros(model.q))[0]
    np.testing.assert_allclose(modes[3], expected.u, atol=1e-14)
    assert np.isfinite(deviances[3])


def test_no_valid_mean_at_the_start_is_no_mode() -> None:
    """sqrt(mu) = eta < 0 for a row: there is nothing to descend from."""
    params, model = problem(Design("two_terms", "poisson", "sqrt", weights=True))
    mode = find(replace(params, beta=jnp.asarray([-1.0, 0.0, 0.0])), model, jnp.zeros(model.q))[0]
    assert not mode.converged and mode.trips < pirls.MAX_TRIPS


@pytest.mark.parametrize("size", [1e-12, 30.0, 1e4])
def test_extreme_variances(size: float) -> None:
    params, model = problem(Design("five_columns", "bernoulli", "logit"))
    params = replace(params, theta=size * params.theta)
    mode, score, _ = find(params, model, jnp.zeros(model.q))
    assert mode.converged
    # u moves eta by `size`, and so does its rounding.
    assert jnp.max(jnp.abs(score)) < 1e-13 * max(1.0, size**2)


def test_a_step_to_infinity_is_halved() -> None:
    """From means far below the counts a Newton step in the log overflows."""
    case = Design("crossed_three", "poisson", "log", offset=True, weights=True)
    params, model = problem(case)
    model = replace(model, y=1000.0 * model.y)
    low = replace(params, beta=params.beta.at[0].add(-7.0))
    mode, score, _ = find(low, model, jnp.zeros(model.q))
    assert mode.converged
    assert jnp.max(jnp.abs(score)) < 1e-12 * jnp.sum(model.weights * model.y)


def test_large_counts() -> None:
    """f sums terms of 1e9 to some hundreds: it cannot resolve the last steps, the decrement can."""
    params, model = problem(Design("crossed_three", "poisson", "log", offset=True, weights=True))
    params = replace(params, beta=params.beta.at[0].add(np.log(1e8)))
    effects = jnp.sin(jnp.arange(model.q) + 1.0)
    random = base.multiply(model.structure, model.Z, lambdas(params.theta, model), effects)
    mean = np.asarray(jnp.exp(predictor(params, model, random)))
    for seed in range(5):
        y = np.random.default_rng(seed).poisson(mean).astype(float)
        mode, score, _ = find(params, model.replace(y=jnp.asarray(y)), jnp.zeros(model.q))
        assert mode.converged and mode.trips < 30
        assert jnp.max(jnp.abs(score)) < 1e-14 * y.sum()


def test_single_precision(default_precision: None) -> None:
    case = Design("nested", "binomial", "probit")
    model = designs.model(case)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), designs.params(case))
    assert model.y.dtype == jnp.float32
    mode, score, _ = find(params, model, jnp.zeros(model.q))
    assert mode.u.dtype == jnp.float32 and mode.converged and mode.trips <= 9
    assert jnp.max(jnp.abs(score)) < 1e-4


# Derivatives


@pytest.mark.parametrize("joint", [False, True], ids=["u", "u and beta"])
def test_derivatives_of_the_mode(joint: bool) -> None:
    """Implicit, forward and reverse, from any guess: differences of order four, error 1e-9."""
    case = Design("scalar", "bernoulli", "cloglog", offset=True)
    params, model = problem(case)
    x = flatten(params)
    zeros = jnp.zeros(model.q)

    def mode(x, guess, solved):
        here = unflatten(x, model)
        if not joint:
            return pirls.conditional_mode(here, model, guess[0], solved)
        return jnp.concatenate(pirls.joint_mode(here, model, guess, solved))

    @jax.jit
    def everything(x):
        u = mode(x, (zeros, params.beta), False)
        guess = (u[: model.q], u[model.q :])
        return u, {
            "forward": jax.jacfwd(mode)(x, (zeros, params.beta), False),
            "reverse": jax.jacrev(mode)(x, (zeros, params.beta), False),
            "solved": jax.jacfwd(mode)(x, guess, True),
        }

    _, slopes = everything(x)
    value = jax.jit(lambda x: mode(x, (zeros, params.beta), False))
    step = 1e-3

    def change(i: int, multiple: int) -> np.ndarray:
        return np.asarray(value(x.at[i].add(multiple * step)))

    differences = np.stack(
        [
            (8 * (change(i, 1) - change(i, -1)) - (change(i, 2) - change(i, -2))) / (12 * step)
            for i in range(x.size)
        ],
        axis=1,
    )
    if joint:  # beta is a result, not a parameter
        np.testing.assert_array_equal(slopes["forward"][:, : model.p], 0.0)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, differences, atol=1e-8, err_msg=name)


# The joint mode of u and beta


@jax.jit
def find_joint(params: Params, model: Model):
    guess = jnp.zeros(model.q), params.beta
    u, beta = pirls.joint_mode(params, model, guess)
    here = replace(params, beta=beta)
    random = base.multiply(model.structure, model.Z, lambdas(params.theta, model), u)
    rows = pirls.row_score(here, model, predictor(here, model, random))
    deviances = gj.deviance(params, model, nagq=0), gj.deviance(here, model)
    return u, beta, random, pirls.score(u, here, model), model.X.T @ rows, deviances


def test_joint_mode() -> None:
    case = Design("slope", "binomial", "logit", offset=True, weights=True)
    params, model = problem(case)
    u, beta, random, score, score_beta, (joint, at_mode) = find_joint(params, model)
    assert jnp.max(jnp.abs(score)) < 1e-12 and jnp.max(jnp.abs(score_beta)) < 1e-12
    # nAGQ = 0 is the Laplace deviance at that beta, wherever beta began.
    np.testing.assert_allclose(joint, at_mode, rtol=1e-13)
    moved = replace(params, beta=params.beta + 0.5)
    np.testing.assert_allclose(find_joint(moved, model)[-1][0], joint, rtol=1e-13)

    f, ZLambda = penalised(case, params)
    q = ZLambda.shape[1]
    start = np.zeros(q + model.p)
    found = optimize.minimize(lambda x: f(x[:q], x[q:]), start, method="BFGS").x
    np.testing.assert_allclose(beta, found[q:], atol=1e-4)
    np.testing.assert_allclose(random, ZLambda @ found[:q], atol=1e-4)
    np.testing.assert_allclose(u @ u, found[:q] @ found[:q], rtol=1e-3)


def test_joint_mode_of_a_gaussian_model_solves_the_mixed_model_equations() -> None:
    case = Design("crossed_slopes", "gaussian", "identity", weights=True)
    params, model = problem(case)
    _, beta, random, *_ = find_joint(params, model)
    _, ZLambda = penalised(case, params)
    rows = designs.plain(case)
    both = np.concatenate([ZLambda, rows.X], axis=1)
    W = rows.size * np.exp(-params.dispersion)
    penalty = np.diag(np.r_[np.ones(ZLambda.shape[1]), np.zeros(model.p)])
    solved = np.linalg.solve(both.T @ (W[:, None] * both) + penalty, both.T @ (W * rows.y))
    np.testing.assert_allclose(beta, solved[-model.p :], atol=1e-11)
    np.testing.assert_allclose(random, ZLambda @ solved[: -model.p], atol=1e-11)
