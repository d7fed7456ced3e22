"""Time single fits: this package's first and later calls, its engine alone, and every peer.

    python benchmarks/single_fits.py --python-peers PEERS/bin/python [--cases cm3,cm4] [--large]

Each program runs in a process of its own that stays alive over a case; all are asked for one fit
in turn, again and again, so that a change in the machine's load meets each alike. The median of
the calls after the first counts. Standard errors are part of every fit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import Case, cases, prepare
from machine import RESULTS, header, median, write
from peers import OURS, PEERS, Failed, Interpreters, OverLimit, Worker, pause, start
from report import single_fits as table

ENGINE = "glmm_jax, engine only"


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", help="names separated by commas; default: all small ones")
    add("--large", action="store_true", help="the large cases too")
    add("--peers", default=",".join(PEERS), help="names separated by commas; 'none'")
    add("--python-peers", help="Python of the environment in which the PyPI peers are installed")
    add("--repeats", type=int, default=7, help="calls after the first")
    add("--rows", type=int, default=1_000_000, help="rows of the case 'rows'")
    add("--crossed-rows", type=int, default=200_000, help="rows of the case 'crossed'")
    add("--limit", type=float, default=900, help="seconds after which one fit is given up")
    add("--budget", type=float, default=120,
        help="seconds after which a program's fits of a case are not repeated further")  # fmt: skip
    add("--output", type=Path, default=RESULTS / "single_fits.json")
    return parser.parse_args()


def measure(case: Case, programs: list[str], tools: Interpreters, options: Any) -> dict[str, Any]:
    """All programs on one case: {"entries": {name: times and logLik}, "versions", "rows"}."""
    entries: dict[str, dict[str, Any]] = {}
    versions: dict[str, dict[str, str]] = {}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, rows = prepare(case, Path(folder))
        try:
            for program in programs:
                worker = start(program, case, path, tools, options.limit)
                if isinstance(worker, str):
                    entries[program] = {"not_run": worker}
                    continue
                versions[program] = worker.versions
                workers[program] = worker
                entries[program] = {"repeats": []}
                if program == OURS:
                    entries[ENGINE] = {"repeats": []}
            # The first round is every program's first call. Ours precedes its engine, which then
            # finds the program compiled.
            for _ in range(options.repeats + 1):
                for name, entry in entries.items():
                    program = OURS if name == ENGINE else name
                    if program in workers and not entry.get("error"):
                        one_fit(workers[program], name, entry, options)
        finally:
            for worker in workers.values():
                worker.close()
    summarise(entries)
    return {
        "case": case.name, "title": case.title, "rows": rows, "formula": case.formula,
        "family": case.family, "entries": entries, "versions": versions,
    }  # fmt: skip


def one_fit(worker: Worker, name: str, entry: dict[str, Any], options: Any) -> None:
    """Ask for a fit and note its time, unless the program has used up its share of time."""
    # Our first call compiles, so that a later one is needed in any case.
    first = 0.0 if name in (OURS, ENGINE) else entry.get("first", 0.0)
    if max(first, sum(entry["repeats"])) > options.budget:
        return
    pause()
    try:
        found = worker.ask("engine" if name == ENGINE else "fit", options.limit)
    except Failed as error:
        entry["error"] = str(error)
        if isinstance(error, OverLimit):
            worker.close()  # it would slow the others down
        return
    seconds = found.pop("seconds")
    if "first" in entry:
        entry["repeats"].append(seconds)
    else:
        entry["first"] = seconds
    entry.update(found)


def summarise(entries: dict[str, dict[str, Any]]) -> None:
    """Add medians, differences in logLik from ours, and ratios of time, peer / ours."""
    for entry in entries.values():
        if "first" in entry:
            # A fit too slow to repeat counts with its only time.
            entry["median"] = median(entry["repeats"]) or entry["first"]
    ours, engine = entries.get(OURS, {}), entries.get(ENGINE, {})
    if "first" in ours:
        ours["trace_and_compile"] = ours["first"] - ours["median"]
    for entry in entries.values():
        if "median" not in entry or "median" not in ours:
            continue
        entry["loglik_minus_ours"] = entry["loglik"] - ours["loglik"]
        entry["ratio"] = entry["median"] / ours["median"]
        if "median" in engine:
            entry["ratio_engine"] = entry["median"] / engine["median"]


def main() -> None:
    options = arguments()
    known = cases(options.rows, options.crossed_rows)
    small = [name for name, case in known.items() if not case.large or options.large]
    chosen = options.cases.split(",") if options.cases else small
    peers = [] if options.peers == "none" else options.peers.split(",")
    for value, among, flag in ((chosen, known, "--cases"), (peers, PEERS, "--peers")):
        unknown = set(value) - set(among)
        if unknown:
            raise SystemExit(f"{flag} {', '.join(sorted(unknown))}: use {', '.join(among)}")
    if options.repeats < 1:
        raise SystemExit(f"--repeats {options.repeats}: use at least 1")
    tools = Interpreters.find(options.python_peers)
    results: dict[str, Any] = {**header("single_fits", options), "cases": []}
    for name in chosen:
        found = measure(known[name], [OURS, *peers], tools, options)
        for versions in found.pop("versions").items():
            results["versions"].update([versions])
        results["cases"].append(found)
        write(results, options.output)  # after each case: a long run may be interrupted
        print(table({**results, "cases": [found]}), flush=True)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
