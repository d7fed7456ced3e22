"""How much of the variance on the scale of the link is explained: R-squared and ICC.

The variance of the linear predictor and of the response about it is taken apart into

    v_f    var(X beta), the fixed effects
    v_t    mean over rows of z' Sigma z for each random-effects term t (Johnson 2014)
    v_o    the same for terms with a level for each row: overdispersion, explained by nothing
    v_e    the observation-level variance of the family on the scale of the link

with total v = v_f + sum_t v_t + v_o + v_e. For v_e there is more than one approximation:

    exact         Gaussian, identity link: the residual variance (with precision weights its mean)
    theoretical   0/1 data as a latent variable above a threshold: pi^2/3 for the logit, 1 for the
                  probit, pi^2/6 for the complementary log-log and log-log links
    trigamma, lognormal   log-link Poisson with mean m: psi'(m), log(1 + 1/m)
    delta         any family and link: Var(y | mu) / (dmu/deta)^2 at the mean response

An observation is one trial of a binomial row, so that R-squared does not depend on how trials are
grouped into rows; m is the mean response over all rows. An offset explains nothing and is left out.

Sources: Nakagawa & Schielzeth (2013), Methods Ecol. Evol. 4, 133-142; Johnson (2014), Methods Ecol.
Evol. 5, 944-946; Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14, 20170213.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy

from glmm_jax.families.base import Dispersion, Family, as_dispersion
from glmm_jax.inference.parameter_rows import mean_depends, row_parameters
from glmm_jax.inference.varcorr import triangles
from glmm_jax.runtime import engine
from glmm_jax.tails import elementwise_derivative

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Variance of the latent variable whose distribution function is the inverse link; the Cauchy
# distribution has none, and the log and identity links are no distribution functions.
LATENT = {"logit": math.pi**2 / 3, "probit": 1.0, "cloglog": math.pi**2 / 6,
          "loglog": math.pi**2 / 6}  # fmt: skip


def r_squared(fit: Fit) -> pd.DataFrame:
    """Marginal and conditional R-squared of Nakagawa, on the scale of the link.

        marginal = v_f / v        conditional = (v_f + sum_t v_t) / v

    with the variances defined in `glmm_jax.inference.explained`: v_f of the fixed effects, v_t of
    the random effects (slopes by Johnson 2014), v their total with the observation-level variance.
    A random effect per row counts as unexplained.

    Returns
    -------
    A data frame with columns "marginal" and "conditional" and a row for each approximation of the
    observation-level variance, the recommended one first: "exact" for a Gaussian response;
    "theoretical" and "delta" for 0/1 and binomial data; "trigamma", "lognormal" and "delta" for
    Poisson counts with log link; "delta" where there is no other.

    Source: Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14, 20170213.
    """
    parts = _variances(fit)
    grouped = sum(parts.groups.values())
    rows = {}
    for method, v_e in parts.observation.items():
        total = parts.fixed + grouped + parts.per_row + v_e
        rows[method] = (parts.fixed / total, (parts.fixed + grouped) / total)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["marginal", "conditional"])
    return table.rename_axis("method")


def icc(fit: Fit, method: str | None = None) -> pd.DataFrame:
    """Intraclass correlation: the share of each grouping factor in the variance.

        adjusted = v_g / (v - v_f)        unadjusted = v_g / v

    with the variances of `r_squared`; v_g sums the terms of grouping factor g.

    Parameters
    ----------
    method : approximation of the observation-level variance, a row of `r_squared`; None for the
        first of them.

    Returns
    -------
    A data frame with a row for each grouping factor (but one with a level for each row, which is
    overdispersion) and a last row "total"; columns "adjusted" and "unadjusted".

    Raises
    ------
    ValueError : a method that the family and link do not have, or a family for which the parts are
        not defined (zero-inflated, hurdle, truncated, ordered categories).

    Source: Nakagawa, Johnson & Schielzeth (2017), J. R. Soc. Interface 14, 20170213.
    """
    parts = _variances(fit)
    chosen = next(iter(parts.observation)) if method is None else method
    if chosen not in parts.observation:
        raise ValueError(
            f"method={method!r}; the {fit.family.name} family with {fit.family.link.name} link "
            f"has {', '.join(map(repr, parts.observation))}"
        )
    groups = {**parts.groups, "total": sum(parts.groups.values())}
    share = pd.Series(groups, dtype=float)
    left = share["total"] + parts.per_row + parts.observation[chosen]
    return pd.DataFrame({"adjusted": share / left, "unadjusted": share / (parts.fixed + left)})


class _Variances(NamedTuple):
    fixed: float
    groups: dict[str, float]
    per_row: float
    observation: dict[str, float]  # by method


def _variances(fit: Fit) -> _Variances:
    frame = fit.frame
    groups: dict[str, float] = {}
    per_row = 0.0
    for block, Lambda in zip(frame.blocks, triangles(frame, fit.theta), strict=True):
        # z' Sigma z = |Lambda' z|^2.
        each = np.sum((block.Z @ Lambda) ** 2, axis=1)
        if block.relationship is not None:
            each = each * np.diag(block.relationship.matrix)[block.index]
        mean = float(np.mean(each))
        if len(block.levels) == fit.nobs and block.relationship is None:
            per_row += mean
        else:
            groups[block.grouping] = groups.get(block.grouping, 0.0) + mean
    fixed = frame.X @ fit.params.to_numpy()
    return _Variances(float(np.var(fixed, ddof=1)), groups, per_row, _observation(fit))


def _observation(fit: Fit) -> dict[str, float]:
    """v_e by each method that the family and link have, the recommended one first."""
    family, frame = fit.family, fit.frame
    if mean_depends(family):
        raise ValueError(
            f"R-squared and ICC are not defined for the {family.name} family: the mean of its "
            "response is not a function of the linear predictor alone, or is a mere score; use "
            "information criteria, or fit the family of counts without the change of its zeros"
        )
    values = row_parameters(fit, frame)
    if family.name == "gaussian" and family.link.name == "identity":
        variance = np.exp(values["log(phi)"])
        if family.weights_are_precisions and frame.weights is not None:
            variance = variance / frame.weights
        return {"exact": float(np.mean(variance))}
    weights = np.ones(fit.nobs) if frame.weights is None else frame.weights
    trials = np.ones(fit.nobs) if frame.trials is None else frame.trials
    mean = float(np.sum(weights * frame.y) / np.sum(weights * trials))
    # phi (1 / weight) of each row; where it is the same for all, one row stands for them.
    if family.weights_are_precisions and frame.weights is not None:
        values["log(phi)"] = values["log(phi)"] - np.log(frame.weights)
    rows = np.stack([np.zeros(fit.nobs), *values.values()])
    rows, count = np.unique(rows, axis=1, return_counts=True)
    with engine():
        each = _delta(family, mean, as_dispersion([jnp.asarray(part) for part in rows[1:]]))
        delta = float(np.average(np.broadcast_to(each, count.shape), weights=count))
    if family.name in ("bernoulli", "binomial") and family.link.name in LATENT:
        return {"theoretical": LATENT[family.link.name], "delta": delta}
    if family.name == "poisson" and family.link.name == "log":
        trigamma = float(scipy.special.polygamma(1, mean))
        lognormal = math.log1p(1 / mean) if mean > 0 else math.inf
        return {"trigamma": trigamma, "lognormal": lognormal, "delta": delta}
    return {"delta": delta}


@partial(jax.jit, static_argnums=0)
def _delta(family: Family, mean: jax.Array, dispersion: Dispersion) -> jax.Array:
    """Var(y | mu) / (dmu/deta)^2 of one trial at the mean response, () or (rows,)."""
    slope = elementwise_derivative(family.link.inverse, family.link.link(mean))
    variance = family.variance(jnp.asarray(mean), dispersion)
    return variance / jnp.square(slope)
