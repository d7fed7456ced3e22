"""Formulas and data frames turned into the arrays of a mixed model."""

from __future__ import annotations

from glmm_jax.formula.frame import Design, Frame, RandomBlock, build_frame
from glmm_jax.formula.newdata import NewFrame, new_frame
from glmm_jax.formula.parser import parse
from glmm_jax.formula.terms import Formula, RandomTerm

__all__ = [
    "Design",
    "Formula",
    "Frame",
    "NewFrame",
    "RandomBlock",
    "RandomTerm",
    "build_frame",
    "new_frame",
    "parse",
]
