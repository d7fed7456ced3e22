"""Time many models of one design on an accelerator: models per second, and what bounds them.

    python benchmarks/many_gpu.py [--output FILE.json] [--models 10000,100000,1000000]

The first study of many.py (Poisson, 200 rows, 20 groups, random intercept, 2 coefficients), with
responses drawn for as many models as asked for, fitted by the engine's driver from lanes in host
memory, and by `glmer_many` from the matrix of responses to the table of coefficients: in float64,
and with the search in float32. The first call of each kind compiles and is told apart. Nothing but
this package is needed; without an accelerator it runs on the CPU.

What the device could do is measured, not looked up: bytes per second of a copy, and operations per
second of fused multiply-adds, in the same run. What the models need at least is counted:

    passes over the rows of a model   START + evaluations * (TRIPS + GRADIENT) + hessians * HESSIAN
    bytes of a pass                   ARRAYS numbers a row
    operations of a pass              OPERATIONS a row

with the numbers of evaluations and Hessians those of the run. A pass reads response, weights and
linear predictor from memory and writes the last; it computes an exponential (about 20 operations)
and about 30 other operations a row. That is a lower bound: XLA keeps more arrays than these.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("GLMM_JAX_CACHE", "off")  # the first call compiles
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from machine import RESULTS, header, write

from glmm_jax import driver, families, glmer_many
from glmm_jax.estimate import MAX_STEPS, checked
from glmm_jax.fitting import Call
from glmm_jax.many.chunks import Chunk
from glmm_jax.many.designs import design_of
from glmm_jax.many.responses import Block
from glmm_jax.runtime import engine
from glmm_jax.status import Status

ROWS, GROUPS = 200, 20
FORMULA = "~ x + (1 | g)"
START, TRIPS, GRADIENT, HESSIAN = 10, 3, 2, 6
ARRAYS, OPERATIONS = 4, 50
CHAIN = 512  # multiply-adds on each number
DTYPES = ("float64", "float32")


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", default="10000,100000,1000000", help="numbers of models, separated by commas")
    add("--block", type=int, help="models in a call of the program; default: the driver's choice")
    add("--limit", type=float, default=230, help="seconds after which nothing more is begun")
    add("--output", type=Path, default=RESULTS / "many_gpu.json")
    return parser.parse_args()


def design() -> pd.DataFrame:
    """Rows and groups of the study."""
    draw = np.random.default_rng(1)
    return pd.DataFrame({"x": draw.normal(size=ROWS), "g": np.arange(ROWS) % GROUPS})


def responses(data: pd.DataFrame, models: int) -> np.ndarray:
    """Counts (models, rows): intercept 0.5, slope 0.3, standard deviation between groups 0.5."""
    x, g = data["x"].to_numpy(), data["g"].to_numpy()
    part = 10_000

    def drawn(first: int) -> np.ndarray:
        draw = np.random.default_rng([2, first])
        b = 0.5 * draw.normal(size=(min(part, models - first), GROUPS))
        return draw.poisson(np.exp(0.5 + 0.3 * x + b[:, g])).astype(np.int16)

    with ThreadPoolExecutor() as pool:
        return np.concatenate(list(pool.map(drawn, range(0, models, part))))


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """The shortest of some calls, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return min(times)


@jax.jit
def copied(x: jax.Array) -> jax.Array:
    """One reading and one writing of memory."""
    return x * 1.0001


@jax.jit
def multiplied(x: jax.Array) -> jax.Array:
    """A chain of multiply-adds on every element, in registers."""
    y = x
    for _ in range(CHAIN):
        y = y * x + x
    return y


def bounds(dtype: str) -> dict[str, float]:
    """What the device does: bytes a second of a copy, operations a second of multiply-adds."""
    size = 1 << (27 if jax.default_backend() != "cpu" else 22)
    with engine():
        x = jnp.linspace(0.0, 0.5, size, dtype=dtype)
        moved = seconds(lambda: copied(x), 5)
        few = x[: size // 4]
        computed = seconds(lambda: multiplied(few), 5)
    return {
        "bytes_per_second": 2 * x.nbytes / moved,
        "operations_per_second": 2 * CHAIN * few.size / computed,
    }


def needed(found: Any, dtype: str) -> dict[str, float]:
    """Passes, bytes and operations of the counted minimum, for all models of a run."""
    evaluations, hessians = float(found.evaluations.sum()), float(found.hessians.sum())
    passes = START * len(found.status) + evaluations * (TRIPS + GRADIENT) + hessians * HESSIAN
    return {
        "passes_per_model": passes / len(found.status),
        "bytes": passes * ROWS * ARRAYS * np.dtype(dtype).itemsize,
        "operations": passes * ROWS * OPERATIONS,
    }


def lanes(table: pd.DataFrame, y: np.ndarray) -> Chunk:
    """The design and the lanes that `glmer_many` makes of counts (models, rows)."""
    block = Block(pd.RangeIndex(len(y)), y.T.astype(np.float64))
    return design_of(FORMULA, families.Poisson(), Call(table), block).chunk(block)


def summary(found: Any, accurate: Any) -> dict[str, Any]:
    """Statuses, work, and differences from the float64 estimates of the same models."""
    codes, counts = np.unique(found.status, return_counts=True)
    good = (found.status == Status.CONVERGED) & (accurate.status == Status.CONVERGED)
    beta = np.abs(found.params.beta - accurate.params.beta)[good]
    return {
        "statuses": {Status(int(c)).name: int(k) for c, k in zip(codes, counts, strict=True)},
        "evaluations": float(found.evaluations.mean()),
        "hessians": float(found.hessians.mean()),
        "largest_loglik_difference": float(
            0.5 * np.max(np.abs(found.deviance - accurate.deviance)[good], initial=0.0)
        ),
        "largest_beta_difference": float(np.max(beta, initial=0.0)),
    }


def main() -> None:
    options = arguments()
    begun = time.perf_counter()
    sizes = sorted(int(word) for word in options.models.split(","))
    if options.block is not None:
        driver.ACCELERATOR_BLOCK = driver.BLOCK = options.block
    device = jax.devices()[0]
    results: dict[str, Any] = {
        **header("many_gpu", options),
        "device": {"kind": device.device_kind, "platform": device.platform,
                   "devices": len(jax.devices())},
        "rows": ROWS, "groups": GROUPS, "block": driver.ACCELERATOR_BLOCK, "bounds": {}, "runs": [],
    }  # fmt: skip
    results["versions"] = {"glmm_jax": {name: version(name) for name in ("jax", "jaxlib", "numpy")}}
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}", flush=True)
    for dtype in DTYPES:
        results["bounds"][dtype] = bounds(dtype)
        print(f"{dtype}: a copy moves {results['bounds'][dtype]['bytes_per_second'] / 1e9:,.0f} "
              f"GB/s, multiply-adds {results['bounds'][dtype]['operations_per_second'] / 1e9:,.0f} "
              "GFLOP/s", flush=True)  # fmt: skip
    table, begin = design(), time.perf_counter()
    y = responses(table, sizes[-1])
    results["seconds_drawing"] = time.perf_counter() - begin
    chunks = {n: lanes(table, y[:n]) for n in sizes}
    accurate: dict[int, Any] = {}

    def timed(what: str, dtype: str, n: int, call: Callable[[], Any]) -> Any:
        """One run, noted and told; None where the time is up."""
        known = [r for r in results["runs"] if r["what"] == what and r["dtype"] == dtype]
        expected = n / known[-1]["models_per_second"] if len(known) > 1 else 0.0
        entry: dict[str, Any] = {"what": what, "dtype": dtype, "models": n}
        if time.perf_counter() - begun + expected > options.limit:
            print(f"{what}, {dtype}, {n:,} models: not run, the time is up", flush=True)
            return None
        begin = time.perf_counter()
        found = call()
        entry["seconds"] = time.perf_counter() - begin
        entry["models_per_second"] = n / entry["seconds"]
        entry["first"] = not known
        results["runs"].append(entry)
        print(f"{what}, {dtype}, {n:,} models: {entry['seconds']:.2f} s, "
              f"{entry['models_per_second']:,.0f} a second{', compiling' * entry['first']}",
              flush=True)  # fmt: skip
        if what == "driver" and not entry["first"]:
            note(entry, found)
        write(results, options.output)
        return found

    def note(entry: dict[str, Any], found: Any) -> None:
        """Work, accuracy and fractions of what the device could do."""
        dtype, n = entry["dtype"], entry["models"]
        accurate.setdefault(n, found)
        entry |= summary(found, accurate[n]) | needed(found, dtype)
        limit = results["bounds"][dtype]
        for name in ("bytes", "operations"):
            entry[f"fraction_of_{name}"] = (
                entry[name] / entry["seconds"] / limit[f"{name}_per_second"]
            )
        print(f"  {100 * entry['fraction_of_bytes']:.1f} % of the memory's, "
              f"{100 * entry['fraction_of_operations']:.1f} % of the arithmetic's speed by the "
              f"counted minimum; largest difference in logLik from float64 "
              f"{entry['largest_loglik_difference']:.1e}", flush=True)  # fmt: skip

    for dtype in DTYPES:
        for n in sizes:
            chunk = chunks[n]
            settings = checked(chunk.model, 1, None, "quasi-newton", MAX_STEPS)
            for _ in range(3 if n == sizes[0] else 1):
                timed("driver", dtype, n,
                      lambda c=chunk, s=settings, d=dtype: driver.estimate_lanes(
                          c.model, c.lanes, s, dtype=d))  # fmt: skip
        for n in (sizes[0], sizes[-1]):
            timed("glmer_many", dtype, n,
                  lambda n=n, d=dtype: glmer_many(FORMULA, table, "poisson", responses=y[:n].T,
                                                  dtype=d, progress=False))  # fmt: skip
    write(results, options.output)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
