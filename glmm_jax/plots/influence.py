"""Pictures of what single cases do: Cook's distances, DFBETAS, derivatives, held-out densities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from glmm_jax.inference.cross_validation import CrossValidation
from glmm_jax.inference.influence_table import Influence
from glmm_jax.inference.misclassification import Misclassification
from glmm_jax.plots import style


def influence(found: Influence, n: int = 15, ax: Any = None) -> Any:
    """The most influential cases: Cook's distances, and the DFBETAS of every parameter.

    Left, Cook's distance of all parameters (bar) and of the coefficients alone (line). Right, how
    many standard errors each parameter falls when the case is left out.

    Parameters
    ----------
    found : of `fit.influence`. n : how many cases, the largest first. ax : None or two Axes.

    Returns
    -------
    An array of two axes.

    Raises
    ------
    ValueError : n is no positive integer, or other axes.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n!r}; use a positive integer")
    cook = found.cooks_distance
    order = np.argsort(-cook["all"].fillna(-np.inf).to_numpy(), kind="stable")[:n]
    height = float(np.clip(0.26 * len(order) + 1.0, 2.4, 10.0))
    left, right = style.panels(
        ax, ["Cook's distance", "DFBETAS"], (4.2, height), beside=1.6, sharey=True
    )
    place = np.arange(len(order))[::-1]
    left.barh(place, cook["all"].to_numpy()[order], height=0.55, color=style.SKY, gid="cook")
    left.vlines(
        cook["coefficients"].to_numpy()[order],
        place - 0.38,
        place + 0.38,
        color=style.INK,
        linewidth=1.5,
        label="coefficients alone",
    )
    left.set_xlabel("Cook's distance")
    left.legend(frameon=False, fontsize="x-small", loc="lower right")
    size = float(np.clip(60.0 / len(order), 2.5, 5.0))
    for j, (name, values) in enumerate(found.dfbetas.items()):
        right.plot(
            values.to_numpy()[order],
            place,
            style.MARKERS[j % len(style.MARKERS)],
            color=style.colour(j),
            markersize=size,
            label=str(name),
        )
    right.axvline(0.0, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    right.hlines(place, *right.get_xlim(), color=style.PALE, linewidth=0.5, zorder=0)
    right.set_xlabel("estimate less that without the case\n(standard errors)")
    style.legend_outside(right)
    left.set_yticks(place, [str(label) for label in found.without.index[order]])
    left.set_ylabel("row" if found.by is None else found.by)
    for one in (left, right):
        style.plain(one)
        one.tick_params(axis="y", length=2)
    return style.returned([left, right])


def sensitivity(
    table: pd.DataFrame, term: str, against: Any, by: Any = None, ax: Axes | None = None
) -> Axes:
    """One column of `fit.sensitivity` against another number of each row.

    Parameters
    ----------
    table : of `fit.sensitivity`. term : one of its columns. against : a Series or array, (rows,).
    by : labels, (rows,), that colour the rows; None for one colour. ax : Axes, or None for new.

    Raises
    ------
    ValueError : no such column, or numbers of another length.
    """
    if term not in table:
        raise ValueError(f"term={term!r}; use one of {', '.join(map(repr, table.columns))}")
    x = np.asarray(against)
    if x.shape != (len(table),):
        raise ValueError(f"against has shape {x.shape}; give one number for each row of the table")
    (made,) = style.panels(ax, [term], (5.2, 3.6), beside=0.0 if by is None else 1.2)
    labels = np.full(len(table), "") if by is None else np.asarray(by).astype(str)
    for j, label in enumerate(np.unique(labels)):
        own = labels == label
        made.plot(
            x[own],
            table[term].to_numpy()[own],
            style.MARKERS[j % len(style.MARKERS)],
            color=style.colour(j),
            markersize=3.5,
            alpha=0.6,
            markeredgewidth=0,
            label=label,
        )
    made.axhline(0.0, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    made.set_ylabel(f"derivative of {term}")
    made.set_xlabel(str(getattr(against, "name", None) or "row"))
    style.plain(made)
    if by is not None:
        style.legend_outside(made, str(getattr(by, "name", None) or ""))
    return made


def shifts(found: Misclassification | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How far errors in the data move each parameter, in standard errors.

    For `fit.misclassification` the expected change with two standard deviations over which answers
    are flipped; for `fit.measurement_error` the change.
    """
    frame = found.frame if isinstance(found, Misclassification) else found
    place = np.arange(len(frame))[::-1]
    height = float(np.clip(0.34 * len(frame) + 1.0, 2.0, 9.0))
    (made,) = style.panels(ax, ["change"], (5.2, height))
    centre = frame["change_in_se"].to_numpy()
    if "sd" in frame:
        error = frame["std_error"].to_numpy()
        half = 2 * np.divide(
            frame["sd"].to_numpy(), error, out=np.full(len(frame), np.nan), where=error > 0
        )
        made.hlines(place, centre - half, centre + half, color=style.BLUE, linewidth=1.4)
    made.plot(centre, place, "o", color=style.BLUE, markersize=5, gid="changes")
    made.axvline(0.0, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    made.set_yticks(place, [str(name) for name in frame.index])
    made.set_ylim(-0.6, len(frame) - 0.4)
    made.set_xlabel("change of the estimate (standard errors)")
    style.plain(made)
    return made


def held_out(found: CrossValidation, ax: Axes | None = None) -> Axes:
    """Log predictive density of each group when it is left out, a row of it, lowest first.

    The area of a point is that of its group; the line is the mean over all rows.
    """
    rows = found.frame["rows"].to_numpy()
    each = found.frame["log_density"].to_numpy() / rows
    order = np.argsort(each)
    height = float(np.clip(0.13 * len(order) + 1.0, 2.4, 10.5))
    (made,) = style.panels(ax, [found.by], (4.8, height))
    place = np.arange(len(order))
    made.scatter(
        each[order],
        place,
        s=4 + 60 * rows[order] / rows.max(),
        color=style.BLUE,
        alpha=0.8,
        linewidth=0,
        gid="densities",
    )
    made.axvline(found.elpd / rows.sum(), color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    step = max(1, -(-len(order) * 8 // int(72 * height)))
    made.set_yticks(place[::step], [str(found.frame.index[at]) for at in order[::step]])
    made.set_ylim(-0.8, len(order) - 0.2)
    made.set_xlabel("held-out log density of a row")
    made.set_ylabel(found.by)
    style.plain(made)
    made.tick_params(axis="y", labelsize=6, length=2)
    return made
