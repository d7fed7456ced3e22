"""Settings for every test: float64, no silent promotion of ranks, compiled programs kept.

The package itself never changes JAX's configuration; the tests may, and do it here, before any
array is made.
"""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from compiling import UNOPTIMISED

from glmm_jax import runtime

ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    jax.config.update("jax_enable_x64", True)
    # A (n,) array met with a (q, n) one is nearly always a mistake; write the axis out.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    # What the analysts' layer compiles small programs with; a test runs them once or twice.
    runtime.QUICK.update(UNOPTIMISED)
    # JAX keeps only programs that took a second; here many take a tenth of that.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


LARGEST = 3e9  # bytes


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Let compiled programs go, after a module that leaves a process with too many of them."""
    yield
    pages = Path("/proc/self/statm")
    if pages.exists() and int(pages.read_text().split()[1]) * resource.getpagesize() > LARGEST:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def default_precision() -> Iterator[None]:
    """Give one test JAX's own default, float32, as a user's session has it."""
    with jax.enable_x64(False):
        yield
