"""Bias of standard deviations for small clusters of 0/1 data, by the number of quadrature nodes.

    python benchmarks/small_clusters.py [--datasets 500] [--nested 200] [--check 3] [--seed 1]

Data are simulated from known parameters, with one random intercept for each cluster of two, three
or four rows, and with two (clusters nested in larger ones). Each data set is fitted with the
Laplace approximation (1 node) and with more and more nodes, all data sets of a design by one
compiled program. What is left at the largest number is the bias of maximum likelihood itself; the
difference to it, data set by data set, is that of the approximation. A fit that did not converge is
counted and left out. lme4 fits the first few data sets too, with the same nodes where it has them
(one scalar random effect; for the nested designs its Laplace approximation). Results are written to
benchmarks/results/small_clusters.json with machine and versions.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import report
from machine import RESULTS, header, write
from peers import HERE, Failed, Worker, peer_environment

import glmm_jax as gj
from glmm_jax.batch import responses_program
from glmm_jax.estimate import checked
from glmm_jax.runtime import engine, run

BETA = (-0.5, 1.0)
# Smaller clusters are these with rows of weight zero: one program serves all sizes.
LARGEST = 4
# lme4's numbers of nodes that are compared; each fit takes it a second or so.
COMPARED = (1, 9, 25)


@dataclass(frozen=True)
class Design:
    """Clusters of equal size; sd and levels from the innermost factor outwards, as theta is."""

    rows: int  # of a cluster
    levels: tuple[int, ...]
    sd: tuple[float, ...]
    nodes: tuple[int, ...]

    @property
    def nested(self) -> bool:
        return len(self.levels) > 1

    @property
    def formula(self) -> str:
        return "y ~ x + (1 | outer/inner)" if self.nested else "y ~ x + (1 | inner)"

    @property
    def name(self) -> str:
        sds = " and ".join(f"{sd:g}" for sd in self.sd)
        if self.nested:
            inner, outer = self.levels
            return f"{outer} x {inner // outer} nested clusters of {self.rows}, sd {sds}"
        return f"{self.levels[0]} clusters of {self.rows}, sd {sds}"

    def data(self) -> pd.DataFrame:
        """Groups and a covariate within them, the same in every data set; no response yet."""
        inner = np.repeat(np.arange(self.levels[0]), LARGEST)
        outer = inner * self.levels[-1] // self.levels[0]
        x = np.random.default_rng(20112).normal(size=len(inner))
        return pd.DataFrame({"outer": outer, "inner": inner, "x": x})

    def used(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows of the data belong to clusters of this size."""
        return np.arange(len(frame)) % LARGEST < self.rows

    def responses(self, frame: pd.DataFrame, count: int, seed: int) -> np.ndarray:
        """Responses simulated at the true parameters, (count, rows)."""
        rng = np.random.default_rng(seed)
        out = np.empty((count, len(frame)))
        fixed = BETA[0] + BETA[1] * frame["x"].to_numpy()
        for y in out:
            eta = fixed.copy()
            for factor, levels, sd in zip(("inner", "outer"), self.levels, self.sd, strict=False):
                eta += rng.normal(0.0, sd, levels)[frame[factor].to_numpy()]
            y[:] = rng.uniform(size=len(eta)) < 1.0 / (1.0 + np.exp(-eta))
        return out


SINGLE, NESTED = (1, 3, 5, 9, 15, 25), (1, 3, 5, 9, 15)
DESIGNS = (
    *(Design(rows, (500,), (sd,), SINGLE) for rows in (2, 3, 4) for sd in (1.0, 2.0)),
    *(Design(rows, (400, 100), (1.5, 1.0), NESTED) for rows in (2, 3, 4)),
)


def estimates(design: Design, frame: pd.DataFrame, responses: np.ndarray, nagq: int) -> Any:
    """sd (data sets, terms), log-likelihood and whether converged (data sets,), all in NumPy."""
    with engine():
        model = gj.build_model(design.formula, frame.assign(y=responses[0]), family="bernoulli")
        model = model.replace(weights=jnp.asarray(design.used(frame), float))
        settings = checked(model, nagq, None, "quasi-newton", 500)
        found = run(responses_program, model, jnp.asarray(responses), None, **settings)
        found = jax.tree.map(np.asarray, found)
    converged = found.status == int(gj.Status.CONVERGED)
    return np.abs(found.params.theta), -0.5 * found.deviance, converged


def lme4(design: Design, frame: pd.DataFrame, responses: np.ndarray) -> dict[str, Any]:
    """Its log-likelihoods and standard deviations (per data set) by number of nodes."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        return {"not_run": "no interpreter"}
    nodes = [k for k in design.nodes if k in COMPARED and (k == 1 or not design.nested)]
    columns = [f"y{i}" for i in range(len(responses))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        both = frame.join(pd.DataFrame(responses.T, columns=columns))
        both[design.used(frame)].to_csv(path, index=False)
        random = design.formula.split("~")[1]
        command = [rscript, str(HERE / "small_clusters.R"), str(path), random, str(len(responses))]
        worker = None
        try:
            worker = Worker(command, peer_environment(), 60.0)
            answers = {str(k): worker.ask(str(k), 600.0) for k in nodes}
        except Failed as error:
            return {"not_run": str(error)}
        finally:
            if worker is not None:
                worker.close()
    return {"nodes": answers, "versions": worker.versions}


def compare(theirs: dict[str, Any], ours: dict[int, Any]) -> dict[str, Any]:
    """Largest differences of lme4's estimates from ours, by number of nodes."""
    out = {}
    for key, answer in theirs["nodes"].items():
        sd, loglik, _ = ours[int(key)]
        other = np.reshape(answer["sd"], (-1, sd.shape[1]))
        entry = {"sd": float(np.abs(other - sd[: len(other)]).max())}
        if key == "1":  # elsewhere lme4 leaves constants out of its log-likelihood
            gap = np.asarray(answer["loglik"]) - loglik[: len(other)]
            entry["lme4_higher_by"] = float(gap.max())
        out[key] = entry
    return out


def measure(design: Design, options: argparse.Namespace) -> dict[str, Any]:
    """Mean, standard error and spread of the estimates of one design, by number of nodes."""
    count = options.nested if design.nested else options.datasets
    frame = design.data()
    responses = design.responses(frame, count, options.seed)
    begin = time.perf_counter()
    found = {k: estimates(design, frame, responses, k) for k in design.nodes}
    seconds = time.perf_counter() - begin
    # One set of data for all numbers of nodes, so that their differences are of the method alone.
    usable = np.all([converged for _, _, converged in found.values()], axis=0)
    best = found[design.nodes[-1]][0][usable]
    kept = int(usable.sum())
    entries = []
    for k, (sd, _, converged) in found.items():
        sd = sd[usable]
        entries.append({
            "nagq": k,
            "bias": list(np.mean(sd, 0) - design.sd),
            "standard_error": list(np.std(sd, 0, ddof=1) / np.sqrt(kept)),
            "root_mean_square_error": list(np.sqrt(np.mean((sd - design.sd) ** 2, 0))),
            "from_most_nodes": list(np.mean(sd - best, 0)),
            "from_most_nodes_se": list(np.std(sd - best, 0, ddof=1) / np.sqrt(kept)),
            "zero": [int(n) for n in np.sum(sd == 0.0, 0)],
            "failed": int(np.sum(~converged)),
        })  # fmt: skip
    result = {
        "design": design.name, "formula": design.formula, "rows": int(design.used(frame).sum()),
        "truth": list(design.sd), "datasets": count, "used": kept,
        "entries": entries, "seconds": seconds,
    }  # fmt: skip
    if options.check:
        theirs = lme4(design, frame, responses[: options.check])
        result["versions"] = theirs.pop("versions", {})
        result["lme4"] = theirs if "not_run" in theirs else compare(theirs, found)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--datasets", type=int, default=500, help="data sets of a design with one factor")
    add("--nested", type=int, default=200, help="data sets of a design with nested factors")
    add("--check", type=int, default=3, help="how many of them lme4 fits too; 0 for none")
    add("--seed", type=int, default=1)
    add("--output", type=Path, default=RESULTS / "small_clusters.json")
    options = parser.parse_args()
    for name, least in (("datasets", 2), ("nested", 2), ("check", 0)):
        if getattr(options, name) < least:
            raise SystemExit(f"--{name} {getattr(options, name)}: use at least {least}")
    results = {**header("small_clusters", options), "designs": []}
    versions = {name: version(name) for name in ("jax", "numpy", "pandas")}
    results["versions"] = {"glmm_jax": {"glmm_jax": gj.__version__, **versions}}
    for design in DESIGNS:
        found = measure(design, options)
        lme4_versions = found.pop("versions", {})
        if lme4_versions:
            results["versions"]["lme4"] = lme4_versions
        results["designs"].append(found)
        write(results, options.output)
        print(f"{design.name}: {found['seconds']:.0f} s", flush=True)
    print(report.small_clusters(results))


if __name__ == "__main__":
    main()
