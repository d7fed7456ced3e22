"""A fit as tidy data frames: a row per parameter, per fit, per observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def tidy(fit: Fit, level: float | None = None) -> pd.DataFrame:
    """A row per parameter."""
    raise NotImplementedError


def glance(fit: Fit) -> pd.DataFrame:
    """One row of fit statistics."""
    raise NotImplementedError


def augment(fit: Fit) -> pd.DataFrame:
    """The data of the rows used with fitted values and residuals."""
    raise NotImplementedError
