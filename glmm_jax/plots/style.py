"""What the figures share: colours, axes and where legends and notes stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Colours that remain distinct for the colour-blind: Okabe & Ito (2008), "Color universal design".
# The yellow of that set is left out: it is too pale for a line on white.
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
INK, GREY, PALE = "#222222", "#767676", "#D0D0D0"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
# A second code beside colour, for print in black and white.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

SCALES = {
    "logit": "log odds",
    "probit": "probit scale",
    "cloglog": "complementary log-log scale",
    "loglog": "log-log scale",
    "cauchit": "cauchit scale",
    "log": "log scale",
    "sqrt": "square-root scale",
    "inverse": "reciprocal scale",
}


def colour(i: int) -> str:
    """Colour of group i."""
    return COLOURS[i % len(COLOURS)]


def dash(i: int) -> Any:
    """Line style of group i; with seven colours and four styles, 28 groups differ."""
    return DASHES[i % len(DASHES)]


def link_scale(fit: Fit) -> str:
    """Name of the scale of the linear predictor: "log odds" for the logit link."""
    link = fit.family.link.name
    if link == "identity":
        return f"units of {fit.frame.response_name}"
    return SCALES.get(link, f"{link} scale")


def effect_scale(fit: Fit, column: str) -> str:
    """Units of the effect of a model-matrix column: those of eta, per unit where it is a number."""
    categories = column == "Intercept" or all("[" in part for part in column.split(":"))
    return link_scale(fit) if categories else f"{link_scale(fit)} per unit"


def panels(
    ax: Any,
    names: list[str],
    size: tuple[float, float],
    columns: int | None = None,
    beside: float = 0.0,
    **shared: Any,
) -> list[Axes]:
    """One axes per name: the ones given, or those of a new figure.

    Args:
        ax: None, one Axes (for one panel) or a sequence or array with one per panel.
        names: what each panel shows; used for messages alone.
        size: width and height of a panel of a new figure, in inches.
        columns: panels side by side in a new figure; all of them up to four by default.
        beside: inches that a new figure is wider, for a legend at its right.
        shared: `sharex`, `sharey` of a new figure.

    Raises:
        ValueError: axes of another number, or something that is no axes.
    """
    count = len(names)
    if ax is None:
        across = min(columns or 4, count)
        down = -(-count // across)
        _, made = plt.subplots(
            down,
            across,
            figsize=(size[0] * across + beside, size[1] * down),
            layout="constrained",
            squeeze=False,
            **shared,
        )
        flat = list(made.flat)
        for spare in flat[count:]:
            spare.set_visible(False)
        for above in flat[max(count - across, 0) : count]:
            # Under a panel whose lower neighbour is empty the shared labels would be missing.
            above.tick_params(labelbottom=True)
        return flat[:count]
    flat = [ax] if isinstance(ax, Axes) else list(np.asarray(ax, dtype=object).flat)
    if not all(isinstance(one, Axes) for one in flat):
        raise ValueError(f"ax={type(ax).__name__}; give matplotlib Axes, or None for new")
    if len(flat) != count:
        raise ValueError(
            f"ax= has {len(flat)} axes, but there are {count} panels "
            f"({', '.join(names[:6])}{', ...' if count > 6 else ''}); give one for each, or None"
        )
    return flat


def returned(axes: list[Axes]) -> Any:
    """One Axes as it is, several as an array."""
    return axes[0] if len(axes) == 1 else np.array(axes, dtype=object)


def plain(ax: Axes) -> None:
    """No frame above and to the right, small tick labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")


def heading(ax: Axes, text: str) -> None:
    """Name of a panel, at its upper left."""
    ax.set_title(text, loc="left", fontsize="medium")


def note(ax: Axes, text: str) -> None:
    """A remark in small print above the panel, at its right, where there is no heading."""
    ax.set_title(text, loc="right", fontsize="x-small", color=GREY)


def legend_outside(ax: Axes, title: str | None = None, handles: Any = None) -> None:
    """A legend right of the axes, where it covers nothing."""
    given = {} if handles is None else {"handles": handles}
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        frameon=False,
        fontsize="small",
        title=title,
        title_fontsize="small",
        alignment="left",
        **given,
    )
