"""How the analysts' layer runs the engine: float64, one BLAS thread, programs kept on disk.

The pure layer uses the types and settings it is given; `engine()` is the one place that chooses
them for `glmer`. It changes no global JAX configuration but the folder of the persistent
compilation cache (and that short compilations are kept too), once, and only if the user has set no
folder. The environment variable GLMM_JAX_CACHE names another folder, or switches it off ("off").
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.linalg  # noqa: F401  (loads the BLAS that JAX calls, so that it is found below)
from threadpoolctl import ThreadpoolController

from glmm_jax import stored

CACHE_VARIABLE = "GLMM_JAX_CACHE"

# A compiled program holds some thousand memory maps, of which Linux allows a process 65,530: the
# programs used last are kept, older ones are dropped (and reloaded from disk when needed again).
MOST_PROGRAMS = 16

# XLA's CPU runtime loses a step of some programs that it schedules for concurrency, and then waits
# for ever (jaxlib 0.10.2, two cores: of fits with an AR(1) term of 120 groups or more and 8 times,
# 0 of 7 ended; scheduled for memory, 9 of 9). Warm fits take a tenth less time so, besides.
# Sums and small products are fused into loops, not handed to the YNNPACK library, whose threads
# wait for one another (64 sums of 200 numbers: 5 to 220 microseconds on two busy cores; a batch of
# fits 190 for 610 microseconds a model).
CAREFUL = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_cpu_experimental_ynn_fusion_type": "",
}

# For small data a CPU compiler that works less hard: compilation falls by two fifths, a fit of a
# few milliseconds takes a fifth longer (2,000 rows: 6.6 to 3.2 s of CPU against 2.1 to 2.5 ms).
# Sums in several stages, a kernel for each, are a tenth of the compilation and of a small fit; that
# they round less does not matter for so few numbers.
QUICK = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
    "xla_disable_hlo_passes": "tree_reduction_rewriter",
}
QUICK_SIZE = 100_000  # numbers in the largest array

# Where programs run side by side, a product that waits for threads waits for its neighbours.
BESIDE = {"xla_cpu_multi_thread_eigen": False}


@contextmanager
def engine() -> Iterator[None]:
    """Context in which the analysts' layer computes."""
    keep_programs()
    # The blocks are small: BLAS threads that spin for a busy core made a fit 300 times slower.
    with jax.enable_x64(True), _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def cache_folder() -> Path | None:
    """Folder for compiled programs: from GLMM_JAX_CACHE, else per user; None if switched off."""
    chosen = os.environ.get(CACHE_VARIABLE, "")
    if chosen.lower() in ("off", "0", "none"):
        return None
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "glmm_jax" / "programs"


@cache
def keep_programs() -> None:
    """Switch the persistent compilation cache on, unless the user has chosen a folder already."""
    folder = cache_folder()
    if folder is None or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    # The one documented exception to "no global configuration": programs outlive the process.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


_programs: OrderedDict[Any, Any] = OrderedDict()
_lock = threading.Lock()  # of _programs; not held while a program is compiled
_making: dict[Any, threading.Lock] = {}  # each held while its program is compiled


def run(
    function: Any,
    *arrays: Any,
    stage: Callable[[str], None] | None = None,
    quick: bool | None = None,
    beside: bool = False,
    **static: Any,
) -> Any:
    """Call a jitted function through a bounded cache of compiled programs.

    Parameters: function, made by `jax.jit` with `static_argnames`; arrays, its pytrees of arrays;
    stage, told "compiling" and "fitting" as they begin; quick, whether to compile it in a hurry
    (None: where no array is larger than `QUICK_SIZE`); beside, whether calls of it run side by side
    in threads, so that its products take one thread each; static, its static arguments.
    """
    leaves, tree = jax.tree.flatten(arrays)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    if quick is None:
        quick = bool(max(leaf.size for leaf in leaves) <= QUICK_SIZE)
    # Other compilers do not know the difference, and would make the same program twice.
    quick = quick and jax.default_backend() == "cpu"
    named = tuple(sorted(static.items(), key=lambda item: item[0]))
    key = function, quick, beside, tree, shapes, named
    compiled = _held(key)
    if compiled is None:

        def make() -> Any:
            if stage is not None:
                stage("compiling")
            return _made(function, arrays, static, quick, beside)

        compiled = _made_once(key, make)
    if stage is not None:
        stage("fitting")
    return compiled(*arrays)


def _held(key: Any) -> Any:
    """The program of a key, from now on the one used last; None if there is none."""
    with _lock:
        if key in _programs:
            _programs.move_to_end(key)
        return _programs.get(key)


def _made_once(key: Any, make: Callable[[], Any]) -> Any:
    """The program of a key, made by the thread that asks first; others wait for it."""
    with _lock:
        making = _making.setdefault(key, threading.Lock())
    with making:
        compiled = _held(key)
        if compiled is not None:
            return compiled
        try:
            compiled = make()
            with _lock:
                _programs[key] = compiled
                if len(_programs) > MOST_PROGRAMS:
                    _programs.popitem(last=False)
        finally:
            with _lock:
                _making.pop(key, None)
        return compiled


def _made(
    function: Any, arrays: tuple[Any, ...], static: dict[str, Any], quick: bool, beside: bool
) -> Any:
    """A compiled program: from the folder of programs where it is kept whole, else compiled."""
    folder = _whole_programs()
    name = None if folder is None else stored.name_of(function, arrays, static, (quick, beside))
    if folder is not None and name is not None:
        compiled = stored.load(folder, name, arrays)
        if compiled is not None:
            return compiled
    options = _options(quick, beside)
    lowered, hits = function.lower(*arrays, **static), _cache_hits()
    compiled = lowered.compile(compiler_options=options)
    function.clear_cache()  # or JAX would keep what is dropped from `_programs`
    # What came out of JAX's cache is without its functions when it is kept once more.
    if folder is not None and name is not None and _cache_hits() == hits:
        stored.save(folder, name, compiled)
    return compiled


_hits = threading.local()


def _cache_hits() -> int:
    """How many programs JAX's cache has given to this thread since this was first asked."""
    _count_hits()
    return getattr(_hits, "count", 0)


@cache
def _count_hits() -> None:
    def count(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            _hits.count = getattr(_hits, "count", 0) + 1

    jax.monitoring.register_event_listener(count)


def _whole_programs() -> Path | None:
    """Where programs are kept whole: beside JAX's cache where the folder is ours, for one CPU."""
    folder = cache_folder()
    chosen = jax.config.values["jax_compilation_cache_dir"]
    ours = folder is not None and chosen == str(folder)
    return folder if ours and jax.default_backend() == "cpu" and jax.device_count() == 1 else None


@cache
def _options(quick: bool, beside: bool = False) -> dict[str, Any] | None:
    """Options of the CPU compiler that this version of XLA knows and XLA_FLAGS does not set."""
    if jax.default_backend() != "cpu":
        return None
    given = os.environ.get("XLA_FLAGS", "")
    wanted = CAREFUL | (QUICK if quick else {}) | (BESIDE if beside else {})
    wanted = {name: value for name, value in wanted.items() if name not in given}
    if _known(wanted):
        return wanted
    return {name: value for name, value in wanted.items() if _known({name: value})}


def _known(options: dict[str, Any]) -> bool:
    """Whether this version of XLA has the options: it refuses a program compiled with others."""
    try:
        jax.jit(lambda x: x).lower(np.zeros(())).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def programs() -> int:
    """How many compiled programs are held."""
    return len(_programs)
