"""Predictions for the rows of the fit or for new data, with their uncertainty."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.special

from glmm_jax.build import bucket, padded
from glmm_jax.families.base import Family
from glmm_jax.formula.newdata import new_frame
from glmm_jax.inference.levels import check_level
from glmm_jax.inference.residuals import linear_predictor
from glmm_jax.inference.uncertainty import linear_predictor_variance
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

KINDS = ("response", "link")
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
    kind : "response", the mean (a probability where the response counts successes), or "link", eta.
    random : "conditional", with the conditional modes b of the levels in newdata; "population",
        with b = 0, so that grouping columns are not needed. On the response scale the latter is the
        mean of a level in the middle, not the average over levels. For both, Var(eta) as above;
        with b = 0 it is that of x' beta alone.
    se : whether to give standard errors; on the response scale |dmu/deta| times that of eta.
    level : of confidence intervals, 0.95 say; None for none. Limits are computed on the link scale
        and mapped. Where the link is not one-to-one over the interval ("sqrt" and "inverse", with
        eta = 0 inside it) there are none: NaN. So is any mean or limit that the family cannot have,
        a probability above one from the log link, say.
    offset : column of newdata or an array; needed if the model was fitted with an array as offset=.
    allow_new_levels : whether newdata may have levels of grouping factors that were not in the fit
        (or are missing). Their random effects are zero and, with random="conditional", their prior
        variance z' Lambda Lambda' z is part of the standard error.

    Returns
    -------
    A Series "fit" with newdata's index; with `se` or `level` a data frame with the columns fit, se
    and, with `level`, lower and upper.

    Raises
    ------
    ValueError : another kind or random, a level outside (0, 1), offset= without newdata, and for
        newdata: columns that are absent, missing values, unknown categories or levels.
    """
    _check(newdata, kind, random, level, offset)
    conditional = random == "conditional"
    rows = fit.frame
    if newdata is not None:
        rows = new_frame(
            fit.frame,
            newdata,
            offset=offset,
            random=conditional,
            allow_new_levels=allow_new_levels,
        )
    eta = linear_predictor(fit, rows, conditional)
    columns = {"fit": eta}
    if se or level is not None:
        blocks = rows.blocks if conditional else ()
        columns["se"] = np.sqrt(linear_predictor_variance(fit, rows.X, blocks))
    if level is not None:
        half = -scipy.special.ndtri((1.0 - level) / 2.0) * columns["se"]
        columns["lower"], columns["upper"] = eta - half, eta + half
    if kind == "response":
        columns = _on_response_scale(fit.family, columns)
    if len(columns) == 1:
        return pd.Series(columns["fit"], rows.index, name="fit")
    return pd.DataFrame(columns, rows.index)


def _check(
    newdata: pd.DataFrame | None, kind: str, random: str, level: float | None, offset: Any
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; use one of {', '.join(map(repr, KINDS))}")
    if random not in RANDOM:
        raise ValueError(f"random={random!r}; use one of {', '.join(map(repr, RANDOM))}")
    if level is not None:
        check_level(level)
    if newdata is None and offset is not None:
        raise ValueError(
            "offset= is for the rows of newdata, but newdata=None; the rows of the fit have its "
            "offset, so leave it out or pass their data as newdata"
        )


def _on_response_scale(family: Family, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means in place of linear predictors, by column; the limits in increasing order."""
    eta = columns["fit"]
    mu, slope = _means(family, eta)
    valid = _valid(family, mu)
    out = {"fit": np.where(valid, mu, np.nan)}
    if "se" in columns:
        out["se"] = np.where(valid, slope * columns["se"], np.nan)
    if "lower" in columns:
        lower, upper = columns["lower"], columns["upper"]
        limits = np.sort([_means(family, lower)[0], _means(family, upper)[0]], axis=0)
        if family.link.name in TWO_SIDED:
            limits[:, (lower <= 0) & (upper >= 0)] = np.nan
        out["lower"], out["upper"] = np.where(_valid(family, limits), limits, np.nan)
    return out


def _valid(family: Family, mu: np.ndarray) -> np.ndarray:
    """Whether each is a mean that the family can have: some links give others too."""
    low, high = family.mean_range
    return (mu >= low) & (mu <= high)


def _means(family: Family, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """mu and |dmu/deta| of each row, (rows,)."""
    n = len(eta)
    if n == 0:
        return eta, eta
    with engine():
        found = run(_mean_and_slope, padded(eta, bucket(n)), family=family)
    mu, slope = (np.array(part)[:n] for part in found)
    return mu, slope


@partial(jax.jit, static_argnames=("family",))
def _mean_and_slope(eta: jax.Array, *, family: Family) -> tuple[jax.Array, jax.Array]:
    mu, slope = jax.jvp(family.mean, (eta,), (jnp.ones_like(eta),))
    return mu, jnp.abs(slope)
