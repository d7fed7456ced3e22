"""From a fit to the derivatives of its estimate: which fits have them, what rows are called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import sensitivity
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.inference import varcorr, vcov
from glmm_jax.runtime import engine, run
from glmm_jax.sensitivity import Local, Rates

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def check_maximum(fit: Fit, verb: str) -> None:
    """Raise a ValueError unless the fit is the maximum of a likelihood in all its parameters."""
    if fit.nagq == 0 or fit.reml:
        found = "reml=True" if fit.reml else "nagq=0"
        raise ValueError(
            f"{verb}: a fit with {found} is no maximum of the likelihood in all parameters "
            "together; refit with nagq=1 and reml=False"
        )
    if not fit.converged:
        raise ValueError(
            f"{verb}: the fit has not converged, so its estimate has no derivative. {fit.message}"
        )


def held(fit: Fit) -> np.ndarray:
    """Parameters on the boundary, (P,) booleans: a variance of zero stays there to first order."""
    p, m = fit.numbers.p, fit.numbers.m
    out = np.zeros(fit.df, bool)
    out[p : p + m] = varcorr.held(fit.frame, fit.estimate.params.theta)
    return out


def inverse_hessian(fit: Fit, hessian: np.ndarray) -> np.ndarray:
    """H^-1, (P, P), zero for parameters that are held."""
    return 0.5 * vcov.covariance(hessian, ~held(fit))


def real(fit: Fit) -> jax.Array:
    """(n,) of the model: one for rows of the data, zero for padding. To be called in `engine()`."""
    return jnp.where(jnp.arange(fit.numbers.n) < fit.nobs, 1.0, 0.0)


def weight_rates(fit: Fit) -> Rates:
    """The disturbance that adds to the weight of a row's log density."""
    return replace(sensitivity.no_rates(fit.model), weights=real(fit))


def arguments(fit: Fit) -> tuple:
    """Parameters, model and mode, as the programs take them."""
    return fit.estimate.params, fit.model, fit.estimate.u


def local(fit: Fit, rates: Rates | None = None) -> Local:
    """`sensitivity.local` at the estimate, in NumPy arrays; by default for weights."""
    with engine():
        rates = weight_rates(fit) if rates is None else rates
        return jax.tree.map(
            np.asarray, run(sensitivity.local, *arguments(fit), rates, nagq=fit.nagq)
        )


def third(fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Hessian, (P, P), and third derivatives, (P, P, P), of the deviance in the parameters."""
    with engine():
        H, T = run(sensitivity.third, *arguments(fit), nagq=fit.nagq)
        return np.asarray(H), np.asarray(T)


def used_data(fit: Fit) -> pd.DataFrame | None:
    """The data of the rows used, None for a fit that was loaded from a file."""
    if fit.call.data is None:
        return None
    data = as_data_frame(fit.call.data)
    return data if fit.frame.kept_rows is None else data.loc[fit.frame.kept_rows, :]


def groups(fit: Fit, by: str, verb: str) -> tuple[np.ndarray, pd.Index]:
    """Group of each row used, (nobs,) integers, and the labels of the groups.

    by : a grouping factor of the model, or a column of the data.

    Raises:
        ValueError: neither of these, missing values, or a single group.
    """
    data = used_data(fit)
    factors = {block.grouping: block for block in fit.frame.blocks}
    if isinstance(by, str) and by in factors:
        codes, levels = np.asarray(factors[by].index), factors[by].levels
        # Levels known by a relationship matrix alone have no rows.
        seen = np.unique(codes)
        codes, levels = np.searchsorted(seen, codes), levels[seen]
    elif isinstance(by, str) and data is not None and by in data.columns:
        codes, found = pd.factorize(data[by], sort=True)
        if np.any(codes < 0):
            raise ValueError(f"by={by!r}: {int(np.sum(codes < 0))} rows have no value; fill them")
        levels = pd.Index(found)
    else:
        columns = [] if data is None else list(data.columns)
        known = dict.fromkeys([*factors, *map(str, columns)])
        listed = ", ".join(map(repr, known))
        raise ValueError(f"{verb}: by={by!r} is no column of the data; use one of {listed}")
    if len(levels) < 2:
        raise ValueError(f"by={by!r} has one level, without which there are no rows; use another")
    return np.asarray(codes), levels.rename(by)


def member(fit: Fit, codes: np.ndarray) -> np.ndarray:
    """Group of each row of the padded model, -1 in the padding."""
    out = np.full(fit.numbers.n, -1)
    out[: len(codes)] = codes
    return out


def together(fit: Fit) -> int:
    """How many groups go side by side: a cache's worth of rows."""
    return int(np.clip((1 << 15) // fit.numbers.n, 1, 8))
