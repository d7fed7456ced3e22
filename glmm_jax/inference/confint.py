"""Confidence intervals of the fixed-effects coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.special

if TYPE_CHECKING:
    from glmm_jax.results import Fit

METHODS = ("wald",)


def conf_int(fit: Fit, level: float = 0.95, method: str = "wald") -> pd.DataFrame:
    """Confidence intervals, one row per coefficient; columns "2.5 %" and "97.5 %" at level 0.95.

    "wald" is the estimate plus and minus a normal quantile times its standard error. It is poor
    where the likelihood is not close to quadratic: near separation, and for few groups.

    Raises:
        ValueError: an unknown method, or a level outside (0, 1).
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}; available: {', '.join(map(repr, METHODS))}")
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}; use a number between 0 and 1, such as 0.95")
    tail = (1.0 - level) / 2.0
    quantile = -scipy.special.ndtri(tail)
    estimate, error = np.asarray(fit.params), np.asarray(fit.bse)
    limits = np.column_stack([estimate - quantile * error, estimate + quantile * error])
    return pd.DataFrame(limits, fit.params.index, [percent(tail), percent(1.0 - tail)])


def percent(probability: float) -> str:
    """A probability as R names a quantile: 0.025 as "2.5 %"."""
    return f"{100 * probability:.6g} %"
