"""Is the response more variable, or more often zero, than the model says?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def overdispersion(fit: Fit, n: int = 250, seed: int = 0) -> pd.DataFrame:
    """Ratio of observed to expected dispersion with tests."""
    raise NotImplementedError


def zero_inflation(fit: Fit, n: int = 250, seed: int = 0) -> pd.DataFrame:
    """Number of zeros against its distribution under the model."""
    raise NotImplementedError
