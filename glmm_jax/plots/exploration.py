"""Looking at the data first: smoothed responses against a covariate, by groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from glmm_jax.formula.columns import Column, Factor, read_column
from glmm_jax.formula.response import plain
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.plots import style
from glmm_jax.plots.smoother import loess

POINTS = 100
FEWEST = 4  # distinct values of x below which there is no curve to draw


def smooth(
    data: pd.DataFrame,
    response: str,
    x: str,
    by: str | None = None,
    panel: str | None = None,
    ax: Any = None,
    span: float = 2 / 3,
    degree: int = 1,
    rug: bool = True,
) -> Any:
    """Smoothed response against a covariate, a curve per group: what a cloud of 0 and 1 hides.

    The curves are local polynomials (`smoother.loess`), each over the range of x in its group. For
    a response of two levels (numbers 0 and 1, truth values, or a factor whose second level is the
    success) they are proportions, and short ticks above and below show where the ones and the
    zeros are.

    Parameters
    ----------
    data : a data frame or a dictionary of columns; rows with missing values in the columns used
        are left out and counted in the figure.
    response, x : column names; x is numeric.
    by : column whose levels are curves of their own (colour and line style).
    panel : column whose levels are panels of their own.
    ax : None, Axes, or with `panel` one Axes per level.
    span : share of a group's rows in each neighbourhood; larger is smoother. A group with fewer
        than (degree + 2) / span rows has a curve that says little.
    degree : 1 or 2, of the local polynomial.
    rug : ticks at the values of x, for a response of two levels.

    Returns
    -------
    The axes, or an array of them with several panels.

    Raises
    ------
    ValueError : a missing column, an x that is no number, or axes of another number.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5 (contraception use versus
    age by urban and livch); Cleveland (1979) for the smoother.
    """
    data = as_data_frame(data)
    asked = {"response": response, "x": x, "by": by, "panel": panel}
    found = {key: read_column(data, name, key) for key, name in asked.items() if name is not None}
    missing = np.zeros(len(data), bool)
    for column in found.values():
        if column.missing is not None:
            missing |= column.missing
    if missing.all():
        raise ValueError(f"data: no row is complete in {', '.join(map(repr, found))}")
    if found["x"].kind not in ("number", "boolean"):
        raise ValueError(f"x={x!r} ({data[x].dtype}) holds no numbers; a smoother needs them")
    kept = ~missing
    values = np.asarray(found["x"].value, float)[kept]
    outcome = found["response"].value
    heard = plain(outcome.take(kept) if isinstance(outcome, Factor) else outcome[kept], response)
    binary = bool(np.all(np.isin(heard.y, (0.0, 1.0))))
    curves = _levels(found.get("by"), kept)
    parts = _levels(found.get("panel"), kept)

    names = list(parts)
    axes = style.panels(
        ax,
        names,
        (4.3, 3.8),
        columns=3,
        beside=0.0 if by is None else 1.0,
        sharex=True,
        sharey=True,
    )
    for name, one in zip(names, axes, strict=True):
        for i, (label, rows) in enumerate(curves.items()):
            chosen = rows & parts[name]
            _curve(one, values[chosen], heard.y[chosen], label, i, span, degree)
        if binary and rug:
            _rug(one, values[parts[name]], heard.y[parts[name]])
        one.set_xlabel(x if not missing.any() else f"{x}\n({int(missing.sum())} rows left out: NA)")
        if panel is not None:
            style.heading(one, f"{panel} = {name}")
        if binary:
            one.set_ylim(-0.06, 1.06)
        one.grid(color=style.PALE, linewidth=0.6)
        one.set_axisbelow(True)
        style.plain(one)
    success = f" = {heard.levels[1]}" if heard.levels else " = 1" if binary else ""
    what = "proportion with" if binary else "mean of"
    axes[0].set_ylabel(f"{what} {response}{success}")
    if by is not None:
        style.legend_outside(axes[-1], by)
    return style.returned(axes)


def _levels(column: Column | None, kept: np.ndarray) -> dict[str, np.ndarray]:
    """For each level that occurs the mask of its rows among those kept; or all of them."""
    if column is None:
        return {"": np.ones(int(kept.sum()), bool)}
    factor = column.factor.take(kept).used()
    return {label: factor.codes == code for code, label in enumerate(factor.labels)}


def _curve(
    ax: Any, x: np.ndarray, y: np.ndarray, label: str, i: int, span: float, degree: int
) -> None:
    shown = {"color": style.colour(i), "linestyle": style.dash(i), "linewidth": 2}
    if len(np.unique(x)) < FEWEST:
        ax.plot([], [], **shown, label=f"{label} (too few: {len(x)})" if label else None)
        return
    at = np.linspace(x.min(), x.max(), POINTS)
    ax.plot(at, loess(x, y, at, span, degree), **shown, label=label or None, gid="smooth")


def _rug(ax: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Ones above, zeros below, in the margin; darker where there are more."""
    alpha = float(np.clip(60 / max(len(x), 1), 0.03, 0.6))
    for value, low, high in ((1.0, 1.015, 1.05), (0.0, -0.05, -0.015)):
        ax.vlines(x[y == value], low, high, color=style.INK, linewidth=1, alpha=alpha, gid="rug")
