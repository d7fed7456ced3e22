"""Coefficients of each level: fixed effects plus random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.build import PARAMETER_OF
from glmm_jax.formula.frame import CONDITIONAL
from glmm_jax.inference.parameter_names import flat
from glmm_jax.inference.parameter_rows import columns
from glmm_jax.inference.ranef import check_part, modes

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def coef(fit: Fit, part: str = CONDITIONAL) -> dict[str, pd.DataFrame]:
    """Coefficients of every level, beta_j + b_j, one data frame per grouping factor.

    The random effects of a factor are added to the fixed effects of the same name; the other
    factors' are left out (zero).

    Parameters
    ----------
    part : "conditional", the coefficients of eta; "zero_inflation", those of the logit of an excess
        zero, of a model with random effects in zero_inflation=.

    Returns
    -------
    A dictionary from the name of the factor to a data frame with a row per level and the columns of
    lme4's coef: the fixed effects in their order, after those columns of random-effects terms (of
    any factor) that have no fixed effect beside them, whose fixed part is zero.

    Raises
    ------
    ValueError : a part in which the model has no random effects.
    """
    check_part(fit, part)
    pairs = zip(fit.frame.blocks, modes(fit), strict=True)
    members = [(block, b) for block, b in pairs if block.part == part]
    blocks = [block for block, _ in members]
    names, known = _fixed(fit, part)
    extra = list(dict.fromkeys(n for block in blocks for n in block.names if n not in names))
    fixed = np.concatenate([np.zeros(len(extra)), known])
    tables: dict[str, pd.DataFrame] = {}
    for block, b in members:
        if block.grouping not in tables:
            index = block.levels.rename(block.grouping)
            values = np.tile(fixed, (len(block.levels), 1))
            tables[block.grouping] = pd.DataFrame(values, index, [*extra, *names])
        # Two terms of one factor have different columns, so nothing is added twice.
        tables[block.grouping][list(block.names)] += b
    return tables


def _fixed(fit: Fit, part: str) -> tuple[list[str], np.ndarray]:
    """Names and values of the fixed effects of one part of the model."""
    if part == CONDITIONAL:
        return list(fit.params.index), fit.params.to_numpy()
    (model,) = (model for model in fit.frame.parameter_models if model.argument == part)
    place = columns(fit)[PARAMETER_OF[part]]
    return list(model.names), flat(fit)[place]
