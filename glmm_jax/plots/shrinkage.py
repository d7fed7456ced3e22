"""Shrinkage: what each level says alone, and where the model puts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from glmm_jax.plots import style
from glmm_jax.plots.scatter import draw_ellipses, pair_axes, pair_names
from glmm_jax.plots.selection import Group, find_columns, find_group, find_pairs
from glmm_jax.plots.unpooled import unpooled

if TYPE_CHECKING:
    from glmm_jax.results import Fit

WIDEST = 4.0  # standard deviations of the random effects shown at most


def shrinkage(
    fit: Fit,
    group: str | None = None,
    terms: Any = None,
    ax: Any = None,
    ellipses: tuple[float, ...] = (1.0, 2.0),
) -> Any:
    """Each level's own estimate (no pooling) and its conditional mode, which is drawn to zero.

    A level's own estimate maximises the likelihood of its rows over its random effects, the fixed
    effects held (`unpooled.unpooled`). Two columns: a line from that estimate (open circle) to the
    conditional mode (dot). One column: the mode against the estimate, beside the line of no
    shrinkage, dots with an area in proportion to the rows of the level. Levels without a finite
    estimate of their own (all responses equal, or rows that cannot tell the columns apart) have
    their mode only, marked by a cross, and are counted in the legend; estimates beyond four
    standard deviations are outside the frame and counted in the legend too.

    Parameters
    ----------
    fit : of `glmer`.
    group : grouping factor; not needed where the model has one.
    terms : a column, two, or more (a panel per pair); None for all.
    ax : None, Axes, or one Axes per panel.
    ellipses : of the estimated distribution N(0, Sigma), for two columns.

    Returns
    -------
    The axes, or an array of them with several pairs.

    Raises
    ------
    ValueError : unknown group or terms, wrong axes.
    """
    found = find_group(fit, group)
    chosen = find_columns(found, terms, "terms")
    own = unpooled(fit, found)
    if len(chosen) == 1:
        j = chosen[0]
        axes = style.panels(ax, [found.names[j]], (4.8, 4.2), beside=2.6)
        _single(axes[0], fit, found, own[:, j], j)
    else:
        pairs = find_pairs(found, terms)
        axes = style.panels(ax, pair_names(found, pairs), (4.6, 4.4), columns=2, beside=2.8)
        for one, (i, j) in zip(axes, pairs, strict=True):
            draw_ellipses(one, found.Sigma[np.ix_([i, j], [i, j])], ellipses)
            _pair(one, found, own, i, j)
            pair_axes(one, fit, found, i, j)
    style.legend_outside(axes[min(len(axes), 2) - 1], f"{found.name} (levels)")
    return style.returned(axes)


def _pair(ax: Axes, found: Group, own: np.ndarray, i: int, j: int) -> None:
    known = np.all(np.isfinite(own), axis=1)
    mode, alone = found.mode[:, [i, j]], own[:, [i, j]]
    segments = np.stack([alone[known], mode[known]], axis=1)
    ax.add_collection(
        LineCollection(list(segments), colors=style.SKY, linewidths=0.8, zorder=2, gid="shrinkage"),
        autolim=False,
    )
    ax.plot(*alone[known].T, "o", color=style.ORANGE, markerfacecolor="none", markersize=4,
            zorder=3, label="own estimate, no pooling", gid="own")  # fmt: skip
    ax.plot(*mode[known].T, "o", color=style.BLUE, markersize=4.5, zorder=4,
            label=f"conditional mode ({int(known.sum())})", gid="modes")  # fmt: skip
    _without(ax, mode[~known])
    for axis, column in (("x", 0), ("y", 1)):
        sd = np.sqrt(found.Sigma[[i, j][column], [i, j][column]])
        _limits(ax, axis, alone[known, column], mode[:, column], sd)
    _outside(ax, alone[known], "own")


def _single(ax: Axes, fit: Fit, found: Group, own: np.ndarray, j: int) -> None:
    known = np.isfinite(own)
    mode, rows = found.mode[:, j], found.rows
    area = 90.0 * rows / rows.max() + 6.0
    ax.axline((0.0, 0.0), slope=1.0, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)),
              label="no shrinkage")  # fmt: skip
    ax.axhline(0.0, color=style.PALE, linewidth=0.8, zorder=0)
    ax.axvline(0.0, color=style.PALE, linewidth=0.8, zorder=0)
    ax.scatter(own[known], mode[known], s=area[known], color=style.BLUE, alpha=0.65, linewidths=0,
               zorder=3, label=f"conditional mode ({int(known.sum())})", gid="modes")  # fmt: skip
    sd = np.sqrt(found.Sigma[j, j])
    _limits(ax, "x", own[known], mode, sd)
    _limits(ax, "y", mode, mode, sd)
    # No own estimate, so no place along x: at the left edge.
    edge = np.full(int((~known).sum()), ax.get_xlim()[0])
    _without(ax, np.column_stack([edge, mode[~known]]))
    _outside(ax, np.column_stack([own[known], mode[known]]), "modes")
    scale = style.effect_scale(fit, found.names[j])
    ax.set_xlabel(f"own estimate of {found.names[j]}, no pooling ({scale})")
    ax.set_ylabel(f"conditional mode ({scale})")
    style.heading(ax, found.names[j])
    style.plain(ax)


def _without(ax: Axes, points: np.ndarray) -> None:
    if len(points):
        ax.plot(*points.T, "x", color=style.VERMILION, markersize=5, zorder=4, clip_on=False,
                label=f"mode, no finite own estimate ({len(points)})", gid="without")  # fmt: skip


def _limits(ax: Axes, axis: str, own: np.ndarray, mode: np.ndarray, sd: float) -> None:
    """Room for all modes, and for own estimates up to WIDEST standard deviations."""
    within = own[np.abs(own) <= WIDEST * sd]
    shown = np.concatenate([within, mode, [-2.1 * sd, 2.1 * sd]])
    low, high = shown.min(), shown.max()
    margin = 0.05 * (high - low) or 0.1
    getattr(ax, f"set_{axis}lim")(low - margin, high + margin)


def _outside(ax: Axes, own: np.ndarray, gid: str) -> None:
    """Say in the legend, beside the artist of that name, how many points the frame leaves out."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    inside = (left <= own[:, 0]) & (own[:, 0] <= right) & (low <= own[:, 1]) & (own[:, 1] <= high)
    if not inside.all():
        (artist,) = (one for one in ax.get_children() if one.get_gid() == gid)
        artist.set_label(f"{artist.get_label()};\n{int((~inside).sum())} outside the frame")
