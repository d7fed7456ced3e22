"""Variance inflation and leverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def vif(fit: Fit) -> pd.DataFrame:
    """Generalised variance inflation factors of the terms of the fixed effects."""
    raise NotImplementedError


def leverage(fit: Fit) -> pd.Series:
    """Leverage of each row used."""
    raise NotImplementedError
