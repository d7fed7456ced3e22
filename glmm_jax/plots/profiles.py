"""Profile zeta plots: how far from quadratic the likelihood of each parameter is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.special
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from glmm_jax.inference.levels import check_level
from glmm_jax.plots import style

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
SLACK = 1.02  # a profile that ends this close to a level is taken to reach it


def profile_zeta(
    profile: Any,
    parameters: Any = None,
    ax: Any = None,
    levels: tuple[float, ...] = LEVELS,
    absolute: bool = False,
) -> Any:
    """Signed root of the profile deviance against each parameter, with its intervals.

    zeta(v) = sign(v - v^) sqrt(d(v) - d(v^)). A straight line is a likelihood for which the Wald
    interval is right; the interval of coverage c ends where |zeta| is the normal quantile of
    (1 + c) / 2, and vertical lines at both ends lead to the curve. A curve that stops early stands
    at a bound of its parameter (a standard deviation of zero).

    Parameters
    ----------
    profile : of `fit.profile()`.
    parameters : names, or None for all: a panel each.
    ax : None, Axes, or one Axes per panel.
    levels : coverages of the intervals.
    absolute : |zeta| instead, so that an interval is what lies below a height.

    Returns
    -------
    The axes, or an array of them with several parameters.

    Raises
    ------
    ValueError : an unknown parameter, a level outside (0, 1), wrong axes.

    Source: Bates & Watts (1988), Nonlinear regression analysis and its applications, section 6.1.
    """
    names = chosen_parameters(profile, parameters)
    for level in levels:
        check_level(level, "levels")
    axes = style.panels(ax, names, (2.7, 2.6), columns=4, sharey=True)
    for at, (one, name) in enumerate(zip(axes, names, strict=True)):
        draw_zeta(one, profile, name, levels, absolute)
        style.heading(one, folded(name))
        one.set_xlabel("value")
        if ax is not None or at % 4 == 0:
            one.set_ylabel("|ζ|" if absolute else "signed root ζ")
        if at == len(axes) - 1 or (ax is None and at % 4 == 3):
            _level_labels(one, levels)
    return style.returned(axes)


def chosen_parameters(profile: Any, asked: Any) -> list[str]:
    """Names of the parameters to draw.

    Raises:
        ValueError: the object is no profile, or has no such parameter.
    """
    if not hasattr(profile, "parameters") or not hasattr(profile, "frame"):
        raise ValueError(f"profile={type(profile).__name__}; give what fit.profile() returns")
    known = [str(name) for name in profile.parameters]
    if asked is None:
        return known
    asked = [asked] if isinstance(asked, str) else list(asked)
    for name in asked:
        if name not in known:
            raise ValueError(
                f"parameters: {name!r} was not profiled; profiled are {', '.join(map(repr, known))}"
            )
    return asked


def folded(name: str) -> str:
    """A long name of a covariance parameter in two or three lines."""
    return name.replace(", ", ",\n").replace(" | ", "\n| ") if len(name) > 16 else name


def points(profile: Any, name: str) -> pd.DataFrame:
    """Profile points of one parameter, finite and in order of zeta, each zeta once."""
    frame = profile.frame
    own = frame[frame["parameter"] == name]
    own = own[np.isfinite(own["zeta"]) & np.isfinite(own["value"])]
    return own.sort_values("zeta").drop_duplicates("zeta")


def draw_zeta(
    ax: Axes, profile: Any, name: str, levels: tuple[float, ...], absolute: bool = False
) -> None:
    """The curve of one parameter and the ends of its intervals."""
    own = points(profile, name)
    zeta, value = own["zeta"].to_numpy(), own["value"].to_numpy()
    fine = np.linspace(zeta[0], zeta[-1], 201)
    size = np.abs if absolute else np.asarray
    ax.plot(np.asarray(profile.value(name, fine)), size(fine), color=style.BLUE, linewidth=1.8,
            zorder=3, gid="zeta")  # fmt: skip
    ax.plot(value, size(zeta), ".", color=style.BLUE, markersize=3.5, zorder=3, gid="points")
    ax.axhline(0.0, color=style.GREY, linewidth=0.7, zorder=1)
    for level in levels:
        z = quantile(level)
        ends = [e for e in (-z, z) if SLACK * zeta[0] <= e <= SLACK * zeta[-1]]
        at = np.asarray(profile.value(name, np.array(ends))) if ends else np.empty(0)
        ax.vlines(at, 0.0, size(np.array(ends)), color=style.VERMILION, linewidth=0.9, zorder=2,
                  gid="limits")  # fmt: skip
        if absolute and len(ends) == 2:
            ax.hlines(z, at[0], at[1], color=style.VERMILION, linewidth=0.9, zorder=2)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    style.plain(ax)


def quantile(level: float) -> float:
    """Normal quantile of (1 + level) / 2."""
    return float(scipy.special.ndtri(0.5 + level / 2))


def _level_labels(ax: Axes, levels: tuple[float, ...]) -> None:
    """The coverage beside each height, right of the axes."""
    low, high = ax.get_ylim()
    last = np.inf
    for level in sorted(levels, reverse=True):
        z = quantile(level)
        if low <= z <= high and last - z > 0.06 * (high - low):
            ax.annotate(f"{100 * level:g} %", (1.02, z), xycoords=("axes fraction", "data"),
                        fontsize="x-small", color=style.VERMILION, va="center",
                        annotation_clip=False)  # fmt: skip
            last = z
