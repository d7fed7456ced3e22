"""Wald tests of linear hypotheses, and of each term."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def test(fit: Fit, hypothesis: Any) -> Any:
    """Wald chi-square test of linear hypotheses such as "urban[T.Y] = 0, age = 0"."""
    raise NotImplementedError


def test_terms(fit: Fit, kind: str = "III") -> Any:
    """Wald chi-square test of each term of the fixed effects, Type II or III."""
    raise NotImplementedError
