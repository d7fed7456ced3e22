"""Link functions as curves: the linear predictor against the mean, and the inverse."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from glmm_jax import families, links
from glmm_jax.families.base import Family
from glmm_jax.links import Link
from glmm_jax.plots import style
from glmm_jax.runtime import engine

POINTS = 401
REACH = 5.0  # of the linear predictor, for means in (0, 1)
PREDICTORS = {
    "logit": "log odds",
    "probit": "normal quantile",
    "cloglog": "log(−log(1 − μ))",
    "loglog": "−log(−log μ)",
    "cauchit": "Cauchy quantile",
    "log": "log of the mean",
    "identity": "the mean itself",
    "sqrt": "square root of the mean",
    "inverse": "1 / mean",
}
FORMULAS = {
    "logit": "log(μ / (1 − μ))",
    "probit": "Φ⁻¹(μ)",
    "cloglog": "log(−log(1 − μ))",
    "loglog": "−log(−log μ)",
    "cauchit": "tan(π (μ − ½))",
    "log": "log μ",
    "identity": "μ",
    "sqrt": "√μ",
    "inverse": "1 / μ",
}
INVERSES = {
    "logit": "1 / (1 + exp(−η))",
    "probit": "Φ(η)",
    "cloglog": "1 − exp(−exp η)",
    "loglog": "exp(−exp(−η))",
    "cauchit": "½ + arctan(η) / π",
    "log": "exp η",
    "identity": "η",
    "sqrt": "η²",
    "inverse": "1 / η",
}


def link(family_or_link: Any, ax: Axes | None = None, label: str | None = None) -> Axes:
    """The link eta = g(mu) as a curve over the mean.

    Parameters
    ----------
    family_or_link : a link, a family (with its link), the name of either, or a fit.
    ax : axes to draw on; several links on the same axes get colours of their own.
    label : name of the curve for a legend; default: that of the link.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError : no such link or family.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5 (plot of the canonical
    link for the Bernoulli distribution).
    """
    chosen, mean_name = _chosen(family_or_link)
    mu, eta = _curve(chosen)
    ax = style.panels(ax, ["link"], (4.6, 3.6))[0]
    first = _draw(ax, mu, eta, chosen, label)
    ax.set_xlabel(mean_name)
    ax.set_ylabel(_predictor(chosen, first))
    style.heading(ax, f"{chosen.name} link: η = {FORMULAS[chosen.name]}" if first else "links")
    return ax


def inverse_link(family_or_link: Any, ax: Axes | None = None, label: str | None = None) -> Axes:
    """The inverse link mu = g^-1(eta) as a curve over the linear predictor; see `link`."""
    chosen, mean_name = _chosen(family_or_link)
    mu, eta = _curve(chosen)
    ax = style.panels(ax, ["inverse link"], (4.6, 3.6))[0]
    first = _draw(ax, eta, mu, chosen, label)
    ax.set_xlabel(_predictor(chosen, first))
    ax.set_ylabel(mean_name)
    title = f"inverse of the {chosen.name} link: μ = {INVERSES[chosen.name]}"
    style.heading(ax, title if first else "inverse links")
    return ax


def _chosen(given: Any) -> tuple[Link, str]:
    """The link, and what the mean is called."""
    family = getattr(given, "family", given)
    if isinstance(family, str):
        try:
            family = families.get(family)
        except ValueError as unknown_family:
            try:
                family = links.get(family)
            except ValueError as unknown_link:
                raise ValueError(
                    f"family_or_link={given!r} names neither a family ({unknown_family}) nor a "
                    f"link ({unknown_link})"
                ) from unknown_link
    if isinstance(family, Family):
        return family.link, f"mean μ of a {_adjective(family)} response"
    if isinstance(family, Link):
        onto = family.mean_range == (0.0, 1.0)
        return family, "probability μ" if onto else "mean μ"
    raise ValueError(
        f"family_or_link={given!r}; give a family or a link, the name of one, or a fit"
    )


def _adjective(family: Family) -> str:
    name = family.name
    return name.capitalize() if name in ("bernoulli", "poisson", "gaussian") else name


def _curve(chosen: Link) -> tuple[np.ndarray, np.ndarray]:
    """(mu, eta) along the curve, where it has something to show."""
    low, high = chosen.mean_range
    with engine():
        if (low, high) == (0.0, 1.0):
            eta = np.linspace(-REACH, REACH, POINTS)
            return np.asarray(chosen.inverse(jnp.asarray(eta))), eta
        if chosen.name == "identity":
            mu = np.linspace(-3.0, 3.0, POINTS)
        else:  # a positive mean; dense near zero, where log and 1/mu are steep
            floor = 0.45 if chosen.name == "inverse" else 0.15
            mu = floor + (10.0 - floor) * np.linspace(0.0, 1.0, POINTS) ** 2
            if chosen.name == "inverse":
                mu = np.minimum(mu, 6.0)
        eta = np.asarray(chosen.link(jnp.asarray(mu)))
    return mu, eta


def _draw(ax: Axes, x: np.ndarray, y: np.ndarray, chosen: Link, label: str | None) -> bool:
    """Add a curve; returns whether it is the first link on these axes."""
    before = len([line for line in ax.get_lines() if line.get_gid() == "link"])
    ax.plot(
        x,
        y,
        color=style.colour(before),
        linestyle=style.dash(before),
        linewidth=2,
        label=label or chosen.name,
        gid="link",
    )
    if before == 0:
        ax.grid(color=style.PALE, linewidth=0.6)
        ax.set_axisbelow(True)
    style.plain(ax)
    return before == 0


def _predictor(chosen: Link, first: bool) -> str:
    """Name of the scale of eta; links that share the axes have none in common."""
    return f"linear predictor η ({PREDICTORS[chosen.name]})" if first else "linear predictor η"
