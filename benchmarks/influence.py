"""Time influence without refits beside the refits that it stands for, in the same process.

    python benchmarks/influence.py [--rounds 3]

VerbAgg: what all 7,584 single answers do to every estimate, beside 10 refits with `fit.refit`: from
starting values, and from the estimate, each with one answer flipped. Contraception: what each of
60 districts does, beside 60 refits side by side in one program, how near each order comes to them,
and the districts in which first order fails.
Seconds of CPU time; medians of rounds that take turns, the first call apart, which compiles.
Results are written to benchmarks/results/influence.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, header, median, write

import glmm_jax as gj


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "influence.json")
    return parser.parse_args()


def timed(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, Any]]:
    """CPU seconds of the first call and of later calls of each, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            before = time.process_time()
            task()
            seconds[name].append(time.process_time() - before)
    return {
        name: {"first": times[0], "repeats": times[1:], "median": median(times[1:])}
        for name, times in seconds.items()
    }


def verbagg(rounds: int) -> dict[str, Any]:
    """All single rows of VerbAgg."""
    formula = "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
    fit = gj.glmer(formula, gj.datasets.load("verbagg"), "bernoulli", progress=False)
    flipped = [np.where(np.arange(fit.nobs) == i, 1 - fit.frame.y, fit.frame.y) for i in range(10)]
    tasks: dict[str, Callable[[], object]] = {
        "10 refits": lambda: [fit.refit(y, progress=False) for y in flipped],
        "10 refits, from the estimate": lambda: [
            fit.refit(y, warm=True, progress=False) for y in flipped
        ],
        "all rows, first order": lambda: fit.influence(method="first-order"),
        "all rows, second order": lambda: fit.influence(),
    }
    return {"case": "VerbAgg", "formula": formula, "rows": fit.nobs, "cpu": timed(tasks, rounds)}


def contraception(rounds: int) -> dict[str, Any]:
    """All districts of Contraception, and how near each order comes to the refits."""
    formula = "use ~ age * ch + I(age^2) + urban + (urban | district)"
    fit = gj.glmer(formula, gj.datasets.load("contraception"), "bernoulli", progress=False)
    methods = ("first-order", "second-order", "refit")
    tasks: dict[str, Callable[[], object]] = {
        f"60 districts, {name}": partial(fit.influence, "district", method=name) for name in methods
    }
    cpu = timed(tasks, rounds)
    inverse = np.linalg.inv(fit.vcov_all.to_numpy())
    moves = {name: -fit.influence("district", method=name).dfbeta.to_numpy() for name in methods}

    def length(d: np.ndarray) -> np.ndarray:
        return np.sqrt(np.einsum("ka,ab,kb->k", d, inverse, d))

    error = {
        name: length(moves[name] - moves["refit"]) / length(moves["refit"]) for name in methods[:-1]
    }
    worst = np.flatnonzero(error["first-order"] > 0.05)
    worst = worst[np.argsort(-error["first-order"][worst])]
    found = fit.influence("district")
    return {
        "case": "Contraception, cm4", "formula": formula, "rows": fit.nobs, "cpu": cpu,
        "relative_error": {
            name: {"median": float(np.median(e)), "largest": float(np.max(e)),
                   "share_within_5_percent": float(np.mean(e <= 0.05))}
            for name, e in error.items()
        },
        # Lengths of moves in standard errors; nonlinearity is known without the refit.
        "first_order_fails": [
            {"district": str(found.without.index[g]), "rows": int(found.rows.iloc[g]),
             "move": float(length(moves["refit"])[g]),
             "nonlinearity": float(found.nonlinearity.iloc[g])}
            | {name: float(e[g]) for name, e in error.items()}
            for g in worst
        ],
    }  # fmt: skip


def main() -> None:
    """Measure, write and print."""
    options = arguments()
    results = header("influence", options)
    versions = {name: version(name) for name in ("jax", "numpy")}
    results["versions"] = {"glmm_jax": {"glmm_jax": gj.__version__, **versions}}
    results["cases"] = [contraception(options.rounds), verbagg(options.rounds)]
    write(results, options.output)
    for case in results["cases"]:
        print(case["case"], case.get("relative_error", ""))
        for line in case.get("first_order_fails", []):
            print("  ", {k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()})
        for name, found in case["cpu"].items():
            print(f"  {name:30s} {found['median']:8.3f} s CPU (first call {found['first']:.1f} s)")


if __name__ == "__main__":
    main()
