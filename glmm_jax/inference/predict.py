"""Predictions for the rows of the fit or for new data, with their uncertainty."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy

from glmm_jax.build import bucket, padded
from glmm_jax.families.base import Family, as_dispersion
from glmm_jax.formula.frame import CONDITIONAL, Frame, RandomBlock
from glmm_jax.formula.newdata import NewFrame, new_frame
from glmm_jax.inference.categories import probabilities
from glmm_jax.inference.levels import check_level
from glmm_jax.inference.parameter_rows import (
    ZERO,
    ZERO_PART,
    matrices,
    mean_depends,
    row_parameters,
)
from glmm_jax.inference.residuals import linear_predictor
from glmm_jax.inference.uncertainty import linear_predictor_variance
from glmm_jax.links import Link
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

KINDS = ("response", "link", "zero", "category")
RANDOM = ("conditional", "population")
# Links whose inverse is one-to-one on either side of eta = 0 only.
TWO_SIDED = ("sqrt", "inverse")


def predict(
    fit: Fit,
    newdata: pd.DataFrame | None = None,
    kind: str = "response",
    random: str = "conditional",
    se: bool = False,
    level: float | None = None,
    *,
    offset: Any = None,
    allow_new_levels: bool = False,
) -> pd.Series | pd.DataFrame:
    """Predicted means or linear predictors, eta = x' beta + z' b + offset, with standard errors.

    Var(eta) = g' V g + z' Lambda H^-1 Lambda' z: the uncertainty of beta, theta and the dispersion
    (V = `fit.vcov_all`), through the conditional mode b too, and that of b given them; see
    `inference.uncertainty`. Intervals are for the mean, not for a new response.

    Parameters
    ----------
    newdata : a data frame with the columns of the right side of the formula; others do no harm.
        Transforms such as center(x) and the codings of categories are those of the fit. None
        predicts the rows used in the fit.
    kind : "response", the mean (a probability where the response counts successes; for a
        zero-inflated or hurdle family with the zeros, (1 - pi) mu); "link", eta; "zero", the
        probability of an excess zero, pi (for a hurdle family of a zero); "category", the
        probability of each ordered category, a column each (without standard errors).
    random : "conditional", with the conditional modes b of the levels in newdata, those of
        zero_inflation= included where the mean or pi depends on them; "population", with b = 0, so
        that grouping columns are not needed. On the response scale the latter is the mean of a
        level in the middle, not the average over levels. For both, Var(eta) as above; with b = 0
        it is that of x' beta alone.
    se : whether to give standard errors; on the response scale |dmu/deta| times that of eta, and by
        the same rule for a mean that depends on other parameters too.
    level : of confidence intervals, 0.95 say; None for none. Limits are computed on the link scale
        and mapped (for ordered categories, whose mean is a score, they are symmetric). Where the
        link is not one-to-one over the interval ("sqrt" and "inverse", with eta = 0 inside it)
        there are none: NaN. So is any mean or limit that the family cannot have, a probability
        above one from the log link, say.
    offset : column of newdata or an array; needed if the model was fitted with an array as offset=.
    allow_new_levels : whether newdata may have levels of grouping factors that were not in the fit
        (or are missing). Their random effects are zero and, with random="conditional", their prior
        variance z' Lambda Lambda' z is part of the standard error.

    Returns
    -------
    A Series "fit" with newdata's index; with `se` or `level` a data frame with the columns fit, se
    and, with `level`, lower and upper. For kind="category" a data frame with the names of the
    categories as columns.

    Raises
    ------
    ValueError : another kind (or "zero" for a family without excess zeros, "category" for one
        without categories, or with se or level) or random, se or
        allow_new_levels that are no truth values, a level outside (0, 1), offset= without newdata,
        and for newdata: columns that are absent, missing values, unknown categories or levels.
    """
    _check(newdata, kind, random, level, offset, {"se": se, "allow_new_levels": allow_new_levels})
    conditional = random == "conditional"
    rows = fit.frame
    if newdata is not None:
        rows = new_frame(
            fit.frame,
            newdata,
            offset=offset,
            random=conditional,
            allow_new_levels=allow_new_levels,
            parameters=kind in ("zero", "category")
            or (kind == "response" and mean_depends(fit.family)),
        )
    if kind == "zero":
        return _zero(fit, rows, conditional, se, level)
    if kind == "response" and mean_depends(fit.family):
        return _frame(_dependent_mean(fit, rows, conditional, se, level), rows.index)
    eta = linear_predictor(fit, rows, conditional)
    if kind == "category":
        return probabilities(fit, eta, row_parameters(fit, rows), rows.index)
    columns = {"fit": eta}
    if se or level is not None:
        blocks = _weighted(rows, conditional, {CONDITIONAL: 1.0})
        columns["se"] = np.sqrt(linear_predictor_variance(fit, rows.X, blocks))
    if level is not None:
        half = _quantile(level) * columns["se"]
        columns["lower"], columns["upper"] = eta - half, eta + half
    if kind == "response":
        columns = _on_response_scale(fit.family, columns)
    return _frame(columns, rows.index)


def _frame(columns: dict[str, np.ndarray], index: pd.Index) -> pd.Series | pd.DataFrame:
    if len(columns) == 1:
        return pd.Series(columns["fit"], index, name="fit")
    return pd.DataFrame(columns, index)


def _weighted(
    rows: Frame | NewFrame, conditional: bool, slopes: dict[str, Any]
) -> tuple[RandomBlock, ...]:
    """The blocks of the rows, Z of each part of the model times its slope, (rows,), or nothing.

    They are the derivatives in b of a function of the linear predictors with these slopes; a part
    that is not named has slope zero. () for random effects of zero.
    """
    if not conditional:
        return ()
    return tuple(
        replace(block, Z=block.Z * np.reshape(slopes.get(block.part, 0.0), (-1, 1)))
        for block in rows.blocks
    )


def _zero(
    fit: Fit, rows: Frame | NewFrame, conditional: bool, se: bool, level: float | None
) -> pd.Series | pd.DataFrame:
    """pi of each row; its standard error pi (1 - pi) times that of logit(pi)."""
    if ZERO not in fit.family.parameters:
        raise ValueError(
            f"kind='zero': the {fit.family.name} family has no excess zeros; use 'response' or "
            "'link', or fit a model with zero_inflation='~ 1'"
        )
    logit = row_parameters(fit, rows, conditional)[ZERO]
    pi = scipy.special.expit(logit)
    columns = {"fit": pi}
    if se or level is not None:
        others = np.column_stack(
            [matrix * (name == ZERO) for name, matrix in matrices(fit, rows).items()]
        )
        # Without random effects of its own, pi depends on none.
        own = conditional and ZERO_PART in fit.frame.parts
        blocks = _weighted(rows, own, {ZERO_PART: 1.0})
        variance = linear_predictor_variance(fit, np.zeros_like(rows.X), blocks, others)
        error = np.sqrt(variance)
        columns["se"] = pi * (1.0 - pi) * error
        if level is not None:
            half = _quantile(level) * error
            columns["lower"] = scipy.special.expit(logit - half)
            columns["upper"] = scipy.special.expit(logit + half)
    return _frame(columns, rows.index)


def _dependent_mean(
    fit: Fit, rows: Frame | NewFrame, conditional: bool, se: bool, level: float | None
) -> dict[str, np.ndarray]:
    """Means that depend on eta and on other parameters of the family, by column."""
    eta = linear_predictor(fit, rows, conditional)
    values = row_parameters(fit, rows, conditional)
    mu, slope, partial_slopes = _mean_gradient(fit.family, eta, values)
    valid = _valid(fit.family, mu)
    columns = {"fit": np.where(valid, mu, np.nan)}
    if not se and level is None:
        return columns
    made = matrices(fit, rows)
    parts = [made[name] * d[:, None] for name, d in zip(values, partial_slopes, strict=True)]
    others = np.column_stack(parts) if parts else None
    slopes = {CONDITIONAL: slope}
    if ZERO in values:
        slopes[ZERO_PART] = partial_slopes[list(values).index(ZERO)]
    blocks = _weighted(rows, conditional, slopes)
    error = np.sqrt(linear_predictor_variance(fit, rows.X * slope[:, None], blocks, others))
    columns["se"] = np.where(valid, error, np.nan)
    if level is not None:
        half = _quantile(level) * error
        columns["lower"], columns["upper"] = _mapped(fit.family, mu, half)
    return columns


def _mapped(family: Family, mu: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits symmetric about the mean on the scale of the link, where it has one for all means."""
    if hasattr(family, "absorbs_intercept") or not len(mu):
        return mu - half, mu + half
    with engine():
        centre = np.asarray(family.link.link(jnp.asarray(mu)))
    if not np.all(np.isfinite(centre)):
        return mu - half, mu + half
    _, slope = _means(family.link, centre)
    ends = [_means(family.link, centre + sign * half / slope)[0] for sign in (-1, 1)]
    lower, upper = np.sort(ends, axis=0)
    return lower, upper


def _quantile(level: float) -> float:
    return float(-scipy.special.ndtri((1.0 - level) / 2.0))


def _check(
    newdata: pd.DataFrame | None,
    kind: str,
    random: str,
    level: float | None,
    offset: Any,
    flags: dict[str, Any],
) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise ValueError(f"{name}={flag!r}; use True or False")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; use one of {', '.join(map(repr, KINDS))}")
    if random not in RANDOM:
        raise ValueError(f"random={random!r}; use one of {', '.join(map(repr, RANDOM))}")
    if level is not None:
        check_level(level)
    if kind == "category" and (flags["se"] or level is not None):
        raise ValueError(
            "kind='category' has no standard errors or limits; leave se= and level= out"
        )
    if newdata is None and offset is not None:
        raise ValueError(
            "offset= is for the rows of newdata, but newdata=None; the rows of the fit have its "
            "offset, so leave it out or pass their data as newdata"
        )


def _on_response_scale(family: Family, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means in place of linear predictors, by column; the limits in increasing order."""
    eta = columns["fit"]
    mu, slope = _means(family.link, eta)
    valid = _valid(family, mu)
    out = {"fit": np.where(valid, mu, np.nan)}
    if "se" in columns:
        out["se"] = np.where(valid, slope * columns["se"], np.nan)
    if "lower" in columns:
        lower, upper = columns["lower"], columns["upper"]
        limits = np.sort([_means(family.link, lower)[0], _means(family.link, upper)[0]], axis=0)
        if family.link.name in TWO_SIDED:
            limits[:, (lower <= 0) & (upper >= 0)] = np.nan
        out["lower"], out["upper"] = np.where(_valid(family, limits), limits, np.nan)
    return out


def _valid(family: Family, mu: np.ndarray) -> np.ndarray:
    """Whether each is a mean that the family can have: some links give others too."""
    low, high = family.mean_range
    return (mu >= low) & (mu <= high)


def _means(link: Link, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mu and |dmu/deta| of each row, (rows,)."""
    n = len(eta)
    if n == 0:
        return eta, eta
    with engine():
        found = run(_mean_and_slope, padded(eta, bucket(n)), link=link)
    mu, slope = (np.array(part)[:n] for part in found)
    return mu, slope


def _mean_gradient(
    family: Family, eta: np.ndarray, values: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """mu, dmu/deta and dmu/d(each other parameter), (rows,)."""
    n = len(eta)
    if n == 0:
        return eta, eta, [eta] * len(values)
    size = bucket(n)
    parts = [padded(part, size) for part in values.values()]
    with engine():
        mu, slope, others = run(_mean_and_gradient, padded(eta, size), parts, family=family)
    return np.array(mu)[:n], np.array(slope)[:n], [np.array(one)[:n] for one in others]


@partial(jax.jit, static_argnames=("link",))
def _mean_and_slope(eta: jax.Array, *, link: Link) -> tuple[jax.Array, jax.Array]:
    mu, slope = jax.jvp(link.inverse, (eta,), (jnp.ones_like(eta),))
    return mu, jnp.abs(slope)


@partial(jax.jit, static_argnames=("family",))
def _mean_and_gradient(
    eta: jax.Array, values: list[jax.Array], *, family: Family
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    def total(eta: jax.Array, values: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        mu = family.mean(eta, as_dispersion(values))
        # Rows do not depend on each other: the gradient of the sum is that of each.
        return jnp.sum(mu), mu

    (slope, others), mu = jax.grad(total, argnums=(0, 1), has_aux=True)(eta, values)
    return mu, slope, others
