"""A process that reads one case, then fits it with one program each time it is told to.

    python worker.py PROGRAM NAME.csv '{"formula": ..., "family": ...}'

It imports nothing from this folder, so that a peer can live in an environment of its own. It reads
commands, a word a line, from standard input ("fit", "engine", "quit") and answers each with a line
"@@ {json}" on standard output; other lines come from the programs. Only the fit, standard errors
included, is inside the timed part; start, import and reading are not.
"""

from __future__ import annotations

import csv
import gc
import importlib.metadata
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Commands = dict[str, Callable[[], Callable[[], dict[str, Any]]]]


def read(path: Path) -> pd.DataFrame:
    """The case's data, factors with their levels in order."""
    with path.with_suffix(".levels").open(newline="", encoding="utf-8") as file:
        levels = {name: rest for name, *rest in csv.reader(file, delimiter="\t")}
    frame = pd.read_csv(
        path, dtype=dict.fromkeys(levels, "str"), float_precision="round_trip",
        keep_default_na=False,
    )  # fmt: skip
    for name, known in levels.items():
        frame[name] = pd.Categorical(frame[name], categories=known)
    return frame


def answer(loglik: float, se: Any, **more: Any) -> dict[str, Any]:
    """What every program reports of a fit."""
    return {"loglik": float(loglik), "se": [float(s) for s in np.ravel(se)], **more}


def glmm_jax(data: pd.DataFrame, case: dict[str, Any]) -> Commands:
    """This package: "fit" is a whole call of `glmer`; "engine" `estimate` on the built model."""
    import jax

    from glmm_jax import families, glmer
    from glmm_jax.build import place
    from glmm_jax.estimate import MAX_STEPS, checked, program
    from glmm_jax.formula.frame import build_frame
    from glmm_jax.runtime import engine, run

    def fit() -> Callable[[], dict[str, Any]]:
        found = glmer(case["formula"], data, family=case["family"])
        se = found.bse
        return lambda: answer(
            found.llf, se, converged=found.converged,
            evaluations=int(found.estimate.evaluations), hessians=int(found.estimate.hessians),
        )  # fmt: skip

    # The model padded and the program compiled as `glmer` does, so that the difference from "fit"
    # is formula, frame, placing and the result's tables. The Hessian is part of the estimate.
    frame = build_frame(case["formula"], data)
    with engine():
        model, _ = place(frame, families.get(case["family"]), "expected", padded=True)
        settings = checked(model, 1, None, "quasi-newton", MAX_STEPS)

    def estimate() -> Callable[[], dict[str, Any]]:
        with engine():
            found = jax.block_until_ready(run(program, model, None, **settings))
        p = len(found.params.beta)
        covariance = 2 * np.linalg.inv(np.asarray(found.hessian))
        se = np.sqrt(np.diag(covariance)[:p])
        return lambda: answer(
            -0.5 * float(found.deviance), se,
            evaluations=int(found.evaluations), hessians=int(found.hessians),
        )  # fmt: skip

    return {"fit": fit, "engine": estimate}


def glmm(data: pd.DataFrame, case: dict[str, Any]) -> Commands:
    """PyPI glmm: Laplace, standard errors from the Hessian (its default).

    It is told not to refit Poisson models for likelihood-ratio tests, which the others do not.
    """
    import glmm as peer

    formula = case["formula"]
    if case["trials"]:  # its cbind takes columns, not expressions
        data["failures"] = data[case["trials"]] - data[case["response"]]
        right = formula.split("~", 1)[1]
        formula = f"cbind({case['response']}, failures) ~ {right}"
    family = "poisson" if case["family"] == "poisson" else "binomial"

    def fit() -> Callable[[], dict[str, Any]]:
        found = peer.fit(data, formula, family, anova_test="Wald")
        return lambda: answer(
            found.loglik, found.se, converged=bool(found.converged),
            evaluations=int(found.n_eval + found.n_grad),
        )  # fmt: skip

    return {"fit": fit}


def mixedlm(data: pd.DataFrame, case: dict[str, Any]) -> Commands:
    """PyPI mixedlm: Laplace; its standard errors hold theta fixed, a smaller task."""
    import mixedlm as peer

    formula = case["formula"]
    if case["trials"]:
        right = formula.split("~", 1)[1]
        formula = f"{case['response']}/{case['trials']} ~ {right}"
    if "I(age^2)" in formula:  # its parser has no powers
        data["age2"] = data["age"] ** 2
        formula = formula.replace("I(age^2)", "age2")
    poisson = case["family"] == "poisson"
    family = peer.families.Poisson() if poisson else peer.families.Binomial()

    def fit() -> Callable[[], dict[str, Any]]:
        found = peer.glmer(formula, data, family=family)
        se = np.sqrt(np.diag(found.vcov()))
        return lambda: answer(found.logLik().value, se, converged=bool(found.converged))

    return {"fit": fit}


def gpboost(data: pd.DataFrame, case: dict[str, Any], exact: bool = False) -> Commands:
    """PyPI gpboost: Laplace. It has no formulas: its matrices are made outside the timed part."""
    import gpboost as peer
    import patsy

    X = np.asarray(patsy.dmatrix(case["fixed"].replace("^", "**"), data))
    y = data[case["response"]].to_numpy(float)
    trials = data[case["trials"]].to_numpy(float) if case["trials"] else None
    y = y if trials is None else y / trials
    groups = data[case["groups"]].astype(str).to_numpy()
    likelihood = {
        "bernoulli": "bernoulli_logit", "binomial": "binomial_logit", "poisson": "poisson",
    }[case["family"]]  # fmt: skip
    method = "cholesky" if exact else "default"
    params = {"delta_rel_conv": 1e-10} if exact else None

    def fit() -> Callable[[], dict[str, Any]]:
        found = peer.GPModel(
            group_data=groups, likelihood=likelihood, weights=trials, matrix_inversion_method=method
        )
        found.fit(y=y, X=X, params=params)
        se = found.get_coef(std_err=True, format_pandas=False)[1]
        return lambda: answer(-found.get_current_neg_log_likelihood(), se)

    return {"fit": fit}


def gpboost_exact(data: pd.DataFrame, case: dict[str, Any]) -> Commands:
    """gpboost with a Cholesky factor and a tight tolerance.

    Its defaults, stochastic for several factors, stop away from the optimum.
    """
    return gpboost(data, case, exact=True)


PROGRAMS = {
    "glmm_jax": glmm_jax, "glmm": glmm, "mixedlm": mixedlm, "gpboost": gpboost,
    "gpboost_exact": gpboost_exact,
}  # fmt: skip


def versions(program: str) -> dict[str, str]:
    """Versions of Python, the program and what it computes with."""
    known = {"python": platform.python_version()}
    for name in (program.removesuffix("_exact"), "jax", "jaxlib", "numpy", "scipy", "pandas"):
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if program == "glmm_jax":  # perhaps run from a checkout
        import glmm_jax as package

        known[program] = package.__version__
        known["device"] = device()
    return known


def device() -> str:
    """Name of the device that this package computes on: a GPU's, or "cpu"."""
    import jax

    return jax.devices()[0].device_kind


def peak_bytes() -> int | None:
    """Most memory this process has held, from Linux; None elsewhere.

    Not `ru_maxrss`: a process inherits in it what its parent held.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def say(reply: dict[str, Any]) -> None:
    """Answer with one line."""
    print("\n@@ " + json.dumps(reply), flush=True)


def main() -> None:
    program, path, case = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    warnings.simplefilter("ignore")
    try:
        commands = PROGRAMS[program](read(path), case)
    except Exception as error:  # a peer may fail in any way: the report says how
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({"ready": True, "versions": versions(program)})
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        gc.collect()
        try:
            begin = time.perf_counter()
            found = commands[line.strip()]()
            seconds = time.perf_counter() - begin
            reply = {"seconds": seconds, **found()}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        reply["peak_bytes"] = peak_bytes()
        say(reply)


if __name__ == "__main__":
    main()
