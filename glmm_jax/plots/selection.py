"""Which random effects a figure shows: grouping factor, columns, their numbers in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.linalg

from glmm_jax.formula.frame import CONDITIONAL
from glmm_jax.inference.varcorr import triangles

if TYPE_CHECKING:
    from glmm_jax.results import Fit


@dataclass(frozen=True, eq=False)
class Group:
    """The random effects of eta by one grouping factor, the columns of its terms side by side.

    name, levels : the factor. names : the k columns. index (n,) : level of each row. Z (n, k).
    Sigma (k, k) : covariance of b, zero between terms. table : `fit.ranef()` of the factor.
    """

    name: str
    levels: pd.Index
    names: tuple[str, ...]
    index: np.ndarray
    Z: np.ndarray
    Sigma: np.ndarray
    table: pd.DataFrame

    @property
    def mode(self) -> np.ndarray:
        """Conditional modes, (levels, k)."""
        return self.table[list(self.names)].to_numpy()

    @property
    def sd(self) -> np.ndarray:
        """Conditional standard deviations, (levels, k)."""
        return self.table[[f"{name} (sd)" for name in self.names]].to_numpy()

    @property
    def rows(self) -> np.ndarray:
        """Number of rows of each level, (levels,)."""
        return np.bincount(self.index, minlength=len(self.levels))


def find_group(fit: Fit, name: str | None, joint: bool = False) -> Group:
    """The grouping factor of that name; None where the model has only one.

    Raises:
        ValueError: the model has no such factor, or several and none is named.
    """
    blocks = fit.frame.blocks
    names = list(dict.fromkeys(b.grouping for b in blocks if b.part == CONDITIONAL))
    listed = ", ".join(map(repr, names))
    if name is None:
        if len(names) > 1:
            raise ValueError(
                f"group=None; the model has several grouping factors, name one of {listed}"
            )
        name = names[0]
    if name not in names:
        raise ValueError(f"group={name!r}; the grouping factors of the model are {listed}")
    both = zip(blocks, triangles(fit.frame, fit.theta), strict=True)
    members = [
        (block, Lambda)
        for block, Lambda in both
        if block.grouping == name and block.part == CONDITIONAL
    ]
    tables = fit.ranef(joint=True) if joint else fit.ranef()
    return Group(
        name=name,
        levels=members[0][0].levels,
        names=tuple(column for block, _ in members for column in block.names),
        index=np.asarray(members[0][0].index),
        Z=np.concatenate([block.Z for block, _ in members], axis=1),
        Sigma=np.asarray(scipy.linalg.block_diag(*(Lambda @ Lambda.T for _, Lambda in members))),
        table=tables[name],
    )


def find_columns(found: Group, terms: Any, argument: str = "term") -> list[int]:
    """Positions of the columns asked for: a name, several names, or None for all.

    Raises:
        ValueError: a name that is no column of the group's terms.
    """
    if terms is None:
        return list(range(len(found.names)))
    asked: Sequence[Any] = [terms] if isinstance(terms, str) else list(terms)
    for term in asked:
        if term not in found.names:
            raise ValueError(
                f"{argument}={term!r}; the random effects by {found.name!r} are "
                f"{', '.join(map(repr, found.names))}"
            )
    return [found.names.index(term) for term in asked]


def find_pairs(found: Group, terms: Any) -> list[tuple[int, int]]:
    """Pairs of columns (horizontal, vertical), each once.

    Raises:
        ValueError: unknown names, or fewer than two columns.
    """
    chosen = find_columns(found, terms, "terms")
    if len(set(chosen)) < 2:
        raise ValueError(
            f"terms={terms!r}; two different columns are needed, and the random effects by "
            f"{found.name!r} are {', '.join(map(repr, found.names))}; for a single column see "
            "caterpillar"
        )
    return [(i, j) for at, j in enumerate(chosen) for i in chosen[:at]]
