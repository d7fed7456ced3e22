"""Settings for every test: float64, no silent promotion of ranks, compiled programs kept.

The package itself never changes JAX's configuration; the tests may, and do it here, before any
array is made.
"""

from __future__ import annotations

import gc
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib.version
import kernels
import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent

# A test runs its program once or twice on small data: compiling it costs a thousand times what
# running it does, and a quarter of that at this level of optimisation. Sums in several stages, a
# kernel for each, would be a fifth of the rest. The last option is the package's own (see
# runtime.CAREFUL), for programs that the tests compile themselves. Processes that a test starts
# inherit the variable.
UNOPTIMISED = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_disable_hlo_passes=tree_reduction_rewriter --xla_cpu_parallel_codegen_split_count=1"
    " --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"
)
if jaxlib.version.__version_info__ < (0, 11):  # XLA ends a process that names a flag it has lost
    UNOPTIMISED += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{UNOPTIMISED} {os.environ.get('XLA_FLAGS', '')}"


def pytest_configure() -> None:
    jax.config.update("jax_enable_x64", True)
    # A (n,) array met with a (q, n) one is nearly always a mistake; write the axis out.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_compilation_cache_dir", folder)
    # In the same folder the package keeps its programs whole: traced once for all processes.
    os.environ.setdefault("GLMM_JAX_CACHE", folder)
    # JAX keeps only programs that took a second; here many take a tenth of that.
    seconds = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))


# Tracing makes objects by the million, few of them in cycles: looking for those less often takes a
# seventh off the time.
gc.set_threshold(200_000, 20, 5)

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


@pytest.fixture(scope="module")
def executed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> NotebookNode:
    """The notebook PATH of a module out of a fresh kernel, with its QUESTION as the last cell."""
    module = request.module
    return kernels.executed(module.PATH, module.QUESTION, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def answer(executed: NotebookNode) -> dict:
    """What the notebook's kernel answers to QUESTION."""
    return json.loads(executed.cells[-1].outputs[0]["text"])
