"""The responses of many models with one design: a matrix, a data frame, or blocks of either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax.families.base import Family
from glmm_jax.families.zeros import takes


@dataclass(frozen=True, eq=False)
class Block:
    """Responses b at a time. names: their labels; y: (rows of the data, b) float64, NaN missing;
    offset, weights: likewise, or None where they are the same for all; dispersion: (b,) known
    values of phi, or None."""

    names: pd.Index
    y: np.ndarray
    offset: np.ndarray | None = None
    weights: np.ndarray | None = None
    dispersion: np.ndarray | None = None


def is_table(responses: Any) -> bool:
    """Whether the responses are one table, not an iterator of blocks."""
    return isinstance(responses, pd.DataFrame) or hasattr(responses, "shape")


def blocks(
    responses: Any,
    rows: int,
    index: pd.Index,
    offset: Any,
    weights: Any,
    size: int,
    dispersion: Any = None,
) -> Iterator[Block]:
    """The responses in blocks of at most `size`.

    Parameters
    ----------
    responses : (rows, B) array or DataFrame, a sparse matrix with `toarray`, or an iterable of
        such. An iterable is read once, block by block, so that it may be larger than memory.
    rows, index : number and labels of the rows of the data.
    offset, weights : (rows, B) arrays or DataFrames, one column a response; None if there are none.
    size : most responses in a block.
    dispersion : (B,) known values of phi, a Series by the names of the responses; None if there
        are none of their own.

    Raises:
        ValueError: a block of another shape or with other row labels, columns that are no numbers,
            names that occur twice.
    """
    if is_table(responses):
        yield from _cut(responses, rows, index, offset, weights, size, 0, dispersion)
        return
    if isinstance(responses, str | bytes) or not hasattr(responses, "__iter__"):
        raise ValueError(
            f"responses is a {type(responses).__name__}; give an array (rows, models), a DataFrame "
            "with one column a model, or an iterable of such blocks"
        )
    if offset is not None or weights is not None or dispersion is not None:
        raise ValueError(
            "offset=, weights= and dispersion= per response need responses= as one table; give one "
            "column (one number) for all, or fit the blocks one by one"
        )
    first, seen = 0, set()
    for part in responses:
        for block in _cut(part, rows, index, None, None, size, first):
            twice = [name for name in block.names if name in seen]
            if twice:
                raise ValueError(f"responses: the name {twice[0]!r} occurs in two blocks")
            seen.update(block.names)
            yield block
        first += part.shape[1]


def _cut(
    table: Any,
    rows: int,
    index: pd.Index,
    offset: Any,
    weights: Any,
    size: int,
    first: int,
    dispersion: Any = None,
) -> Iterator[Block]:
    names = check_table("responses", table, rows, index)
    if names is None:
        names = pd.RangeIndex(first, first + table.shape[1])
    others = {"offset": offset, "weights": weights}
    for argument, other in others.items():
        if other is None:
            continue
        labels = check_table(argument, other, rows, index)
        if other.shape[1] != table.shape[1]:
            raise ValueError(
                f"{argument} has {other.shape[1]} columns for {table.shape[1]} responses; give one "
                "column a response, or one for all"
            )
        if labels is not None and isinstance(table, pd.DataFrame) and not labels.equals(names):
            raise ValueError(f"{argument}: its columns have other names than those of responses")
    given = None if dispersion is None else known(dispersion, names)
    for start in range(0, table.shape[1], size):
        stop = min(start + size, table.shape[1])
        parts = [
            None if t is None else numbers(argument, t, names, start, stop)
            for argument, t in {"responses": table, **others}.items()
        ]
        y, own_offset, own_weights = parts
        assert y is not None
        phi = None if given is None else given[start:stop]
        yield Block(names[start:stop], y, own_offset, own_weights, phi)


def known(dispersion: Any, names: pd.Index) -> np.ndarray:
    """Values of phi in the order of the responses, (B,).

    Raises:
        ValueError: another number of them, a name that is missing, values that are not positive.
    """
    if isinstance(dispersion, pd.Series):
        missing = names.difference(dispersion.index)
        if len(missing):
            raise ValueError(
                f"dispersion: the Series has no value for {len(missing)} responses, such as "
                f"{missing[0]!r}; its index must hold their names"
            )
        dispersion = dispersion.reindex(names)
    values = np.asarray(dispersion)
    if values.shape != (len(names),):
        raise ValueError(
            f"dispersion has shape {values.shape}; give one number for each of the {len(names)} "
            "responses, or one for all"
        )
    if values.dtype.kind not in "iuf" or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError("dispersion: known values of phi are positive, finite numbers")
    return values.astype(float)


def check_table(argument: str, table: Any, rows: int, index: pd.Index) -> pd.Index | None:
    """Names of the columns of a table (None without names).

    Raises:
        ValueError: another shape, other row labels, or names that occur twice.
    """
    shape = getattr(table, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != rows or shape[1] < 1:
        raise ValueError(
            f"{argument} has shape {shape}; give one row for each of the {rows} rows of data and "
            f"one column a model, ({rows}, models)"
        )
    if not isinstance(table, pd.DataFrame):
        return None
    if not table.index.equals(index):
        raise ValueError(
            f"{argument}: its index is not that of data; sort both alike (reindex), or give an "
            "array to match rows by position"
        )
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{argument}: the name {twice!r} occurs twice; names must differ")
    return table.columns


def numbers(argument: str, table: Any, names: pd.Index, start: int, stop: int) -> np.ndarray:
    """Columns start, ..., stop - 1 as float64, (rows, columns).

    Raises:
        ValueError: a column that is no number, or infinite values.
    """
    if isinstance(table, pd.DataFrame):
        part = table.iloc[:, start:stop]
        wrong = [
            name
            for name, kind in part.dtypes.items()
            if not (pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind))
        ]
        if wrong:
            raise ValueError(
                f"{argument}: column {wrong[0]!r} holds no numbers; give counts or measurements, "
                "or 0 and 1 for two outcomes"
            )
        values = part.to_numpy(np.float64, na_value=np.nan)
    else:
        part = table[:, start:stop]
        part = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
        if part.dtype.kind not in "biuf":
            raise ValueError(f"{argument} has type {part.dtype}; give an array of numbers")
        values = part.astype(np.float64)
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        name = names[start + int(np.argmax(infinite))]
        raise ValueError(f"{argument}: infinite values in {name!r}; correct them")
    return values


def check_support(
    family: Family, y: np.ndarray, valid: np.ndarray, size: np.ndarray | None, names: pd.Index
) -> None:
    """Raise a ValueError that names the first response that the family does not allow.

    Parameters: y, valid (b, rows), with `valid` False where y is missing; size (rows,) or None.
    """
    sizes = None if size is None else np.broadcast_to(size, y.shape)

    whole = bool(valid.all())

    def there(values: np.ndarray, part: Any) -> np.ndarray:
        return values[part].ravel() if whole else values[part][valid[part]]

    def check(part: Any) -> None:
        family.check(there(y, part), None if sizes is None else there(sizes, part))

    if not valid.any():
        return
    try:
        check(slice(None))
    except ValueError:
        for i, name in enumerate(names):
            try:
                if valid[i].any():
                    check(i)
            except ValueError as error:
                raise ValueError(f"responses: column {name!r}: {error}") from error
        raise


def uninformative(family: Family, y: np.ndarray, valid: np.ndarray, p: int) -> np.ndarray:
    """Which responses say nothing, (b,) booleans: the same in every row where the likelihood then
    has no maximum (all zeros, all successes, a constant of a continuous family), or fewer rows
    than coefficients.

    Parameters: y, valid (b, rows); y in proportions where there are trials.
    """
    first = y[np.arange(len(y)), np.argmax(valid, axis=1)]
    same = np.all((y == first[:, None]) | ~valid, axis=1)
    # A count that is the same in every row, but not zero, has a finite estimate.
    ends = (first == family.mean_range[0]) | (first == family.mean_range[1])
    return (same & (ends | takes(family, [0.37, 0.52]))) | (valid.sum(axis=1) < p)
