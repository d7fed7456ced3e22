"""Profile pair plots: likelihood contours and profile traces of every pair of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from glmm_jax.inference.levels import check_level
from glmm_jax.plots import style
from glmm_jax.plots.contours import Curve, contour, encloses, interpolated
from glmm_jax.plots.profiles import (
    LEVELS,
    SLACK,
    chosen_parameters,
    draw_zeta,
    folded,
    points,
    quantile,
)

SCALES = ("value", "zeta")


@dataclass(frozen=True, eq=False)
class _Profiled:
    """One parameter: its profile between two values of zeta, and the way between the scales.

    bounded : below and above, whether the profile ends before its level, at a bound.
    """

    low: float
    high: float
    bounded: tuple[bool, bool]
    to_value: Curve
    to_zeta: Curve


def profile_pairs(
    profile: Any,
    parameters: Any = None,
    axes: Any = None,
    levels: tuple[float, ...] = LEVELS,
    scale: str = "value",
) -> np.ndarray:
    """Contours and profile traces of pairs of parameters below a diagonal of zeta curves.

    The contours are those of the profile deviance at the chi-square quantiles with two degrees of
    freedom, interpolated from the profiles (`contours`); the traces show the best value of one
    parameter when the other is held, and meet a contour where its tangent is horizontal or
    vertical. Straight traces and elliptic contours mean a likelihood close to quadratic.

    A contour at level c reaches to |zeta| = sqrt(chi2_2(c)), farther than an interval at that
    level: 3.03 at 99 %, where an interval needs 2.58. `fit.profile(level)` goes that far unless
    joint=False. Contours that the profiles do not reach, or for which they are too crooked, are
    left out and named in the legend. Where a parameter has a bound (a standard deviation of zero)
    the contours end there.

    Parameters
    ----------
    profile : of `fit.profile()`.
    parameters : two or more names; None for all.
    axes : None, or an array of (k, k) Axes for k parameters; those above the diagonal are hidden.
    levels : coverages of the contours; on the diagonal, of the intervals.
    scale : "value", or "zeta", on which a quadratic likelihood has round or elliptic contours with
        straight traces whatever the parameters' scales.

    Returns
    -------
    Array (k, k) of axes.

    Raises
    ------
    ValueError : an unknown parameter, fewer than two, an unknown scale, wrong axes.

    Source: Bates & Watts (1988), Nonlinear regression analysis and its applications, section 6.1.
    """
    names = chosen_parameters(profile, parameters)
    if scale not in SCALES:
        raise ValueError(f"scale={scale!r}; use 'value' or 'zeta'")
    if len(names) < 2:
        raise ValueError(
            f"parameters={names}; pairs need two parameters or more, see profile_zeta for one"
        )
    for level in levels:
        check_level(level, "levels")
    grid = _grid(axes, names)
    known = {name: _profiled(profile, name) for name in names}
    missing: set[float] = set()
    for i, vertical in enumerate(names):
        for j, horizontal in enumerate(names):
            ax = grid[i, j]
            if j > i:
                ax.set_visible(False)
            elif i == j:
                _diagonal(ax, profile, vertical, levels)
            else:
                missing |= _panel(ax, profile, known, horizontal, vertical, levels, scale)
            _outer(ax, names, i, j, scale)
    _key(grid[0, 0], levels, missing)
    return grid


def _grid(axes: Any, names: list[str]) -> np.ndarray:
    k = len(names)
    if axes is None:
        size = max(1.45 * k, 4.0)
        return plt.subplots(k, k, figsize=(size + 0.6, size), layout="constrained")[1]
    given = np.asarray(axes, dtype=object)
    if given.shape != (k, k) or not all(isinstance(one, Axes) for one in given.flat):
        raise ValueError(
            f"axes= has shape {given.shape}; give an array of ({k}, {k}) Axes, or None"
        )
    return given


def _profiled(profile: Any, name: str) -> _Profiled:
    own = points(profile, name)
    zeta, value = own["zeta"].to_numpy(), own["value"].to_numpy()
    # How far the profiles were asked to go; one that ends before has met a bound.
    level = float(profile.level)
    whole = region(level) if getattr(profile, "joint", False) else quantile(level)
    ends = float(zeta[0]), float(zeta[-1])
    bounded = bool(SLACK * ends[0] > -whole), bool(SLACK * ends[1] < whole)
    return _Profiled(*ends, bounded, interpolated(zeta, value), interpolated(value, zeta))


def region(level: float) -> float:
    """sqrt of the chi-square quantile with two degrees of freedom."""
    return float(np.sqrt(-2.0 * np.log1p(-level)))


def _panel(
    ax: Axes,
    profile: Any,
    known: dict[str, _Profiled],
    horizontal: str,
    vertical: str,
    levels: tuple[float, ...],
    scale: str,
) -> set[float]:
    """Draw one pair; returns the levels that the profiles do not reach."""
    x, y = known[horizontal], known[vertical]
    # Each trace as (zeta of the horizontal, zeta of the vertical) along one of the two profiles.
    along_x, along_y = points(profile, horizontal), points(profile, vertical)
    trace_x = along_x["zeta"].to_numpy(), y.to_zeta(along_x[vertical].to_numpy())
    trace_y = x.to_zeta(along_y[horizontal].to_numpy()), along_y["zeta"].to_numpy()
    to_y, to_x = interpolated(*trace_x), interpolated(trace_y[1], trace_y[0])

    def drawn(zx: np.ndarray, zy: np.ndarray, **kwargs: Any) -> None:
        outside = np.zeros(np.shape(zx), bool)
        for z, one in ((zx, x), (zy, y)):
            if one.bounded[0]:
                outside |= z < one.low
            if one.bounded[1]:
                outside |= z > one.high
        zx, zy = np.where(outside, np.nan, zx), np.where(outside, np.nan, zy)
        if scale == "value":
            zx, zy = x.to_value(zx), y.to_value(zy)
        ax.plot(zx, zy, **kwargs)

    fine = np.linspace(x.low, x.high, 101)
    drawn(fine, to_y(fine), color=style.VERMILION, linewidth=1, zorder=3, gid="trace")
    fine = np.linspace(y.low, y.high, 101)
    drawn(to_x(fine), fine, color=style.GREEN, linewidth=1, zorder=3, linestyle=(0, (4, 1.5)),
          gid="trace")  # fmt: skip
    missing = set()
    inner = None
    for level in sorted(levels):
        size = region(level)
        free = [s for one in (x, y) for s, bound in
                ((-one.low, one.bounded[0]), (one.high, one.bounded[1])) if not bound]  # fmt: skip
        around = contour(to_y, to_x, size)
        beyond = bool(free) and size > SLACK * min(free)
        # Traces that bend sharply can give contours that cross, which contours do not.
        if around is None or beyond or not encloses(around, inner):
            missing.add(level)
            continue
        inner = around
        drawn(*around.T, color=style.BLUE, linewidth=0.9, zorder=2, gid="contour")
    style.plain(ax)
    return missing


def _diagonal(ax: Axes, profile: Any, name: str, levels: tuple[float, ...]) -> None:
    draw_zeta(ax, profile, name, levels)
    ax.set_title(folded(name), fontsize="small")


def _outer(ax: Axes, names: list[str], i: int, j: int, scale: str) -> None:
    """Names and tick labels on the left and lower edges; the diagonal has its own zeta axis."""
    k = len(names)
    ax.tick_params(labelsize="x-small")
    ax.xaxis.set_major_locator(MaxNLocator(2))
    ax.yaxis.set_major_locator(MaxNLocator(3))
    of = "ζ of " if scale == "zeta" else ""
    if i == k - 1:
        prefix = "" if i == j else of
        ax.set_xlabel(f"{prefix}{folded(names[j])}", fontsize="small")
    else:
        ax.tick_params(labelbottom=False)
    if i == j:
        ax.yaxis.tick_right()
        ax.spines[["right"]].set_visible(True)
        ax.spines[["left"]].set_visible(False)
        ax.yaxis.set_label_position("right")
        ax.set_ylabel("ζ", fontsize="small", rotation=0)
    elif j == 0:
        ax.set_ylabel(f"{of}{folded(names[i])}", fontsize="small")
    else:
        ax.tick_params(labelleft=False)


def _key(ax: Axes, levels: tuple[float, ...], missing: set[float]) -> None:
    """Legend in the empty triangle above the diagonal."""
    shown = [f"{100 * level:g}" for level in sorted(levels)]
    handles = [
        Line2D([], [], color=style.BLUE, label=f"contours {', '.join(shown)} %"),
        Line2D([], [], color=style.VERMILION, label="trace: horizontal held"),
        Line2D([], [], color=style.GREEN, linestyle=(0, (4, 1.5)), label="trace: vertical held"),
    ]
    if missing:
        listed = ", ".join(f"{100 * level:g}" for level in sorted(missing))
        handles.append(
            Line2D([], [], linestyle="none", label=f"({listed} % left out in some panels)")
        )
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.35, 1.0),
        frameon=False,
        fontsize="small",
        borderaxespad=0.0,
    ).set_in_layout(False)
