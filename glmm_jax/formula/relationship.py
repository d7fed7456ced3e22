"""Known relationship matrices: the covariance between levels of a grouping factor, up to a scale.

A pedigree, a phylogeny or a kinship gives K; a random-effects term of that factor then has
Var(vec b) = K kron (Lambda Lambda') instead of I kron (Lambda Lambda'), level after level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax.formula.columns import Factor, label_of
from glmm_jax.formula.grouping import match_levels

# Differences between K and its transpose, and eigenvalues, relative to the largest: less is zero.
ASYMMETRY = 1e-8
SINGULAR = 1e-10


@dataclass(frozen=True, eq=False)
class Relationship:
    """labels (L,) of levels, as text, and their symmetric positive definite matrix K, (L, L)."""

    labels: pd.Index
    matrix: np.ndarray

    def same(self, other: Relationship | None) -> bool:
        """Whether another relationship is the same matrix of the same levels."""
        if other is None or not self.labels.equals(other.labels):
            return False
        return self.matrix is other.matrix or np.array_equal(self.matrix, other.matrix)


def read_relationships(given: Any) -> dict[str, Relationship]:
    """The argument relationship=, {grouping factor: matrix}, checked; the matrices are copies.

    Raises:
        ValueError: no dictionary, or a matrix that is not labelled, square, finite, symmetric and
            positive definite; the message names the factor.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(
            f"relationship: a {type(given).__name__} was given; use a dictionary from the name of "
            "a grouping factor to its matrix, {'animal': K}"
        )
    return {name: _read(name, value) for name, value in given.items()}


def _read(name: str, value: Any) -> Relationship:
    if isinstance(value, Relationship):
        return value
    where = f"relationship[{name!r}]"
    if isinstance(value, pd.DataFrame):
        rows, columns = (_labels(where, labels) for labels in (value.index, value.columns))
        if set(rows) != set(columns):
            odd = sorted(set(rows) ^ set(columns))
            raise ValueError(
                f"{where}: {len(odd)} labels are in the index or the columns alone (first: "
                f"{', '.join(map(repr, odd[:5]))}); rows and columns must be the same levels"
            )
        table, place = value, {label: i for i, label in enumerate(columns)}
        order = [place[label] for label in rows]
    elif isinstance(value, tuple) and len(value) == 2:
        table, rows = pd.DataFrame(np.asarray(value[0])), _labels(where, value[1])
        if table.shape != (len(rows), len(rows)):
            raise ValueError(
                f"{where}: the matrix has shape {table.shape} and there are {len(rows)} labels; "
                "give a square matrix with a label for each row"
            )
        order = list(range(len(rows)))
    else:
        raise ValueError(
            f"{where} is a {type(value).__name__}; give a DataFrame whose index and columns are "
            "the levels, or a pair (matrix, labels)"
        )
    try:
        matrix = table.to_numpy(dtype=np.float64, na_value=np.nan)[:, order]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: the matrix holds values that are no numbers") from error
    return Relationship(pd.Index(rows, dtype=object), _checked(where, matrix, rows))


def _labels(where: str, labels: Any) -> list[str]:
    found = [label_of(label) for label in labels]
    if len(set(found)) < len(found):
        twice = next(label for label in found if found.count(label) > 1)
        raise ValueError(f"{where}: the label {twice!r} occurs more than once; levels need one row")
    if any(pd.isna(label) for label in labels):
        raise ValueError(f"{where}: a label is missing; every row needs the name of its level")
    return found


def _checked(where: str, matrix: np.ndarray, labels: list[str]) -> np.ndarray:
    """The matrix, exactly symmetric."""
    if not matrix.size:
        raise ValueError(f"{where}: the matrix is empty; give a row and a column for each level")
    bad = ~np.isfinite(matrix)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise ValueError(
            f"{where}: {int(bad.sum())} values are missing or infinite (first: row {labels[i]!r}, "
            f"column {labels[j]!r}); fill them in"
        )
    apart = np.abs(matrix - matrix.T)
    if apart.max() > ASYMMETRY * np.abs(matrix).max():
        i, j = np.unravel_index(np.argmax(apart), apart.shape)
        raise ValueError(
            f"{where}: the matrix is not symmetric: {matrix[i, j]:.6g} for ({labels[i]!r}, "
            f"{labels[j]!r}) and {matrix[j, i]:.6g} for ({labels[j]!r}, {labels[i]!r})"
        )
    matrix = 0.5 * (matrix + matrix.T)
    values = np.linalg.eigvalsh(matrix)
    if values[0] <= SINGULAR * values[-1]:
        raise ValueError(
            f"{where}: the matrix is not positive definite, its smallest eigenvalue is "
            f"{values[0]:.3g} (largest {values[-1]:.3g}); give identical levels one name, or check "
            "how the matrix was made"
        )
    return matrix


def check_names(given: Mapping[str, Relationship], groups: list[str]) -> None:
    """Raise a ValueError for a relationship of what is no grouping factor of the formula."""
    for name in given:
        if name not in groups:
            raise ValueError(
                f"relationship: {name!r} is no grouping factor of the formula, which has "
                f"{', '.join(map(repr, groups))}"
            )


def placed(name: str, factor: Factor, relationship: Relationship) -> np.ndarray:
    """Position among the labels of each row's level, (n,).

    Raises:
        ValueError: levels that the matrix does not have.
    """
    index = match_levels(factor, relationship.labels)
    if np.any(index < 0):
        unknown = [factor.labels[c] for c in np.unique(factor.codes[index < 0])]
        raise ValueError(
            f"relationship[{name!r}]: {len(unknown)} levels of the data are not in the matrix "
            f"(first: {', '.join(map(repr, unknown[:5]))}); add their rows and columns, or leave "
            "these rows of the data out"
        )
    return index
