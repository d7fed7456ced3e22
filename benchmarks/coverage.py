"""Coverage of confidence intervals on simulated data, one Bernoulli and one Poisson design.

    python benchmarks/coverage.py [--datasets 500] [--replicates 499] [--seed 1]

Each data set is simulated from known parameters and fitted; 95 % Wald, profile and bootstrap
(percentile and basic) intervals are made for every coefficient and standard deviation, and those
that hold the true value are counted. A fit or an interval that failed counts as a miss. Results are
written to benchmarks/results/coverage.json with machine and versions.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd
import report
from machine import RESULTS, header, write

import glmm_jax as gj

METHODS = ("wald", "profile", "percentile", "basic")
LEVEL = 0.95


@dataclass(frozen=True)
class Design:
    """A simulated design: groups of equal size, a covariate within and one between groups."""

    name: str
    family: str
    groups: int
    rows: int  # per group
    beta: tuple[float, float, float]
    sd: float

    formula = "y ~ x + z + (1 | g)"

    def data(self) -> pd.DataFrame:
        """Covariates, the same in every data set, and a response to be replaced."""
        rng = np.random.default_rng(20111)
        g = np.repeat(np.arange(self.groups), self.rows)
        x = rng.normal(size=len(g))
        z = rng.normal(size=self.groups)[g]
        frame = pd.DataFrame({"g": g.astype(str), "x": x, "z": z})
        frame["y"] = self.response(frame, rng)
        return frame

    def response(self, frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """A response simulated at the true parameters."""
        b = rng.normal(0.0, self.sd, self.groups)
        level = frame["g"].astype(int).to_numpy()
        eta = self.beta[0] + self.beta[1] * frame["x"] + self.beta[2] * frame["z"] + b[level]
        if self.family == "poisson":
            return rng.poisson(np.exp(eta)).astype(float)
        return (rng.uniform(size=len(frame)) < 1 / (1 + np.exp(-eta))).astype(float)

    @property
    def truth(self) -> dict[str, float]:
        """True values by parameter name."""
        names = ("Intercept", "x", "z", "sd(Intercept | g)")
        return dict(zip(names, (*self.beta, self.sd), strict=True))


DESIGNS = (
    Design("Bernoulli: 30 groups of 15", "bernoulli", 30, 15, (-0.4, 0.8, 0.5), 0.8),
    Design("Poisson: 20 groups of 8", "poisson", 20, 8, (0.5, 0.3, -0.3), 0.5),
)


def intervals(fit: gj.Fit, replicates: int, seed: int) -> dict[str, pd.DataFrame]:
    """The interval of every parameter by each method."""
    samples = fit.bootstrap(replicates, seed=seed, progress=False)
    return {
        "wald": fit.conf_int(LEVEL, "wald", "all"),
        "profile": fit.conf_int(LEVEL, "profile", "all", progress=False),
        "percentile": samples.conf_int(LEVEL, "percentile"),
        "basic": samples.conf_int(LEVEL, "basic"),
    }


def run(design: Design, datasets: int, replicates: int, seed: int) -> dict:
    """Coverage of each parameter by each method, and what failed."""
    frame = design.data()
    base = gj.glmer(design.formula, frame, family=design.family)
    names = list(design.truth)
    hits = {method: dict.fromkeys(names, 0) for method in METHODS}
    below = {method: dict.fromkeys(names, 0) for method in METHODS}
    missing = {method: dict.fromkeys(names, 0) for method in METHODS}
    failed = zeros = 0
    rng = np.random.default_rng(seed)
    begin = time.perf_counter()
    for i in range(datasets):
        fit = base.refit(design.response(frame, rng))
        if not fit.converged:
            failed += 1
            continue
        zeros += fit.is_singular
        for method, table in intervals(fit, replicates, i).items():
            for name, true in design.truth.items():
                low, high = table.loc[name]
                # No standard error at a variance of zero: no interval either.
                missing[method][name] += bool(np.isnan(low) or np.isnan(high))
                hits[method][name] += bool(low <= true <= high)
                below[method][name] += bool(high < true)
    return {
        "design": design.name,
        "truth": design.truth,
        "datasets": datasets,
        "replicates": replicates,
        "failed": failed,
        "singular": zeros,
        "coverage": {m: {k: v / datasets for k, v in hits[m].items()} for m in METHODS},
        "interval_below_truth": {
            m: {k: v / datasets for k, v in below[m].items()} for m in METHODS
        },
        "without_interval": missing,
        "seconds": time.perf_counter() - begin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=500)
    parser.add_argument("--replicates", type=int, default=499)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    results = header("coverage", options)
    versions = {name: version(name) for name in ("jax", "numpy", "pandas")}
    results["versions"] = {"glmm_jax": {"glmm_jax": gj.__version__, **versions}}
    results["level"], results["designs"] = LEVEL, []
    for design in DESIGNS:
        found = run(design, options.datasets, options.replicates, options.seed)
        results["designs"].append(found)
        write(results, RESULTS / "coverage.json")
    print(report.coverage(results))


if __name__ == "__main__":
    main()
