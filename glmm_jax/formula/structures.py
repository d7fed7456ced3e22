"""What a named covariance structure asks of the columns of its term."""

from __future__ import annotations

import numpy as np

from glmm_jax.formula.columns import Factor, Value
from glmm_jax.formula.fixed import Terms
from glmm_jax.formula.rows import Rows
from glmm_jax.formula.terms import RandomTerm

# Steps between times that differ by less than this, relative to one, are equal.
EQUAL = 1e-6


def check_columns(term: RandomTerm, names: tuple[str, ...]) -> None:
    """Raise a ValueError for a structure with a correlation but fewer than two columns."""
    if term.structure in ("cs", "ar1") and len(names) < 2:
        raise ValueError(
            f"formula: {written(term)} has one column, {', '.join(names)}, and so no correlation; "
            f"give a factor without intercept, {term.structure}(0 + factor(x) | {term.group_name})"
        )


def times(term: RandomTerm, terms: Terms, values: dict[str, Value], rows: Rows) -> dict[str, Value]:
    """The time factor of an AR(1) term with all levels that were declared, those without rows too:
    the correlation of two times follows from how many levels lie between them.

    Raises:
        ValueError: something else than one factor without intercept, or times that are numbers and
            not equally far apart.
    """
    name = terms.factors[0] if terms.factors else ""
    factor = values.get(name)
    if terms.intercept or terms.terms != ((name,),) or not isinstance(factor, Factor):
        raise ValueError(
            f"formula: {written(term)} needs one factor, whose levels are times in their order, "
            f"and no intercept; write ar1(0 + factor(time) | {term.group_name})"
        )
    declared = rows.declared(name)
    factor = declared if isinstance(declared, Factor) else factor
    try:
        at = np.array([float(label) for label in factor.labels])
    except ValueError:
        return {name: factor}
    steps = np.diff(at)
    if len(steps) and (steps.max() - steps.min() > EQUAL * np.abs(steps).max() or steps[0] == 0):
        shown = ", ".join(factor.labels[:8]) + (", ..." if len(at) > 8 else "")
        raise ValueError(
            f"formula: the levels of {name!r} in {written(term)} are {shown}, which are not equal "
            "steps in one direction; make it a pandas Categorical whose categories are all times "
            "in order, those without rows included"
        )
    return {name: factor}


def written(term: RandomTerm) -> str:
    """A term as it stands in a formula."""
    inner = f"{term.expression} | {term.group_name}"
    return f"({inner})" if term.structure == "us" else f"{term.structure}({inner})"
