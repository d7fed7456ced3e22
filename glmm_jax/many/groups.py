"""Many data sets of different sizes from one long frame, padded into a few shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pandas as pd

from glmm_jax.build import place
from glmm_jax.families.base import Family
from glmm_jax.fitting import Call, fit_frame
from glmm_jax.formula.frame import Frame, RandomBlock
from glmm_jax.formula.rank import independent_columns
from glmm_jax.many.chunks import Chunk
from glmm_jax.many.responses import uninformative
from glmm_jax.model import Model
from glmm_jax.results import Fit
from glmm_jax.runtime import engine

# What one data set has of its own: every array of its model.
FIELDS = ("y", "X", "Z", "offset", "weights", "size", "structure", "dispersion_X")


@dataclass(frozen=True, eq=False)
class DataSets:
    """The rows of a long frame by data set. names (B,); rows: B arrays of positions in the frame;
    frame: of all rows, which codes the factors of each alike."""

    names: pd.Index
    rows: tuple[np.ndarray, ...]
    frame: Frame
    family: Family
    call: Call

    def chunks(self, p: int, m: int, size: int) -> Iterator[tuple[np.ndarray, Chunk]]:
        """Chunks of data sets of one shape, with the positions of their members among the names."""
        waiting: dict[Any, list[tuple[int, Frame, Model, np.ndarray]]] = {}
        silent = []
        for i, rows in enumerate(self.rows):
            part, kept = subset(self.frame, rows)
            if _says_nothing(part, self.family):
                silent.append(i)
                continue
            model = self._model(part, self.names[i])
            at = np.concatenate([np.flatnonzero(kept), np.arange(p, p + m + model.d)])
            key = (*jax.tree.flatten(_numbers(model))[1:], _shapes(model), at.tobytes())
            members = waiting.setdefault(key, [])
            members.append((i, part, model, at))
            if len(members) == size:
                yield self._chunk(waiting.pop(key))
        for members in waiting.values():
            yield self._chunk(members)
        if silent:
            yield self._silent(np.array(silent))

    def _model(self, part: Frame, name: Any) -> Model:
        try:
            with engine():
                call = self.call
                found, _ = place(part, self.family, call.curvature, True, call.priors, pad=coarse)
        except ValueError as error:
            raise ValueError(f"by: data set {name!r}: {error}") from error
        return found

    def _chunk(self, members: list[tuple[int, Frame, Model, np.ndarray]]) -> tuple[Any, Chunk]:
        positions = np.array([i for i, *_ in members])
        models = [_numbers(model) for _, _, model, _ in members]
        chunk = Chunk(
            names=self.names[positions],
            frame=members[0][1],
            model=members[0][2],
            lanes=jax.tree.map(lambda *leaves: np.stack(leaves), *models),
            fitted=np.ones(len(members), bool),
            rows=np.array([len(part.y) for _, part, _, _ in members]),
            at=members[0][3],
        )
        return positions, chunk

    def _silent(self, positions: np.ndarray) -> tuple[np.ndarray, Chunk]:
        """Data sets that say nothing: a chunk of which none is fitted."""
        with engine():
            model, _ = place(self.frame, self.family, self.call.curvature)
        rows = np.array([len(self.rows[i]) for i in positions])
        none = np.zeros(len(positions), bool)
        return positions, Chunk(self.names[positions], self.frame, model, {}, none, rows)

    def fit(self, name: Any) -> Fit:
        """The full fit of one data set."""
        i = int(self.names.get_indexer([name])[0])
        part, _ = subset(self.frame, self.rows[i])
        assert self.call.data is not None
        data = self.call.data
        kept = self.frame.kept_rows
        used = self.rows[i] if kept is None else np.flatnonzero(kept)[self.rows[i]]
        call = replace(self.call, data=data.iloc[used])
        return Fit(part, self.family, *fit_frame(part, self.family, call), call)


def data_sets(frame: Frame, family: Family, call: Call, by: str) -> DataSets:
    """The data sets of the rows used, by the values of a column.

    Raises:
        ValueError: no such column, or missing values in it.
    """
    data = call.data
    assert data is not None
    if not isinstance(by, str) or by not in data.columns:
        raise ValueError(f"by={by!r} is no column of data; use one of {', '.join(map(str, data))}")
    column = data[by] if frame.kept_rows is None else data[by][frame.kept_rows]
    codes, names = pd.factorize(column)
    if np.any(codes < 0):
        raise ValueError(f"by: {int(np.sum(codes < 0))} values of {by!r} are missing; drop them")
    order = np.argsort(codes, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    return DataSets(pd.Index(names, name=by), tuple(rows), frame, family, call)


def subset(frame: Frame, rows: np.ndarray) -> tuple[Frame, np.ndarray]:
    """Some rows of a frame as a frame, and which of its columns of X they leave independent."""
    X = frame.X[rows]
    kept = independent_columns(X)
    names = np.array(frame.X_names, dtype=object)

    def cut(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows]

    part = replace(
        frame,
        y=frame.y[rows],
        trials=cut(frame.trials),
        X=np.ascontiguousarray(X[:, kept]),
        X_names=tuple(names[kept]),
        dropped_columns=(*frame.dropped_columns, *names[~kept]),
        blocks=tuple(_block(block, rows) for block in frame.blocks),
        offset=frame.offset[rows],
        weights=cut(frame.weights),
        known=cut(frame.known),
        index=frame.index[rows],
        kept_rows=None,
        design=replace(frame.design, kept=_kept(frame.design.kept, kept)),
        parameter_models=tuple(replace(m, X=m.X[rows]) for m in frame.parameter_models),
    )
    return part, kept


def _kept(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    out = before.copy()
    out[np.flatnonzero(before)[~now]] = False
    return out


def _block(block: RandomBlock, rows: np.ndarray) -> RandomBlock:
    used, index = np.unique(block.index[rows], return_inverse=True)
    return replace(block, levels=block.levels[used], index=index.astype(np.int32), Z=block.Z[rows])


def _says_nothing(part: Frame, family: Family) -> bool:
    """Whether there is nothing to estimate: see `responses.uninformative`; also a Gaussian response
    whose random effects are as many as its rows."""
    y = part.y if part.trials is None else part.y / part.trials
    if uninformative(family, y[None], np.ones((1, len(y)), bool), part.X.shape[1])[0]:
        return True
    effects = [len(block.levels) * block.Z.shape[1] for block in part.blocks]
    return family.name == "gaussian" and max(effects) >= len(y)


def _numbers(model: Model) -> dict[str, Any]:
    return {name: getattr(model, name) for name in FIELDS}


def _shapes(model: Model) -> tuple[Any, ...]:
    return tuple(leaf.shape for leaf in jax.tree.leaves(model))


def coarse(size: int) -> int:
    """The padded size of an array: two sizes to a doubling, from 16."""
    if size <= 16:
        return 16
    power = 1 << (int(size - 1).bit_length() - 1)
    return power + power // 2 if size <= power + power // 2 else 2 * power
