"""Cost of a deviance and of its gradient: Laplace and adaptive quadrature, warm.

    python benchmarks/objectives.py [--repeats 30]

Each function is compiled once, then all are called in turn, repeatedly; medians. A value starts
from zero random effects, so that it holds the whole search for the conditional mode; so does the
value inside a gradient. Ratios are to the Laplace value (for values) and to the own value (for
gradients). Results are written to benchmarks/results/objectives.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import report
from machine import RESULTS, header, write

import glmm_jax as gj

CASES = {
    "cm3, (1 | district)": (
        "contraception",
        "use ~ age*ch + I(age^2) + urban + (1 | district)",
        (1, 11, 25),
    ),
    "toenail, (1 | patientID)": (
        "toenail",
        "outcome ~ treatment * visit + (1 | patientID)",
        (1, 11, 25),
    ),
    "cm4, (urban | district)": (
        "contraception",
        "use ~ age*ch + I(age^2) + urban + (urban | district)",
        (1, 7),
    ),
    "cm5, (1 | district/urban)": (
        "contraception",
        "use ~ age*ch + I(age^2) + urban + (1 | district/urban)",
        (1, 7),
    ),
}


def measure(formula: str, dataset: str, nodes: tuple[int, ...], repeats: int) -> list[dict]:
    """Median times of values and gradients at the Laplace estimate, by number of nodes."""
    model = gj.build_model(formula, gj.datasets.load(dataset), family="bernoulli")
    params = jax.jit(gj.estimate)(model).params
    functions: dict[tuple[str, int], Any] = {}
    for nagq in nodes:
        value = partial(gj.deviance, nagq=nagq)
        functions["value", nagq] = jax.jit(value)
        functions["gradient", nagq] = jax.jit(jax.value_and_grad(value))
    times: dict[tuple[str, int], list[float]] = {key: [] for key in functions}
    for function in functions.values():
        jax.block_until_ready(function(params, model))
    for _ in range(repeats):
        for key, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function(params, model))
            times[key].append(time.perf_counter() - begin)
    median = {key: statistics.median(found) for key, found in times.items()}
    return [
        {
            "nagq": nagq,
            "value": median["value", nagq],
            "gradient": median["gradient", nagq],
            "value_to_laplace": median["value", nagq] / median["value", 1],
            "gradient_to_value": median["gradient", nagq] / median["value", nagq],
        }
        for nagq in nodes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    results = header("objectives", options)
    versions = {name: version(name) for name in ("jax", "numpy")}
    results["versions"] = {"glmm_jax": {"glmm_jax": gj.__version__, **versions}}
    results["cases"] = []
    with jax.enable_x64(True):
        for title, (dataset, formula, nodes) in CASES.items():
            entries = measure(formula, dataset, nodes, options.repeats)
            results["cases"].append({"case": title, "entries": entries})
            write(results, RESULTS / "objectives.json")
    print(report.objectives(results))


if __name__ == "__main__":
    main()
