"""The columns of the caller's data behind a fit, on the rows that it used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from glmm_jax.formula.columns import Column, read_column
from glmm_jax.formula.evaluate import names_in
from glmm_jax.formula.fixed import expand
from glmm_jax.formula.frame import predictor_texts
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.formula.syntax import parse_expression

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def used_rows(fit: Fit, data: pd.DataFrame | None) -> pd.DataFrame:
    """The data of the fit, rows with missing values left out as in the fit.

    Raises:
        ValueError: the fit has no data (it was loaded from a file) and none are given, or they do
            not hold the rows used.
    """
    if data is None:
        data = fit.call.data
    if data is None:
        raise ValueError(
            "data=None, and a fit loaded from a file does not hold its data; pass data= as it was "
            "given to glmer"
        )
    data = as_data_frame(data)
    index = fit.frame.index
    if data.index.equals(index):
        return data
    if not data.index.is_unique or not index.isin(data.index).all():
        raise ValueError(
            f"data: {len(data)} rows whose labels do not identify the {len(index)} rows used; "
            "pass the data as given to glmer, with a unique index"
        )
    return data.loc[index]


def predictors(fit: Fit, random: bool) -> list[str]:
    """Columns of the right side of the formula; `random` adds those of the random terms."""
    formula = fit.frame.formula
    fixed = expand(formula.fixed)
    slopes = tuple(expand(term.expression) for term in formula.random) if random else ()
    texts = predictor_texts(formula, fixed, slopes, groupings=random)
    names = [name for text in texts for name in names_in(parse_expression(text))]
    names = [name for name in names if name not in fit.frame.design.state]  # constants: pi
    argument = fit.frame.design.offset_argument
    return list(dict.fromkeys([*names, *([argument] if argument else [])]))


def covariate(data: pd.DataFrame, name: str, argument: str) -> Column:
    """A column by name; a ValueError names those that there are."""
    return read_column(data, name, argument)
