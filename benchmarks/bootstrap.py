"""Time the parametric bootstrap beside lme4's bootMer, on the same data and the same cores.

    python benchmarks/bootstrap.py [--case cm3] [--replicates 1000] [--lme4 200] [--rounds 4]

Ours runs all replicates in every round. bootMer runs its share of `--lme4` replicates in every
round, in turn with ours, so that a change in the machine's load meets both; where these are fewer
than `--replicates`, its time is scaled in proportion and the file says so. Its refits run in as
many forked processes as there are cores. The fits themselves, made once before, do not count.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import Case, cases, prepare
from machine import RESULTS, header, machine, median, write
from peers import HERE, OURS, Worker, environment, pause, peer_environment
from report import seconds

LME4 = "lme4 bootMer"


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--case", default="cm3", help="a small case of cases.py")
    add("--replicates", type=int, default=1000, help="of ours, in every round")
    add("--lme4", type=int, default=200, help="replicates of bootMer over all rounds")
    add("--rounds", type=int, default=4)
    add("--limit", type=float, default=3600, help="seconds after which a round is given up")
    add("--output", type=Path, default=RESULTS / "bootstrap.json")
    return parser.parse_args()


def commands(case: Case, path: Path) -> dict[str, list[str]]:
    """Command lines of the two processes."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        raise SystemExit("Rscript is not on the path; install R and lme4")
    rest = [str(path), case.formula, case.family]
    return {
        OURS: [sys.executable, str(HERE / "bootstrap_worker.py"), *rest],
        LME4: [rscript, str(HERE / "bootmer.R"), *rest],
    }


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every round, standard errors of all replicates pooled, versions."""
    cores = machine()["cores"]
    counts = {OURS: options.replicates, LME4: max(2, options.lme4 // options.rounds)}
    times: dict[str, list[float]] = {name: [] for name in counts}
    errors: dict[str, list[list[float]]] = {name: [] for name in counts}
    extra: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, rows = prepare(case, Path(folder))
        workers: dict[str, Worker] = {}
        try:
            for name, command in commands(case, path).items():
                env = environment(GLMM_JAX_CACHE="off") if name == OURS else peer_environment()
                workers[name] = Worker(command, env, options.limit)
            # Ours once more at the beginning: its first call compiles.
            for name, seed in [(OURS, 0), *((n, r) for r in range(options.rounds) for n in counts)]:
                pause()
                found = workers[name].ask(f"{counts[name]} {seed} {cores}", options.limit)
                times[name].append(found["seconds"])
                errors[name].append(found["se"])
                if name == OURS:
                    extra = {key: found[key] for key in ("failed", "singular")}
        finally:
            for worker in workers.values():
                worker.close()
    first, later = times[OURS][0], times[OURS][1:]
    done = counts[LME4] * options.rounds
    theirs = sum(times[LME4]) * options.replicates / done
    ours = median(later) or first
    pooled = {name: np.sqrt(np.mean(np.square(se), axis=0)).tolist() for name, se in errors.items()}
    return {
        "case": case.name, "rows": rows, "formula": case.formula, "family": case.family,
        "replicates": options.replicates,
        "ours": {"first": first, "repeats": later, "median": ours, **extra},
        "lme4": {"replicates": done, "repeats": times[LME4], "scaled": done != options.replicates,
                 "seconds_for_all": theirs, "processes": cores},
        "ratio_first": theirs / first, "ratio": theirs / ours, "se": pooled,
        "versions": {name: worker.versions for name, worker in workers.items()},
    }  # fmt: skip


def main() -> None:
    options = arguments()
    known = cases()
    if options.case not in known:
        raise SystemExit(f"--case {options.case}: use one of {', '.join(known)}")
    if options.rounds < 1 or options.replicates < 2 or options.lme4 < 2:
        raise SystemExit("--rounds must be 1 or more, --replicates and --lme4 2 or more")
    results = header("bootstrap", options)
    found = measure(known[options.case], options)
    results["versions"] = found.pop("versions")
    results["cases"] = [found]
    write(results, options.output)
    lme4, n = found["lme4"], found["replicates"]
    scaled = f" (scaled from {lme4['replicates']})" if lme4["scaled"] else ""
    print(f"{n} replicates of {found['case']}, {found['rows']} rows")
    print(f"  glmm_jax, first call  {seconds(found['ours']['first'])}")
    print(f"  glmm_jax, later calls {seconds(found['ours']['median'])}")
    print(
        f"  lme4 bootMer, {lme4['processes']} processes{scaled} {seconds(lme4['seconds_for_all'])}"
    )
    print(f"  ratio {found['ratio_first']:.0f} (first call), {found['ratio']:.0f} (later calls)")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
