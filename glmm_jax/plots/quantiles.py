"""Normal Q-Q plots of residuals and of random effects, with an envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.special
from matplotlib.axes import Axes

from glmm_jax.inference.levels import check_level
from glmm_jax.plots import style
from glmm_jax.plots.selection import find_columns, find_group

if TYPE_CHECKING:
    from glmm_jax.results import Fit

LEAST = 1e-8  # share of a random effect's variance that its level's data explain


def qq(
    fit: Fit, kind: str = "quantile", ax: Axes | None = None, level: float = 0.95, **options: Any
) -> Axes:
    """Normal Q-Q plot of the residuals.

    The i-th smallest of n independent standard normal numbers is Phi^-1 of a Beta(i, n + 1 - i)
    variable: the line is its median, the band its central interval, point by point. Quantile
    residuals from new random effects are normal one by one but those of one level vary together,
    so that with few levels a true model leaves the band more often.

    Parameters
    ----------
    fit : of `glmer`.
    kind : of `fit.resid`; others than "quantile" are divided by their standard deviation, and are
        not normal even in a true model unless the response is.
    ax : axes to draw on.
    level : of the band.
    options : passed on to `fit.resid` (n, seed, random).

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError : an unknown kind, a level outside (0, 1).
    """
    check_level(level)
    value = fit.resid(kind, **options).to_numpy()
    if kind != "quantile":
        value = value / np.std(value)
    ax = style.panels(ax, ["Q-Q"], (4.2, 4.0))[0]
    draw_qq(ax, value, level)
    ax.set_ylabel(f"{kind} residuals" + ("" if kind == "quantile" else " / their sd"))
    return ax


def qq_ranef(
    fit: Fit, group: str | None = None, term: Any = None, ax: Any = None, level: float = 0.95
) -> Any:
    """Normal Q-Q plot of the standardised conditional modes of the random effects.

    A mode b~ is shrunk: over the levels its variance is that of b less the conditional variance,
    so that

        b~_l / sqrt(sd(b)^2 - sd(b_l | y)^2)

    is standard normal if the random effects are (exactly for a Gaussian response, nearly for others
    where levels have many rows). Levels whose data say nothing about the effect are left out and
    counted.

    Parameters
    ----------
    fit : of `glmer`.
    group : grouping factor; not needed where the model has one.
    term : a column, several, or None for all: a panel each.
    ax : None, Axes, or one Axes per panel.
    level : of the band, see `qq`.

    Returns
    -------
    The axes, or an array of them with several columns.

    Raises
    ------
    ValueError : unknown group or term, a level outside (0, 1), a variance of zero, wrong axes.

    Source: Lange & Ryan (1989), Assessing normality in random effects models, Annals of Statistics
    17, 624-642.
    """
    check_level(level)
    found = find_group(fit, group)
    shown = find_columns(found, term)
    for j in shown:
        if found.Sigma[j, j] == 0:
            raise ValueError(
                f"term={found.names[j]!r} has an estimated variance of zero by {found.name!r}, so "
                "that its modes are all zero; choose another"
            )
    names = [found.names[j] for j in shown]
    axes = style.panels(ax, names, (4.0, 3.8))
    for one, j in zip(axes, shown, strict=True):
        explained = found.Sigma[j, j] - found.sd[:, j] ** 2
        known = explained > LEAST * found.Sigma[j, j]
        if not known.any():
            raise ValueError(f"term={found.names[j]!r}: no level has data about it")
        draw_qq(one, found.mode[known, j] / np.sqrt(explained[known]), level)
        one.set_ylabel(f"standardised modes by {found.name}")
        style.heading(one, found.names[j])
        if not known.all():
            count = int((~known).sum())
            one.set_xlabel(f"{one.get_xlabel()}\n({count} levels without data on it left out)")
    return style.returned(axes)


def draw_qq(ax: Axes, value: np.ndarray, level: float) -> None:
    """Points, the line of the medians and the band."""
    n = len(value)
    i = np.arange(1, n + 1)
    tail = (1 - level) / 2
    low, middle, high = (
        scipy.special.ndtri(scipy.special.betaincinv(i, n + 1 - i, p))
        for p in (tail, 0.5, 1 - tail)
    )
    ax.fill_between(middle, low, high, color=style.PALE, alpha=0.7, linewidth=0, zorder=1,
                    label=f"{100 * level:g} % band, point by point")  # fmt: skip
    ax.plot(middle, middle, color=style.GREY, linewidth=1, zorder=2)
    ordered = np.sort(value)
    outside = (ordered < low) | (ordered > high)
    size = float(np.clip(90 / np.sqrt(n), 2, 5))
    for which, ink, marker in ((~outside, style.BLUE, "o"), (outside, style.VERMILION, "D")):
        ax.plot(middle[which], ordered[which], marker, color=ink, markersize=size,
                markeredgewidth=0, linestyle="none", zorder=3, gid="qq")  # fmt: skip
    ax.set_xlabel("standard normal quantiles")
    ax.legend(loc="upper left", frameon=False, fontsize="small")
    style.plain(ax)
