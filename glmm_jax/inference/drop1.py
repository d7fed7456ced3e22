"""Likelihood-ratio tests of dropping one term at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def drop1(fit: Fit) -> Any:
    """Refit without each term that no interaction contains."""
    raise NotImplementedError
