"""Time profile likelihood: all parameters of a fit, here and by lme4's `profile`.

    python benchmarks/profiles.py [--cases cm3] [--repeats 5]

Both start from a fit made beforehand and profile every parameter as far as lme4 does by default,
|zeta| up to the root of the 99 % quantile of chi-squared with as many degrees of freedom as there
are parameters. Ours runs again and again, before and after lme4's one run; the first call
(tracing and compiling, with the cache of programs off) stands apart. Limits are compared by what
they are apart, in half-widths of the interval.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["GLMM_JAX_CACHE"] = "off"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.special
from cases import Case, named, prepare
from machine import RESULTS, header, median, write
from peers import HERE, Failed, Worker, peer_environment
from report import profiles as table
from worker import read, versions

from glmm_jax import glmer


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", default="cm3", help="names separated by commas")
    add(
        "--repeats", type=int, default=5, help="our calls after the first, on either side of lme4's"
    )
    add("--limit", type=float, default=7200, help="seconds after which lme4's run is given up")
    add("--output", type=Path, default=RESULTS / "profiles.json")
    return parser.parse_args()


def lme4(case: Case, path: Path, limit: float) -> dict[str, Any]:
    """lme4's one run, or why there is none."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        return {"not_run": "no interpreter"}
    command = [rscript, str(HERE / "profiles.R"), str(path), case.formula, case.family]
    try:
        worker = Worker(command, peer_environment(), limit)
    except Failed as error:
        return {"not_run": str(error)}
    try:
        return {**worker.ask("profile", limit), "versions": worker.versions}
    except Failed as error:
        return {"error": str(error)}
    finally:
        worker.close()


def reach(parameters: int) -> float:
    """The level at which ours goes as far out as lme4 by default."""
    square = scipy.special.chdtri(parameters, 0.01)  # its 99 % quantile
    return float(-np.expm1(-0.5 * square))  # two degrees of freedom


def measure(case: Case, options: Any) -> dict[str, Any]:
    """Both programs on one case."""
    with tempfile.TemporaryDirectory() as folder:
        path, rows = prepare(case, Path(folder))
        fit = glmer(case.formula, read(path), family=case.family)
        level = reach(fit.df)
        times: list[float] = []
        cpu: list[float] = []

        def ours(repeats: int) -> None:
            for _ in range(repeats):
                begin, used = time.perf_counter(), time.process_time()
                fit.profile(level=level)
                times.append(time.perf_counter() - begin)
                cpu.append(time.process_time() - used)

        ours(1 + options.repeats)
        theirs = lme4(case, path, options.limit)
        ours(options.repeats)
    profile = fit.profile(level=level)
    limits = profile.conf_int(0.95)
    entry: dict[str, Any] = {
        "first": times[0], "first_cpu": cpu[0], "repeats": times[1:], "median": median(times[1:]),
        "cpu": median(cpu[1:]), "points": len(profile.frame), "names": list(profile.parameters),
        "reach": float(profile.frame["zeta"].abs().max()), "lower": list(limits.iloc[:, 0]),
        "upper": list(limits.iloc[:, 1]), "notes": list(profile.notes),
    }  # fmt: skip
    found = {"glmm_jax": versions("glmm_jax")}
    if "versions" in theirs:
        found["lme4"] = theirs.pop("versions")
    if "seconds" in theirs:
        theirs["ratio"] = theirs["seconds"] / entry["median"]
        theirs["ratio_first"] = theirs["seconds"] / entry["first"]
        theirs["ratio_cpu"] = theirs["cpu"] / entry["cpu"]
        theirs["largest_difference"] = apart(limits.to_numpy(), theirs, fit.params.size)
    return {
        "case": case.name, "title": case.title, "rows": rows, "formula": case.formula,
        "parameters": fit.df, "entries": {"glmm_jax": entry, "lme4": theirs}, "versions": found,
    }  # fmt: skip


def apart(limits: np.ndarray, theirs: dict[str, Any], p: int) -> float:
    """Largest difference of the limits in half-widths; lme4 names its SDs first, beta last."""
    other = np.column_stack([theirs["lower"], theirs["upper"]])
    other = np.concatenate([other[-p:], other[:-p]])
    width = 0.5 * (limits[:, 1] - limits[:, 0])
    return float(np.nanmax(np.abs(other - limits) / width[:, None]))


def main() -> None:
    options = arguments()
    if options.repeats < 1:
        raise SystemExit(f"--repeats {options.repeats}: use at least 1")
    chosen = named(options.cases)
    vector = [case.name for case in chosen if case.vector]
    if vector:  # lme4 mixes standard deviations and correlations
        raise SystemExit(f"--cases {', '.join(vector)}: only scalar random effects are compared")
    results: dict[str, Any] = {**header("profiles", options), "cases": []}
    for case in chosen:
        found = measure(case, options)
        results["versions"].update(found.pop("versions"))
        results["cases"].append(found)
        write(results, options.output)
        print(table({**results, "cases": [found]}), flush=True)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
