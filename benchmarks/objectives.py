"""Cost of a deviance and of its gradient, warm: integrals, families, criteria, structures.

    python benchmarks/objectives.py [--repeats 30]

Each function is compiled once, then all are called in turn, repeatedly; medians. A value starts
from zero random effects, so that it holds the whole search for the conditional mode; so does the
value inside a gradient. Ratios are to the Laplace value (for values) and to the own value (for
gradients). Results are written to benchmarks/results/objectives.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import report
from machine import RESULTS, header, write

import glmm_jax as gj
from glmm_jax.runtime import CAREFUL

# The option that `glmer` compiles its programs with, read when the first one is compiled.
os.environ["XLA_FLAGS"] = " ".join(f"--{name}={value}" for name, value in CAREFUL.items())

NEGATIVE_BINOMIAL = {"family": "negative_binomial"}


@dataclass(frozen=True)
class Case:
    """An objective: a model of a data set, arguments of `build_model`, and how it is integrated."""

    title: str
    dataset: str
    formula: str
    settings: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[int, ...] = (1,)
    reml: bool = False


QUADRATURE = (
    ("cm3, (1 | district)", "contraception",
     "use ~ age*ch + I(age^2) + urban + (1 | district)", 25),
    ("toenail, (1 | patientID)", "toenail", "outcome ~ treatment * visit + (1 | patientID)", 25),
    ("cm4, (urban | district)", "contraception",
     "use ~ age*ch + I(age^2) + urban + (urban | district)", 7),
    ("cm5, (1 | district/urban)", "contraception",
     "use ~ age*ch + I(age^2) + urban + (1 | district/urban)", 7),
)  # fmt: skip
TICKS, SALAMANDERS = "TICKS ~ YEAR + HEIGHT + (1 | BROOD)", "count ~ spp + mined + (1 | site)"
HERDS = "incidence ~ period + (1 | herd)"


def cases() -> list[Case]:
    """Integrals of binary data, then other families, criteria and structures by Laplace."""
    binary = {"family": "bernoulli"}
    quadrature = [
        Case(title, dataset, formula, binary, nodes=(1, 7) if k == 7 else (1, 11, k))
        for title, dataset, formula, k in QUADRATURE
    ]
    herds = gj.datasets.load("cbpp")["herd"].unique()
    gap = np.abs(np.subtract.outer(np.arange(len(herds)), np.arange(len(herds))))
    related = {"herd": (0.5**gap, list(herds))}
    return [
        *quadrature,
        Case("sleepstudy, REML", "sleepstudy", "Reaction ~ Days + (Days | Subject)", reml=True),
        Case("sleepstudy, ar1(0 + factor(Days) | Subject)", "sleepstudy",
             "Reaction ~ Days + ar1(0 + factor(Days) | Subject)"),
        Case("grouse ticks, negative binomial", "grouseticks", TICKS, NEGATIVE_BINOMIAL),
        Case("grouse ticks, negative binomial, phi known", "grouseticks", TICKS,
             NEGATIVE_BINOMIAL | {"dispersion": 1.0}),
        Case("grouse ticks, dispersion ~ YEAR", "grouseticks", TICKS,
             NEGATIVE_BINOMIAL | {"dispersion": "~ YEAR"}),
        Case("grouse ticks, Poisson by REML", "grouseticks", TICKS, {"family": "poisson"},
             reml=True),
        Case("salamanders, zero_inflation ~ mined", "salamanders", SALAMANDERS,
             {"family": "poisson", "zero_inflation": "~ mined"}),
        Case("salamanders, zero_inflation ~ mined + (1 | site)", "salamanders", SALAMANDERS,
             {"family": "poisson", "zero_inflation": "~ mined + (1 | site)"}),
        Case("salamanders, Conway-Maxwell-Poisson", "salamanders", SALAMANDERS,
             {"family": "conway_maxwell_poisson"}),
        Case("cbpp, related herds", "cbpp", HERDS,
             {"family": "binomial", "trials": "size", "relationship": related}),
        Case("cbpp, beta-binomial", "cbpp", HERDS, {"family": "beta_binomial", "trials": "size"}),
        Case("cbpp, priors", "cbpp", HERDS,
             {"family": "binomial", "trials": "size", "priors": gj.priors.Wishart()}),
    ]  # fmt: skip


def measure(case: Case, repeats: int) -> list[dict]:
    """Median times of values and gradients at the Laplace estimate, by number of nodes."""
    data = gj.datasets.load(case.dataset)
    model = gj.build_model(case.formula, data, **case.settings)
    params = jax.jit(partial(gj.estimate, reml=case.reml))(model).params
    functions: dict[tuple[str, int], Any] = {}
    for nagq in case.nodes:
        value = partial(gj.deviance, nagq=nagq, reml=case.reml)
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
        for nagq in case.nodes
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
        for case in cases():
            entries = measure(case, options.repeats)
            results["cases"].append({"case": case.title, "entries": entries})
            write(results, RESULTS / "objectives.json")
    print(report.objectives(results))


if __name__ == "__main__":
    main()
