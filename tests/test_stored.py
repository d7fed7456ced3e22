"""Programs kept whole on disk: what names them, who may read them, what a new process saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glmm_jax import families, links, runtime, stored
from glmm_jax.build import bucket
from glmm_jax.model import Params, flatten
from glmm_jax.optimize.first_order import FirstOrder

FUNCTION = jax.jit(flatten)
PARAMS = Params(jnp.arange(3.0), jnp.ones(2), jnp.asarray(np.float64(0.5)))

# Ten data sets of two sizes as the engine pads them: 97 to 112 and 113 to 128 rows, five to eight
# levels, and one summary. What is counted are JAX's own events: every program, those of single
# operations too, that is traced, lowered, compiled or read from its cache. The family's mean and
# variance are two texts: the second program of one text would come out of JAX's cache where the
# first took long to compile, and not be kept whole.
TEN_FITS = """
import json
import jax
import numpy as np
import pandas as pd
import glmm_jax as gj

counts = {}
def count(event, seconds, **more):
    stage = event.rpartition("/")[2].removesuffix("_duration")
    if stage in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile"):
        name = more["fun_name"].removeprefix("jit(").removesuffix(")")
        counts.setdefault(name, {}).setdefault(stage, 0)
        counts[name][stage] += 1
jax.monitoring.register_event_duration_secs_listener(count)
rng = np.random.default_rng(0)
found = []
for n, levels in zip(range(98, 128, 3), [5, 6, 7, 8, 5, 6, 7, 8, 5, 6]):
    data = pd.DataFrame({"y": rng.integers(2, size=n), "x": rng.normal(size=n),
                         "g": rng.integers(levels, size=n)})
    fit = gj.glmer("y ~ x + (1 | g)", data, "bernoulli")
    found.append(fit.llf)
str(fit.summary())
print("@@", json.dumps({"counts": counts, "llf": found}))
"""


def ten_fits(folder: Path) -> dict[str, Any]:
    """The ten fits in a new process with a folder of programs."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", TEN_FITS],
        env={**kept, "GLMM_JAX_CACHE": str(folder)},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition("@@")[2])


def test_ten_data_sets_need_two_programs_and_in_a_new_process_none(tmp_path: Path) -> None:
    assert len({bucket(n) for n in range(98, 128, 3)}) == 2
    assert {bucket(levels) for levels in range(5, 9)} == {8}
    first = ten_fits(tmp_path)
    stages = ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
    assert first["counts"]["program"] == dict.fromkeys(stages, 2)
    # Besides, mean and variance for the summary, and what asks for the compiler's options.
    assert set(first["counts"]) == {"program", "_moments", "<lambda>"}
    assert first["counts"]["_moments"] == dict.fromkeys(stages, 2)
    again = ten_fits(tmp_path)
    assert again["counts"] == {}
    assert again["llf"] == first["llf"]


def test_a_program_comes_back_as_it_was(tmp_path: Path) -> None:
    compiled = FUNCTION.lower(PARAMS).compile()
    stored.save(tmp_path, "one", compiled)
    loaded = stored.load(tmp_path, "one", (PARAMS,))
    assert loaded is not None
    np.testing.assert_array_equal(loaded(PARAMS), [0, 1, 2, 1, 1, 0.5])
    assert stored.load(tmp_path, "another", (PARAMS,)) is None


def test_a_program_out_of_jaxs_cache_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XLA leaves its functions out when it is kept once more: it would load, and fail when run."""
    kept = []
    monkeypatch.setattr(runtime, "_whole_programs", lambda: tmp_path)
    monkeypatch.setattr(stored, "name_of", lambda *_: "one")
    monkeypatch.setattr(stored, "save", lambda *_: kept.append(True))
    number = time.time_ns()  # no process has compiled this program
    name = "jax_persistent_cache_min_compile_time_secs"
    usual = jax.config.values[name]
    jax.config.update(name, 0.0)
    try:
        for _ in range(2):
            runtime._made(jax.jit(lambda x: x * number), (jnp.ones(3),), {}, True, False)
    finally:
        jax.config.update(name, usual)
    assert len(kept) == 1


def test_changed_files_and_those_that_others_may_write_are_not_read(tmp_path: Path) -> None:
    stored.save(tmp_path, "one", FUNCTION.lower(PARAMS).compile())
    path = tmp_path / "one"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        assert stored.load(tmp_path, "one", (PARAMS,)) is None
    path.write_bytes(whole)
    assert stored.load(tmp_path, "one", (PARAMS,)) is not None
    if hasattr(os, "getuid"):
        path.chmod(0o666)
        assert stored.load(tmp_path, "one", (PARAMS,)) is None


def test_only_the_files_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_FILES", 2)
    compiled = FUNCTION.lower(PARAMS).compile()
    for age, name in ((300, "a"), (200, "b")):
        stored.save(tmp_path, name + stored.SUFFIX, compiled)
        old = (tmp_path / (name + stored.SUFFIX)).stat().st_mtime - age
        os.utime(tmp_path / (name + stored.SUFFIX), (old, old))
    assert stored.load(tmp_path, "a" + stored.SUFFIX, (PARAMS,)) is not None  # used once more
    stored.save(tmp_path, "c" + stored.SUFFIX, compiled)
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c"}


def test_a_name_tells_programs_apart() -> None:
    def name(function=FUNCTION, arrays=(PARAMS,), options=True, **static: Any) -> str | None:
        return stored.name_of(function, arrays, static, options)

    wide = Params(jnp.arange(4.0), jnp.ones(2), jnp.asarray(np.float64(0.5)))
    narrow = Params(jnp.arange(3, dtype=jnp.float32), jnp.ones(2), jnp.asarray(np.float64(0.5)))
    names = [
        name(),
        name(options=False),
        name(arrays=(wide,)),
        name(arrays=(narrow,)),
        name(arrays=((PARAMS,),)),
        name(nagq=1),
        name(nagq=True),
        name(family=families.Bernoulli("logit")),
        name(family=families.Bernoulli("probit")),
        name(method=FirstOrder("newton")),
    ]
    assert None not in names and len(set(names)) == len(names)
    same = jax.tree.map(np.ones_like, PARAMS)  # other numbers, in NumPy
    assert name(arrays=(same,)) == names[0]
    with jax.enable_x64(False):  # however it was set
        assert name() not in names


class Penalty(NamedTuple):
    """A user's penalty with a scale, whose code no name of a file could tell."""

    sd: Any

    def __call__(self, params: Params, model: Any) -> jax.Array:
        return jnp.sum(params.beta**2) / self.sd**2


def test_what_cannot_be_described_has_no_name() -> None:
    assert stored.name_of(FUNCTION, ((Penalty(jnp.ones(())),),), {}, True) is None
    link = links.custom(lambda eta: jax.nn.sigmoid(eta), "mine", (0.0, 1.0))
    assert stored.name_of(FUNCTION, (PARAMS,), {"family": families.Bernoulli(link)}, True) is None
    assert stored.name_of(FUNCTION, (PARAMS,), {"prior": lambda p, m: 0.0}, True) is None
    assert stored.name_of(FUNCTION, (jax.random.key(0),), {}, True) is None
    assert stored.name_of(jax.jit(lambda x: x), (PARAMS,), {}, True) is None
