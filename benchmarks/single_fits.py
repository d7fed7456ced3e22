"""Time single fits: this package's first and later calls, its engine alone, and every peer.

    python benchmarks/single_fits.py --python-peers PEERS/bin/python             # all, an hour
    python benchmarks/single_fits.py --python-peers PEERS/bin/python --short     # 20 minutes
    python benchmarks/single_fits.py --peers none --short --minutes 3.5          # on a GPU

The cases are those of `cases.py`: classic data, large ones, and series in which rows, levels,
parameters or crossed factors grow, each drawn beside the results (where there is matplotlib), with
the exponent of the time. The short form has shorter series, fewer repeats, and the slow peers on
the small cases only. `--minutes` ends a run after so many, and says what is left out.

Each program runs in a process of its own that stays alive over a case; all are asked for one fit
in turn, again and again, so that a change in the machine's load meets each alike. The median of
the calls after the first counts. Standard errors are part of every fit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import Case, cases, growing, prepare
from growth import draw, exponents
from machine import RESULTS, header, median, write
from peers import OURS, PEERS, SLOW, Failed, Interpreters, OverLimit, Worker, pause, start
from report import growth, verdict
from report import single_fits as table

ENGINE = "glmm_jax, engine only"


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", help="names separated by commas, or 'small' or 'classic'; default: all")
    add("--short", action="store_true", help="what fits into some minutes, see above")
    add("--minutes", type=float, help="start no further case after so many")
    add("--peers", default=",".join(PEERS), help="names separated by commas; 'none'")
    add("--python-peers", help="Python of the environment in which the PyPI peers are installed")
    add("--repeats", type=int, help="calls after the first (7; short: 3)")
    add("--rows", type=int, default=1_000_000, help="rows of the case 'rows'")
    add("--crossed-rows", type=int, default=200_000, help="rows of the case 'crossed'")
    add("--limit", type=float, help="seconds after which one fit is given up (900; short: 60)")
    add("--budget", type=float,
        help="seconds after which a program's fits of a case are not repeated further "
        "(120; short: 15)")  # fmt: skip
    add("--output", type=Path, default=RESULTS / "single_fits.json")
    options = parser.parse_args()
    for name, value in {"repeats": (7, 3), "limit": (900.0, 60.0), "budget": (120.0, 15.0)}.items():
        if getattr(options, name) is None:
            setattr(options, name, value[options.short])
    return options


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
        "family": case.family, "series": case.series, "size": case.size, "entries": entries,
        "versions": versions,
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
        if len(entry["se"]) == len(ours["se"]):
            pairs = zip(entry["se"], ours["se"], strict=True)
            entry["largest_se_difference"] = max(abs(theirs / own - 1) for theirs, own in pairs)
        entry["ratio"] = entry["median"] / ours["median"]
        if "median" in engine:
            entry["ratio_engine"] = entry["median"] / engine["median"]


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """The cases asked for, small ones first; exits on an unknown name."""
    known = cases(options.rows, options.crossed_rows)
    known |= {case.name: case for case in growing(options.short)}
    kinds = {
        None: list(known),
        "classic": [name for name, case in known.items() if case.series is None],
        "small": [name for name, case in known.items() if not (case.series or case.large)],
    }
    names = kinds.get(options.cases) or options.cases.split(",")
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"--cases {', '.join(sorted(unknown))}: use {', '.join(known)}")
    return [known[name] for name in names]


def main() -> None:
    options = arguments()
    begin = time.perf_counter()
    chosen = chosen_cases(options)
    peers = [] if options.peers == "none" else options.peers.split(",")
    unknown = set(peers) - set(PEERS)
    if unknown:
        raise SystemExit(f"--peers {', '.join(sorted(unknown))}: use {', '.join(PEERS)}")
    if options.repeats < 1:
        raise SystemExit(f"--repeats {options.repeats}: use at least 1")
    tools = Interpreters.find(options.python_peers)
    results: dict[str, Any] = {**header("single_fits", options), "cases": [], "left_out": []}
    for case in chosen:
        if options.minutes and time.perf_counter() - begin > 60 * options.minutes:
            results["left_out"].append(case.name)
            continue
        light = not (options.short and (case.large or case.series))
        programs = [OURS, *(peer for peer in peers if light or peer not in SLOW)]
        found = measure(case, programs, tools, options)
        for versions in found.pop("versions").items():
            results["versions"].update([versions])
        results["cases"].append(found)
        write(results, options.output)  # after each case: a long run may be interrupted
        print(table({**results, "cases": [found]}), flush=True)
    results["exponents"] = exponents(results["cases"])
    results["seconds"] = time.perf_counter() - begin
    write(results, options.output)
    print(f"\n{growth(results)}\n\n{verdict(results)}\n\nwritten to {options.output}")
    picture = draw(results["cases"], options.output.with_suffix(".png"))
    if picture is not None:
        print(f"drawn in {picture}")


if __name__ == "__main__":
    main()
