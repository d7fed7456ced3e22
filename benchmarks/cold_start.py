"""Time whole fresh processes: import, read a CSV file, fit once, print the summary.

    python benchmarks/cold_start.py [--cases cm3,verbagg] [--repeats 5]

This package with an empty folder for compiled programs, with a filled one, R's lme4, and a process
that imports pandas and JAX, reads the file and does no more (no fit with the two can be faster), in
turn.
One process of each runs beforehand, not timed: it fills the system's caches of files, Python's of
byte code and, for the second kind, the folder of programs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import Case, named, prepare
from machine import RESULTS, header, median, write
from peers import environment, peer_environment
from report import cold_start as table

EMPTY, FILLED, LME4 = "glmm_jax, empty cache", "glmm_jax, filled cache", "lme4"
IMPORTS = "pandas and JAX, imports alone"

# The clock of the day, not a counter: the times are counted from the start in another process.
PYTHON = """
import sys, time
begin = float(sys.argv[1])
started = time.time()
import pandas as pd
import glmm_jax as gj
imported = time.time()
data = pd.read_csv(sys.argv[2], dtype=dict.fromkeys(sys.argv[5].split(","), "category"))
read = time.time()
fit = gj.glmer(sys.argv[3], data, family=sys.argv[4])
fitted = time.time()
print(fit.summary())
import json, platform, jax, numpy
print("@@ " + json.dumps({
    "import": imported - started, "first_fit": fitted - read, "to_first_fit": fitted - begin,
    "loglik": fit.llf, "versions": {
        "python": platform.python_version(), "glmm_jax": gj.__version__, "jax": jax.__version__,
        "numpy": numpy.__version__, "pandas": pd.__version__}}))
"""

BARE = """
import sys, time
started = time.time()
import pandas as pd
import jax.numpy
imported = time.time()
pd.read_csv(sys.argv[2], dtype=dict.fromkeys(sys.argv[5].split(","), "category"))
import json, jax
print("@@ " + json.dumps({
    "import": imported - started, "versions": {"jax": jax.__version__, "pandas": pd.__version__}}))
"""

R = """
args <- commandArgs(TRUE)
now <- function() as.numeric(Sys.time())
begin <- as.numeric(args[1])
started <- now()
suppressPackageStartupMessages(library(lme4))
imported <- now()
data <- read.csv(args[2], stringsAsFactors = TRUE)
for (name in strsplit(args[5], ",")[[1]]) data[[name]] <- factor(data[[name]])
read <- now()
family <- if (args[4] == "poisson") poisson() else binomial()
fit <- glmer(as.formula(args[3]), data = data, family = family)
fitted <- now()
print(summary(fit))
cat(sprintf(paste0(
  "\\n@@ {\\"import\\": %.6f, \\"first_fit\\": %.6f, \\"to_first_fit\\": %.6f, ",
  "\\"loglik\\": %.8f, \\"versions\\": {\\"R\\": \\"%s\\", \\"lme4\\": \\"%s\\"}}\\n"),
  imported - started, fitted - read, fitted - begin, as.numeric(logLik(fit)),
  as.character(getRversion()), as.character(packageVersion("lme4"))))
"""


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cases", default="cm3,verbagg", help="names separated by commas, see cases.py")
    add("--repeats", type=int, default=5, help="timed processes of each kind")
    add("--output", type=Path, default=RESULTS / "cold_start.json")
    return parser.parse_args()


def process(command: list[str], env: dict[str, str], case: Case, path: Path) -> dict[str, Any]:
    """Run one process from start to end; its own times and "process", the whole time."""
    counter, begin = time.perf_counter(), time.time()
    done = subprocess.run(
        [*command, repr(begin), str(path), case.formula, case.family, ",".join(case.groups)],
        env=env, capture_output=True, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    whole = time.perf_counter() - counter
    answers = [line[3:] for line in done.stdout.splitlines() if line.startswith("@@ ")]
    if done.returncode or not answers:
        raise SystemExit(f"{command[0]} failed on {case.name}:\n{done.stderr[-2000:]}")
    return {**json.loads(answers[-1]), "process": whole}


@contextmanager
def cache(name: str, filled: Path) -> Iterator[dict[str, str]]:
    """Environment of one kind of process; an empty cache is a new folder each time."""
    if name == LME4:
        yield peer_environment()
    elif name == FILLED:
        yield environment(GLMM_JAX_CACHE=str(filled))
    else:
        with tempfile.TemporaryDirectory() as empty:
            yield environment(GLMM_JAX_CACHE=empty)


def measure(case: Case, commands: dict[str, list[str]], repeats: int) -> dict[str, Any]:
    """All kinds of process on one case, in turn."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        path, rows = prepare(case, Path(folder))
        filled = Path(folder) / "programs"
        for repeat in range(repeats + 1):
            for name, command in commands.items():
                if repeat == 0 and name == EMPTY:
                    continue  # the filled kind's first run serves it as well
                with cache(name, filled) as env:
                    found = process(command, env, case, path)
                if repeat > 0:
                    runs[name].append(found)
    entries = {name: summarised(found) for name, found in runs.items()}
    if LME4 in entries:
        for entry in entries.values():
            entry["ratio_to_lme4"] = entry["process"] / entries[LME4]["process"]
    return {"case": case.name, "title": case.title, "rows": rows, "entries": entries}


def summarised(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the times, and every time."""
    times = [x for x in ("import", "first_fit", "to_first_fit", "process") if x in runs[-1]]
    return {
        **{name: median([run[name] for run in runs]) for name in times},
        "repeats": {name: [run[name] for run in runs] for name in times},
        "loglik": runs[-1].get("loglik"),
        "versions": runs[-1]["versions"],
    }


def main() -> None:
    options = arguments()
    chosen = named(options.cases)
    if options.repeats < 1:
        raise SystemExit(f"--repeats {options.repeats}: use at least 1")
    python = [sys.executable, "-c", PYTHON]
    commands = {EMPTY: python, FILLED: python, IMPORTS: [sys.executable, "-c", BARE]}
    rscript = shutil.which("Rscript")
    if rscript is None:
        print("no Rscript on the path: lme4 is left out", file=sys.stderr)
    else:
        commands[LME4] = [rscript, "-e", R]
    results: dict[str, Any] = {**header("cold_start", options), "cases": []}
    for case in chosen:
        found = measure(case, commands, options.repeats)
        for kind, entry in found["entries"].items():
            results["versions"][kind] = entry.pop("versions")
        results["cases"].append(found)
        write(results, options.output)
    print(table(results))
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
