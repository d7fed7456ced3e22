"""How the analysts' layer runs the engine: compiled programs are few and are let go."""

from __future__ import annotations

import gc
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
    rng = np.random.default_rng(0)
    n = 60
    data = pd.DataFrame({name: rng.normal(size=n) for name in "abcd"})
    data["y"], data["g"] = rng.poisson(1.0, n), rng.integers(0, 6, n)
    held = []
    for fixed in ("a", "a + b", "a + b + c", "a + b + c + d"):  # four shapes, four programs
        gj.glmer(f"y ~ {fixed} + (1 | g)", data, family="poisson")
        gc.collect()
        held.append(len(MAPS.read_text().splitlines()))
    assert held[-1] - held[0] < 400
