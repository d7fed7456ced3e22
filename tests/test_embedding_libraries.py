"""The head and the log density in the libraries that they are for, each where it is installed.

`pip install -e ".[test,embedding]"` installs them; the package itself knows none of them.
"""

from __future__ import annotations

from typing import Any

import designs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from designs import Design
from jax.flatten_util import ravel_pytree

import glmm_jax as gj
from glmm_jax.model import Model, Params

WIDTH, STEPS = 4, 5


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return designs.data(Design("scalar"))


@pytest.fixture(scope="module")
def model(data: pd.DataFrame) -> Model:
    """Random intercepts and no column in X: the network has all fixed effects."""
    return gj.build_model("y ~ 0 + (1 | g)", data, "bernoulli")


@pytest.fixture(scope="module")
def x(data: pd.DataFrame) -> jax.Array:
    return jnp.asarray(data[["x", "z"]].to_numpy())


def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """One hidden layer, (rows, 2) -> (rows,), in plain JAX."""
    hidden = jnp.tanh(x @ weights["inner"] + weights["shift"][None])
    return hidden @ weights["outer"] + weights["level"]


@pytest.fixture(scope="module")
def trained(model: Model, x: jax.Array) -> dict[str, Any]:
    """The network and its head at the start and after some steps of Adam, in plain JAX."""
    keys = jax.random.split(jax.random.key(8), 3)
    weights = {
        "inner": 0.5 * jax.random.normal(keys[0], (2, WIDTH)),
        "shift": 0.1 * jax.random.normal(keys[1], (WIDTH,)),
        "outer": 0.5 * jax.random.normal(keys[2], (WIDTH,)),
        "level": jnp.zeros(()),
    }
    start = {"weights": weights, "head": gj.RandomEffectsHead.of(model)}

    def loss(at: dict[str, Any]) -> jax.Array:
        return at["head"].nll(network(at["weights"], x), model)

    end, values = adam(loss, start)
    assert values[-1] < values[0]
    assert not np.allclose(end["head"].params.theta, start["head"].params.theta, atol=1e-3)
    return {"start": start, "end": end, "values": values}


def adam(loss: Any, start: Any) -> tuple[Any, np.ndarray]:
    """Where `STEPS` steps of Adam lead, and the loss before each."""
    optimizer = optax.adam(0.05)

    @jax.jit
    def step(at: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(at)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(at, updates), state, value

    state, values = optimizer.init(start), []
    for _ in range(STEPS):
        start, state, value = step(start, state)
        values.append(float(value))
    return start, np.array(values)


def test_a_field_of_an_equinox_module(model: Model, x: jax.Array, trained: dict) -> None:
    eqx = pytest.importorskip("equinox", reason="equinox is not installed")

    class Net(eqx.Module):
        mlp: eqx.nn.MLP
        head: gj.RandomEffectsHead

        def loss(self, x: jax.Array, model: Model) -> jax.Array:
            return self.head.nll(jax.vmap(self.mlp)(x)[:, 0], model)

    weights, head = trained["start"]["weights"], trained["start"]["head"]
    mlp = eqx.nn.MLP(2, 1, WIDTH, 1, jnp.tanh, key=jax.random.key(0))
    net = eqx.tree_at(
        lambda net: [part for layer in net.mlp.layers for part in (layer.weight, layer.bias)],
        Net(mlp, head),
        [weights["inner"].T, weights["shift"], weights["outer"][None], weights["level"][None]],
    )
    optimizer = optax.adam(0.05)
    state = optimizer.init(eqx.filter(net, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(net: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        value, gradient = eqx.filter_value_and_grad(lambda net: net.loss(x, model))(net)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(net, updates), state, value

    values = []
    for _ in range(STEPS):
        net, state, value = step(net, state)
        values.append(float(value))
    assert isinstance(net.head, gj.RandomEffectsHead)
    np.testing.assert_allclose(values, trained["values"], rtol=1e-9)
    end = trained["end"]
    np.testing.assert_allclose(net.head.params.theta, end["head"].params.theta, rtol=1e-7)
    np.testing.assert_allclose(
        net.mlp.layers[0].weight.T, end["weights"]["inner"], rtol=1e-7, atol=1e-9
    )


def test_a_parameter_of_a_flax_module(model: Model, x: jax.Array, trained: dict) -> None:
    nn = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, model: Model) -> jax.Array:
            inner = nn.Dense(WIDTH, param_dtype=x.dtype, name="inner")
            output = nn.Dense(1, param_dtype=x.dtype, name="outer")(nn.tanh(inner(x)))[:, 0]
            head = self.param("head", lambda key: gj.RandomEffectsHead.of(model))
            return head.nll(output, model)

    net, weights = Net(), trained["start"]["weights"]
    variables = net.init(jax.random.key(0), x, model)
    assert isinstance(variables["params"]["head"], gj.RandomEffectsHead)
    start = {
        "inner": {"kernel": weights["inner"], "bias": weights["shift"]},
        "outer": {"kernel": weights["outer"][:, None], "bias": weights["level"][None]},
        "head": variables["params"]["head"],
    }
    assert jax.tree.structure(start) == jax.tree.structure(variables["params"])
    end, values = adam(lambda at: net.apply({"params": at}, x, model), start)
    np.testing.assert_allclose(values, trained["values"], rtol=1e-9)
    np.testing.assert_allclose(
        end["head"].params.theta, trained["end"]["head"].params.theta, rtol=1e-7
    )
    np.testing.assert_allclose(
        end["inner"]["kernel"], trained["end"]["weights"]["inner"], rtol=1e-7, atol=1e-9
    )


def test_parameters_of_an_nnx_module(model: Model, x: jax.Array, trained: dict) -> None:
    """A `Param` for each array of the head: `nnx.Optimizer` makes something else of a whole one."""
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.inner = nnx.Linear(2, WIDTH, param_dtype=x.dtype, rngs=rngs)
            self.outer = nnx.Linear(WIDTH, 1, param_dtype=x.dtype, rngs=rngs)
            self.head = nnx.data(jax.tree.map(nnx.Param, gj.RandomEffectsHead.of(model)))

        def loss(self, x: jax.Array, model: Model) -> jax.Array:
            output = self.outer(jnp.tanh(self.inner(x)))[:, 0]
            return nnx.as_pure(self.head).nll(output, model)

    net, weights = Net(nnx.Rngs(0)), trained["start"]["weights"]
    net.inner.kernel[...], net.inner.bias[...] = weights["inner"], weights["shift"]
    net.outer.kernel[...], net.outer.bias[...] = weights["outer"][:, None], weights["level"][None]
    optimizer = nnx.Optimizer(net, optax.adam(0.05), wrt=nnx.Param)

    @nnx.jit
    def step(net: Any, optimizer: Any, x: jax.Array, model: Model) -> jax.Array:
        value, gradient = nnx.value_and_grad(lambda net: net.loss(x, model))(net)
        optimizer.update(net, gradient)
        return value

    values = [float(step(net, optimizer, x, model)) for _ in range(STEPS)]
    np.testing.assert_allclose(values, trained["values"], rtol=1e-9)
    head = nnx.as_pure(net.head)
    assert isinstance(head, gj.RandomEffectsHead)
    np.testing.assert_allclose(head.params.theta, trained["end"]["head"].params.theta, rtol=1e-7)
    np.testing.assert_allclose(
        net.inner.kernel[...], trained["end"]["weights"]["inner"], rtol=1e-7, atol=1e-9
    )


def prior(params: Params) -> jax.Array:
    """N(0, 2^2) on beta, half-normal on theta, up to a constant."""
    return -0.125 * jnp.sum(params.beta**2) - 0.5 * jnp.sum(params.theta**2)


@pytest.fixture(scope="module")
def density(data: pd.DataFrame) -> Any:
    return gj.log_density(gj.build_model("y ~ 1 + (1 | g)", data, "bernoulli"), prior)


@pytest.fixture(scope="module")
def posterior(density: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the intercept and of log(sd), by the density on a grid of positions."""
    intercepts, logs = jnp.linspace(-3.0, 3.0, 61), jnp.linspace(-6.0, 2.0, 81)
    grid = jnp.stack([a.ravel() for a in jnp.meshgrid(intercepts, logs, indexing="ij")], axis=1)
    at = jax.jit(lambda g: jax.lax.map(lambda p: density(Params(p[:1], p[1:])), g, batch_size=128))
    log_p, grid = np.asarray(at(grid)), np.asarray(grid)
    mass = np.exp(log_p - log_p.max())
    mass /= mass.sum()
    mean = mass @ grid
    return mean, np.sqrt(mass @ (grid - mean) ** 2)


def agree(draws: np.ndarray, posterior: tuple[np.ndarray, np.ndarray]) -> None:
    """Draws (n, 2) that depend on each other as those of NUTS do: some hundred count as free."""
    mean, sd = posterior
    assert np.all(np.isfinite(draws))
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4.0 * sd / np.sqrt(len(draws) / 5))
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=0.2)


def test_sampled_by_numpyro(density: Any, posterior: tuple) -> None:
    infer = pytest.importorskip("numpyro.infer", reason="numpyro is not installed")
    start = density.unconstrain(gj.RandomEffectsHead.of(density.model).params)
    kernel = infer.NUTS(potential_fn=lambda at: -density(at))
    mcmc = infer.MCMC(kernel, num_warmup=300, num_samples=1500, progress_bar=False)
    mcmc.run(jax.random.key(0), init_params=start)
    draws = mcmc.get_samples()
    agree(np.column_stack([draws.beta, draws.theta]), posterior)
    np.testing.assert_allclose(jax.vmap(density.constrain)(draws).theta, np.exp(draws.theta))


def test_sampled_by_blackjax(density: Any, posterior: tuple) -> None:
    blackjax = pytest.importorskip("blackjax", reason="blackjax is not installed")
    start = density.unconstrain(gj.RandomEffectsHead.of(density.model).params)
    kernel = blackjax.nuts(density, step_size=0.4, inverse_mass_matrix=posterior[1] ** 2)

    @jax.jit
    def run(key: jax.Array) -> Params:
        def step(state: Any, key: jax.Array) -> tuple[Any, Params]:
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, kernel.init(start), jax.random.split(key, 1500))[1]

    draws = run(jax.random.key(1))
    flat = jax.vmap(lambda at: ravel_pytree(at)[0])(draws)
    agree(np.asarray(flat)[100:], posterior)
