"""The design that many responses share, and the lanes that they make of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax.batch import Lanes
from glmm_jax.build import place
from glmm_jax.families.base import Family
from glmm_jax.fitting import Call, absorbs, fit_frame, prepared
from glmm_jax.formula.frame import Frame
from glmm_jax.many import responses as reading
from glmm_jax.many.chunks import Chunk
from glmm_jax.model import Model
from glmm_jax.results import Fit
from glmm_jax.runtime import engine

LANE_FIELDS = ("offset", "weights")


@dataclass(frozen=True, eq=False)
class Design:
    """What the models share: the frame with a response to stand for theirs, and its model."""

    formula: str
    frame: Frame
    family: Family
    call: Call
    model: Model

    def values(
        self, block: reading.Block, check: bool = True
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """y (b, rows used), NaN where it is missing, which are there, and other numbers a model;
        check: whether the family is asked about y, which may be known to be allowed.

        Raises:
            ValueError: a response that the family does not allow, or other numbers that are wrong.
        """
        keep = self.frame.kept_rows
        cut = slice(None) if keep is None else keep
        y = np.ascontiguousarray(block.y[cut].T)
        valid = ~np.isnan(y)
        if check:
            reading.check_support(self.family, y, valid, self.frame.trials, block.names)
        others = {}
        for name in LANE_FIELDS:
            part = getattr(block, name)
            if part is None:
                continue
            part = np.ascontiguousarray(part[cut].T)
            bad = np.isnan(part) & valid
            if name == "weights":
                bad |= (part <= 0) & valid
            if bad.any():
                at = block.names[int(np.argmax(bad.any(axis=1)))]
                wrong = "missing or not positive" if name == "weights" else "missing"
                raise ValueError(f"{name}: values for the response {at!r} are {wrong}")
            others[name] = part
        if block.dispersion is not None:
            others["dispersion"] = block.dispersion
        return y, valid, others

    def chunk(self, block: reading.Block, check: bool = True) -> Chunk:
        """The lanes of a block of responses, in the padded rows of the model; check: as there."""
        y, valid, others = self.values(block, check)
        trials = self.frame.trials
        share = y if trials is None else y / trials
        fitted = ~reading.uninformative(self.family, share, valid, self.model.p)
        rows = valid.sum(axis=1)
        if not fitted.all():
            y, valid, others = y[fitted], valid[fitted], {k: v[fitted] for k, v in others.items()}
        return Chunk(
            names=block.names,
            frame=self.frame,
            model=self.model,
            lanes=self._lanes(y, valid, others),
            fitted=fitted,
            rows=rows,
        )

    def _lanes(self, y: np.ndarray, valid: np.ndarray, others: dict[str, np.ndarray]) -> Lanes:
        rows = self.model.n
        # A missing value and a row of padding take one that is valid, and no weight.
        first = y[np.arange(len(y)), np.argmax(valid, axis=1)]
        whole = bool(valid.all())
        lanes: Lanes = {
            "y": _widened(y if whole else np.where(valid, y, first[:, None]), rows, first)
        }
        if "offset" in others:
            total = np.where(valid, others["offset"], 0.0) + self.frame.offset
            lanes["offset"] = _widened(total, rows, total[:, 0])
        precision = self.family.weights_are_precisions
        if "weights" in others and precision:
            lanes["size"] = _widened(np.where(valid, others["weights"], 1.0), rows, np.ones(len(y)))
        if "dispersion" in others:
            lanes["size"] = np.repeat(np.log(others["dispersion"])[:, None], rows, axis=1)
        shared = np.asarray(self.model.weights)[: y.shape[1]]
        own = others["weights"] if "weights" in others and not precision else shared
        # Always of each model: one with missing values must not change the program of the others.
        if not whole:
            own = np.where(valid, own, 0.0)
        lanes["weights"] = _widened(np.broadcast_to(own, y.shape), rows, np.zeros(len(y)))
        return lanes


def _widened(values: np.ndarray, rows: int, fill: np.ndarray) -> np.ndarray:
    """(b, n) values in (b, rows), the rest of each row filled with its own value."""
    n = values.shape[1]
    out = np.empty((len(values), rows))
    out[:, :n] = values
    out[:, n:] = fill[:, None]
    return out


def design_of(formula: str, family: Family, call: Call, block: reading.Block) -> Design:
    """The design of a formula and the rows of the data.

    Raises:
        ValueError: anything wrong with formula, data or settings.
    """
    if absorbs(family):
        raise ValueError(
            f"family={family.name!r}: thresholds differ in number between responses; fit them one "
            "by one with glmer"
        )
    assert call.data is not None
    # Any response that the family allows stands for all of them: only the design is kept.
    rows = len(call.data)
    if call.trials is not None:
        y = np.zeros(rows)
    elif family.name == "gaussian":
        y = np.random.default_rng(0).normal(size=rows)
    else:
        y = _filled(block.y[:, 0])
    text, data = _with_response(formula, call.data, y)
    frame, family, call = prepared(text, family, replace(call, data=data))
    with engine():
        model, _ = place(frame, family, call.curvature, True, call.priors)
    return Design(formula, frame, family, call, model)


def _filled(y: np.ndarray) -> np.ndarray:
    known = ~np.isnan(y)
    if not known.any():
        raise ValueError("responses: the first response has no value that is not missing; drop it")
    return np.where(known, y, y[known][0])


def _with_response(
    formula: str, data: pd.DataFrame, y: np.ndarray, trials: np.ndarray | None = None
) -> tuple[str, pd.DataFrame]:
    """The formula with a response, and the data with its column (those of its counts).

    Raises:
        ValueError: a formula without "~", or one whose left side is more than a name.
    """
    left, tilde, right = formula.partition("~") if isinstance(formula, str) else ("", "", "")
    if not tilde:
        raise ValueError(f"formula={formula!r}; write '~ terms + (1 | group)', as text")
    name = left.strip() or "response"
    while not left.strip() and name in data:
        name += "_"
    if not name.isidentifier():
        raise ValueError(
            f"formula: its left side is {name!r}, but the responses are those of responses=; leave "
            "it out, or write one name for all of them"
        )
    if name in data and re.search(rf"\b{name}\b", right):
        raise ValueError(
            f"formula: {name!r} is the name of the responses on its left and a column of data on "
            "its right; leave the left side out"
        )
    if trials is None:
        return f"{name} ~{right}", data.assign(**{name: y})
    counts = {f"{name}_successes": y, f"{name}_failures": trials - y}
    return f"cbind({', '.join(counts)}) ~{right}", data.assign(**counts)


def one_fit(
    design: Design, read: Callable[[], Iterator[reading.Block]] | None, names: pd.Index, name: Any
) -> Fit:
    """The full fit of one model.

    Raises:
        ValueError: the responses were an iterable, which is read once.
    """
    if read is None:
        raise ValueError(
            f"name={name!r}: the responses were read block by block and are not kept; fit this one "
            "with glmer"
        )
    at = int(names.get_indexer([name])[0])
    for block in read():
        if at < len(block.names):
            break
        at -= len(block.names)
    frame, call = design.frame, design.call
    assert call.data is not None
    trials = None
    if frame.trials is not None:
        trials = np.full(len(call.data), np.nan)
        trials[slice(None) if frame.kept_rows is None else frame.kept_rows] = frame.trials
    text, data = _with_response(design.formula, call.data, block.y[:, at], trials)
    own = {
        field: getattr(block, field)[:, at]
        for field in LANE_FIELDS
        if getattr(block, field) is not None
    }
    if block.dispersion is not None:
        own["dispersion"] = float(block.dispersion[at])
    call = replace(call, data=data, trials=None, **own)
    # A zero-inflated family is one already.
    frame, family, call = prepared(text, design.family, call)
    return Fit(frame, family, *fit_frame(frame, family, call), call)
