"""The call of `glmer` again, with another formula, data or arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def update(
    fit: Fit, formula: str | None = None, data: pd.DataFrame | None = None, **changes: Any
) -> Fit:
    """The call of `glmer` again with changes; formula as in R, for example "~ . - livch"."""
    raise NotImplementedError
