"""Profile likelihood of every beta, standard deviation and correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def profile(
    fit: Fit, parameters: Any = None, level: float = 0.99, *, progress: bool | None = None
) -> Any:
    """Signed-root profile deviances; a `Profile`."""
    raise NotImplementedError
