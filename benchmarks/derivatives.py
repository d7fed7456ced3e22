"""Cost of derivatives of estimates: time and memory beside an estimate and a deviance gradient.

    python benchmarks/derivatives.py [--repeats 15] [--rows 4000,8000,16000]

Four programs of each model, compiled once and called in turn, repeatedly:

    gradient   the deviance and its gradient in the parameters, at the estimate
    estimate   from its own starting values, Hessian and certificate included
    reverse    `jax.grad`, through estimate, of one coefficient in the weights of all rows
    alone      the derivative of `reverse` without the search before it

They are compiled with the options that `glmer` uses for small data. Times are medians of CPU time;
memory is what XLA sets aside for a program besides its arguments and results. The simulated models
differ in their rows alone, to show how memory grows with them.
Results are written to benchmarks/results/derivatives.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from importlib.metadata import version
from typing import Any

import jax
import report
from cases import CM_FIXED, simulated_rows
from machine import RESULTS, header, write

import glmm_jax as gj
from glmm_jax.estimate import differentiable
from glmm_jax.runtime import CAREFUL, QUICK

GROUPS = 500  # of simulated data


def models(rows: list[int]) -> dict[str, gj.Model]:
    """Models by title."""
    contraception, verbagg = (gj.datasets.load(name) for name in ("contraception", "verbagg"))
    found = {
        "cm3, (1 | district)": gj.build_model(
            f"use ~ {CM_FIXED} + (1 | district)", contraception, "bernoulli"
        ),
        "cm4, (urban | district)": gj.build_model(
            f"use ~ {CM_FIXED} + (urban | district)", contraception, "bernoulli"
        ),
        "VerbAgg, (1 | id) + (1 | item)": gj.build_model(
            "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)", verbagg, "bernoulli"
        ),
    }
    for n in rows:
        formula = "y ~ x1 + x2 + x3 + x4 + x5 + (1 | g)"
        data = simulated_rows(n, GROUPS)
        found[f"simulated, {n:,} rows"] = gj.build_model(formula, data, "bernoulli")
    return found


def programs(model: gj.Model) -> dict[str, Any]:
    """The four programs, compiled, each with its arguments."""
    compiled = jax.jit(gj.estimate).lower(model).compile(CAREFUL | QUICK)
    found = compiled(model)

    def coefficient(weights: jax.Array, model: gj.Model) -> jax.Array:
        return gj.estimate(model.replace(weights=weights)).params.beta[-1]

    def known(weights: jax.Array, model: gj.Model, found: gj.Estimate) -> jax.Array:
        return differentiable(found, model.replace(weights=weights)).params.beta[-1]

    functions = {
        "gradient": (jax.value_and_grad(gj.deviance), (found.params, model)),
        "reverse": (jax.value_and_grad(coefficient), (model.weights, model)),
        "alone": (jax.grad(known), (model.weights, model, found)),
    }
    return {"estimate": (compiled, (model,))} | {
        name: (jax.jit(function).lower(*arguments).compile(CAREFUL | QUICK), arguments)
        for name, (function, arguments) in functions.items()
    }


def measure(model: gj.Model, repeats: int) -> dict[str, Any]:
    """CPU times in seconds and memory in bytes of the four programs, and their ratios."""
    compiled = programs(model)
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for round_ in range(repeats + 1):
        for name, (program, arguments) in compiled.items():
            begin = time.process_time()
            jax.block_until_ready(program(*arguments))
            if round_:  # the first is a rehearsal
                times[name].append(time.process_time() - begin)
    memory = {name: one.memory_analysis().temp_size_in_bytes for name, (one, _) in compiled.items()}
    cpu = {name: statistics.median(found) for name, found in times.items()}
    return {
        "rows": model.n,
        "cpu": cpu,
        "memory": memory,
        "time_to_estimate": {name: cpu[name] / cpu["estimate"] for name in ("reverse", "alone")},
        "memory_to_gradient": {
            name: memory[name] / memory["gradient"] for name in ("estimate", "reverse", "alone")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rows", default="4000,8000,16000", help="of simulated data, by commas")
    options = parser.parse_args()
    results = header("derivatives", options)
    versions = {name: version(name) for name in ("jax", "numpy")}
    results["versions"] = {"glmm_jax": {"glmm_jax": gj.__version__, **versions}}
    results["cases"] = []
    with jax.enable_x64(True):
        for title, model in models([int(n) for n in options.rows.split(",") if n]).items():
            results["cases"].append({"case": title, **measure(model, options.repeats)})
            write(results, RESULTS / "derivatives.json")
    print(report.derivatives(results))


if __name__ == "__main__":
    main()
