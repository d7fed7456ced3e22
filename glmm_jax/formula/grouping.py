"""Grouping factors: the interaction of one or more factors, with lme4's levels and order."""

from __future__ import annotations

import numpy as np
import pandas as pd

from glmm_jax.formula.columns import Factor


def interaction(factors: list[Factor], name: str) -> Factor:
    """The combinations that occur, the first factor slowest, labelled `la:lb` as R does.

    Args:
        factors: one or more factors of n rows; a missing code in any makes the row missing.
        name: for error messages.

    Raises:
        ValueError: two combinations have one label (levels that hold colons).
    """
    joint = factors[0].used()
    for factor in factors[1:]:
        width = max(len(factor.labels), 1)
        codes = joint.codes.astype(np.int64) * width + factor.codes
        missing = (joint.codes < 0) | (factor.codes < 0)
        if missing.any():
            codes = np.where(missing, -1, codes)
        renumbered, present = _compact(codes, len(joint.labels) * width)
        labels = tuple(
            f"{joint.labels[code // width]}:{factor.labels[code % width]}"
            for code in present.tolist()
        )
        joint = Factor(renumbered, labels)
    if len(factors) > 1 and len(set(joint.labels)) < len(joint.labels):
        raise ValueError(
            f"data: combinations of {name!r} cannot be told apart because levels hold colons; "
            "rename them"
        )
    return joint


def _compact(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes renumbered 0, 1, ... in their order (-1 stays), and the codes that occur."""
    if size <= 4 * codes.size + 1024:
        occurs = np.zeros(size + 1, dtype=bool)
        occurs[codes] = True
        renumber = np.append(np.cumsum(occurs[:-1]) - 1, -1)
        return renumber[codes], np.flatnonzero(occurs[:-1])
    present = np.unique(codes)
    present = present[present >= 0]
    renumbered = np.searchsorted(present, codes)
    renumbered[codes < 0] = -1
    return renumbered, present


def match_levels(factor: Factor, levels: tuple[str, ...] | pd.Index) -> np.ndarray:
    """Codes of a factor's rows among other levels, by label; -1 where the label is not there."""
    position = {label: i for i, label in enumerate(levels)}
    renumber = np.array([position.get(label, -1) for label in factor.labels] + [-1], dtype=np.intp)
    return renumber[factor.codes]


def theta_order(level_counts: list[int]) -> list[int]:
    """Order of the terms in theta: lme4 sorts by decreasing number of levels, if it must.

    R's `if (any(diff(nl) > 0)) rev(order(nl))`: ties end up reversed, but only when something has
    to be moved.
    """
    counts = np.asarray(level_counts)
    if not np.any(np.diff(counts) > 0):
        return list(range(counts.size))
    return np.argsort(counts, kind="stable")[::-1].tolist()
