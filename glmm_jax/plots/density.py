"""The conditional density of a random effect given y, beside its normal approximation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from glmm_jax.build import bucket, padded
from glmm_jax.families.base import Dispersion, Family
from glmm_jax.formula.frame import CONDITIONAL
from glmm_jax.inference.residuals import family_arguments, linear_predictor
from glmm_jax.inference.varcorr import triangles
from glmm_jax.plots import style
from glmm_jax.runtime import engine

if TYPE_CHECKING:
    from glmm_jax.results import Fit

POINTS = 121
REACH = 3.5  # standard deviations of the normal approximation on either side
DEFAULT_LEVELS = 9


def conditional_density(
    fit: Fit, group: str | None = None, term: str | None = None, levels: Any = None, ax: Any = None
) -> Any:
    """How close the Laplace approximation is: the density of u given y, level by level.

    For each level, along its spherical random effect u of one column,

        exp(-(f(u) - f(u~)) / 2),    f(u) = -2 sum_i w_i log p(y_i | eta_i(u)) + u^2,

    (the unscaled conditional density, 1 at the mode u~) and the normal density with the same mode
    and the variance 1 / H that stands in the Laplace deviance. All other random effects are held at
    their modes; for a single scalar term that is the whole conditional distribution.

    Parameters
    ----------
    fit : of `glmer`.
    group : grouping factor; not needed where the model has one.
    term : column of its terms; not needed where there is one.
    levels : labels of levels, a panel each; None for nine from the smallest level to the largest.
    ax : None, Axes, or one Axes per level.

    Returns
    -------
    The axes, or an array of them with several levels.

    Raises
    ------
    ValueError : unknown group, term or level, several columns and no term, a group whose levels are
        related, wrong axes.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5 (the unscaled conditional
    density of U given Y = y).
    """
    i, j = _block(fit, group, term)
    block = fit.frame.blocks[i]
    if block.relationship is not None:
        raise ValueError(
            f"group={block.grouping!r}: its levels are related (relationship=), so that no level "
            "has a conditional density of its own; choose another factor, or see laplace_error()"
        )
    at = _levels(block.levels, np.bincount(block.index, minlength=len(block.levels)), levels)
    Lambda = triangles(fit.frame, fit.theta)[i]
    u = _spherical(fit, i)[:, j]
    ZLambda = (block.Z @ Lambda)[:, j]
    eta = linear_predictor(fit)
    information = _information(fit, eta)
    names = [str(block.levels[level]) for level in at]
    axes = style.panels(ax, names, (2.7, 2.2), columns=3, beside=1.8, sharey=True)
    for place, (one, level) in enumerate(zip(axes, at, strict=True)):
        rows = np.flatnonzero(block.index == level)
        d = ZLambda[rows]
        sd = 1.0 / np.sqrt(1.0 + information[rows] @ d**2)
        shift = sd * np.linspace(-REACH, REACH, POINTS)
        log_density = _log_density(fit, rows, eta[rows][None, :] + shift[:, None] * d[None, :])
        value = log_density - 0.5 * (u[level] + shift) ** 2
        value -= log_density[POINTS // 2] - 0.5 * u[level] ** 2
        x = u[level] + shift
        one.plot(x, np.exp(value), color=style.BLUE, linewidth=2, label="conditional density",
                 gid="density")  # fmt: skip
        one.plot(x, np.exp(-0.5 * (shift / sd) ** 2), color=style.VERMILION, linewidth=1.3,
                 linestyle=(0, (4, 2)), label="normal approximation", gid="normal")  # fmt: skip
        one.axvline(u[level], color=style.PALE, linewidth=0.8, zorder=0)
        one.set_ylim(0.0, 1.08)
        count = f"{len(rows)} row" + ("" if len(rows) == 1 else "s")
        style.heading(one, f"{block.grouping} {block.levels[level]} ({count})")
        style.plain(one)
        if place >= len(axes) - min(3, len(axes)):
            one.set_xlabel("u (standard normal scale)")
        if place % 3 == 0:
            one.set_ylabel("density / maximum")
    style.legend_outside(axes[min(len(axes), 3) - 1], block.names[j])
    return style.returned(axes)


def _block(fit: Fit, group: str | None, term: str | None) -> tuple[int, int]:
    """Block and column of the term asked for."""
    blocks = fit.frame.blocks
    known = [
        (b.grouping, name, i, j)
        for i, b in enumerate(blocks)
        for j, name in enumerate(b.names)
        if b.part == CONDITIONAL
    ]
    names = list(dict.fromkeys(entry[0] for entry in known))
    if group is None and len(names) == 1:
        group = names[0]
    if group not in names:
        raise ValueError(f"group={group!r}; name one of {', '.join(map(repr, names))}")
    mine = [entry for entry in known if entry[0] == group and term in (None, entry[1])]
    if len(mine) != 1:
        listed = ", ".join(repr(entry[1]) for entry in known if entry[0] == group)
        raise ValueError(f"term={term!r}; name one of the columns by {group!r}: {listed}")
    return mine[0][2], mine[0][3]


def _levels(labels: Any, rows: np.ndarray, asked: Any) -> list[int]:
    if asked is None:
        count = min(DEFAULT_LEVELS, len(labels))
        order = np.argsort(rows, kind="stable")
        return [int(at) for at in order[np.linspace(0, len(labels) - 1, count).round().astype(int)]]
    known = {str(label): at for at, label in enumerate(labels)}
    asked = [asked] if np.isscalar(asked) else list(asked)
    for label in asked:
        if str(label) not in known:
            raise ValueError(
                f"levels: {label!r} is no level of the fit; some are "
                f"{', '.join(map(repr, list(known)[:6]))}"
            )
    return [known[str(label)] for label in asked]


def _spherical(fit: Fit, i: int) -> np.ndarray:
    """u~ of block i, (levels, k)."""
    structure, f = fit.model.structure, fit.placement.factor[i]
    starts = np.cumsum([0, *structure.sizes])
    flat = np.asarray(fit.estimate.u)[starts[f] : starts[f + 1]]
    u = flat.reshape(structure.levels[f], structure.columns[f])[: fit.placement.levels[f]]
    first = fit.placement.column[i]
    return u[:, first : first + len(fit.frame.blocks[i].names)]


def _information(fit: Fit, eta: np.ndarray) -> np.ndarray:
    """w_i times the information about eta that the fit's Laplace determinant uses, (n,)."""
    model, n = fit.model, fit.nobs
    with engine():
        dispersion = family_arguments(fit)[1]
        found = _curvature(
            fit.family,
            fit.curvature == "observed",
            model.y,
            padded(eta, model.n),
            dispersion,
            model.size,
        )
    return (np.asarray(model.weights) * np.asarray(found))[:n]


@partial(jax.jit, static_argnums=(0, 1))
def _curvature(
    family: Family,
    observed: bool,
    y: Array,
    eta: Array,
    dispersion: Dispersion,
    size: Array | None,
) -> Array:
    if observed and not family.is_canonical:
        return family.curvature(y, eta, dispersion, size)
    return family.positive_information(y, eta, dispersion, size)


def _log_density(fit: Fit, rows: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """sum_i w_i log p(y_i | eta_i) over some rows, for each line of eta (lines, rows): (lines,)."""
    model, lines = fit.model, len(eta)
    # Lengths that other levels share, so that few programs are compiled.
    at = np.resize(rows, bucket(len(rows)))
    padded = eta[:, np.resize(np.arange(len(rows)), len(at))]
    flat = np.tile(at, lines)
    size = None if model.size is None else np.asarray(model.size)[flat]
    with engine():
        y = np.asarray(model.y)[flat]
        dispersion = jax.tree.map(
            lambda part: np.asarray(part)[flat] if np.ndim(part) else part,
            family_arguments(fit)[1],
        )
        found = _log_prob(fit.family, y, padded.ravel(), dispersion, size)
    each = np.asarray(found).reshape(lines, len(at))[:, : len(rows)]
    return each @ np.asarray(model.weights)[rows]


@partial(jax.jit, static_argnums=0)
def _log_prob(family: Family, y: Any, eta: Any, dispersion: Dispersion, size: Any) -> Array:
    return family.log_prob(y, eta, dispersion, size)
