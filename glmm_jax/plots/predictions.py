"""Predicted means along a covariate, with bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from glmm_jax.formula.columns import Column, Factor, label_of
from glmm_jax.inference.levels import check_level
from glmm_jax.plots import style
from glmm_jax.plots.covariates import covariate, predictors, used_rows

if TYPE_CHECKING:
    from glmm_jax.results import Fit

POINTS = 101
QUARTILES = (0.25, 0.5, 0.75)


def prediction(
    fit: Fit,
    x: str,
    by: str | None = None,
    at: Mapping[str, Any] | None = None,
    random: str = "population",
    level: float | None = 0.95,
    kind: str = "response",
    ax: Axes | None = None,
    data: pd.DataFrame | None = None,
    offset: float | None = None,
) -> Axes:
    """Predicted curves over a covariate with bands, the other covariates at typical values.

    Typical is the mean of a number and the most frequent level of a category, on the rows used;
    what was chosen is written above the axes. The band is the interval of `fit.predict`, for the
    mean and not for a new response.

    Parameters
    ----------
    fit : of `glmer`.
    x : a column of the formula; curves for a number, points with bars for a category.
    by : another column; a curve for each level of a category, for the quartiles of a number, or for
        the values in at[by].
    at : values of other columns, {"livch": "0"}; for `x` the values to use instead of 101 from its
        smallest to its largest, for `by` those of the curves.
    random : "population", with random effects of zero, or "conditional", at the modes of the levels
        that `at` (or `by`) gives for every grouping column.
    level : of the band; None for none.
    kind : "response" or "link".
    ax : axes to draw on.
    data : the data given to `glmer`, for a fit that was loaded from a file.
    offset : for a fit whose offset= was an array, the offset of the predictions (one number).

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError : a column that the formula does not use, grouping columns without a level, and all
        that `fit.predict` refuses.
    """
    if level is not None:
        check_level(level)
    table = used_rows(fit, data)
    names = predictors(fit, random == "conditional")
    given = dict(at or {})
    for argument, name in (("x", x), ("by", by), *(("at", key) for key in given)):
        if name is not None and name not in names:
            raise ValueError(
                f"{argument}: {name!r} is no column that these predictions depend on; those are "
                f"{', '.join(map(repr, names))}"
            )
    if x == by:
        raise ValueError(f"by={by!r} is x; choose another column, or None")
    if random == "conditional":
        _need_levels(fit, [x, by, *given])
    read = {name: covariate(table, name, "data") for name in names}
    values = _values(read[x], given.pop(x, None))
    lines = [None] if by is None else list(_curves(read[by], given.pop(by, None)))
    held = {
        name: given[name] if name in given else _typical(read[name])
        for name in names
        if name not in (x, by)
    }
    extra: dict[str, Any] = (
        {} if offset is None else {"offset": np.full(len(values), float(offset))}
    )
    ax = style.panels(ax, ["prediction"], (4.9, 3.9), beside=0.0 if by is None else 1.0)[0]
    for i, line in enumerate(lines):
        fixed = held if by is None else {**held, by: line}
        new = pd.DataFrame({x: _column(read[x], values)})
        for name, value in fixed.items():
            new[name] = _column(read[name], [value] * len(values))
        found = fit.predict(new, kind=kind, random=random, se=True, level=level, **extra)
        assert isinstance(found, pd.DataFrame)
        text = None if by is None else _text(line)
        if isinstance(values, np.ndarray):
            _curve(ax, values, found, i, text)
        else:
            _bars(ax, values, found, i, len(lines), text)
    _labels(ax, fit, x, kind, random, level)
    if by is not None:
        style.legend_outside(ax, by)
    if held:
        parts = [f"{name} = {_text(value)}" for name, value in held.items()]
        style.note(ax, f"at {_wrapped(parts)}")
    return ax


def _need_levels(fit: Fit, named: list[Any]) -> None:
    # Those of zero_inflation= too.
    groupings = {name for grouping in fit.frame.design.groupings for name in grouping}
    for name in sorted(groupings - set(named)):
        raise ValueError(
            f"random='conditional' needs a level of {name!r}: pass at={{{name!r}: ...}}, or "
            "random='population'"
        )


def _values(column: Column, asked: Any) -> np.ndarray | list[Any]:
    """Values along the axis: an array of numbers, or a list of levels."""
    if column.kind == "number":
        if asked is not None:
            return np.sort(np.atleast_1d(np.asarray(asked, float)))
        numbers = np.asarray(column.value, float)
        return np.linspace(numbers.min(), numbers.max(), POINTS)
    return _levels(column, asked)


def _curves(column: Column, asked: Any) -> list[Any]:
    if column.kind != "number":
        return _levels(column, asked)
    if asked is not None:
        return [float(value) for value in np.atleast_1d(asked)]
    numbers = np.asarray(column.value, float)
    distinct = np.unique(numbers)
    if len(distinct) <= 5:
        return [float(value) for value in distinct]
    # "inverted_cdf": values that occur, so that an integer stays one.
    return [float(v) for v in np.unique(np.quantile(numbers, QUARTILES, method="inverted_cdf"))]


def _levels(column: Column, asked: Any) -> list[Any]:
    labels = list(column.factor.used().labels)
    if asked is None:
        chosen = labels
    else:
        chosen = [label_of(v) for v in ([asked] if np.isscalar(asked) else asked)]
        for label in chosen:
            _check_label(column, label, labels)
    return [_from_label(column, label) for label in chosen]


def _check_label(column: Column, label: str, labels: list[str]) -> None:
    if label not in labels:
        raise ValueError(
            f"at: {column.name!r} has no level {label!r}; levels are {', '.join(labels[:12])}"
        )


def _from_label(column: Column, label: str) -> Any:
    return label == "True" if column.kind == "boolean" else label


def _typical(column: Column) -> Any:
    if column.kind == "number":
        return float(np.mean(np.asarray(column.value, float)))
    factor: Factor = column.factor.used()
    most = int(np.argmax(np.bincount(factor.codes[factor.codes >= 0])))
    return _from_label(column, factor.labels[most])


def _column(column: Column, values: Any) -> Any:
    """Values as `predict` expects them in a column of this kind."""
    if column.kind == "number":
        try:
            return np.asarray(values, float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"at: {column.name!r} is a number, not {values[0]!r}") from error
    if column.kind == "boolean":
        return np.asarray([label_of(v) == "True" for v in values])
    labels = [label_of(v) for v in values]
    for label in dict.fromkeys(labels):
        _check_label(column, label, list(column.factor.labels))
    return labels


def _text(value: Any) -> str:
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) else str(value)


def _wrapped(parts: list[str], width: int = 62) -> str:
    """The parts in lines of at most `width` characters, a part never divided."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 2 > width:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] += f", {part}"
    return "\n".join(lines)


def _curve(ax: Axes, values: np.ndarray, found: pd.DataFrame, i: int, text: str | None) -> None:
    ink = style.colour(i)
    if "lower" in found:
        ax.fill_between(values, found["lower"], found["upper"], color=ink, alpha=0.18, linewidth=0,
                        gid="band")  # fmt: skip
    ax.plot(values, found["fit"], color=ink, linestyle=style.dash(i), linewidth=2, label=text,
            gid="prediction")  # fmt: skip


def _bars(
    ax: Axes, values: list[Any], found: pd.DataFrame, i: int, count: int, text: str | None
) -> None:
    """A point and a bar per level; the curves side by side."""
    place = np.arange(len(values)) + (i - (count - 1) / 2) * min(0.15, 0.6 / count)
    ink = style.colour(i)
    if "lower" in found:
        ax.vlines(place, found["lower"], found["upper"], color=ink, linewidth=1.6, gid="band")
    ax.plot(place, found["fit"], style.MARKERS[i % len(style.MARKERS)], color=ink, markersize=6,
            linestyle="none", label=text, gid="prediction")  # fmt: skip
    ax.set_xticks(np.arange(len(values)), [str(value) for value in values])
    ax.set_xlim(-0.6, len(values) - 0.4)


def _labels(ax: Axes, fit: Fit, x: str, kind: str, random: str, level: float | None) -> None:
    ax.set_xlabel(x)
    name = fit.frame.formula.successes or fit.frame.response_name
    levels = fit.frame.response_levels
    if kind == "link":
        what = f"linear predictor ({style.link_scale(fit)})"
    elif fit.family.name in ("bernoulli", "binomial"):
        what = f"probability of {name}" + (f" = {levels[1]}" if levels else "")
    else:
        what = f"mean of {name}"
    where = "random effects zero" if random == "population" else "at the conditional modes"
    band = "" if level is None else f", {100 * level:g} % band"
    ax.set_ylabel(f"{what}\n({where}{band})")
    ax.grid(color=style.PALE, linewidth=0.6)
    ax.set_axisbelow(True)
    style.plain(ax)
