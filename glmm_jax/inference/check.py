"""One page that says what is wrong with a fit, if anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def check(fit: Fit, n: int = 250, seed: int = 0) -> Any:
    """A `Check`, printed as sentences."""
    raise NotImplementedError
