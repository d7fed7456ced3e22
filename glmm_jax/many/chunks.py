"""Chunks of models through the driver: one after another, kept on disk, shown on a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pandas as pd

from glmm_jax.batch import Lanes
from glmm_jax.driver import estimate_lanes
from glmm_jax.estimate import Estimate
from glmm_jax.formula.frame import Frame
from glmm_jax.inference import vcov
from glmm_jax.inference.varcorr import held
from glmm_jax.many.checkpoint import Checkpoint, digest
from glmm_jax.many.table import Columns, joined
from glmm_jax.model import Model, Params, flatten
from glmm_jax.priors import penalty
from glmm_jax.progress import tracker
from glmm_jax.runtime import engine
from glmm_jax.status import Status


@dataclass(frozen=True, eq=False)
class Chunk:
    """Models to be fitted together.

    names (b,); frame, model: what they share; fitted (b,) booleans: which of them say something;
    lanes: the numbers of those, a row each; rows (b,): how many rows of data each uses; at: where
    the parameters of the model stand among all of them (a data set may lack some), None for each in
    its place.
    """

    names: pd.Index
    frame: Frame
    model: Model
    lanes: Lanes
    fitted: np.ndarray
    rows: np.ndarray
    at: np.ndarray | None = None

    @property
    def places(self) -> np.ndarray:
        """Where the parameters of the model stand among all of them."""
        model = self.model
        return np.arange(model.p + model.m + model.d) if self.at is None else self.at


def fit_chunks(
    chunks: Iterable[Chunk],
    P: int,
    total: int | None,
    settings: dict[str, Any],
    how: dict[str, Any],
    checkpoint: Checkpoint | None,
    progress: bool | None,
) -> tuple[pd.Index, Columns, bool]:
    """Names and numbers of all models, and whether the run was complete: an interruption by the
    keyboard ends it with what is done. `how`: devices and dtype, see `driver.estimate_lanes`."""
    names: list[pd.Index] = []
    parts: list[Columns] = []
    complete, failures = True, 0
    with tracker(total, "glmer_many", progress, unit=" models") as bar:

        def told(count: int, failed: int) -> None:
            nonlocal failures
            failures += failed
            bar.set_postfix(failures=failures, refresh=False)
            bar.update(count)

        try:
            for number, chunk in enumerate(_ahead(chunks)):
                parts.append(_fit(chunk, number, P, settings, how, checkpoint, told))
                names.append(chunk.names)
        except KeyboardInterrupt:
            if not parts:
                raise
            complete = False
    return names[0].append(names[1:]), joined(parts), complete


def _ahead(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks, each prepared while the one before it is fitted."""
    rest = iter(chunks)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, rest, None)
        while (chunk := waiting.result()) is not None:
            waiting = pool.submit(next, rest, None)
            yield chunk


def _fit(
    chunk: Chunk,
    number: int,
    P: int,
    settings: dict[str, Any],
    how: dict[str, Any],
    checkpoint: Checkpoint | None,
    told: Callable[[int, int], object],
) -> Columns:
    """One chunk, from the checkpoint if it is there."""
    key = ""
    if checkpoint is not None:
        key = digest(list(chunk.names), chunk.lanes, chunk.rows)
        known = checkpoint.read(number, key)
        if known is not None:
            told(len(chunk.names), 0)
            return known
    columns = _nothing(chunk, P)
    told(int(np.sum(~chunk.fitted)), 0)
    if chunk.fitted.any():
        found = estimate_lanes(chunk.model, chunk.lanes, settings, told=told, **how)
        _enter(columns, np.flatnonzero(chunk.fitted), found, chunk)
    if checkpoint is not None:
        checkpoint.write(number, key, columns)
    return columns


def _nothing(chunk: Chunk, P: int) -> Columns:
    """Columns of models that are not fitted."""
    B = len(chunk.names)
    return Columns(
        estimates=np.full((B, P), np.nan),
        errors=np.full((B, P), np.nan),
        deviance=np.full(B, np.nan),
        status=np.full(B, int(Status.NO_VARIATION)),
        singular=np.zeros(B, bool),
        rows=chunk.rows,
        df=np.full(B, P),
        evaluations=np.zeros(B, int),
    )


def _penalties(params: Params, chunk: Chunk) -> Any:
    """-2 log prior density of each model, (b,): no part of its likelihood."""
    if not chunk.model.priors:
        return 0.0

    def one(params: Params, lane: Lanes) -> jax.Array:
        return penalty(params, replace(chunk.model, **lane))

    return np.asarray(jax.vmap(one)(params, chunk.lanes))


def _enter(columns: Columns, at: np.ndarray, found: Estimate, chunk: Chunk) -> None:
    """Write the estimates of some models into the columns."""
    with engine():
        flat = np.asarray(jax.vmap(flatten)(found.params))
        deviance = found.deviance - _penalties(found.params, chunk)
    p, m = chunk.model.p, chunk.model.m
    free = np.ones(flat.shape, bool)
    singular = np.any(found.singular, axis=1)
    for i in np.flatnonzero(singular):
        free[i, p : p + m] = ~held(chunk.frame, flat[i, p : p + m])
    variances = np.diagonal(vcov.covariance(np.asarray(found.hessian), free), axis1=1, axis2=2)
    known = np.isin(found.status, (Status.CONVERGED, Status.SEPARATION))
    # What is no estimate is not shown as one.
    columns.estimates[np.ix_(at, chunk.places)] = np.where(known[:, None], flat, np.nan)
    shown = known[:, None] & (variances > 0)
    errors = np.where(shown, np.sqrt(np.where(shown, variances, 1.0)), np.nan)
    # A coefficient without a finite estimate has no standard error. What the Hessian says of it is
    # rounding, and a test made of that would be among the smallest p-values of all models.
    coefficients = np.r_[:p, p + m : flat.shape[1]]
    errors[:, coefficients] = np.where(found.separated, np.nan, errors[:, coefficients])
    columns.errors[np.ix_(at, chunk.places)] = errors
    columns.deviance[at] = deviance
    columns.status[at] = found.status
    columns.singular[at] = singular & known
    columns.df[at] = flat.shape[1]
    columns.evaluations[at] = found.evaluations
