"""Responses simulated from a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def simulate(fit: Fit, n: int = 1, seed: int = 0, random: str = "new") -> pd.DataFrame:
    """n responses, a column each ("sim_1", ...), a row per row used, coded as frame.y."""
    raise NotImplementedError
