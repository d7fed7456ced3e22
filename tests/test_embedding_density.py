"""The log density for samplers: the likelihood, the prior and the Jacobian, each once."""

from __future__ import annotations

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from designs import Design
from jax.scipy import stats

import glmm_jax as gj
from glmm_jax.model import Params, flatten, unflatten

# Every kind of covariance.
FORMULA = "y ~ x + (x | g) + cs(0 + k | h) + ar1(0 + c | b)"


def half_normal(params: Params) -> jax.Array:
    """theta >= 0 with density 2 N(theta; 0, 1)."""
    return jnp.sum(stats.norm.logpdf(params.theta)) + np.log(2.0)


def test_positions_and_parameters() -> None:
    """`constrain` is the inverse of `unconstrain`; the Jacobian is that of `constrain`."""
    model = gj.build_model(FORMULA, designs.data(Design("crossed", "gaussian", "identity")))
    density = gj.log_density(model, lambda params: jnp.zeros(()))
    head = gj.RandomEffectsHead.of(model, sd=0.8)
    params = jax.tree.map(lambda leaf: leaf + 0.1, head.params)
    position = density.unconstrain(params)
    again = density.constrain(position)
    np.testing.assert_allclose(flatten(again), flatten(params), rtol=1e-12)

    x = flatten(position) + 0.3

    def flat(x: jax.Array) -> jax.Array:
        return flatten(density.constrain(unflatten(x, model)))

    sign, jacobian = jnp.linalg.slogdet(jax.jacfwd(flat)(x))
    there = density.constrain(unflatten(x, model))
    expected = -0.5 * gj.deviance(there, model) + jacobian
    assert sign == 1.0
    np.testing.assert_allclose(density(unflatten(x, model)), expected, rtol=1e-10)


def test_its_gradient_is_that_of_the_deviance() -> None:
    """With theta = exp(x): d/dx = theta d/dtheta, and 1 from the Jacobian."""
    design = Design("scalar")
    model, params = designs.model(design), designs.params(design)
    density = gj.log_density(model, half_normal)
    position = density.unconstrain(params)
    found = jax.jit(jax.grad(density))(position)
    slope = jax.jit(jax.grad(gj.deviance))(params, model)
    np.testing.assert_allclose(found.beta, -0.5 * slope.beta, rtol=1e-10)
    np.testing.assert_allclose(
        found.theta, params.theta * (-0.5 * slope.theta - params.theta) + 1.0, rtol=1e-10
    )


def test_the_evidence_of_a_model_of_one_parameter() -> None:
    """The integral over the line of the position is that over theta of likelihood times prior, and
    by brute force over theta and the random effects of the groups too."""
    data = designs.data(Design("scalar"))
    model = gj.build_model("y ~ 0 + (1 | g)", data, "bernoulli")
    density = gj.log_density(model, half_normal, nagq=25)
    x = jnp.linspace(-14.0, 2.5, 331)
    at = jax.jit(jax.vmap(lambda t: density(Params(jnp.zeros(0), t[None]))))
    evidence = np.sum(np.exp(at(x))) * float(x[1] - x[0])

    y, g = np.asarray(model.y), np.asarray(model.structure.index[0])
    successes, rows = np.bincount(g, y), np.bincount(g)
    theta = np.linspace(0.0, 8.0, 801)[:, None, None]
    u = np.linspace(-8.0, 8.0, 801)
    b = theta * u
    log_p = successes[:, None] * b - rows[:, None] * np.logaddexp(0.0, b)
    normal = np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi) * (u[1] - u[0])
    likelihood = np.prod(np.sum(np.exp(log_p) * normal, axis=-1), axis=-1)
    prior = 2 * np.exp(-0.5 * theta[:, 0, 0] ** 2) / np.sqrt(2 * np.pi)
    brute = np.trapezoid(likelihood * prior, theta[:, 0, 0])
    assert evidence == pytest.approx(brute, rel=1e-5)


def test_wrong_arguments() -> None:
    model = designs.model(Design("scalar"))
    with pytest.raises(ValueError, match="nagq=0 finds beta itself"):
        gj.log_density(model, nagq=0)
    with pytest.raises(ValueError, match="give a function, params -> log density"):
        gj.log_density(model, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"params\.beta has shape"):
        gj.log_density(model)(Params(jnp.zeros(1), jnp.ones(1)))
