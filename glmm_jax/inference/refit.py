"""The same model fitted to another response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def refit(fit: Fit, y: Any) -> Fit:
    """The model fitted to another response, (n,) for the rows used, in the coding of frame.y."""
    raise NotImplementedError
