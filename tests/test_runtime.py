"""How the analysts' layer runs the engine: compiled programs are few and are let go."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import glmm_jax as gj
from glmm_jax import runtime

MAPS = Path("/proc/self/maps")


@pytest.mark.skipif(not MAPS.exists(), reason="counts memory maps, which only Linux lists")
def test_dropped_programs_free_their_memory_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program holds 500 to 2,700 maps and Linux allows 65,530: beyond that the process dies."""
    monkeypatch.setattr(runtime, "MOST_PROGRAMS", 1)
    # What other tests left would be dropped in place of what this one makes.
    monkeypatch.setattr(runtime, "_programs", type(runtime._programs)())
    rng = np.random.default_rng(0)
    n = 60
    data = pd.DataFrame({name: rng.normal(size=n) for name in "abc"})
    data["y"], data["g"] = rng.poisson(1.0, n), rng.integers(0, 6, n)
    held = []
    for fixed in ("a", "a + b", "a + b + c"):  # three shapes, three programs
        gj.glmer(f"y ~ {fixed} + (1 | g)", data, family="poisson")
        gc.collect()
        held.append(len(MAPS.read_text().splitlines()))
    assert held[-1] - held[0] < 400


PANEL = """
import numpy as np
import pandas as pd
import glmm_jax as gj
rng = np.random.default_rng(1)
data = pd.DataFrame({"g": np.repeat(np.arange(150), 8), "t": np.tile(np.arange(8), 150)})
data["y"] = rng.normal(size=1200) + rng.normal(size=150)[data["g"]]
print(gj.glmer("y ~ 1 + ar1(0 + factor(t) | g)", data).llf)
"""


def test_a_program_of_several_threads_ends(tmp_path: Path) -> None:
    """As a user runs it, without the tests' own options: scheduled otherwise it never returned."""
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(Path(gj.__file__).parents[1])}
    environment |= {"GLMM_JAX_CACHE": str(tmp_path)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    ended = subprocess.run(
        [sys.executable, "-c", PANEL], env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert np.isfinite(float(ended.stdout))


def test_options_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {*runtime.CAREFUL, *runtime.QUICK}
    runtime._options.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    kept = runtime._options(True)
    runtime._options.cache_clear()
    assert kept is None or set(kept) == chosen - {"xla_backend_optimization_level"}
