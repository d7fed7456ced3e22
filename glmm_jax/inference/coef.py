"""Coefficients of each level: fixed effects plus random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def coef(fit: Fit) -> dict[str, pd.DataFrame]:
    """Coefficients per level, one data frame per grouping factor, as lme4's coef."""
    raise NotImplementedError
