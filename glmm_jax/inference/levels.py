"""Levels of confidence: checked, and written as the names of limits."""

from __future__ import annotations

import numpy as np


def check_level(level: float, argument: str = "level") -> None:
    """Raise a ValueError unless a level of confidence lies between 0 and 1."""
    number = isinstance(level, int | float | np.number) and not isinstance(level, bool)
    if not number or not 0 < level < 1:
        raise ValueError(f"{argument}={level!r}; use a number between 0 and 1, such as 0.95")


def percent(probability: float) -> str:
    """A probability as R names a quantile: 0.025 as "2.5 %"."""
    return f"{100 * probability:.6g} %"
