"""One model with its rows over eight devices: the same estimates, less memory on each."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import glmm_jax as gj

DEVICES = 8

# A process of its own: JAX counts its devices once, when it starts.
SCRIPT = """
import json

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec as P

jax.config.update("jax_enable_x64", True)
import glmm_jax as gj
from glmm_jax.estimate import checked, program

rng = np.random.default_rng(3)
n = 4_003  # not a multiple of the devices: some rows are added
g, h = rng.integers(23, size=n), rng.integers(7, size=n)
x, weights = rng.normal(size=n), rng.uniform(0.5, 1.5, size=n)
eta = 0.2 + 0.3 * x + 0.6 * rng.normal(size=23)[g] + 0.4 * rng.normal(size=7)[h]
data = {"g": g, "h": h, "x": x, "w": weights, "y": rng.poisson(np.exp(eta))}
model = gj.build_model("y ~ x + (1 | g) + (1 | h)", data, "poisson", weights="w")
out = {}
for name, these in {"whole": model, "shared": gj.shard_rows(model)}.items():
    settings = checked(these, 1, None, "quasi-newton", 500)
    compiled = program.lower(these, None, **settings).compile()
    found, used = compiled(these, None), compiled.memory_analysis()
    out[name] = {
        "parameters": np.concatenate([found.params.beta, found.params.theta]).tolist(),
        "u": found.u.tolist(),
        "hessian": found.hessian.tolist(),
        "deviance": float(found.deviance),
        "status": int(found.status),
        "bytes": used.temp_size_in_bytes + used.argument_size_in_bytes,
        "places": len(these.y.sharding.device_set),
        "rows": these.y.addressable_shards[0].data.shape[0],
        "n": these.n,
    }

# A family in a user's own program whose arrays say which device has which part of them.
mesh = jax.make_mesh((jax.device_count(),), ("parts",), axis_types=(AxisType.Explicit,))
slopes = jax.grad(lambda eta: gj.families.Bernoulli().log_prob(np.ones(()), eta))
eta = np.linspace(-3.0, 3.0, 16)
with jax.set_mesh(mesh):
    parts = jax.device_put(eta, P("parts"))
    lanes = jax.jit(jax.vmap(slopes))(parts)
    blocks = jax.jit(jax.shard_map(jax.vmap(slopes), in_specs=P("parts"), out_specs=P("parts")))
    out["explicit"] = [jax.vmap(slopes)(eta).tolist(), lanes.tolist(), blocks(parts).tolist()]
    out["spread"] = jax.typeof(lanes).sharding.spec[0]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def answer() -> dict:
    flags = f"--xla_force_host_platform_device_count={DEVICES} {os.environ['XLA_FLAGS']}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rows_are_divided_and_none_is_lost(answer: dict) -> None:
    whole, shared = answer["whole"], answer["shared"]
    assert (whole["places"], shared["places"]) == (1, DEVICES)
    assert whole["rows"] == 4_003 and shared["n"] == 4_008
    assert shared["rows"] * DEVICES == shared["n"]


@pytest.mark.parametrize("name", ["parameters", "u", "hessian", "deviance"])
def test_the_estimate_does_not_depend_on_the_devices(answer: dict, name: str) -> None:
    whole, shared = answer["whole"], answer["shared"]
    assert whole["status"] == shared["status"] == gj.Status.CONVERGED
    wanted = np.asarray(whole[name])
    np.testing.assert_allclose(shared[name], wanted, rtol=1e-10, atol=1e-10 * abs(wanted).max())


def test_each_device_holds_a_fraction(answer: dict) -> None:
    # What belongs to the levels is on every device; here it is little.
    assert answer["shared"]["bytes"] < 0.25 * answer["whole"]["bytes"]


def test_rules_of_derivatives_follow_a_mesh(answer: dict) -> None:
    plain, lanes, blocks = answer["explicit"]
    np.testing.assert_allclose(lanes, plain, rtol=1e-15)
    np.testing.assert_allclose(blocks, plain, rtol=1e-15)
    assert answer["spread"] == "parts"


def test_devices_that_are_none() -> None:
    data = pd.DataFrame({"y": [1, 2, 4], "g": [1, 2, 2]})
    model = gj.build_model("y ~ 1 + (1 | g)", data, "poisson")
    with pytest.raises(ValueError, match="devices='two'"):
        gj.shard_rows(model, "two")
