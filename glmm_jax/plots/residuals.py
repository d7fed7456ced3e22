"""Residuals against fitted values or a covariate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from glmm_jax.formula.columns import Factor
from glmm_jax.plots import style
from glmm_jax.plots.covariates import covariate, used_rows
from glmm_jax.plots.smoother import loess

if TYPE_CHECKING:
    from glmm_jax.results import Fit

SMOOTHED = 60
TWO_SIDED = 1.959963984540054
OWN = ("fitted", "linear", "population")


def residuals(
    fit: Fit,
    kind: str = "quantile",
    against: str | None = None,
    ax: Axes | None = None,
    span: float = 2 / 3,
    data: pd.DataFrame | None = None,
    **options: Any,
) -> Axes:
    """Residuals against fitted values or a covariate, with a smoother that should stay near zero.

    Quantile residuals (the default) are standard normal in every family if the model is true, so
    that they show as much for 0/1 data as for others; lines stand at +-1.96.

    Parameters
    ----------
    fit : of `glmer`.
    kind : of `fit.resid`.
    against : "fitted", the conditional means; "linear", the linear predictor at the conditional
        modes; "population", the linear predictor without random effects; or the name of a column of
        the data. Default "population" for quantile residuals from new random effects, else
        "fitted": such residuals contain the random effects, and against fitted values that contain
        them too there would be a slope in a true model.
    ax : axes to draw on.
    span : of the smoother, see `smoother.loess`.
    data : the data given to `glmer`, for a fit that was loaded from a file.
    options : passed on to `fit.resid` (n, seed, random).

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError : an unknown kind or column, missing values in it.
    """
    value = fit.resid(kind, **options).to_numpy()
    new = kind == "quantile" and options.get("random", "new") == "new"
    if against is None:
        against = "population" if new else "fitted"
    ax = style.panels(ax, ["residuals"], (5.0, 3.8))[0]
    x, name = _horizontal(fit, against, data)
    ax.axhline(0.0, color=style.INK, linewidth=0.8, zorder=2)
    if kind == "quantile":
        for line in (-TWO_SIDED, TWO_SIDED):
            ax.axhline(line, color=style.GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    if isinstance(x, Factor):
        _boxes(ax, x, value)
    else:
        _points(ax, x, value, span)
    ax.set_xlabel(name)
    ax.set_ylabel(f"{kind} residual" + (" (normal quantiles)" if kind == "quantile" else ""))
    style.plain(ax)
    return ax


def _horizontal(fit: Fit, against: str, data: pd.DataFrame | None) -> tuple[Any, str]:
    scale = style.link_scale(fit)
    if against == "fitted":
        return fit.fittedvalues.to_numpy(), "fitted value (conditional mean)"
    if against == "linear":
        return fit.linear_predictor.to_numpy(), f"linear predictor ({scale})"
    if against == "population":
        fixed = fit.frame.X @ fit.params.to_numpy() + fit.frame.offset
        return fixed, f"linear predictor without random effects ({scale})"
    table = used_rows(fit, data)
    if against not in table.columns:
        listed = ", ".join(map(repr, OWN))
        raise ValueError(
            f"against={against!r}; use {listed} or a column of the data: "
            f"{', '.join(map(str, table.columns[:30]))}"
        )
    column = covariate(table, against, "against")
    if column.missing is not None:
        raise ValueError(
            f"against={against!r} has {int(column.missing.sum())} missing values among the rows "
            "used; drop those rows before the fit, or choose another column"
        )
    if column.kind == "number":
        return np.asarray(column.value, float), against
    return column.factor.used(), against


def _points(ax: Axes, x: np.ndarray, value: np.ndarray, span: float) -> None:
    count = len(x)
    ax.plot(x, value, "o", color=style.BLUE, markersize=float(np.clip(130 / np.sqrt(count), 1, 5)),
            alpha=float(np.clip(600 / count, 0.12, 0.8)), markeredgewidth=0, zorder=1,
            gid="residuals", rasterized=count > 5000)  # fmt: skip
    finite = np.isfinite(x) & np.isfinite(value)
    if len(np.unique(x[finite])) >= 4:
        at = np.unique(np.quantile(x[finite], np.linspace(0, 1, SMOOTHED)))
        curve = loess(x[finite], value[finite], at, span)
        ax.plot(at, curve, color=style.VERMILION, linewidth=2, zorder=3, gid="smooth")


def _boxes(ax: Axes, factor: Factor, value: np.ndarray) -> None:
    """A box per level; labels turned where there are many."""
    groups = [value[factor.codes == code] for code in range(len(factor.labels))]
    ink = {"color": style.BLUE, "linewidth": 1.0}
    ax.boxplot(
        groups,
        tick_labels=list(factor.labels),
        widths=0.6,
        boxprops=ink,
        whiskerprops=ink,
        capprops=ink,
        medianprops={"color": style.VERMILION, "linewidth": 2},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": style.BLUE},
    )
    many = len(groups)
    if many > 8:
        ax.tick_params(axis="x", rotation=90)
    if many > 40:
        step = -(-many // 40)
        ax.set_xticks(np.arange(1, many + 1, step), list(factor.labels[::step]))
