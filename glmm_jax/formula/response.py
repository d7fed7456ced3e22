"""The response: numbers, two levels, or successes out of trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glmm_jax.formula.columns import Factor, Value


@dataclass(frozen=True, eq=False)
class Response:
    """y (n,) float64; `trials` (n,) and `levels` where there are any: (failure, success), or the
    names of ordered categories."""

    y: np.ndarray
    trials: np.ndarray | None = None
    levels: tuple[str, ...] | None = None


def two_levels(factor: Factor, name: str) -> Response:
    """0 for the first level, 1 for the second, as in R.

    Levels that do not occur are left out first, unless exactly two were declared.

    Raises:
        ValueError: one level, or more than two.
    """
    used = factor if len(factor.labels) == 2 else factor.used()
    if len(used.labels) != 2:
        shown = ", ".join(map(repr, used.labels[:6])) + (", ..." if len(used.labels) > 6 else "")
        remedy = (
            "a single level says nothing; code it as numbers 0 and 1, or as a pandas Categorical "
            "that declares both levels"
            if len(used.labels) < 2
            else "make it True/False or 0/1 for the outcome in question"
        )
        raise ValueError(
            f"response: {name!r} is categorical with {len(used.labels)} level(s) ({shown}) where "
            f"two are needed; {remedy}"
        )
    return Response(used.codes.astype(np.float64), None, (used.labels[0], used.labels[1]))


def ordered(value: Value, name: str) -> Response:
    """The numbers 0, 1, ... of ordered categories; levels that do not occur are left out.

    Raises:
        ValueError: categories without an order.
    """
    if not isinstance(value, Factor):
        return plain(value, name)
    if not value.ordered:
        shown = ", ".join(map(repr, value.labels[:6])) + (", ..." if len(value.labels) > 6 else "")
        raise ValueError(
            f"response: {name!r} is categorical without an order ({shown}); make it ordered, "
            "pd.Categorical(..., categories=[...], ordered=True), lowest first"
        )
    used = value.used()
    return Response(used.codes.astype(np.float64), None, used.labels)


def plain(value: Value, name: str) -> Response:
    """The response of an expression without trials. True is a success."""
    if isinstance(value, Factor):
        return two_levels(value, name)
    if value.ndim != 1:
        raise ValueError(f"response: {name!r} has {value.shape[1]} columns; one is needed")
    if value.dtype == bool:
        return Response(value.astype(np.float64), None, ("False", "True"))
    return Response(value)


def counts(successes: np.ndarray, failures: np.ndarray, name: str) -> Response:
    """The response of cbind(successes, failures): whole numbers, at least one trial a row.

    Raises:
        ValueError: negative or fractional counts, or rows without a trial.
    """
    for part, values in (("successes", successes), ("failures", failures)):
        below = int(np.sum(values < 0))
        if below:
            raise ValueError(
                f"response: the {part} of {name!r} are negative in {below} rows (smallest "
                f"{values.min():g}); give cbind(successes, failures), not the total as second"
            )
        fractional = int(np.sum(values != np.round(values)))
        if fractional:
            raise ValueError(
                f"response: the {part} of {name!r} are no whole numbers in {fractional} rows; give "
                "counts, or a proportion with trials="
            )
    trials = successes + failures
    empty = int(np.sum(trials == 0))
    if empty:
        raise ValueError(
            f"response: {name!r} has no trials in {empty} rows; such rows say nothing, drop them"
        )
    return Response(successes, trials)


def with_trials(y: np.ndarray, trials: np.ndarray, name: str) -> Response:
    """The response when `trials=` is given: y holds proportions or counts of successes.

    - Fractions are proportions: all of y must then lie in [0, 1], and y * trials must be whole up
      to rounding (1e-6 relative); it is rounded to the exact count.
    - Whole numbers with any above 1 are counts, at most the trials.
    - Zeros and ones alone mean the same either way where every trials is 1 (and a zero always
      does). Otherwise a 1 may be "all of the trials" or "one of them", which is refused.

    Raises:
        ValueError: none of these, or trials that are no positive whole numbers.
    """
    if np.any(trials <= 0) or np.any(trials != np.round(trials)):
        bad = trials[(trials <= 0) | (trials != np.round(trials))]
        raise ValueError(
            f"trials: positive whole numbers are needed, but {bad.size} rows hold others (first "
            f"{bad[0]:g})"
        )
    if np.any(y < 0):
        raise ValueError(
            f"response: {name!r} is negative in {int(np.sum(y < 0))} rows; with trials= it must "
            "hold proportions in [0, 1] or counts of successes"
        )
    whole = y == np.round(y)
    if np.all(whole) and np.any(y > 1):
        above = y > trials
        if np.any(above):
            i = int(np.argmax(above))
            raise ValueError(
                f"response: {name!r} exceeds trials in {int(above.sum())} rows (first {y[i]:g} "
                f"of {trials[i]:g}); check both columns"
            )
        return Response(y, trials)
    if np.any(y > 1):
        raise ValueError(
            f"response: {name!r} holds fractions as well as values above 1 (largest {y.max():g}); "
            "with trials= give proportions in [0, 1], or counts"
        )
    if np.all(whole) and np.any(trials[y == 1] > 1):
        raise ValueError(
            f"response: {name!r} is 0 or 1 in every row while trials exceed 1, so that a 1 may "
            "mean one success or all; write cbind(successes, failures) instead of trials="
        )
    successes = np.round(y * trials)
    off = np.abs(y * trials - successes) > 1e-6 * np.maximum(successes, 1.0)
    if np.any(off):
        i = int(np.argmax(off))
        raise ValueError(
            f"response: {name!r} times trials is no whole number in {int(off.sum())} rows (first "
            f"{y[i]:.10g} of {trials[i]:g}); give unrounded proportions, or "
            "cbind(successes, failures)"
        )
    return Response(successes, trials)
