"""The batch driver: each lane is what it is alone, whatever happens to the others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from glmm_jax import Model, build_model, driver
from glmm_jax.driver import estimate_lanes
from glmm_jax.estimate import MAX_STEPS, Estimate, checked, program
from glmm_jax.model import flatten
from glmm_jax.runtime import run
from glmm_jax.status import Status

N, GROUPS, B = 60, 10, 40
NUMBERS = ("deviance", "gradient", "hessian", "status", "singular", "separated", "evaluations")


@pytest.fixture(scope="module")
def model() -> Model:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(GROUPS), N // GROUPS)
    data = {"y": np.ones(N), "x": rng.normal(size=N), "g": group}
    return build_model("y ~ x + (1 | g)", pd.DataFrame(data), "poisson")


@pytest.fixture(scope="module")
def responses(model: Model) -> np.ndarray:
    rng = np.random.default_rng(2)
    effect = np.repeat(rng.normal(size=(B, GROUPS)), N // GROUPS, axis=1)
    mean = np.exp(0.4 + 0.5 * np.asarray(model.X[:, 1])[None] + 0.7 * effect)
    return rng.poisson(mean).astype(float)


@pytest.fixture(scope="module")
def settings(model: Model) -> dict[str, Any]:
    return checked(model, 1, None, "quasi-newton", MAX_STEPS)


@pytest.fixture(scope="module")
def found(model: Model, responses: np.ndarray, settings: dict[str, Any]) -> Estimate:
    return estimate_lanes(model, {"y": responses}, settings)


def flat(found: Estimate) -> np.ndarray:
    return np.asarray(jax.vmap(flatten)(found.params))


def same(first: Estimate, second: Estimate, at: Any) -> None:
    """To the last bit."""
    np.testing.assert_array_equal(flat(first)[at], flat(second)[at])
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(first, name)[at], getattr(second, name)[at])


def test_each_lane_is_its_model_alone(
    model: Model, responses: np.ndarray, settings: dict[str, Any], found: Estimate
) -> None:
    for i in range(5):
        alone = run(program, replace(model, y=jnp.asarray(responses[i])), None, **settings)
        assert int(found.status[i]) == int(alone.status) == Status.CONVERGED
        np.testing.assert_allclose(found.deviance[i], alone.deviance, rtol=1e-12)
        np.testing.assert_allclose(flat(found)[i], flatten(alone.params), atol=1e-6)
        np.testing.assert_allclose(found.hessian[i], alone.hessian, rtol=1e-4)


def test_no_lane_changes_another_by_a_bit(
    model: Model, responses: np.ndarray, settings: dict[str, Any], found: Estimate
) -> None:
    y = responses.copy()
    y[3, 5] = np.nan
    y[7] = 0.0
    y[11] = 50.0 * (np.asarray(model.X[:, 1]) > 0)  # separated
    y[17] *= 1e7
    bad = [3, 7, 11, 17]
    among = estimate_lanes(model, {"y": y}, settings)
    same(among, found, np.setdiff1d(np.arange(B), bad))
    assert int(among.status[3]) != Status.CONVERGED
    assert int(among.status[7]) == Status.SEPARATION


def test_results_do_not_depend_on_blocks_or_threads(
    model: Model,
    responses: np.ndarray,
    settings: dict[str, Any],
    found: Estimate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "_cores", lambda: 1)
    same(estimate_lanes(model, {"y": responses}, settings), found, slice(None))
    few = estimate_lanes(model, {"y": responses[20:]}, settings)
    same(few, jax.tree.map(lambda a: a[20:], found), slice(None))
    assert threading.active_count() == 1


def test_what_the_first_pass_leaves_is_taken_on(
    model: Model,
    responses: np.ndarray,
    settings: dict[str, Any],
    found: Estimate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With three steps nothing is finished; from there the second pass ends where one pass does."""
    monkeypatch.setattr(driver, "FIRST_STEPS", 3)
    two = estimate_lanes(model, {"y": responses[:5]}, settings)
    assert np.all(two.status == Status.CONVERGED)
    assert np.all(two.evaluations > 3)
    np.testing.assert_allclose(two.deviance, found.deviance[:5], rtol=1e-12)
    np.testing.assert_allclose(flat(two), flat(found)[:5], atol=1e-5)


def test_a_lane_that_failed_starts_again(
    model: Model,
    responses: np.ndarray,
    settings: dict[str, Any],
    found: Estimate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second lane is made to stall in the first pass; the search anew is the engine's own."""
    call = driver._call

    def stalling(model: Any, block: Any, begin: Any, *rest: Any) -> Estimate:
        part = call(model, block, begin, *rest)
        if begin is None:
            part.status[1] = Status.STALLED
        return part

    monkeypatch.setattr(driver, "_call", stalling)
    again = estimate_lanes(model, {"y": responses[:4]}, settings)
    assert np.all(again.status == Status.CONVERGED)
    np.testing.assert_allclose(again.deviance, found.deviance[:4], rtol=1e-12)
    np.testing.assert_allclose(flat(again), flat(found)[:4], atol=1e-5)


def test_an_interruption_leaves_no_thread(
    model: Model, responses: np.ndarray, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, blocks = driver._call, []

    def interrupted(*arguments: Any) -> Estimate:
        blocks.append(arguments)
        if len(blocks) > 2:
            raise KeyboardInterrupt
        return call(*arguments)

    monkeypatch.setattr(driver, "_call", interrupted)
    monkeypatch.setattr(driver, "BLOCK", 16)
    monkeypatch.setattr(driver, "_cores", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        estimate_lanes(model, {"y": np.tile(responses, (3, 1))}, settings)
    assert threading.active_count() == 1


@pytest.mark.parametrize("devices", ["gpu:0", [], [0]])
def test_devices_that_are_none(
    model: Model, responses: np.ndarray, settings: dict[str, Any], devices: Any
) -> None:
    with pytest.raises(ValueError, match="devices="):
        estimate_lanes(model, {"y": responses}, settings, devices=devices)


# --- several devices and several processes --------------------------------------------------------

PROGRAM = """
import json, os, sys
import jax
if sys.argv[1] == "processes":
    jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=int(sys.argv[3]))
jax.config.update("jax_enable_x64", True)
import numpy as np
import pandas as pd
from glmm_jax import glmer_many
table = pd.read_csv(sys.argv[4])
design, responses = table[["x", "g"]], table.drop(columns=["x", "g"])
found = glmer_many("~ x + (1 | g)", design, "poisson", responses=responses, progress=False)
out = {"devices": len(jax.devices()), "processes": jax.process_count(),
       "estimates": found.columns.estimates.tolist(), "llf": found.models["llf"].tolist()}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def table(model: Model, responses: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("many") / "counts.csv"
    data = {"x": np.asarray(model.X[:, 1]), "g": np.asarray(model.structure.index[0])}
    data |= {f"gene{i}": responses[i] for i in range(B)}
    pd.DataFrame(data).to_csv(path, index=False)
    return path


def started(table: Path, *arguments: str, devices: int = 1) -> subprocess.Popen[str]:
    root = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root.parent), str(root)]),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    words = [*arguments, *[""] * (3 - len(arguments)), str(table)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


def test_eight_devices_and_two_processes_agree_with_one(table: Path, found: Estimate) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [started(table, "processes", address, str(i)) for i in range(2)]
    eight = result(started(table, "devices", devices=8))
    assert eight["devices"] == 8
    np.testing.assert_allclose(eight["estimates"], flat(found), atol=1e-7)
    parts = [result(process) for process in both]
    assert [part["processes"] for part in parts] == [2, 2]
    assert [part["devices"] for part in parts] == [2, 2]
    assert parts[0]["estimates"] == parts[1]["estimates"]
    np.testing.assert_allclose(parts[0]["estimates"], flat(found), atol=1e-7)
    np.testing.assert_allclose(parts[0]["llf"], -0.5 * found.deviance, rtol=1e-12)
