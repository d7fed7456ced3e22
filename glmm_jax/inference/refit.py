"""The same model fitted to another response."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

from glmm_jax.fitting import Fitted, fit_frame
from glmm_jax.formula.columns import label_of
from glmm_jax.formula.frame import Frame
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# How a search may end that has an answer, if not an estimate: another start has the same.
FINAL = (Status.CONVERGED, Status.SEPARATION)


def refit(fit: Fit, y: Any, *, warm: bool = False, progress: bool | None = None) -> Fit:
    """The model fitted to another response on the same rows; all else stays.

    Parameters
    ----------
    y : the response of the rows used, (n,), in the coding of `fit.frame.y`: numbers of successes
        where there are trials; for a response of two levels their labels, truth values or 0 and 1;
        for ordered categories their labels or 0, 1, 2, ...
        A Series, or a data frame of one column (such as `simulate(1)` gives), is aligned by its
        index (rows that the fit left out are ignored), all else by position.
    warm : start from this fit's estimate. The default finds starting values for y: that costs
        about as much as a warm start saves and needs no program that is not compiled already.
        Warm pays for many refits of a model whose fit takes seconds. A warm search that ends
        without an estimate is followed by one from starting values.
    progress : as in `glmer`.

    Returns
    -------
    A Fit with the new response.

    Raises
    ------
    ValueError : y has another length or other labels, missing or infinite values, or values that
        the family does not allow.
    """
    frame = replace(fit.frame, y=response(fit.frame, y))
    family, call = fit.family, fit.call
    start = fit.estimate.params if warm else None
    fitted = fit_frame(frame, family, call, start, progress)
    if warm and Status(int(fitted.estimate.status)) not in FINAL:
        fitted = better(fitted, fit_frame(frame, family, call, None, progress))
    # The nodes are those that the other response settled at.
    if not np.array_equal(frame.y, fit.frame.y):
        call = replace(call, settled=None, refitted=True)
    return replace(fit, frame=frame, call=call, **fitted._asdict())


def better(first: Fitted, second: Fitted) -> Fitted:
    """Of two fits of one model the one that converged, else the one with the lower deviance."""
    if Status(int(second.estimate.status)) is Status.CONVERGED:
        return second
    lower = float(second.estimate.deviance) < float(first.estimate.deviance)
    return second if lower or not np.isfinite(first.estimate.deviance) else first


def response(frame: Frame, y: Any) -> np.ndarray:
    """y as the numbers of `frame.y`, (n,) and finite; what the family allows is not checked here.

    Raises:
        ValueError: another shape, another index, labels that are not those of the response, values
            that are no numbers, missing or infinite ones.
    """
    if isinstance(y, pd.DataFrame):
        if y.shape[1] != 1:
            raise ValueError(
                f"y is a data frame of {y.shape[1]} columns; give one of them, such as y.iloc[:, 0]"
            )
        y = y.iloc[:, 0]
    values = _aligned(frame, y) if isinstance(y, pd.Series) else y
    if isinstance(values, jax.Array):
        values = np.asarray(values)
    n = len(frame.y)
    column = pd.Series(values) if np.ndim(values) == 1 else None
    if column is None or len(column) != n:
        raise ValueError(
            f"y has shape {np.shape(values)}; give one value for each of the {n} rows used, "
            f"shape ({n},)"
        )
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"y has {int(missing.sum())} missing values (first in position "
            f"{int(np.argmax(missing))}); fill them in, or fit the complete rows with update(data=)"
        )
    if pd.api.types.is_numeric_dtype(column.dtype):
        numbers = column.to_numpy(np.float64)
        infinite = ~np.isfinite(numbers)
        if infinite.any():
            at = int(np.argmax(infinite))
            raise ValueError(
                f"y has {int(infinite.sum())} infinite values (first in position {at}); correct "
                "them"
            )
        return numbers
    return _from_labels(frame, column)


def _aligned(frame: Frame, y: pd.Series) -> pd.Series:
    """y in the order of the rows used."""
    if y.index.equals(frame.index):
        return y
    if not y.index.is_unique or not frame.index.is_unique:
        raise ValueError(
            "y has an index that differs from that of the rows used, and labels occur twice; give "
            "an array in the order of the rows, y.to_numpy()"
        )
    absent = frame.index.difference(y.index, sort=False)
    if len(absent):
        raise ValueError(
            f"y has no value for {len(absent)} of the {len(frame.index)} rows used (first: row "
            f"{absent[0]!r}); give it the index of the data, or pass an array, y.to_numpy()"
        )
    return y.reindex(frame.index)


def _from_labels(frame: Frame, column: pd.Series) -> np.ndarray:
    """0 and 1 for the labels of a response with two levels; 0, 1, 2, ... for ordered categories."""
    labels = [label_of(value) for value in column]
    if frame.response_levels is None:
        raise ValueError(
            f"y has dtype {column.dtype}, but {frame.response_name!r} was fitted as numbers; give "
            "numbers"
        )
    place = {label: float(i) for i, label in enumerate(frame.response_levels)}
    unknown = sorted(set(labels) - set(place))
    if unknown:
        *others, last = map(repr, frame.response_levels)
        *numbers, highest = map(str, range(len(frame.response_levels)))
        raise ValueError(
            f"y holds {unknown[0]!r}, which is no level of the response {frame.response_name!r}; "
            f"use {', '.join(others)} and {last}, or {', '.join(numbers)} and {highest}"
        )
    return np.array([place[label] for label in labels])
