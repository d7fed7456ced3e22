"""Coefficients of each level: fixed effects plus random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.inference.ranef import modes

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def coef(fit: Fit) -> dict[str, pd.DataFrame]:
    """Coefficients of every level, beta_j + b_j, one data frame per grouping factor.

    The random effects of a factor are added to the fixed effects of the same name; the other
    factors' are left out (zero).

    Returns
    -------
    A dictionary from the name of the factor to a data frame with a row per level and the columns of
    lme4's coef: the fixed effects in their order, after those columns of random-effects terms (of
    any factor) that have no fixed effect beside them, whose fixed part is zero.
    """
    blocks = fit.frame.blocks
    names = list(fit.params.index)
    extra = list(dict.fromkeys(n for block in blocks for n in block.names if n not in names))
    fixed = np.concatenate([np.zeros(len(extra)), fit.params.to_numpy()])
    tables: dict[str, pd.DataFrame] = {}
    for block, b in zip(blocks, modes(fit), strict=True):
        if block.grouping not in tables:
            index = block.levels.rename(block.grouping)
            values = np.tile(fixed, (len(block.levels), 1))
            tables[block.grouping] = pd.DataFrame(values, index, [*extra, *names])
        # Two terms of one factor have different columns, so nothing is added twice.
        tables[block.grouping][list(block.names)] += b
    return tables
