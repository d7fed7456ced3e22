"""Beyond what fits: crossed factors with 20,000 and 100,000 levels each, ten million rows, against
GPBoost's iterative method.

    python benchmarks/huge.py [--peer PYTHON] [--limit SECONDS] [--only NAME]

Each fit runs in a process of its own, one after another: time (wall and CPU) of the whole call with
standard errors, first and second, and the peak of its memory. PYTHON is an interpreter that has
gpboost. Results go to benchmarks/results/huge.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import machine
import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results" / "huge.json"
# Rows, levels of each factor, factors, covariates.
CASES = {
    "crossed 20,000 x 20,000": (200_000, 20_000, 2, 1),
    "crossed 100,000 x 100,000": (1_000_000, 100_000, 2, 1),
    "one factor, 10,000,000 rows": (10_000_000, 50_000, 1, 5),
}


def data(name: str) -> pd.DataFrame:
    """Bernoulli responses; the effects of the factors have standard deviations 1 and 0.7."""
    rows, levels, factors, covariates = CASES[name]
    rng = np.random.default_rng(20)
    groups = [rng.integers(levels, size=rows) for _ in range(factors)]
    columns = {f"x{i}": rng.normal(size=rows) for i in range(covariates)}
    eta = np.full(rows, 0.2)
    for group, sd in zip(groups, (1.0, 0.7), strict=False):
        eta += sd * rng.normal(size=levels)[group]
    for i in range(covariates):
        eta += 0.1 * (i + 1) * columns[f"x{i}"]
    y = rng.random(rows) < 1 / (1 + np.exp(-eta))
    named = {f"g{f}": group for f, group in enumerate(groups)}
    return pd.DataFrame({**named, **columns, "y": y.astype(np.int8)})


def ours(name: str, frame: pd.DataFrame) -> tuple[dict[str, Any], Any]:
    """Estimates of `glmer`, with their Monte-Carlo errors."""
    import glmm_jax as gj

    _, _, factors, covariates = CASES[name]
    terms = [f"x{i}" for i in range(covariates)] + [f"(1 | g{f})" for f in range(factors)]
    fit = gj.glmer(f"y ~ {' + '.join(terms)}", frame, family="bernoulli")
    errors = np.sqrt(np.diag(fit.vcov_all))
    return {
        "llf": fit.llf,
        "beta": fit.params.tolist(),
        "sd": fit.theta.tolist(),
        "errors": errors.tolist(),
        "status": fit.status.name,
        "evaluations": int(fit.estimate.evaluations),
        "solver": fit.model.structure.solver,
    }, fit


def gpboost(name: str, frame: pd.DataFrame) -> tuple[dict[str, Any], Any]:
    """GPBoost with its defaults, iterative where factors are crossed."""
    import gpboost as gpb

    _, _, factors, covariates = CASES[name]
    method = "iterative" if factors > 1 else "default"
    X = np.column_stack([np.ones(len(frame)), *(frame[f"x{i}"] for i in range(covariates))])
    groups = frame[[f"g{f}" for f in range(factors)]].to_numpy()
    model = gpb.GPModel(
        group_data=groups, likelihood="bernoulli_logit", matrix_inversion_method=method
    )
    model.fit(y=frame["y"].to_numpy(float), X=X)
    beta = np.asarray(model.get_coef(std_err=True))
    return {
        "llf": -model.get_current_neg_log_likelihood(),
        "beta": beta[0].tolist(),
        "sd": np.sqrt(np.asarray(model.get_cov_pars()).ravel()).tolist(),
        "errors": beta[1].tolist(),
        "solver": method,
    }, None


def work(engine: str, name: str, calls: int) -> None:
    """One process: fits, and a line of JSON after each."""
    frame = data(name)
    found, fit = {}, None
    for call in range(calls):
        wall, cpu = time.perf_counter(), time.process_time()
        found, fit = (ours if engine == "glmm_jax" else gpboost)(name, frame)
        found |= {
            "version": metadata.version(engine.replace("_", "-")),
            "call": "first" if call == 0 else "later",
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(found), flush=True)
    if fit is not None and found["solver"] == "iterative":
        errors = fit.monte_carlo()
        of_parameters = errors.params.tolist()
        print(json.dumps({"monte_carlo_llf": errors.llf, "monte_carlo": of_parameters}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits beyond what fits in memory")
    parser.add_argument("--peer", default=sys.executable, help="interpreter with gpboost")
    parser.add_argument("--limit", type=float, default=1_800, help="seconds for one process")
    parser.add_argument("--only", help="names of cases that contain this")
    parser.add_argument("--engine", choices=("glmm_jax", "gpboost"))
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.engine, given.work, given.calls)
        return
    # A run of some of the cases keeps what the file has of the others, with the load of their time.
    earlier = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    results = {**machine.header("huge", given), "cases": earlier}
    for name in CASES:
        if given.only and given.only not in name:
            continue
        for engine in ("glmm_jax", "gpboost"):
            if given.engine not in (None, engine):
                continue
            python = sys.executable if engine == "glmm_jax" else given.peer
            calls = given.calls if engine == "glmm_jax" else 1
            command = [python, __file__, "--work", name, "--engine", engine]
            command += ["--calls", str(calls)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                try:
                    out, _ = process.communicate(timeout=given.limit)
                except subprocess.TimeoutExpired:
                    process.kill()
                    out, _ = process.communicate()
            lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            ended = process.returncode == 0
            entry = {"ended": ended, "limit": given.limit, "load": os.getloadavg()[0]}
            results["cases"].setdefault(name, {})[engine] = entry | {"calls": lines}
            print(name, engine, "ended" if ended else "did not end", lines, flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
