"""Rows that a model uses: missing values, vectors beside the formula, evaluation by expression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from glmm_jax.formula.columns import Column, Factor, Value, read_column
from glmm_jax.formula.evaluate import CONSTANTS, evaluate, names_in
from glmm_jax.formula.grouping import interaction
from glmm_jax.formula.syntax import Name, parse_expression
from glmm_jax.formula.transforms import State


def as_data_frame(data: object, argument: str = "data") -> pd.DataFrame:
    """The caller's data as a DataFrame; a dictionary of columns is made one.

    Raises:
        ValueError: neither of the two, no row, or columns of unequal lengths.
    """
    if isinstance(data, Mapping):
        try:
            data = pd.DataFrame(dict(data))
        except ValueError as error:
            raise ValueError(f"{argument}: the columns make no table: {error}") from error
    if not isinstance(data, pd.DataFrame):
        raise ValueError(
            f"{argument}: a pandas DataFrame (or a dictionary of columns) is needed, not "
            f"{type(data).__name__}; for other tables pass data.to_pandas()"
        )
    if len(data) == 0:
        raise ValueError(f"{argument}: there are no rows")
    return data


def read_vector(argument: str, value: object, data: pd.DataFrame) -> tuple[str, np.ndarray]:
    """`weights=`, `offset=` or `trials=` as (name, (n,) float64 copy), NaN where missing.

    A string is the name of a column. A Series must have the index of the data; any other
    sequence is taken by position.

    Raises:
        ValueError: no such column, another length or index, values that are no numbers.
    """
    if isinstance(value, str):
        column = read_column(data, value, argument)
        if column.kind != "number":
            raise ValueError(f"{argument}: column {value!r} ({column.raw.dtype}) holds no numbers")
        return value, np.array(column.value)
    if isinstance(value, pd.Series):
        if len(value) == len(data) and not value.index.equals(data.index):
            raise ValueError(
                f"{argument}: the index of the Series differs from that of the data; align it "
                "(.reindex(data.index)), or pass .to_numpy() if the order of rows is right"
            )
    try:
        vector = value if isinstance(value, pd.Series) else pd.Series(np.asarray(value))
        numbers = vector.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument}: one number a row (or the name of a column) is needed: {error}"
        ) from error
    if numbers.shape != (len(data),):
        raise ValueError(
            f"{argument}: {len(numbers)} values came for {len(data)} rows of data; one a row is "
            "needed"
        )
    return f"{argument}=", np.array(numbers)


def constants_in(data: pd.DataFrame, texts: Iterable[str]) -> State:
    """The constants that some expressions use, pi say: names that are no column of the data.

    A column goes before a constant, as in R. Which it was is kept with the fit, so that new data
    cannot change it.
    """
    nodes = [parse_expression(text) for text in texts]
    inside = {name for node in nodes if not isinstance(node, Name) for name in names_in(node)}
    names = sorted(name for name in inside & CONSTANTS.keys() if name not in data.columns)
    return {name: (np.array(CONSTANTS[name]),) for name in names}


def read_columns(data: pd.DataFrame, texts: Mapping[str, str], state: State) -> dict[str, Column]:
    """All columns used by some expressions; `texts` maps each to what it is, for errors.

    state: see `evaluate`; the constants in it are no columns.
    """
    columns: dict[str, Column] = {}
    for text, where in texts.items():
        node = parse_expression(text)
        for name in names_in(node):
            constant = name in state and not isinstance(node, Name)
            if name not in columns and not constant:
                columns[name] = read_column(data, name, where)
    return columns


def rows_to_keep(
    masks: Mapping[str, np.ndarray | None], n: int, na_action: str
) -> np.ndarray | None:
    """Mask of the rows without missing values; None when all stay.

    Args:
        masks: for each variable the mask of its missing values, or None.
        na_action: "drop" or "raise".

    Raises:
        ValueError: values are missing under "raise", or no row would stay.
    """
    found = {name: mask for name, mask in masks.items() if mask is not None and mask.any()}
    if not found:
        return None
    listed = ", ".join(f"{name!r} ({int(mask.sum())})" for name, mask in found.items())
    if na_action == "raise":
        raise ValueError(
            f"data: values are missing in {listed}; drop or fill them, or pass na_action='drop'"
        )
    missing = np.zeros(n, dtype=bool)
    for mask in found.values():
        missing |= mask
    if missing.all():
        raise ValueError(f"data: no row is complete; values are missing in {listed}")
    return ~missing


@dataclass
class Rows:
    """Evaluates expressions on the rows kept, each expression once.

    An expression is evaluated on all rows where its own columns are complete and cut to the rows
    kept afterwards, as R does: the mean that `scale(x)` subtracts does not depend on what is
    missing in other columns.

    Attributes:
        columns: every column in use, of n rows.
        keep: (n,) mask or None for all.
        index: row labels, of n rows.
        state, learn: see `evaluate`.
    """

    columns: Mapping[str, Column]
    keep: np.ndarray | None
    index: pd.Index
    state: State
    learn: bool
    _values: dict[str, Value] = field(default_factory=dict)
    _groups: dict[tuple[str, ...], Factor] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of rows kept."""
        return len(self.index) if self.keep is None else int(self.keep.sum())

    def value(self, text: str) -> Value:
        """Value of an expression on the rows kept: finite numbers, truth values or a Factor.

        Raises:
            ValueError: NaN or infinity in it.
        """
        if text not in self._values:
            value = self._evaluate(text)
            if not isinstance(value, Factor):
                self._check_finite(text, value)
            elif self.learn:
                value = value.used()
            self._values[text] = value
        return self._values[text]

    def term(self, text: str) -> Value:
        """The same as an ingredient of a model matrix: truth values become a factor."""
        value = self.value(text)
        if isinstance(value, np.ndarray) and value.dtype == bool:
            return Factor(value.astype(np.intp), ("False", "True"))
        return value

    def numbers(self, text: str, where: str) -> np.ndarray:
        """The same where (n,) numbers are needed."""
        value = self.value(text)
        if isinstance(value, Factor) or value.ndim != 1:
            raise ValueError(f"{where}: {text!r} must be one column of numbers")
        return value.astype(np.float64, copy=False)

    def declared(self, text: str) -> Value:
        """The same, a factor with all the levels that were declared."""
        return self._evaluate(text)

    def grouping(self, texts: tuple[str, ...]) -> Factor:
        """The interaction of grouping factors, of whatever kind their columns are."""
        if texts not in self._groups:
            self._groups[texts] = interaction([self.factor(t) for t in texts], ":".join(texts))
        return self._groups[texts]

    def factor(self, text: str) -> Factor:
        """One expression as a factor: a plain column of any kind, or a call that gives one."""
        node = parse_expression(text)
        if isinstance(node, Name):
            factor = self.columns[node.name].factor
            return factor if self.keep is None else factor.take(self.keep)
        value = self.term(text)
        if not isinstance(value, Factor):
            raise ValueError(f"formula: {text!r} is no factor; write factor(...) around it")
        return value

    def _evaluate(self, text: str) -> Value:
        node = parse_expression(text)
        names = names_in(node)
        columns = {name: self.columns[name] for name in names if name in self.columns}
        if self.keep is None:
            return evaluate(node, columns, self.state, self.learn)
        masks = [column.missing for column in columns.values() if column.missing is not None]
        if not masks or isinstance(node, Name):
            value, rows = evaluate(node, columns, self.state, self.learn), self.keep
        else:
            complete = ~np.logical_or.reduce(masks)
            columns = {name: column.take(complete) for name, column in columns.items()}
            value = evaluate(node, columns, self.state, self.learn)
            rows = self.keep[complete]
        return value.take(rows) if isinstance(value, Factor) else value[rows]

    def _check_finite(self, text: str, value: np.ndarray) -> None:
        finite = np.isfinite(value)
        if finite.all():
            return
        bad = ~finite if value.ndim == 1 else ~finite.all(axis=1)
        kept = self.index if self.keep is None else self.index[self.keep]
        plain = isinstance(parse_expression(text), Name)
        what = "infinite" if np.isinf(value).any() else "not a number"
        remedy = "set these to missing or drop the rows" if plain else "check what goes into it"
        raise ValueError(
            f"data: {text!r} is {what} in {int(bad.sum())} rows (first: row "
            f"{kept[int(np.argmax(bad))]!r}); {remedy}"
        )
