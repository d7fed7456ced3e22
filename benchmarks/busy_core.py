"""Time warm fits alone and while another process keeps one core busy.

    python benchmarks/busy_core.py [--cases cm3,verbagg] [--repeats 7] [--fits 5]

Threads that spin while they wait for each other make a fit hundreds of times slower when a core is
taken. Blocks of fits alone and beside the busy process take turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import Case, named, prepare
from machine import RESULTS, header, write
from peers import OURS, Interpreters, Worker, pause, start
from report import busy_core as table

# It ends with this process, even if that is killed: its parent is then another.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100000))"


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", default="cm3,verbagg", help="names separated by commas, see cases.py")
    add("--repeats", type=int, default=7, help="blocks of fits of each kind")
    add("--fits", type=int, default=5, help="fits in a block")
    add("--busy", type=int, default=1, help="busy processes")
    add("--output", type=Path, default=RESULTS / "busy_core.json")
    return parser.parse_args()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` cores busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        pause(0.5)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()
        pause(0.2)


def block(worker: Worker, fits: int) -> list[float]:
    """Times of some fits in a row."""
    return [worker.ask("fit", 600)["seconds"] for _ in range(fits)]


def measure(case: Case, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """One case's times, and the versions of what was timed."""
    alone: list[float] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path, rows = prepare(case, Path(folder))
        worker = start(OURS, case, path, Interpreters(None, None), 600)
        if isinstance(worker, str):
            raise SystemExit(f"{case.name}: {worker}")
        try:
            block(worker, 3)  # compiles, and warms up
            for _ in range(options.repeats):
                alone += block(worker, options.fits)
                with busy(options.busy):
                    beside += block(worker, options.fits)
        finally:
            worker.close()
    usual = statistics.median(alone)
    return {
        "case": case.name, "title": case.title, "rows": rows, "alone": usual,
        "busy": statistics.median(beside), "ratio": statistics.median(beside) / usual,
        "worst_ratio": max(beside) / usual,
        "repeats": {"alone": alone, "busy": beside},
    }, worker.versions  # fmt: skip


def main() -> None:
    options = arguments()
    chosen = named(options.cases)
    for name in ("repeats", "fits", "busy"):
        if getattr(options, name) < 1:
            raise SystemExit(f"--{name} {getattr(options, name)}: use at least 1")
    results: dict[str, Any] = {**header("busy_core", options), "cases": []}
    for case in chosen:
        found, results["versions"][OURS] = measure(case, options)
        results["cases"].append(found)
        write(results, options.output)
    print(table(results))
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
