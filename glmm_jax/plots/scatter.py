"""Scatter plots of vector-valued random effects, a point per level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke

from glmm_jax.plots import style
from glmm_jax.plots.selection import Group, find_group, find_pairs

if TYPE_CHECKING:
    from glmm_jax.results import Fit

MOST_LINES = 4  # directions that get a line and a colour of their own


def random_effects_scatter(
    fit: Fit,
    group: str | None = None,
    terms: Any = None,
    ax: Any = None,
    ellipses: tuple[float, ...] = (1.0, 2.0),
    label: int = 0,
) -> Any:
    """Conditional modes of two columns of a term against each other, a point per level.

    A mode satisfies b_l = Sigma Z_l' r_l, with r_l the scores of the level's rows. Where all rows
    of a level have multiples of one vector z in Z (a district of rural women only, z = (1, 0)), its
    mode therefore lies on the line along Sigma z, wherever the data pull it. Such levels are
    coloured by z and the lines are drawn.

    Parameters
    ----------
    fit : of `glmer`.
    group : grouping factor; not needed where the model has one.
    terms : two or more of its columns; None for all. Each pair is a panel.
    ax : None, Axes, or one Axes per pair.
    ellipses : of the estimated distribution N(0, Sigma), at so many standard deviations in every
        direction; two hold 86 % of the levels' true effects.
    label : so many levels farthest from zero (in the metric of Sigma) are named.

    Returns
    -------
    The axes, or an array of them with several pairs.

    Raises
    ------
    ValueError : unknown group or terms, a term of one column, wrong axes.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5 (scatter plot of the
    BLUPs).
    """
    found = find_group(fit, group)
    pairs = find_pairs(found, terms)
    axes = style.panels(ax, pair_names(found, pairs), (4.6, 4.2), columns=2, beside=2.3)
    kinds = _directions(found)
    for one, (i, j) in zip(axes, pairs, strict=True):
        draw_ellipses(one, found.Sigma[np.ix_([i, j], [i, j])], ellipses)
        for kind in kinds:
            one.plot(
                found.mode[kind.levels, i],
                found.mode[kind.levels, j],
                kind.marker,
                color=kind.colour,
                markersize=5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                linestyle="none",
                label=f"{kind.text} ({len(kind.levels)})",
                zorder=3,
                gid="modes",
            )
            if kind.z is not None:
                ends = (found.Sigma @ kind.z)[[i, j]]
                _line(one, ends, found.mode[kind.levels][:, [i, j]], kind.colour)
        _name(one, found, i, j, label)
        pair_axes(one, fit, found, i, j)
    style.legend_outside(axes[min(len(axes), 2) - 1], f"{found.name} (levels)")
    return style.returned(axes)


class _Kind(NamedTuple):
    """Levels whose rows point along one direction z of Z; z is None for all others."""

    levels: np.ndarray
    z: np.ndarray | None
    text: str
    colour: str
    marker: str


def ranks(found: Group) -> np.ndarray:
    """Rank of the rows of Z of each level, (levels,)."""
    size = np.sqrt(np.mean(found.Z**2, axis=0))
    scaled = found.Z / np.where(size > 0, size, 1.0)
    gram = np.zeros((len(found.levels), len(found.names), len(found.names)))
    np.add.at(gram, found.index, scaled[:, :, None] * scaled[:, None, :])
    values = np.linalg.eigvalsh(gram)
    return np.sum(values > 1e-10 * values[:, -1:], axis=1)


def _directions(found: Group) -> list[_Kind]:
    one = np.flatnonzero(ranks(found) == 1)
    seen: dict[tuple[float, ...], list[int]] = {}
    norm = np.linalg.norm(found.Z, axis=1)
    for at in one:
        rows = np.flatnonzero(found.index == at)
        z = found.Z[rows[np.argmax(norm[rows])]]
        z = z / z[np.flatnonzero(z)[0]]
        seen.setdefault(tuple(np.round(z, 9) + 0.0), []).append(int(at))
    others = np.setdiff1d(np.arange(len(found.levels)), one)
    kinds = []
    if len(others):
        text = "rows of several kinds" if len(one) else "levels"
        kinds.append(_Kind(others, None, text, style.BLUE, "o"))
    if len(seen) > MOST_LINES:
        kinds.append(_Kind(one, None, "rows along one direction", style.VERMILION, "s"))
        return kinds
    for i, (z, levels) in enumerate(sorted(seen.items())):
        text = _described(found.names, z)
        shown = style.colour(i + 1), style.MARKERS[(i + 1) % len(style.MARKERS)]
        kinds.append(_Kind(np.array(levels), np.array(z), text, *shown))
    return kinds


def _described(names: tuple[str, ...], z: tuple[float, ...]) -> str:
    if names[0] == "Intercept" and z[0] == 1.0:
        names, z = names[1:], z[1:]
    return "only " + ", ".join(
        f"{name} = {value:.4g}" for name, value in zip(names, z, strict=True)
    )


def _line(ax: Axes, direction: np.ndarray, points: np.ndarray, colour: str) -> None:
    """The line through zero along which these points must lie, a little longer than they need."""
    square = float(direction @ direction)
    if square == 0.0:
        return
    along = points @ direction / square
    reach = 1.15 * np.array([min(along.min(), 0.0), max(along.max(), 0.0)])
    ax.plot(reach * direction[0], reach * direction[1], color=colour, linewidth=1, zorder=2)


def _name(ax: Axes, found: Group, i: int, j: int, count: int) -> None:
    root = np.linalg.pinv(found.Sigma[np.ix_([i, j], [i, j])])
    b = found.mode[:, [i, j]]
    distance = np.einsum("li,ij,lj->l", b, root, b)
    # Outward, and by turns above and below: neighbours would cover each other's names.
    for turn, at in enumerate(np.argsort(-distance)[:count]):
        outward = 1 if b[at, 0] >= 0 else -1
        ax.annotate(
            str(found.levels[at]),
            (b[at, 0], b[at, 1]),
            xytext=(5 * outward, 4 if turn % 2 == 0 else -4),
            textcoords="offset points",
            ha="left" if outward > 0 else "right",
            va="bottom" if turn % 2 == 0 else "top",
            fontsize="x-small",
            color=style.INK,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=2.5,  # no name hides a level
        )


def pair_names(found: Group, pairs: list[tuple[int, int]]) -> list[str]:
    """What each panel shows, for messages."""
    return [f"{found.names[i]} and {found.names[j]}" for i, j in pairs]


def pair_axes(ax: Axes, fit: Fit, found: Group, i: int, j: int) -> None:
    """Labels and zero lines of a panel."""
    ax.axhline(0.0, color=style.PALE, linewidth=0.8, zorder=0)
    ax.axvline(0.0, color=style.PALE, linewidth=0.8, zorder=0)
    ax.set_xlabel(f"{found.names[i]} ({style.effect_scale(fit, found.names[i])})")
    ax.set_ylabel(f"{found.names[j]} ({style.effect_scale(fit, found.names[j])})")
    style.plain(ax)


def draw_ellipses(ax: Axes, V: np.ndarray, radii: tuple[float, ...]) -> None:
    """Ellipses b' V^-1 b = r^2 of a covariance matrix V, (2, 2); a line where V is singular."""
    values, vectors = np.linalg.eigh(V)
    wide, narrow = np.sqrt(np.maximum(values[::-1], 0.0))
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    for r in radii:
        shape = Ellipse(
            (0.0, 0.0), 2 * r * wide, 2 * r * narrow, angle=angle, fill=False,
            edgecolor=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1, gid="ellipse",
        )  # fmt: skip
        ax.add_patch(shape)
    if radii:
        listed = " and ".join(f"{r:g}" for r in radii)
        ax.plot([], [], color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)),
                label=f"{listed} sd of N(0, Σ)")  # fmt: skip
        ax.autoscale_view()
