"""Columns of the caller's data frame as numbers, truth values or factors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Contrast:
    """A coding asked for by `C(x, ...)`: the name of a patsy contrast and its arguments."""

    name: str
    arguments: tuple[object, ...] = ()
    keywords: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, eq=False)
class Factor:
    """Categorical values: codes (n,) into `labels`, -1 where missing."""

    codes: np.ndarray
    labels: tuple[str, ...]
    ordered: bool = False
    contrast: Contrast | None = None

    def take(self, rows: np.ndarray) -> Factor:
        """The factor at some rows (mask or positions), with all its labels."""
        return Factor(self.codes[rows], self.labels, self.ordered, self.contrast)

    def used(self) -> Factor:
        """The factor without the labels that do not occur, as R's `droplevels`."""
        occurs = np.zeros(len(self.labels) + 1, dtype=bool)
        occurs[self.codes] = True  # code -1 marks the extra last place
        occurs = occurs[:-1]
        if occurs.all():
            return self
        renumber = np.append(np.cumsum(occurs) - 1, -1)
        labels = tuple(label for label, keep in zip(self.labels, occurs, strict=True) if keep)
        return Factor(renumber[self.codes], labels, self.ordered, self.contrast)


Value = np.ndarray | Factor
"""An evaluated expression: float64 (n,) or (n, k), bool (n,), or a Factor."""


def label_of(value: object) -> str:
    """Text of a level: whole numbers without a decimal point, so that 1 and 1.0 agree."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)):
        number = float(value)
        whole = number.is_integer() and abs(number) < 2.0**53
        return str(int(number)) if whole else repr(number)
    return str(value)


def _labels(values: Iterable[object], name: str) -> tuple[str, ...]:
    # A list of Python's own strings, whose elements are quick to come by.
    listed = values.tolist() if isinstance(values, pd.Index) else list(values)
    plain = set(map(type, listed)) in ({str}, {int})  # whose text is the label
    labels = tuple(map(str if plain else label_of, listed))
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(
            f"data: column {name!r} has two different levels that both print as {twice!r}; "
            "rename one of them"
        )
    return labels


def factor_of(values: pd.Series | np.ndarray, name: str) -> Factor:
    """Values as a factor: categories keep their order, all else is sorted."""
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        categorical = values.array
        assert isinstance(categorical, pd.Categorical)
        labels = _labels(categorical.categories, name)
        # Indexing by the small integers pandas stores would overflow in products of codes.
        return Factor(categorical.codes.astype(np.intp), labels, bool(categorical.ordered))
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.StringDtype):
        # As objects they are hashed, and their few levels sorted, in a quarter of the time.
        codes, uniques = pd.factorize(values.to_numpy(dtype=object))
        order = sorted(range(len(uniques)), key=uniques.__getitem__)
        place = np.full(len(order) + 1, -1)  # code -1 marks the last place
        place[order] = np.arange(len(order))
        return Factor(place[codes], _labels(uniques[order], name))
    codes, uniques = pd.factorize(values, sort=True)
    return Factor(codes, _labels(uniques, name))


@dataclass(frozen=True, eq=False)
class Column:
    """One column that a model uses.

    Attributes:
        name: its name in the data.
        raw: the caller's values, never changed.
        kind: `"number"`, `"boolean"` or `"factor"` (categories and strings); `"other"` (dates
            and times) can only group.
        missing: (n,) mask, None where nothing is missing.
        known: the values as a factor where they are known as such.
    """

    name: str
    raw: pd.Series
    kind: str
    missing: np.ndarray | None
    known: Factor | None = None

    @cached_property
    def factor(self) -> Factor:
        """The values as a factor, whatever their kind."""
        return factor_of(self.raw, self.name) if self.known is None else self.known

    @cached_property
    def value(self) -> Value:
        """The values as they enter an expression: float64, bool, or a factor."""
        if self.kind == "number":
            if isinstance(self.raw.dtype, np.dtype) and self.raw.dtype.kind in "iuf":
                return self.raw.to_numpy().astype(np.float64, copy=False)
            return self.raw.to_numpy(dtype=np.float64, na_value=np.nan)
        if self.kind == "boolean":
            filled = self.raw if self.missing is None else self.raw.where(~self.missing, False)
            return filled.to_numpy(dtype=bool)
        if self.kind == "factor":
            return self.factor
        raise ValueError(
            f"data: column {self.name!r} is of type {self.raw.dtype}, which a model cannot use as "
            "numbers; convert it first, for example to days since a date"
        )

    def take(self, rows: np.ndarray) -> Column:
        """The column at the rows of a mask where nothing is missing."""
        known = None if self.known is None else self.known.take(rows)
        if known is not None and not isinstance(self.raw.dtype, pd.CategoricalDtype):
            known = known.used()  # strings are their own levels
        return Column(self.name, self.raw.loc[rows], self.kind, None, known)


_INFERRED = {
    **dict.fromkeys(("integer", "floating", "mixed-integer-float", "decimal", "empty"), "number"),
    **{"boolean": "boolean", "string": "factor"},
}


_KINDS = {"b": "boolean", "i": "number", "u": "number", "f": "number"}


def _kind_of(raw: pd.Series) -> str:
    dtype = raw.dtype
    if isinstance(dtype, pd.CategoricalDtype | pd.StringDtype):
        return "factor"
    if isinstance(dtype, np.dtype) and dtype.kind in _KINDS:
        return _KINDS[dtype.kind]
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        inferred = pd.api.types.infer_dtype(raw, skipna=True)
        if inferred not in _INFERRED:
            raise ValueError(
                f"data: column {raw.name!r} mixes kinds of values ({inferred}); convert it to "
                "numbers, to strings or to a pandas Categorical"
            )
        return _INFERRED[inferred]
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_complex_dtype(dtype):
        raise ValueError(f"data: column {raw.name!r} is complex; a model needs real numbers")
    if pd.api.types.is_numeric_dtype(dtype):
        return "number"
    return "factor" if pd.api.types.is_string_dtype(dtype) else "other"


def read_column(data: pd.DataFrame, name: str, where: str) -> Column:
    """One column of the data; `where` says in errors what asked for it.

    Raises:
        ValueError: no such column (near matches are named), or two columns of that name.
    """
    if name not in data.columns:
        names = [str(column) for column in data.columns]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
        near = near or [other for other in names if other.lower() == name.lower()]
        shown = names if len(names) <= 30 else [*names[:30], "..."]
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(
            f"{where}: the data have no column {name!r}{hint} Columns: {', '.join(shown)}"
        )
    raw = data[name]
    if not isinstance(raw, pd.Series):
        raise ValueError(f"data: {raw.shape[1]} columns are called {name!r}; rename all but one")
    kind, known = _kind_of(raw), None
    if isinstance(raw.dtype, np.dtype) and raw.dtype.kind in "biu":
        missing = None
    elif isinstance(raw.dtype, np.dtype) and raw.dtype.kind == "f":
        missing = np.isnan(raw.to_numpy())
    elif kind == "factor":
        known = factor_of(raw, name)
        missing = known.codes < 0
    else:
        missing = raw.isna().to_numpy()
    some = missing is not None and missing.any()
    return Column(name, raw, kind, missing if some else None, known)
