"""A fit in a file: arrays and JSON, no pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def save(fit: Fit, path: Any) -> None:
    """Write a fit to one file."""
    raise NotImplementedError


def read(path: Any) -> dict[str, Any]:
    """Arguments of `Fit` from a file."""
    raise NotImplementedError
