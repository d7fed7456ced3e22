"""Predictions for the rows of the fit or for new data, with their uncertainty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def predict(
    fit: Fit,
    newdata: pd.DataFrame | None = None,
    kind: str = "response",
    random: str = "conditional",
    se: bool = False,
    level: float | None = None,
    *,
    offset: Any = None,
    allow_new_levels: bool = False,
) -> pd.Series | pd.DataFrame:
    """A Series named "fit"; a DataFrame with "fit", "se" (and "lower", "upper" with `level`)."""
    raise NotImplementedError
