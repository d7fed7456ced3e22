"""Parametric bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def bootstrap(
    fit: Fit, n: int = 1000, seed: int = 0, *, random: str = "new", progress: bool | None = None
) -> Any:
    """Simulate n responses and refit each; a `Bootstrap`."""
    raise NotImplementedError
