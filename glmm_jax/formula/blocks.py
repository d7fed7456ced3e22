"""Random-effects terms as arrays: one block of columns with one covariance matrix per level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from glmm_jax.formula.fixed import Coding, code, expand, model_matrix
from glmm_jax.formula.grouping import theta_order
from glmm_jax.formula.relationship import Relationship, placed
from glmm_jax.formula.rows import Rows
from glmm_jax.formula.structures import check_columns, times
from glmm_jax.formula.terms import RandomTerm

# The part of a model that its main formula describes: the linear predictor eta.
CONDITIONAL = "conditional"


@dataclass(frozen=True, eq=False)
class RandomBlock:
    """One random-effects term after the expansion of `||` and `/`: one covariance block.

    Attributes:
        grouping: lme4's name of the grouping factor, `"district"` or `"urban:district"`.
        names: the k column names, for example `("Intercept", "urban[T.Y]")`.
        levels: labels of the levels that occur, in lme4's order; all of a relationship matrix.
        index: (n,) int32, level of each row; -1 for a level the fit has not seen (new data).
        Z: (n, k) float64, the row's values of the k columns.
        structure: of the covariance of the columns, one of `terms.STRUCTURES`.
        relationship: known covariance between the levels up to a scale; None for independent ones.
        part: `CONDITIONAL`, or the argument whose formula has the term, "zero_inflation".
    """

    grouping: str
    names: tuple[str, ...]
    levels: pd.Index
    index: np.ndarray
    Z: np.ndarray
    structure: str = "us"
    relationship: Relationship | None = None
    part: str = CONDITIONAL

    def named(self, name: str) -> str:
        """A column, or columns joined, as messages name it: "(Intercept | site)"."""
        what = f"({name} | {self.grouping})"
        return what if self.part == CONDITIONAL else f"{what} in {self.part}="

    @property
    def label(self) -> str:
        """One name for all columns: what they share before "[", or the first and the last."""
        shared = {name.partition("[")[0] for name in self.names}
        return shared.pop() if len(shared) == 1 else f"{self.names[0]} ... {self.names[-1]}"


def random_blocks(
    random: tuple[RandomTerm, ...],
    rows: Rows,
    part: str,
    relationships: dict[str, Relationship],
) -> list[tuple[RandomBlock, Coding, tuple[str, ...]]]:
    """Blocks of one formula, their codings and grouping expressions, in lme4's theta order."""
    shared: dict[tuple[str, ...], tuple[pd.Index, np.ndarray]] = {}
    found = []
    for term in random:
        terms = expand(term.expression)
        related = relationships.get(term.group_name)
        if term.grouping not in shared:
            factor = rows.grouping(term.grouping)
            if related is None:
                levels, index = pd.Index(_objects(factor.labels), dtype=object), factor.codes
            else:
                levels, index = related.labels, placed(term.group_name, factor, related)
            shared[term.grouping] = levels, index.astype(np.int32)
        values = {factor: rows.term(factor) for factor in terms.factors}
        if term.structure == "ar1":
            values = times(term, terms, values, rows)
        coding = code(terms, values)
        check_columns(term, coding.names)
        Z = model_matrix(coding, values, rows.n)
        levels, index = shared[term.grouping]
        block = RandomBlock(
            term.group_name, coding.names, levels, index, Z, term.structure, related, part
        )
        found.append((block, coding, term.grouping))
    return [found[i] for i in theta_order([len(block.levels) for block, _, _ in found])]


def _objects(labels: tuple[str, ...]) -> np.ndarray:
    """Labels as an array whose elements pandas need not look at one by one."""
    out = np.empty(len(labels), dtype=object)
    out[:] = labels
    return out
