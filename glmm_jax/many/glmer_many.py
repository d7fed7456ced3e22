"""One formula fitted many times: one GLMM per gene, voxel, market or item."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from glmm_jax import families
from glmm_jax.build import place
from glmm_jax.driver import DTYPES, lanes_at_once
from glmm_jax.estimate import MAX_STEPS, checked
from glmm_jax.families.base import Family
from glmm_jax.fitting import Call, prepared
from glmm_jax.formula.frame import Frame
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.inference.parameter_names import dispersion_names
from glmm_jax.inference.varcorr import theta_names
from glmm_jax.many import responses as reading
from glmm_jax.many.checkpoint import digest, opened, size_in
from glmm_jax.many.chunks import Chunk, fit_chunks
from glmm_jax.many.designs import design_of, one_fit
from glmm_jax.many.dispersions import SHARED, SHRUNKEN, moderated
from glmm_jax.many.groups import data_sets
from glmm_jax.many.table import Columns, ManyFits, taken
from glmm_jax.model import Model
from glmm_jax.results import Fit
from glmm_jax.runtime import engine

# Numbers in the responses of a chunk by default, and models in it at most: on devices that take
# many at once, some times as many as that, since each chunk has a few that all the others wait for.
CHUNK_NUMBERS = 1 << 24
LARGEST_CHUNK = 8192
CHUNK_BLOCKS = 8


def glmer_many(
    formula: str,
    data: pd.DataFrame,
    family: str | Family = "gaussian",
    link: str | None = None,
    *,
    responses: Any = None,
    by: str | None = None,
    weights: Any = None,
    offset: Any = None,
    trials: Any = None,
    nagq: int = 1,
    curvature: str | None = None,
    reml: bool = False,
    dispersion: Any = None,
    zero_inflation: str | None = None,
    priors: Any = (),
    optimizer: Any = "quasi-newton",
    max_steps: int = MAX_STEPS,
    na_action: str = "drop",
    dtype: str = "float64",
    devices: Any = None,
    chunk_size: int | None = None,
    checkpoint: Any = None,
    progress: bool | None = None,
) -> ManyFits:
    """Fit one formula to each of many responses or many data sets.

    The fits run side by side, in blocks, on all cores or devices; each ends with the certificate
    and the status that `glmer` gives it, and no response can change the result of another.

    Parameters
    ----------
    formula : right side as for `glmer`, "~ time * group + (1 | patient)".
    data : one row for each observation of the design, shared by all models.
    responses : (rows, models) array, a DataFrame with a column a model and the index of data, a
        sparse matrix, or an iterable of such blocks of columns, which is read once and may be
        larger than memory. Values are counts, measurements, or 0 and 1; missing values (NaN) leave
        their rows out of that model alone.
    by : instead of responses, a column of data: the rows of each of its values are a data set of
        their own, with a response in the formula as for `glmer`. Data sets are padded into a few
        shapes. A coefficient that a data set cannot tell from others is NaN there.
    weights, offset : as for `glmer`, one for all models; or a table like responses, a column each.
    dispersion : a formula as for `glmer`; or how much is known of phi: a number for all models; an
        array or a Series of one for each response; "shared", one phi for all, the maximum of their
        joint likelihood; "shrunken", with a normal prior on log(phi) estimated from all models (see
        `many.dispersions`). To compare two formulas after that, give both the values of the larger,
        `np.exp(fits.dispersion["log(phi)"])`.
    dtype : "float64", or "float32" for a search in single precision. Estimates, certificates and
        standard errors are then made in double precision from where that search ended, so that
        they are those of "float64" to its tolerance. For devices that are slow in double
        precision: an H100 gains nothing, a CPU loses.
    devices : None for all devices that JAX sees, or a list of `jax.devices()`.
    chunk_size : number of models fitted at once, the next chunk being prepared meanwhile; None
        for as many as make 128 MB, or as the checkpoint has.
    checkpoint : folder for finished chunks. A run that was killed goes on from it when called with
        the same arguments; see `many.checkpoint`.
    progress : whether to show a bar with models per second and failures so far: True, False, or
        None for on a terminal and in a notebook.

    The other arguments are those of `glmer`.

    Returns
    -------
    ManyFits: tables of coefficients (with p-values adjusted over models), theta, dispersion and a
    status per model; `fit(name)` is the full Fit of one. After Ctrl-C the models that are done.

    Raises
    ------
    ValueError : anything wrong with the input, before any model is fitted (with an iterable:
        before any of its block); a response that the family does not allow is named.
    """
    if isinstance(dispersion, str) and dispersion in (SHARED, SHRUNKEN):
        if not (responses is None or reading.is_table(responses)):
            raise ValueError(
                f"dispersion={dispersion!r} reads the responses several times; give one table, not "
                "an iterable"
            )

        def again(stage: str | None, dispersion: Any = None, priors: Any = priors) -> ManyFits:
            kept = None if checkpoint is None or stage is None else Path(checkpoint) / stage
            if dispersion is not None and responses is not None:
                # As values of each model, whose program serves here too.
                dispersion = np.full(responses.shape[1], dispersion)
            return glmer_many(
                formula, data, family, link, responses=responses, by=by, weights=weights,
                offset=offset, trials=trials, nagq=nagq, curvature=curvature, reml=reml,
                dispersion=dispersion, zero_inflation=zero_inflation, priors=priors,
                optimizer=optimizer, max_steps=max_steps, na_action=na_action, dtype=dtype,
                devices=devices, chunk_size=chunk_size, checkpoint=kept, progress=progress,
            )  # fmt: skip

        return moderated(dispersion, families.get(family, link), priors, again)
    table = as_data_frame(data).copy(deep=False)
    if (responses is None) == (by is None):
        raise ValueError(
            "responses= or by= must be given, and only one of them: many responses of the rows of "
            "data, or many data sets in it"
        )
    _check_chunk_size(chunk_size)
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; use 'float64', or 'float32' for the search")
    per_model = {"offset": offset, "weights": weights}
    per_model = {name: value if _is_table(value) else None for name, value in per_model.items()}
    shared = {name: None if _is_table(value) else value
              for name, value in (("offset", offset), ("weights", weights))}  # fmt: skip
    own = None
    if np.ndim(dispersion) == 1:
        if by is not None:
            raise ValueError(
                "dispersion: one value for each model needs responses=; with by= give one number, "
                "or a formula"
            )
        own, dispersion = dispersion, 1.0  # in place of theirs, which are numbers of each lane
    call = Call(
        table, shared["weights"], shared["offset"], trials, na_action, nagq, curvature, optimizer,
        max_steps, reml, dispersion, zero_inflation, priors,
    )  # fmt: skip
    run = _Run(formula, families.get(family, link), call, dtype, devices, checkpoint, progress)
    size = chunk_size or size_in(checkpoint)
    if by is not None:
        if any(value is not None for value in per_model.values()):
            raise ValueError("offset= and weights= must be one column with by=, not a table")
        return _data_sets(run, by, size or LARGEST_CHUNK)
    total = responses.shape[1] if _is_table(responses) else None
    size = size or _chunk_size(len(table), total, lanes_at_once(devices))
    return _responses(run, {**per_model, "dispersion": own}, responses, size)


def _responses(run: _Run, per_model: dict[str, Any], responses: Any, size: int) -> ManyFits:
    """The models of many responses of one design."""
    data = run.call.data
    assert data is not None
    read = partial(
        reading.blocks, responses, len(data), data.index, per_model["offset"],
        per_model["weights"], size, per_model["dispersion"],
    )  # fmt: skip
    blocks = read()
    first = next(iter(blocks), None)
    if first is None:
        raise ValueError("responses has no block; give at least one response")
    design = design_of(run.formula, run.family, run.call, first)
    is_table = reading.is_table(responses)
    if is_table:
        # A table is checked whole before hours are spent on its first part.
        for block in read():
            design.values(block)
    names, columns, complete = run.fit(
        (design.chunk(block, check=not is_table) for block in chain([first], blocks)),
        design.model,
        responses.shape[1] if is_table else None,
        design.model,
        size,
    )
    refit = partial(one_fit, design, read if is_table else None, names)
    own = per_model["dispersion"]
    known = None if own is None else reading.known(own, names)
    return run.table(
        names, columns, design.frame, design.family, design.model, refit, complete, known
    )


def _data_sets(run: _Run, by: str, size: int) -> ManyFits:
    """The models of the data sets of one long frame."""
    frame, family, call = prepared(run.formula, run.family, run.call)
    sets = data_sets(frame, family, call, by)
    with engine():
        model, _ = place(frame, family, call.curvature, True, call.priors)
    chunks = list(sets.chunks(model.p, model.m, size))
    names, columns, complete = run.fit(
        (chunk for _, chunk in chunks), model, len(sets.names), (model, sets.rows), size
    )
    # Back in the order of the data: chunks are of one shape each.
    order = np.argsort(sets.names.get_indexer(names), kind="stable")
    return run.table(names[order], taken(columns, order), frame, family, model, sets.fit, complete)


@dataclass(frozen=True)
class _Run:
    """What was asked for, the data aside."""

    formula: str
    family: Family
    call: Call
    dtype: str
    devices: Any
    checkpoint: Any
    progress: bool | None

    def fit(
        self, chunks: Iterable[Chunk], model: Model, total: int | None, shared: Any, size: int
    ) -> tuple[pd.Index, Columns, bool]:
        """All chunks through the driver; `shared` is what a checkpoint is recognised by."""
        call = self.call
        settings = checked(model, call.nagq, None, call.optimizer, call.max_steps, call.reml)
        kept = None
        if self.checkpoint is not None:
            kinds = sorted(settings.items(), key=str)
            key = (self.formula, repr(self.family), kinds, size, self.dtype)
            kept = opened(self.checkpoint, digest(key, shared), size)
        P = model.p + model.m + model.d
        how = {"devices": self.devices, "dtype": self.dtype}
        return fit_chunks(chunks, P, total, settings, how, kept, self.progress)

    def table(
        self,
        names: pd.Index,
        columns: Columns,
        frame: Frame,
        family: Family,
        model: Model,
        refit: Callable[[Any], Fit],
        complete: bool,
        known: np.ndarray | None = None,
    ) -> ManyFits:
        """The results with their names; known: values of phi where each model has its own, (B,)."""
        if known is None and frame.known is not None:
            known = np.full(len(names), frame.known[0])
        named = SimpleNamed(frame, family)
        parameters = [*frame.X_names, *theta_names(frame), *dispersion_names(named)]
        return ManyFits(
            names, columns, pd.Index(parameters), model.p, model.m, self.formula, frame, family,
            refit, complete, known,
        )  # fmt: skip


class SimpleNamed(NamedTuple):
    """A frame and a family, which is what has names for parameters."""

    frame: Frame
    family: Family


def _is_table(value: Any) -> bool:
    """Whether these are numbers for each model, not one column for all."""
    return getattr(value, "ndim", 1) == 2


def _chunk_size(rows: int, total: int | None, unit: int) -> int:
    """Models in a chunk by default: whole units of what the devices take at once, if they fit, and
    chunks of one size, so that no small one is left over that needs another program."""
    most = max(LARGEST_CHUNK, CHUNK_BLOCKS * unit)
    size = max(1, min(most, CHUNK_NUMBERS // max(rows, 1)))
    if size > unit:
        size -= size % unit
    if not total:
        return size
    even = -(-total // -(-total // size))
    return min(size, -(-even // unit) * unit)


def _check_chunk_size(chunk_size: Any) -> None:
    if chunk_size is not None and (
        isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1
    ):
        raise ValueError(f"chunk_size={chunk_size!r}; use a positive integer, or None")
