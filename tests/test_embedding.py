"""The marginal likelihood inside larger functions: a loss, a head on a network, predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from designs import Design
from jax.flatten_util import ravel_pytree

import glmm_jax as gj
from glmm_jax.model import Model, Params, lambdas

HIDDEN = 3


@partial(jax.tree_util.register_dataclass, data_fields=["inner", "outer", "head"], meta_fields=[])
@dataclass(frozen=True)
class Network:
    """What Equinox makes of a module: a dataclass that is a pytree, here with a head in it."""

    inner: jax.Array
    outer: jax.Array
    head: gj.RandomEffectsHead

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ self.inner) @ self.outer


@pytest.fixture(scope="module")
def model() -> Model:
    """Random intercepts, an offset, no column left for X: the network has all fixed effects."""
    data = designs.data(Design("scalar"))
    return gj.build_model("y ~ 0 + (1 | g)", data, "bernoulli", offset="exposure")


@pytest.fixture(scope="module")
def x() -> jax.Array:
    return jnp.asarray(designs.data(Design("scalar"))[["x", "z"]].to_numpy())


@pytest.fixture(scope="module")
def network(model: Model) -> Network:
    keys = jax.random.split(jax.random.key(3))
    inner, outer = (
        jax.random.normal(k, s) for k, s in zip(keys, [(2, HIDDEN), (HIDDEN,)], strict=True)
    )
    return Network(inner, outer, gj.RandomEffectsHead.of(model, sd=0.7))


def test_the_loss_is_half_the_deviance(model: Model, x: jax.Array) -> None:
    params, loss = Params(jnp.zeros(0), jnp.array([0.6])), gj.marginal_nll(model)
    there = model.replace(offset=x[:, 0])
    assert loss(params, offset=x[:, 0]) == 0.5 * gj.deviance(params, there)
    assert loss(params) == 0.5 * gj.deviance(params, model)
    nodes = gj.marginal_nll(model, nagq=5)
    assert nodes(params) == 0.5 * gj.deviance(params, model, nagq=5) != loss(params)


def test_gradients_of_a_network_with_a_head(model: Model, x: jax.Array, network: Network) -> None:
    """Every weight, and theta, against central differences of the loss."""

    @jax.jit
    def loss(network: Network) -> jax.Array:
        return network.head.nll(network(x), model)

    gradient = jax.jit(jax.grad(loss))(network)
    flat, unravel = ravel_pytree(network)
    found, _ = ravel_pytree(gradient)
    assert flat.size == 3 * HIDDEN + 1
    step = 1e-5
    for j, slope in enumerate(found):
        move = jnp.zeros_like(flat).at[j].set(step)
        difference = (loss(unravel(flat + move)) - loss(unravel(flat - move))) / (2 * step)
        assert slope == pytest.approx(float(difference), rel=1e-6, abs=1e-7)


def test_a_head_is_a_pytree_of_arrays(network: Network) -> None:
    """What Equinox, Flax and optax ask of a parameter."""
    leaves, tree = jax.tree.flatten(network.head)
    assert leaves and all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, gj.RandomEffectsHead) and hash(tree) == hash(jax.tree.structure(again))
    moved = jax.tree.map(lambda leaf: leaf - 0.1, {"head": network.head})["head"]
    np.testing.assert_allclose(moved.params.theta, network.head.params.theta - 0.1)
    with pytest.raises(AttributeError):
        network.head.params = moved.params
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(again)]
    assert paths == [".params.beta", ".params.theta"]


def test_a_head_starts_with_uncorrelated_effects() -> None:
    """Of every kind of covariance."""
    data = designs.data(Design("crossed", "gaussian", "identity"))
    model = gj.build_model("y ~ x + (x | g) + cs(0 + k | h) + ar1(0 + c | b)", data)
    head = gj.RandomEffectsHead.of(model, sd=0.4)
    for factor, sd in zip(lambdas(head.params.theta, model), head.deviations(model), strict=True):
        covariance = np.asarray(factor @ factor.T)
        np.testing.assert_allclose(covariance, np.diag(sd**2), atol=1e-15)
        assert np.all((sd > 0.15) & (sd < 0.45))
    assert head.params.dispersion == 0.0 and head.params.beta.shape == (2,)


def test_gaussian_predictions_are_exact() -> None:
    """For crossed factors too; of a Gaussian response by one multivariate normal distribution."""
    design = Design("crossed_slopes", "gaussian", "identity")
    model, params, plain = designs.model(design), designs.params(design), designs.plain(design)
    outer = np.asarray(model.structure.index[-1])
    known = (np.arange(model.n) % 3 > 0) & (outer > 0)  # of group 0 nothing is known
    output = jnp.sin(model.X[:, 1])
    head = gj.RandomEffectsHead(params)
    train = model.replace(weights=jnp.asarray(known, float))
    found = head.predict(output, train)

    mean = np.asarray(output + model.X @ params.beta)
    B = plain.Z @ plain.Lambda(np.asarray(params.theta))
    V, phi = B @ B.T, float(jnp.exp(params.dispersion))
    gain = np.linalg.solve(V[known][:, known] + phi * np.eye(known.sum()), V[known]).T
    eta = mean + gain @ (plain.y - mean)[known]
    variance = np.diag(V - gain @ V[known])
    np.testing.assert_allclose(found.eta, eta, rtol=1e-9)
    np.testing.assert_allclose(found.sd, np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose(found.mean(), eta, rtol=1e-9)
    spread = variance + phi
    score = -0.5 * (np.log(2 * np.pi * spread) + (plain.y - eta) ** 2 / spread)
    np.testing.assert_allclose(found.log_density()[~known], score[~known], rtol=1e-9)

    effects = head.effects(output, train)
    parts = zip(model.Z, effects, model.structure.index, strict=True)
    rows = sum(jnp.sum(z * b[index], axis=1) for z, b, index in parts)
    np.testing.assert_allclose(mean + rows, eta, rtol=1e-9)
    assert np.all(effects[-1][0] == 0.0) and np.all(effects[-1][1:] != 0.0)


def test_a_new_group_is_averaged_over(model: Model, network: Network, x: jax.Array) -> None:
    new = model.structure.index[0] == 2
    found = network.head.predict(network(x), model.replace(weights=jnp.where(new, 0.0, 1.0)))
    np.testing.assert_allclose(found.sd[new], 0.7, rtol=1e-12)
    b = np.linspace(-7.0, 7.0, 4001)
    density = np.exp(-0.5 * (b / 0.7) ** 2) / (0.7 * np.sqrt(2 * np.pi))
    eta = np.asarray(model.offset + network(x))[new]
    p = np.sum(density / (1 + np.exp(-eta[:, None] - b)), axis=1) * (b[1] - b[0])
    np.testing.assert_allclose(found.mean()[new], p, rtol=1e-9)
    y = np.asarray(model.y)[new]
    np.testing.assert_allclose(found.log_density()[new], np.log(np.where(y == 1, p, 1 - p)), 1e-8)
    assert np.all(found.sd[~new] < 0.7)


def test_outputs_of_another_shape(model: Model, network: Network, x: jax.Array) -> None:
    head = network.head
    with pytest.raises(ValueError, match=r"output has shape \(72, 1\).*\(72,\); take \[:, 0\]"):
        head.nll(network(x)[:, None], model)
    with pytest.raises(ValueError, match=r"output has shape \(3,\); give one number for each row"):
        head.predict(network(x[:3]), model)
    with pytest.raises(ValueError, match=r"output has shape \(\)"):
        head.effects(jnp.zeros(()), model)


def test_wrong_arguments(model: Model) -> None:
    with pytest.raises(ValueError, match="nagq=0 finds beta itself"):
        gj.marginal_nll(model, nagq=0)
    with pytest.raises(ValueError, match="nagq=True"):
        gj.marginal_nll(model, nagq=True)
    with pytest.raises(ValueError, match="model is a str; give a Model"):
        gj.marginal_nll("y ~ x")  # type: ignore[arg-type]
    loss, params = gj.marginal_nll(model), Params(jnp.zeros(0), jnp.array([0.6]))
    with pytest.raises(ValueError, match="offset= has shape"):
        loss(params, offset=jnp.zeros(3))
    with pytest.raises(ValueError, match="network= cannot be replaced"):
        loss(params, network=jnp.zeros(72))
    for sd in (0, -1.0, float("nan"), True, "1"):
        with pytest.raises(ValueError, match=r"sd=.*; give a positive number"):
            gj.RandomEffectsHead.of(model, sd=sd)
    with pytest.raises(ValueError, match=r"params\.theta has shape \(2,\)"):
        replace(gj.RandomEffectsHead.of(model), params=Params(jnp.zeros(0), jnp.ones(2))).nll(
            jnp.zeros(72), model
        )


def test_two_linear_predictors_of_a_row_are_refused() -> None:
    data = pd.DataFrame({"y": [0.0, 2.0, 3.0, 0.0, 1.0, 2.0], "g": [0, 0, 1, 1, 2, 2]})
    model = gj.build_model("y ~ 1 + (1 | g)", data, "poisson", zero_inflation="~ 1 + (1 | g)")
    params = gj.RandomEffectsHead.of(model).params
    with pytest.raises(ValueError, match="two linear predictors"):
        gj.embedding.predict(params, model)
