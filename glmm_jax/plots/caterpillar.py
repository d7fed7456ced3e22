"""Caterpillar plots: the random effects of every level with their prediction intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special
from matplotlib.axes import Axes

from glmm_jax.inference.levels import check_level
from glmm_jax.plots import style
from glmm_jax.plots.selection import Group, find_columns, find_group

if TYPE_CHECKING:
    from glmm_jax.results import Fit

SMALLEST_LABEL = 5.5  # points
LARGEST_LABEL = 9.0


def caterpillar(
    fit: Fit,
    group: str | None = None,
    term: Any = None,
    ax: Any = None,
    level: float = 0.95,
    joint: bool = False,
    sort: bool | str = True,
) -> Any:
    """Conditional modes of the random effects with prediction intervals, a line per level.

    The interval of level l is b_l +- z sd(b_l | y), z the normal quantile. Intervals that leave out
    zero have a filled point in a darker colour.

    Parameters
    ----------
    fit : of `glmer`.
    group : grouping factor; not needed where the model has one.
    term : a column of its terms ("Intercept"), several, or None for all: a panel each.
    ax : None, Axes, or one Axes per panel.
    level : of the intervals.
    joint : the standard deviations also carry the uncertainty of the parameters, see `ranef`.
    sort : True sorts the levels by the first column shown, a name by that column, False keeps
        lme4's order (from below upwards).

    Returns
    -------
    The axes, or an array of them with several columns.

    Raises
    ------
    ValueError : unknown group, term or column to sort by, a level outside (0, 1), wrong axes.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5 (prediction intervals on
    the random effects).
    """
    check_level(level)
    found = find_group(fit, group, joint)
    shown = find_columns(found, term)
    place = _places(found, shown, sort)
    z = float(scipy.special.ndtri(0.5 + level / 2))
    height = float(np.clip(0.13 * len(found.levels) + 1.0, 2.4, 10.5))
    names = [found.names[j] for j in shown]
    axes = style.panels(ax, names, (3.6 if len(shown) > 1 else 4.8, height), sharey=True)
    for one, j in zip(axes, shown, strict=True):
        _intervals(one, found.mode[:, j], found.sd[:, j], place, z)
        one.set_ylim(-0.8, len(found.levels) - 0.2)
        one.set_xlabel(
            f"random effect ({style.effect_scale(fit, found.names[j])})\n"
            f"with {100 * level:g} % prediction interval"
        )
        style.heading(one, found.names[j])
        style.plain(one)
        one.set_yticks([])
    step = _labels(axes[0], found, place)
    axes[0].set_ylabel(found.name if step == 1 else f"{found.name} (every {_ordinal(step)} named)")
    return style.returned(axes)


def _places(found: Group, shown: list[int], sort: bool | str) -> np.ndarray:
    """Height of each level, (levels,): 0 is lowest."""
    count = len(found.levels)
    if sort is False:
        return np.arange(count)
    by = shown[0] if sort is True else find_columns(found, sort, "sort")[0]
    place = np.empty(count, int)
    place[np.argsort(found.mode[:, by], kind="stable")] = np.arange(count)
    return place


def _intervals(ax: Axes, mode: np.ndarray, sd: np.ndarray, place: np.ndarray, z: float) -> None:
    away = np.abs(mode) > z * sd
    ax.axvline(0.0, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    size = float(np.clip(260.0 / len(mode), 1.5, 5.0))
    for which, ink, face in ((~away, style.GREY, "white"), (away, style.BLUE, style.BLUE)):
        ax.hlines(
            place[which],
            (mode - z * sd)[which],
            (mode + z * sd)[which],
            color=ink,
            linewidth=float(np.clip(80.0 / len(mode), 0.4, 1.4)),
            zorder=2,
        )
        ax.plot(
            mode[which],
            place[which],
            "o",
            color=ink,
            markerfacecolor=face,
            markersize=size,
            markeredgewidth=0.8,
            zorder=3,
            gid="modes",
        )


def _labels(ax: Axes, found: Group, place: np.ndarray) -> int:
    """Name the levels, as many as are legible; returns the step between those named."""
    count = len(place)
    # The extent of the axes is that of before the layout; a tenth of it goes to the labels.
    box = ax.get_window_extent()
    room = 0.9 * box.height * 72.0 / ax.get_figure(root=True).dpi / count  # type: ignore[union-attr]
    step = max(1, int(np.ceil(SMALLEST_LABEL / room)))
    order = np.argsort(place)[::step]
    size = float(np.clip(0.95 * room * step, SMALLEST_LABEL, LARGEST_LABEL))
    ax.set_yticks(place[order], [str(found.levels[at]) for at in order], fontsize=size)
    ax.tick_params(axis="y", length=2)
    return step


def _ordinal(step: int) -> str:
    return {2: "second", 3: "third"}.get(step, f"{step}th")
