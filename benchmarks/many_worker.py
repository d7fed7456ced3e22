"""A process that fits models of one study with one program, in Python.

    python many_worker.py PROGRAM NAME.csv '{"formula": ..., "family": ...}'

Commands are lines "fit FIRST COUNT" and, of this package, "agree COUNT CURVATURE" (log-likelihoods
of the first models, the Laplace approximation's weights as told); answers are those of worker.py.
A peer runs in a loop in each of as many forked processes as there are cores, started before the
clock. Only the fits, standard errors included, are timed; CPU seconds are those of all processes.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from worker import peak_bytes, read, say, versions

Fitted = Callable[[], dict[str, Any]]
Commands = dict[str, Callable[..., Fitted]]


def numbers(path: Path, study: dict[str, Any], rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Responses (models, rows) and the known dispersions (models,) or None."""
    y = np.fromfile(path.with_suffix(".bin"), np.int32).reshape(-1, rows)
    phi = np.fromfile(path.with_suffix(".phi"), np.float64) if study["known"] else None
    return y, phi


def answer(loglik: Any, se: Any, failed: int) -> dict[str, Any]:
    """What every program reports of many fits: of the first 200, and how many failed."""
    return {
        "loglik": np.asarray(loglik, float)[:200].tolist(),
        "se": np.asarray(se, float)[:200].tolist(),
        "failed": int(failed),
    }


def glmm_jax(path: Path, study: dict[str, Any]) -> Commands:
    """This package: one call of `glmer_many`, or the bootstrap of a fit."""
    from glmm_jax import glmer, glmer_many

    data = read(path)
    y, phi = numbers(path, study, len(data))
    responses, p = y.T, 0

    def many(first: int, count: int, **more: Any) -> Any:
        chosen = slice(first, first + count)
        if phi is not None:
            more["dispersion"] = phi[chosen]
        if study["trials"]:
            more["trials"] = study["trials"]
        return glmer_many(
            "y ~ " + study["right"], data, study["family"], responses=responses[:, chosen],
            progress=False, **more,
        )  # fmt: skip

    def told(found: Any) -> dict[str, Any]:
        table, errors = found.models, found.columns.errors[:, : found.p]
        return {
            **answer(table["llf"], errors, np.sum(~found.converged)),
            "singular": int(table["is_singular"].sum()),
            "evaluations": float(table["evaluations"].mean()),
            "statuses": table["status"].value_counts().to_dict(),
        }

    def fit(first: int, count: int) -> Fitted:
        found = many(first, count)
        return lambda: told(found)

    def agree(count: int, curvature: str) -> Fitted:
        found = many(0, count, curvature=curvature)
        return lambda: told(found)

    if not study["bootstrap"]:
        return {"fit": fit, "agree": agree}
    original = glmer(study["formula"], data, study["family"])
    p = len(original.params)

    def bootstrap(first: int, count: int) -> Fitted:
        found = original.bootstrap(count, seed=0, progress=False)
        se = found.bse.iloc[:p].tolist()
        return lambda: {**answer([], [se], found.failed), "singular": found.singular}

    return {"fit": bootstrap, "agree": agree}


# What a forked process needs, set before the fork.
_shared: dict[str, Any] = {}


def _loop(span: tuple[int, int]) -> tuple[float, list[float], list[list[float]], int, int]:
    """CPU seconds, log-likelihoods, standard errors, failures and peak memory of some fits."""
    peer, data, y, trials = (_shared[k] for k in ("peer", "data", "y", "trials"))
    logliks, errors, failed = [], [], 0
    begin = time.process_time()
    for i in range(*span):
        data["y"] = y[i].astype(float)
        if trials is not None:
            data["failures"] = trials - data["y"]
        found = peer.fit(data, _shared["formula"], _shared["family"], **_shared["settings"])
        failed += not found.converged
        logliks.append(float(found.loglik))
        errors.append(np.asarray(found.se, float).tolist())
    return time.process_time() - begin, logliks, errors, failed, peak_bytes() or 0


def glmm(path: Path, study: dict[str, Any], defaults: bool = False) -> Commands:
    """PyPI glmm: Laplace, standard errors from the Hessian (its default).

    Unless all is left at its defaults it is told not to refit Poisson models for likelihood-ratio
    tests, which the others do not either. Bootstrap refits start from the fit and take the cheaper
    of its standard errors.
    """
    import glmm as peer

    if study["known"]:
        raise ValueError("its dispersion cannot be given")
    frame = read(path)
    y, _ = numbers(path, study, len(frame))
    data: dict[str, Any] = {name: frame[name].to_numpy() for name in frame.columns}
    for name in frame.select_dtypes("category"):
        data[name] = frame[name]
    settings: dict[str, Any] = {} if defaults else {"anova_test": "Wald"}
    if study["offset"]:
        settings["offset"] = data[study["offset"]].astype(float)
    trials = data[study["trials"]].astype(float) if study["trials"] else None
    left = "y" if trials is None else "cbind(y, failures)"
    formula = f"{left} ~ {study['fixed']} + (1 | {study['group']})"
    family = study["family"].replace("_", "")
    if study["bootstrap"]:
        data["failures"] = trials - data["y"]
        start = peer.fit(data, formula, family, **settings)
        theta = np.sqrt(np.ravel(start.tau2)[:1])
        settings |= {"wald_se": "rx", "warm_start": {"beta": start.beta, "theta": theta}}
    _shared.update(
        peer=peer, data=data, y=y, trials=trials, formula=formula, family=family, settings=settings
    )
    processes = study["processes"]
    pool = multiprocessing.get_context("fork").Pool(processes)

    def fit(first: int, count: int) -> Fitted:
        # A few parts for each process, so that none waits long for the other at the end.
        edges = np.linspace(first, first + count, min(count, 8 * processes) + 1).astype(int)
        parts = pool.map(_loop, list(pairwise(edges)), chunksize=1)
        logliks = [value for part in parts for value in part[1]]
        errors = [values for part in parts for values in part[2]]
        return lambda: {
            **answer(logliks, errors, sum(part[3] for part in parts)),
            "cpu": sum(part[0] for part in parts), "peak_bytes": max(part[4] for part in parts),
        }  # fmt: skip

    return {"fit": fit}


def glmm_defaults(path: Path, study: dict[str, Any]) -> Commands:
    """PyPI glmm as it is without settings: likelihood-ratio tests of Poisson models too."""
    return glmm(path, study, defaults=True)


PROGRAMS = {"glmm_jax": glmm_jax, "glmm": glmm, "glmm_defaults": glmm_defaults}


def main() -> None:
    program, path, study = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    warnings.simplefilter("ignore")
    try:
        commands = PROGRAMS[program](path, study)
    except Exception as error:  # a peer may fail in any way: the report says how
        say({"error": f"{type(error).__name__}: {error}"})
        return
    say({"ready": True, "versions": versions(program.removesuffix("_defaults"))})
    for line in sys.stdin:
        name, *rest = line.split()
        gc.collect()
        try:
            begin, used = time.perf_counter(), time.process_time()
            found = commands[name](*(int(word) if word.isdigit() else word for word in rest))
            seconds, cpu = time.perf_counter() - begin, time.process_time() - used
            reply = {"seconds": seconds, "cpu": cpu, "peak_bytes": peak_bytes(), **found()}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        say(reply)


if __name__ == "__main__":
    main()
