"""A network with a random-effects head against other ways to a nonlinear effect and groups.

    python benchmarks/neural_random_effects.py [--repeats 10] --python-peers .venv-peers/bin/python

0/1 responses in groups, simulated with a known nonlinear effect and a known standard deviation of
the groups (new data in every repeat), and the use of contraception in 60 districts (a new split of
the rows in every repeat). Each method sees the same training rows, is stopped where the same
validation rows are predicted best, and is scored on the same held-out rows: of groups it has seen,
and in the simulation of groups that it has not.

    alone     a network of the covariates
    one-hot   the network plus a free number for each group
    head      the network plus random effects: `gj.RandomEffectsHead`, trained by the marginal
              likelihood
    gpboost   trees boosted with random effects (GPBoost, `neural_gpboost.py`), if it is installed

All networks are the same but for that: two layers of 16, tanh, full batches, optax.adam(0.01).
Results go to benchmarks/results/neural_random_effects.json with machine and versions; the notebook
neural_random_effects.ipynb reads them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import report
from machine import RESULTS, header, write
from peers import peer_environment

import glmm_jax as gj

HERE = Path(__file__).resolve().parent
SD = 1.0
LEVELS, NEW_LEVELS = 80, 20
WIDTH, RATE, CHECKS, EVERY = 16, 0.01, 40, 10  # a check of the validation rows after EVERY steps
METHODS = ("alone", "one-hot", "head", "gpboost")


@dataclass(frozen=True)
class Task:
    """Rows of one comparison: frame has y and group; x (n, k) covariates of mean 0 and variance 1;
    part (n,), what each row is for: "train", "validate", "test" (known groups) or "new"."""

    name: str
    frame: pd.DataFrame
    x: np.ndarray
    part: np.ndarray
    effect: np.ndarray | None = None  # the true nonlinear effect of each row, if it is known

    def rows(self, part: str) -> np.ndarray:
        return self.part == part


def nonlinear(x: np.ndarray) -> np.ndarray:
    """The effect of three covariates that is simulated: a wave, and an interaction."""
    return 1.5 * np.sin(2.0 * x[:, 0]) + 1.2 * x[:, 1] * (x[:, 2] > 0) - 0.3


def simulated(seed: int) -> Task:
    """Groups of 10 to 60 rows, eta = nonlinear(x) + b, b of standard deviation SD."""
    rng = np.random.default_rng([20116, seed])
    # The same sizes in every repeat, so that one compiled program serves all.
    sizes = np.random.default_rng(20116).integers(10, 61, LEVELS + NEW_LEVELS)
    group = np.repeat(np.arange(sizes.size), sizes)
    x = rng.normal(size=(group.size, 3))
    effect = nonlinear(x)
    eta = effect + SD * rng.normal(size=sizes.size)[group]
    y = rng.uniform(size=group.size) < 1.0 / (1.0 + np.exp(-eta))
    frame = pd.DataFrame({"y": y.astype(float), "group": group})
    part = np.where(group < LEVELS, _split(rng, group.size), "new")
    return Task("simulated", frame, x, part, effect)


def contraception(seed: int) -> Task:
    """Age, number of living children and town or country of 1,934 women in 60 districts."""
    rng = np.random.default_rng([20117, seed])
    data = gj.datasets.load("contraception")
    columns = np.column_stack(
        [
            data["age"].to_numpy(float),
            data["livch"].cat.codes.to_numpy(float),
            (data["urban"] == "Y").to_numpy(float),
        ]
    )
    x = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    y = (data["use"] == "Y").to_numpy(float)
    frame = pd.DataFrame({"y": y, "group": data["district"].cat.codes.to_numpy()})
    return Task("contraception", frame, x, _split(rng, len(frame)))


def _split(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice(["train", "validate", "test"], n, p=[0.6, 0.15, 0.25])


def layers(key: jax.Array, inputs: int) -> list[dict[str, jax.Array]]:
    """Weights of a network with two hidden layers."""
    sizes = [(inputs, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
    keys = jax.random.split(key, len(sizes))
    return [
        {"W": jax.random.normal(k, s) / np.sqrt(s[0]), "b": jnp.zeros(s[1])}
        for k, s in zip(keys, sizes, strict=True)
    ]


def network(weights: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Output of the network for each row, (n,)."""
    for layer in weights[:-1]:
        x = jnp.tanh(x @ layer["W"] + layer["b"])
    return (x @ weights[-1]["W"] + weights[-1]["b"])[:, 0]


@partial(jax.jit, static_argnames=("loss", "log_density", "rate", "checks", "every"))
def train(
    start: Any,
    data: Any,
    validate: jax.Array,
    *,
    loss: Callable[[Any, Any], jax.Array],
    log_density: Callable[[Any, Any], jax.Array],
    rate: float = RATE,
    checks: int = CHECKS,
    every: int = EVERY,
) -> tuple[Any, Any, jax.Array]:
    """optax.adam on a loss: the parameters that predict the validation rows best, those at each
    check, and the log density of each row there, (checks, n)."""
    optimizer = optax.adam(rate)

    def step(state: Any, _: None) -> tuple[Any, None]:
        at, inner = state
        updates, inner = optimizer.update(jax.grad(loss)(at, data), inner)
        return (optax.apply_updates(at, updates), inner), None

    def check(state: Any, _: None) -> tuple[Any, Any]:
        state, _ = jax.lax.scan(step, state, None, length=every)
        return state, (state[0], log_density(state[0], data))

    _, (path, densities) = jax.lax.scan(check, (start, optimizer.init(start)), None, length=checks)
    best = jnp.argmax(jnp.sum(jnp.where(validate, densities, 0.0), axis=1))
    return jax.tree.map(lambda leaf: leaf[best], path), path, densities


def head_loss(at: Any, data: Any) -> jax.Array:
    model, x = data
    return at["head"].nll(network(at["layers"], x), model)


def head_density(at: Any, data: Any) -> jax.Array:
    model, x = data
    return at["head"].predict(network(at["layers"], x), model).log_density()


def output(at: Any, x: jax.Array, group: jax.Array) -> jax.Array:
    """The network's output, with the free number of a group where the parameters have them."""
    value = network(at["layers"], x)
    return value + at["groups"][group] if "groups" in at else value


def plain_density(at: Any, data: Any) -> jax.Array:
    model, x = data
    return model.family.log_prob(model.y, output(at, x, model.structure.index[0]))


def plain_loss(at: Any, data: Any) -> jax.Array:
    return -jnp.sum(data[0].weights * plain_density(at, data))


def ours(task: Task, method: str, seed: int) -> dict[str, Any]:
    """Scores of a network, trained in float64."""
    with jax.enable_x64(True):
        began = time.process_time()
        weights = jnp.asarray(task.rows("train"), float)
        model = gj.build_model("y ~ 0 + (1 | group)", task.frame, "bernoulli")
        model = model.replace(weights=weights)
        data = model, jnp.asarray(task.x)
        start: dict[str, Any] = {"layers": layers(jax.random.key(seed), task.x.shape[1])}
        if method == "head":
            start["head"] = gj.RandomEffectsHead.of(model)
        if method == "one-hot":
            start["groups"] = jnp.zeros(model.structure.levels[0])
        loss, density = (
            (head_loss, head_density) if method == "head" else (plain_loss, plain_density)
        )
        best, path, densities = train(
            start, data, jnp.asarray(task.rows("validate")), loss=loss, log_density=density
        )
        checks = np.asarray(densities)
        chosen = int(np.argmax(checks[:, task.rows("validate")].sum(axis=1)))
        result = _scores(task, checks[chosen]) | {"steps": (chosen + 1) * EVERY}
        result["last"] = _scores(task, checks[-1])
        if method == "head":
            result["sd"], result["sd_error"] = deviation(best, data)
            result["last"]["sd"] = float(jnp.abs(path["head"].params.theta[-1, 0]))
        result["cpu_seconds"] = time.process_time() - began
    return result


def deviation(at: Any, data: Any) -> tuple[float, float]:
    """The head's standard deviation, and its standard error with the network as it is."""
    model, x = data
    here = model.replace(offset=model.offset + network(at["layers"], x))
    params = at["head"].params
    curvature = _curvature(params.theta, params, here)[0, 0]
    return float(jnp.abs(params.theta[0])), float(jnp.sqrt(2.0 / curvature))


@jax.jit
def _curvature(theta: jax.Array, params: gj.Params, model: gj.Model) -> jax.Array:
    """Hessian of the deviance in theta."""
    return jax.hessian(lambda theta: gj.deviance(replace(params, theta=theta), model))(theta)


def _scores(task: Task, log_density: np.ndarray) -> dict[str, float]:
    """Mean log density of a row, for each use of rows that the task has."""
    return {
        part: float(log_density[task.rows(part)].mean()) for part in np.unique(task.part).tolist()
    }


def gpboost(task: Task, python: str | None) -> dict[str, Any]:
    """Scores of boosted trees with random effects, from a process of the peers' Python."""
    if python is None:
        return {"not_run": "no --python-peers"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        y, group = task.frame["y"].to_numpy(), task.frame["group"].to_numpy()
        np.savez(path, x=task.x, y=y, group=group, part=task.part)
        command = [python, str(HERE / "neural_gpboost.py"), str(path)]
        # On a busy machine the threads of its small tasks wait for one another.
        environment = {**peer_environment(), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    if done.returncode:
        return {"not_run": done.stderr.strip().splitlines()[-1]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    p = np.asarray(found.pop("probability"))
    return _scores(task, np.log(np.where(y == 1.0, p, 1.0 - p))) | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--python-peers", help="a Python that has gpboost")
    parser.add_argument("--output", type=Path, default=RESULTS / "neural_random_effects.json")
    options = parser.parse_args()
    results = header("neural_random_effects", options)
    names = ("jax", "jaxlib", "numpy", "optax")
    own = {"glmm_jax": gj.__version__} | {name: version(name) for name in names}
    results["versions"] = {"glmm_jax": own}
    results["tasks"] = {}
    for make in (simulated, contraception):
        repeats = results["tasks"][make.__name__] = []
        for seed in range(options.repeats):
            task = make(seed)
            found: dict[str, Any] = {name: ours(task, name, seed) for name in METHODS[:-1]}
            found["gpboost"] = gpboost(task, options.python_peers)
            theirs = found["gpboost"].pop("versions", None)
            if theirs is not None:
                results["versions"]["gpboost"] = theirs
            repeats.append(found)
            print(
                make.__name__, seed, {k: round(v.get("test", np.nan), 4) for k, v in found.items()}
            )
            write(results, options.output)
    print(report.neural_random_effects(results))


if __name__ == "__main__":
    main()
