"""Adaptive quadrature against brute-force integration, and its derivatives against differences."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from designs import Design, frame, model, params, plain
from scipy.special import logsumexp

from glmm_jax import Params, deviance, estimate
from glmm_jax.model import Model, flatten, unflatten
from glmm_jax.objective import laplace, quadrature
from glmm_jax.objective.marginal import marginal
from glmm_jax.pirls import conditional_mode

ONE_FACTOR = [
    Design("scalar", "bernoulli", "logit"),
    Design("slope", "poisson", "log", offset=True, weights=True),
    Design("scalar", "bernoulli", "cloglog", curvature="observed"),
]
NESTED = [
    Design("nested", "bernoulli", "logit"),
    Design("nested", "poisson", "log", weights=True),
    Design("nested_three", "bernoulli", "logit"),
]


def log_rows(design: Design, eta: np.ndarray) -> np.ndarray:
    """w_i log p(y_i | eta_i) for eta (n, points)."""
    rows = plain(design)
    size = None if rows.size is None else rows.size[:, None]
    value = design.distribution.log_prob(rows.y[:, None], jnp.asarray(eta), None, size)
    return rows.weights[:, None] * np.asarray(value)


def brute_force(design: Design, there: Params, half_width: float = 9.0, points: int = 201) -> float:
    """-2 log of the integral by the trapezoidal rule over u, all factors nested in the last.

    The integrand is analytic and falls like a normal density, for which the rule converges faster
    than any power of its step.
    """
    rows = plain(design)
    beta = np.asarray(there.beta)
    base = rows.X @ beta + rows.offset
    step = np.linspace(-half_width, half_width, points)
    log_weight = np.log(step[1] - step[0]) - 0.5 * step**2 - 0.5 * np.log(2 * np.pi)
    theta = np.asarray(there.theta)
    if len(rows.terms) == 1 and rows.terms[0][0].shape[1] == 2:
        ((Z, index, levels),) = rows.terms
        Lambda = np.array([[theta[0], 0.0], [theta[1], theta[2]]])
        u = np.stack(np.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)
        eta = base[:, None] + Z @ Lambda @ u.T
        weight = (log_weight[:, None] + log_weight[None]).ravel()
        log_p = log_rows(design, eta)
        return -2 * sum(logsumexp(log_p[index == g].sum(0) + weight) for g in range(levels))
    if len(rows.terms) == 1:
        ((Z, index, levels),) = rows.terms
        log_p = log_rows(design, base[:, None] + Z * theta[0] * step)
        return -2 * sum(logsumexp(log_p[index == g].sum(0) + log_weight) for g in range(levels))
    (Zb, inner, inner_levels), (Za, outer, outer_levels) = rows.terms
    assert Zb.shape[1] == Za.shape[1] == 1
    grid_a, grid_b = (part.ravel() for part in np.meshgrid(step, step, indexing="ij"))
    eta = base[:, None] + theta[0] * Zb * grid_b + theta[1] * Za * grid_a
    log_p = log_rows(design, eta).reshape(len(base), points, points)
    by_outer = np.zeros((outer_levels, points))
    for b in range(inner_levels):
        rows_b = inner == b
        inside = logsumexp(log_p[rows_b].sum(0) + log_weight[None], axis=1)
        by_outer[outer[rows_b][0]] += inside
    return -2 * float(np.sum(logsumexp(by_outer + log_weight[None], axis=1)))


@jax.jit
def by_laplace_one_and_many_nodes(there: Params, data: Model) -> tuple[jax.Array, ...]:
    u = conditional_mode(there, data)
    by_nodes = (quadrature.deviance_at_mode(there, data, u, k) for k in (1, 25))
    return laplace.deviance_at_mode(there, data, u), *by_nodes


@pytest.mark.parametrize("design", [*ONE_FACTOR[:2], NESTED[1]], ids=str)
def test_one_node_is_the_laplace_approximation_and_many_the_integral(design: Design) -> None:
    there = params(design)
    approximation, one, many = by_laplace_one_and_many_nodes(there, model(design))
    np.testing.assert_allclose(one, approximation, rtol=1e-13)
    exact = brute_force(design, there)
    assert abs(many - exact) < 1e-6
    # Laplace is another number: without that the comparison says nothing.
    assert abs(one - exact) > 1e-3


@pytest.mark.parametrize("design", [ONE_FACTOR[1], NESTED[2]], ids=str)
def test_padding_changes_nothing(design: Design) -> None:
    there = params(design)
    value = partial(deviance, nagq=5)
    found = jax.jit(value)(there, model(design, padded=True))
    np.testing.assert_allclose(found, jax.jit(value)(there, model(design)), rtol=1e-13)


@pytest.mark.parametrize("design", [ONE_FACTOR[1], ONE_FACTOR[2], NESTED[0]], ids=str)
def test_gradient_and_hessian_are_those_of_differences(design: Design) -> None:
    data = model(design)
    x = flatten(params(design))

    def value(x):
        return deviance(unflatten(x, data), data, nagq=5)

    def with_gradient(x):
        d, g = jax.value_and_grad(value)(x)
        return g, (d, g)

    derivatives = jax.jit(jax.jacfwd(with_gradient, has_aux=True))
    step = 1e-5
    ends = [(derivatives(x + step * e)[1], derivatives(x - step * e)[1]) for e in np.eye(len(x))]
    hessian, (_, gradient) = derivatives(x)
    # Rounding of a value near 100 over the step: 1e-14 * 100 / 1e-5.
    slopes = [(up[0] - down[0]) / (2 * step) for up, down in ends]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)
    bends = [(up[1] - down[1]) / (2 * step) for up, down in ends]
    np.testing.assert_allclose(hessian, bends, rtol=1e-5, atol=1e-5)


def test_blocks_of_nodes_give_the_same_value_and_gradient(monkeypatch) -> None:
    design = Design("slope", "poisson", "log", offset=True, weights=True)
    data, there = model(design), params(design)
    u = jnp.zeros(data.q)

    def value(p: Params) -> jax.Array:  # what `deviance` compiles, traced anew each time
        return marginal(p, data, u, 5)[0]

    assert "remat" not in str(jax.make_jaxpr(value)(there))
    whole = jax.jit(jax.value_and_grad(lambda p: value(p)))(there)
    monkeypatch.setattr(quadrature, "LARGEST_BLOCK", 500)
    assert "remat" in str(jax.make_jaxpr(lambda p: value(p))(there))
    parts = jax.jit(jax.value_and_grad(lambda p: value(p)))(there)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-13)
    np.testing.assert_allclose(flatten(parts[1]), flatten(whole[1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [4, 5])
def test_pruned_grids_hold_the_moments_of_a_normal_distribution(k: int) -> None:
    points, log_weights = quadrature.grid(7, k)
    weights = np.exp(log_weights)
    assert len(points) < 7**k
    assert abs(weights.sum() - 1) < 1e-9
    np.testing.assert_allclose(weights @ points**2, np.ones(k), atol=1e-7)
    np.testing.assert_allclose(weights @ (points[:, 0] ** 2 * points[:, 1] ** 2), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("nagq", "message"),
    [
        (-1, "nagq=-1; use 1"),
        (2.0, r"nagq=2\.0; use 1"),
        (True, "nagq=True; use 1"),
        (102, "at most 101 nodes"),
    ],
)
def test_a_number_of_nodes_that_cannot_be_is_refused(nagq, message) -> None:
    design = ONE_FACTOR[0]
    with pytest.raises(ValueError, match=message):
        deviance(params(design), model(design), nagq=nagq)
    with pytest.raises(ValueError, match=message):
        estimate(model(design), nagq=nagq)


def test_crossed_factors_are_refused_with_what_to_do() -> None:
    design = Design("crossed", "poisson", "log")
    with pytest.raises(ValueError, match=r"crossed.*Use nagq=1 \(Laplace\)"):
        deviance(params(design), model(design), nagq=5)


def test_grids_too_large_are_refused() -> None:
    design = Design("five_columns")
    assert len(frame(design).blocks[0].names) == 5
    with pytest.raises(ValueError, match=r"in 5 dimensions makes .* nodes for each row"):
        deviance(params(design), model(design), nagq=25)
