"""Time many models of one design: this package in one call, its peers in loops over processes.

    python benchmarks/many.py --python-peers PEERS/bin/python [--cases poisson,cbpp]

Every program has a living process of its own and uses all cores. All are asked in turn, again and
again, so that a change in the machine's load meets each alike. Ours fits all models of a case in
every round; a peer fits its share of them, the next ones in each round, and its models per second
are those of its share: what all would take it is scaled from that, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import RESULTS, header, machine, median, write
from many_cases import Study, studies
from peers import HERE, OURS, Failed, OverLimit, Worker, environment, pause, peer_environment
from report import many as table

SCALING = "scaling"
SIZES = (100, 1_000, 10_000, 100_000)
# How many models a peer fits in each round: a few seconds of work.
SHARES: dict[str, dict[str, int]] = {
    "poisson": {"glmm": 1_000, "glmm_defaults": 1_000, "lme4": 40},
    "rnaseq": {"glmm": 200, "glmmTMB": 16, "lme4": 6},
    "rnaseq_known": {"glmmTMB": 24, "lme4": 60},
    "cbpp": {"glmm": 2_000, "bootMer": 160},
    "single_cell": {"glmm": 20, "glmmTMB": 4, "lme4": 2},
}
PYTHON_PEERS = ("glmm", "glmm_defaults")
# Weights in the Laplace approximation of a negative binomial: lme4's, and by default ours, are the
# expected ones, theirs the observed. The links of the other families are canonical.
CURVATURE = {"glmm": "observed", "glmm_defaults": "observed", "glmmTMB": "observed"}


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    known = ",".join((*SHARES, SCALING))
    add("--cases", default=known, help=f"names separated by commas; default: {known}")
    add("--models", type=int, help="models of every case; default: each case's own number")
    add("--share", type=float, default=1.0, help="factor on the peers' numbers of models")
    add("--python-peers", help="Python of the environment in which PyPI's glmm is installed")
    add("--rounds", type=int, default=3, help="rounds after the first")
    add("--large", action="store_true", help="a million models in the case 'scaling'")
    add("--limit", type=float, default=600, help="seconds after which a program is given up")
    add("--output", type=Path, default=RESULTS / "many.json")
    return parser.parse_args()


def command(program: str, study: Study, path: Path, peers: str | None) -> list[str]:
    """Command line of a worker; `Failed` where its interpreter is missing."""
    cores = machine()["cores"]
    if program == OURS or program in PYTHON_PEERS:
        python = sys.executable if program == OURS else peers
        if python is None:
            raise Failed("no interpreter")
        names = ("fixed", "right", "formula", "group", "family", "offset", "trials", "known",
                 "bootstrap")  # fmt: skip
        told = {name: getattr(study, name) for name in names} | {"processes": cores}
        return [python, str(HERE / "many_worker.py"), program, str(path), json.dumps(told)]
    rscript = shutil.which("Rscript")
    if rscript is None:
        raise Failed("no interpreter")
    known = "known" if study.known else "estimated"
    return [rscript, str(HERE / "many_worker.R"), program, str(path), study.formula, study.family,
            str(cores), known]  # fmt: skip


def started(program: str, study: Study, path: Path, options: Any) -> Worker:
    """A worker ready to fit."""
    # Loops over processes fill the cores already: one thread each for the linear algebra.
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env = environment(GLMM_JAX_CACHE="off") if program == OURS else peer_environment() | single
    return Worker(command(program, study, path, options.python_peers), env, options.limit)


def ask(worker: Worker, entry: dict[str, Any], first: int, count: int, limit: float) -> None:
    """Ask for some fits and note time, CPU time, failures, and the first answer's values."""
    pause()
    try:
        found = worker.ask(f"fit {first} {count}", limit)
    except Failed as error:
        entry["error"] = str(error)
        if isinstance(error, OverLimit):
            worker.close()  # it would slow the others down
        return
    entry["models"] = count
    entry["seconds"].append(found["seconds"])
    entry["cpu_seconds"].append(found["cpu"])
    entry["failed"].append(found["failed"])
    entry["peak_bytes"] = found["peak_bytes"]
    for name in ("singular", "evaluations", "statuses"):
        if name in found:
            entry[name] = found[name]
    entry.setdefault("values", (found["loglik"], found["se"]))


def measure(study: Study, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """All programs on one case, and the versions of each."""
    models = options.models or study.models
    shares = {p: max(1, round(n * options.share)) for p, n in SHARES[study.name].items()}
    counts = {OURS: models} | {p: max(1, min(n, models)) for p, n in shares.items()}
    entries: dict[str, dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = study.write(Path(folder), models)
        try:
            for program in counts:
                try:
                    workers[program] = started(program, study, path, options)
                except Failed as error:
                    entries[program] = {"not_run": str(error)}
                    continue
                versions[program.removesuffix("_defaults")] = workers[program].versions
                entries[program] = {"seconds": [], "cpu_seconds": [], "failed": []}
            for round_ in range(options.rounds + 1):
                for program, worker in workers.items():
                    if "error" not in entries[program]:
                        count = counts[program]
                        first = 0 if program == OURS else round_ * count % (models - count + 1)
                        ask(worker, entries[program], first, count, options.limit)
            compare(workers, entries, options.limit)
        finally:
            for worker in workers.values():
                worker.close()
    for entry in entries.values():
        entry.pop("values", None)
    summarise(entries)
    rows = len(study.design())
    return {
        "case": study.name, "title": study.title, "rows": rows, "models": models,
        "formula": study.formula, "family": study.family, "processes": machine()["cores"],
        "shares": {p: n for p, n in counts.items() if n < models}, "entries": entries,
    }, versions  # fmt: skip


def compare(workers: dict[str, Worker], entries: dict[str, Any], limit: float) -> None:
    """Differences in logLik and standard errors from ours, on the models of each first answer."""
    ours: dict[str, tuple[Any, Any]] = {}
    for program, entry in entries.items():
        if program == OURS or OURS not in workers or not entry.get("values", ([], []))[0]:
            continue
        curvature = CURVATURE.get(program, "expected")
        if curvature not in ours:
            count = max(len(e["values"][0]) for e in entries.values() if "values" in e)
            try:
                found = workers[OURS].ask(f"agree {count} {curvature}", limit)
            except Failed as error:
                entry["not_compared"] = str(error)
                continue
            ours[curvature] = found["loglik"], found["se"]
        theirs, errors = entry["values"]
        known = len(theirs)
        gap = np.array(theirs, float) - np.array(ours[curvature][0][:known], float)
        gap = gap[np.isfinite(gap)]
        # A model whose standard errors failed has one NaN, not p of them.
        both = [np.array([a, b], float) for a, b in zip(errors, ours[curvature][1], strict=False)
                if np.size(a) == np.size(b)]  # fmt: skip
        relative = [float(np.nanmax(np.abs(a / b - 1))) for a, b in both
                    if np.isfinite(a / b).any()]  # fmt: skip
        entry["compared"] = {
            "models": int(gap.size), "weights": curvature,
            "loglik_minus_ours_least": float(gap.min()) if gap.size else None,
            "loglik_minus_ours_median": float(np.median(gap)) if gap.size else None,
            "loglik_minus_ours_most": float(gap.max()) if gap.size else None,
            "se_relative_median": median(relative), "se_compared": len(relative),
        }  # fmt: skip


def summarise(entries: dict[str, dict[str, Any]]) -> None:
    """Models per second, CPU seconds a model, and ratios of both to ours."""
    for entry in entries.values():
        if not entry.get("seconds"):
            continue
        n, later = entry["models"], entry["seconds"][1:] or entry["seconds"]
        entry["per_second_first"] = n / entry["seconds"][0]
        entry["per_second"] = n / (median(later) or 1.0)
        entry["cpu_per_model"] = (median(entry["cpu_seconds"][1:] or entry["cpu_seconds"]) or 0) / n
    ours = entries.get(OURS, {})
    if "per_second" not in ours:
        return
    ours["trace_and_compile"] = ours["seconds"][0] - ours["models"] / ours["per_second"]
    for name, entry in entries.items():
        if name != OURS and "per_second" in entry:
            entry["ratio"] = ours["per_second"] / entry["per_second"]
            entry["ratio_first"] = ours["per_second_first"] / entry["per_second"]
            entry["ratio_cpu"] = entry["cpu_per_model"] / ours["cpu_per_model"]


def scaling(study: Study, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours on more and more models of the first case, the sizes in turn."""
    sizes = [n for n in SIZES if options.models is None or n <= options.models]
    if options.large:
        sizes.append(1_000_000)
    if not sizes:
        raise SystemExit(f"--models {options.models}: {SCALING} begins with {SIZES[0]} models")
    entries: dict[int, dict[str, Any]] = {
        n: {"seconds": [], "cpu_seconds": [], "failed": []} for n in sizes
    }
    with tempfile.TemporaryDirectory() as folder:
        path = study.write(Path(folder), max(sizes))
        worker = started(OURS, study, path, options)
        try:
            for round_ in range(options.rounds + 1):
                for n, entry in entries.items():
                    # The first round compiles; the longest runs are not repeated as often.
                    if "error" not in entry and (n < 1_000_000 or round_ < 2):
                        ask(worker, entry, 0, n, options.limit)
        finally:
            worker.close()
    for entry in entries.values():
        entry.pop("values", None)
    summarise({str(n): entry for n, entry in entries.items()})
    named = {f"{n} models": entry for n, entry in entries.items()}
    return {
        "case": SCALING, "title": f"scaling, {study.title}", "rows": len(study.design()),
        "models": max(sizes), "formula": study.formula, "family": study.family,
        "processes": machine()["cores"], "shares": {}, "entries": named,
    }, {OURS: worker.versions}  # fmt: skip


def main() -> None:
    options = arguments()
    chosen, known = options.cases.split(","), studies()
    unknown = set(chosen) - {*SHARES, SCALING}
    if unknown:
        raise SystemExit(f"--cases {', '.join(sorted(unknown))}: use {', '.join(SHARES)}")
    if options.rounds < 1 or options.share <= 0 or (options.models or 1) < 1:
        raise SystemExit("--rounds, --share and --models must be positive")
    if options.python_peers is not None and shutil.which(options.python_peers) is None:
        raise SystemExit(f"--python-peers {options.python_peers}: there is no such program")
    results: dict[str, Any] = {**header("many", options), "cases": []}
    for name in chosen:
        before = machine()["load_average"]
        if name == SCALING:
            found, versions = scaling(known["poisson"], options)
        else:
            found, versions = measure(known[name], options)
        found["load_average"] = before
        results["versions"].update(versions)
        results["cases"].append(found)
        write(results, options.output)  # after each case: a long run may be interrupted
        print(table({**results, "cases": [found]}) + "\n", flush=True)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
