"""The arrays of new data, with the columns, transforms and levels of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from glmm_jax.formula.columns import Column, Factor, Value
from glmm_jax.formula.fixed import Coding, expand, model_matrix
from glmm_jax.formula.frame import (
    CONDITIONAL,
    Frame,
    ParameterModel,
    RandomBlock,
    checked,
    formula_offset,
    predictor_texts,
)
from glmm_jax.formula.grouping import match_levels
from glmm_jax.formula.rows import Rows, as_data_frame, read_columns, read_vector
from glmm_jax.formula.syntax import Name, parse_expression


@dataclass(frozen=True, eq=False)
class NewFrame:
    """The arrays of new data, columns and levels as in the fit.

    `blocks` and `parameter_models` are empty on request. Without `parameter_models` the blocks that
    belong to them are there with Z of zeros, so that blocks stand where the fit has them.
    """

    X: np.ndarray
    blocks: tuple[RandomBlock, ...]
    offset: np.ndarray
    index: pd.Index
    parameter_models: tuple[ParameterModel, ...] = ()


def new_frame(
    frame: Frame,
    newdata: pd.DataFrame,
    *,
    offset: object = None,
    random: bool = True,
    allow_new_levels: bool = False,
    parameters: bool = False,
) -> NewFrame:
    """The arrays of new data: the columns, transforms and levels are those of the fit.

    Args:
        frame: of the fit.
        newdata: a DataFrame with every column of the right side of the formula; the response,
            weights and trials are not needed.
        offset: as in `build_frame`; a column named there is looked up again by default.
        random: False leaves the random terms and their columns out.
        allow_new_levels: True gives rows of unseen or missing groups the index -1.
        parameters: whether the models of the family's other parameters are wanted, and their
            columns needed.

    Raises:
        ValueError: missing columns or values, unseen levels, an offset that has to be given again.
    """
    newdata = as_data_frame(newdata, "newdata")
    formula, design = frame.formula, frame.design
    fixed = expand(formula.fixed)
    texts = predictor_texts(formula, fixed, (), groupings=False)
    models = frame.parameter_models if parameters else ()
    blocks_read = [
        i
        for i, block in enumerate(frame.blocks)
        if random and (parameters or block.part == CONDITIONAL)
    ]
    codings = [design.random[i] for i in blocks_read] + [model.coding for model in models]
    others = (part.factor for coding in codings for parts in coding.terms for part in parts)
    texts = tuple(dict.fromkeys((*texts, *others)))
    groups = {text for i in blocks_read for text in design.groupings[i]}
    columns = read_columns(newdata, dict.fromkeys(texts, "newdata"), design.state)
    _refuse_missing(columns, "drop or fill these rows")
    grouping_columns = read_columns(newdata, dict.fromkeys(groups, "newdata"), design.state)
    if not allow_new_levels:
        _refuse_missing(
            grouping_columns,
            "drop or fill these rows, or pass allow_new_levels=True to predict without their "
            "random effects",
        )
    rows = Rows({**grouping_columns, **columns}, None, newdata.index, design.state, learn=False)
    values = _new_values(design.fixed, rows)
    X = model_matrix(design.fixed, values, rows.n)
    argument = offset if offset is not None else design.offset_argument
    if isinstance(argument, str) and argument == "":
        raise ValueError(
            "offset: the model was fitted with an array as offset=; pass offset= for the new rows"
        )
    vector = None
    if argument is not None:
        name, numbers = read_vector("offset", argument, newdata)
        count = int(np.isnan(numbers).sum())
        if count:
            raise ValueError(f"offset: {count} values are missing; fill them in, with 0 for none")
        vector = checked("offset", name, numbers)
    blocks = []
    for i, block in enumerate(frame.blocks if random else ()):
        if i not in blocks_read:
            absent = np.full(rows.n, -1, np.int32)
            blocks.append(replace(block, index=absent, Z=np.zeros((rows.n, len(block.names)))))
            continue
        factor = rows.grouping(design.groupings[i])
        index = match_levels(factor, block.levels)
        if np.any(index < 0) and not allow_new_levels:
            at = np.unique(factor.codes[index < 0])
            shown = ", ".join(repr(factor.labels[c]) for c in at[:5])
            raise ValueError(
                f"newdata: {at.size} levels of {block.grouping!r} were not in the fit (first: "
                f"{shown}); pass allow_new_levels=True to predict with their random effects at zero"
            )
        Z = model_matrix(design.random[i], _new_values(design.random[i], rows), rows.n)
        blocks.append(replace(block, index=index.astype(np.int32), Z=Z))
    return NewFrame(
        X=X if design.kept.all() else np.ascontiguousarray(X[:, design.kept]),
        blocks=tuple(blocks),
        offset=formula_offset(formula, rows, vector),
        index=newdata.index,
        parameter_models=tuple(_new_model(model, rows) for model in models),
    )


def _new_model(model: ParameterModel, rows: Rows) -> ParameterModel:
    X = model_matrix(model.coding, _new_values(model.coding, rows), rows.n)
    return replace(model, X=np.ascontiguousarray(X[:, model.kept]))


def _refuse_missing(columns: dict[str, Column], remedy: str) -> None:
    """A ValueError if values are missing in some of the columns."""
    counts = {name: int(c.missing.sum()) for name, c in columns.items() if c.missing is not None}
    listed = ", ".join(f"{name!r} ({count})" for name, count in counts.items() if count)
    if listed:
        raise ValueError(f"newdata: values are missing in {listed}; {remedy}")


def _new_values(coding: Coding, rows: Rows) -> dict[str, Value]:
    """Values of the factors of a coding on new rows, categorical ones in the codes of the fit."""
    values: dict[str, Value] = {}
    for factor in dict.fromkeys(part.factor for parts in coding.terms for part in parts):
        if factor not in coding.levels:
            value = rows.term(factor)
            if isinstance(value, Factor):
                raise ValueError(
                    f"newdata: {factor!r} was numeric in the fit, now is categorical; give numbers"
                )
            values[factor] = value
            continue
        plain_column = isinstance(parse_expression(factor), Name)
        value = rows.factor(factor) if plain_column else rows.term(factor)
        if not isinstance(value, Factor):
            raise ValueError(
                f"newdata: {factor!r} was categorical in the fit, now is numeric; give one of its "
                f"levels {', '.join(coding.levels[factor])}"
            )
        levels = coding.levels[factor]
        codes = match_levels(value, levels)
        unseen = [value.labels[c] for c in np.unique(value.codes[codes < 0])]
        if unseen:
            raise ValueError(
                f"newdata: {factor!r} has levels that were not in the fit "
                f"({', '.join(map(repr, unseen[:5]))}); levels of the fit: {', '.join(levels)}"
            )
        values[factor] = Factor(codes, levels)
    return values
