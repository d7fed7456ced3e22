"""A process that fits one case with this package, then bootstraps it each time it is told to.

    python bootstrap_worker.py NAME.csv FORMULA FAMILY

A command is "N SEED CORES" (the cores are those that the process may use); the answer is a line
"@@ {json}" with the time of `fit.bootstrap(N, SEED)`. Fit, import and reading are not timed.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

from worker import read

from glmm_jax import glmer


def say(content: dict[str, Any]) -> None:
    """Answer."""
    print(f"\n@@ {json.dumps(content)}", flush=True)


def main() -> None:
    path, formula, family = sys.argv[1:]
    fit = glmer(formula, read(Path(path)), family)
    names = ("jax", "jaxlib", "numpy", "pandas")
    versions = {name: importlib.metadata.version(name) for name in names}
    say({"versions": {"python": platform.python_version(), **versions}})
    for line in sys.stdin:
        n, seed, _ = map(int, line.split())
        begin = time.perf_counter()
        found = fit.bootstrap(n, seed, progress=False)
        took = time.perf_counter() - begin
        counts = {"failed": found.failed, "singular": found.singular}
        say({"seconds": took, "se": found.bse.tolist(), **counts})


if __name__ == "__main__":
    main()
