"""R-squared and the intraclass correlation (Nakagawa)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def r_squared(fit: Fit) -> pd.Series:
    """Marginal and conditional R-squared."""
    raise NotImplementedError


def icc(fit: Fit) -> pd.Series:
    """Intraclass correlations."""
    raise NotImplementedError
