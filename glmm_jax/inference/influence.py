"""Influence of single rows or groups of rows on the estimates, without refitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import leave_one, leave_out, sensitivity
from glmm_jax.driver import estimate_lanes
from glmm_jax.estimate import checked
from glmm_jax.inference import derivatives, parameter_names
from glmm_jax.inference.influence_table import Influence
from glmm_jax.model import flatten
from glmm_jax.runtime import engine, run
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

METHODS = ("second-order", "first-order", "refit")
BLOCK = 64  # groups that one call of a program takes at most
LARGEST_LANES = 1 << 25  # weights of the refits that are held at once


def influence(fit: Fit, by: str | None = None, *, method: str = "second-order") -> Influence:
    """What each row, or each group of rows, does to the estimates: how they move without it.

    First order is -H^-1 G_, with G_ the gradient of the deviance without the group at the estimate
    (the modes found anew without it) and H the Hessian. Second order adds what the gradient says at
    the place the first step leads to; for single rows, the second term of the expansion in the
    row's share. Both include theta and the dispersion. A variance at zero stays there.

    A group that is a level of a grouping factor leaves with its random effect. Rows are taken one
    by one with by=None: all of them at once for the Laplace approximation and one linear predictor
    a row, else one after another.

    Parameters
    ----------
    by : a grouping factor of the model or a column of the data, whose values are the groups; None
        for single rows.
    method : "second-order", "first-order", or "refit", which fits the model without each group (all
        of them in one program, from the estimate), and takes its time.

    Returns
    -------
    Influence: `dfbeta`, `dfbetas`, `cooks_distance`, `parameters`, `to_frame()`; drawn by
    `gj.plots.influence`.

    Raises
    ------
    ValueError : a by that is no column, another method, a fit that has not converged or is no
        maximum in all parameters (nagq=0, reml=True).

    Source: Cook (1977), Technometrics 19, 15-18; Belsley, Kuh and Welsch (1980), Regression
    Diagnostics; Pregibon (1981), Annals of Statistics 9, 705-724 (one step).
    """
    derivatives.check_maximum(fit, "influence")
    if method not in METHODS:
        raise ValueError(f"method={method!r}; use one of {', '.join(map(repr, METHODS))}")
    plain = fit.nagq == 1 and not fit.numbers.random_parameters
    single = by is None and method != "refit" and plain
    third = None
    if single and method == "second-order":
        hessian, third = derivatives.third(fit)
    else:
        hessian = derivatives.local(fit).hessian
    inverse = derivatives.inverse_hessian(fit, hessian)
    if by is None:
        codes, labels = np.arange(fit.nobs), fit.frame.index
    else:
        codes, labels = derivatives.groups(fit, by, "influence")
    if single:
        first, moved, density, own, others = _rows(fit, inverse, third)
    else:
        first, moved = _groups(fit, inverse, codes, len(labels), method)
        density, own, others = _consequences(fit, moved, codes)
    names = list(fit.vcov_all.index)
    psi = parameter_names.flat(fit)
    return Influence(
        by=by,
        method=method,
        rows=pd.Series(np.bincount(codes, minlength=len(labels)), labels, name="rows"),
        original=pd.Series(psi, names, name="estimate"),
        without=pd.DataFrame(_canonical(fit, psi + moved), labels, names),
        first=pd.DataFrame(first, labels, names),
        parameters=pd.DataFrame(
            parameter_names.values(fit, psi + moved), labels, parameter_names.names(fit)
        ),
        covariance=pd.DataFrame(2.0 * inverse, names, names),
        coefficients=len(fit.params),
        log_density=pd.Series(density, labels, name="log_density"),
        own=pd.Series(own, labels, name="own"),
        others=None if others is None else pd.Series(others, labels, name="others"),
    )


def _canonical(fit: Fit, flat: np.ndarray) -> np.ndarray:
    """Parameters (k, P) with signs of theta as a fit has them."""
    with engine():
        out = np.asarray(run(leave_out.canonical, jnp.asarray(flat), fit.model))
    # A step that found no mode is not a number, and stays so.
    return np.where(np.isfinite(flat), out, np.nan)


def _rows(fit: Fit, inverse: np.ndarray, third: np.ndarray | None) -> tuple:
    """Moves to first order and, with third derivatives, to second, (nobs, P); log densities,
    changes of eta, None."""
    n, arguments = fit.nobs, derivatives.arguments(fit)

    def cut(found: Any) -> Any:
        return jax.tree.map(lambda a: np.asarray(a)[:n], found)

    with engine():
        eye = jnp.eye(fit.df)
        zero = jnp.zeros((fit.df, fit.numbers.n))
        rates = derivatives.weight_rates(fit)
        J = cut(run(sensitivity.seen, *arguments, rates, eye, zero, together=1).link.T)
        if third is None:
            found = cut(run(leave_one.rows, *arguments))
            first = moved = found.gradient @ inverse
            density = found.log_density - 0.5 * np.sum(found.gradient * first, axis=1)
        else:
            found, first, along = cut(run(leave_one.bent_rows, *arguments, jnp.asarray(inverse)))
            shared = np.einsum("abc,nb,nc->na", third, first, first, optimize=True)
            moved = first + (along - 0.5 * shared) @ inverse
            density = found.log_density - 0.5 * np.sum(found.gradient * moved, axis=1)
            density -= 0.25 * np.sum(along * first, axis=1)
    return first, moved, density, found.own - np.sum(J * moved, axis=1), None


def _groups(
    fit: Fit, inverse: np.ndarray, codes: np.ndarray, k: int, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Moves to first order and by the method, (k, P)."""
    found = removed(fit, inverse, codes, k)
    if method == "first-order":
        return found.first, found.first
    if method == "second-order":
        return found.first, found.second
    return found.first, refits(fit, codes, k) - parameter_names.flat(fit)


def removed(fit: Fit, inverse: np.ndarray, codes: np.ndarray, k: int) -> leave_out.Changed:
    """`changed` for k groups that are left out."""
    return changed(fit, inverse, codes, k, np.zeros(fit.numbers.n), np.asarray(fit.numbers.y))


def changed(
    fit: Fit, inverse: np.ndarray, codes: np.ndarray, k: int, weights: np.ndarray, y: np.ndarray
) -> leave_out.Changed:
    """`leave_out.changed` for k groups, in NumPy arrays."""
    together, member = derivatives.together(fit), derivatives.member(fit, codes)

    def block(groups: np.ndarray, count: np.ndarray) -> leave_out.Changed:
        return run(
            leave_out.changed, *derivatives.arguments(fit), jnp.asarray(inverse), member, groups,
            count, weights, y, nagq=fit.nagq, together=together,
        )  # fmt: skip

    return _blocks(block, k, together)


def refits(fit: Fit, codes: np.ndarray, k: int) -> np.ndarray:
    """Estimates without each of k groups, (k, P); NaN where a refit did not converge."""
    begin = fit.estimate.params
    settings = checked(
        fit.model, fit.nagq, jax.tree.map(jnp.asarray, begin), fit.call.optimizer,
        fit.call.max_steps, fit.reml,
    )  # fmt: skip
    member, weights = derivatives.member(fit, codes), np.asarray(fit.numbers.weights)
    flat = np.full((k, fit.df), np.nan)
    chunk = max(1, LARGEST_LANES // fit.numbers.n)
    for low in range(0, k, chunk):
        asked = np.arange(low, min(low + chunk, k))
        lanes = {"weights": np.where(member[None] == asked[:, None], 0.0, weights[None])}
        found = estimate_lanes(fit.model, lanes, settings, begin)
        with engine():
            values = np.asarray(jax.vmap(flatten)(found.params))
        flat[asked] = np.where(found.status[:, None] == Status.CONVERGED, values, np.nan)
    return flat


def _consequences(fit: Fit, moved: np.ndarray, codes: np.ndarray) -> tuple:
    """Log density of each group without it, change of eta in its rows and in the others, (k,)."""
    together, member = derivatives.together(fit), derivatives.member(fit, codes)
    flat = parameter_names.flat(fit) + moved

    def block(groups: np.ndarray, count: np.ndarray) -> leave_out.Consequences:
        there = jnp.asarray(flat[np.minimum(groups, len(flat) - 1)])
        return run(
            leave_out.consequences, *derivatives.arguments(fit), there, member, groups, count,
            nagq=fit.nagq, together=together,
        )  # fmt: skip

    return tuple(_blocks(block, len(flat), together))


def _blocks(function: Callable[[np.ndarray, np.ndarray], Any], k: int, together: int) -> Any:
    """function(groups, count) of k groups, a block of fixed size after another: one program serves
    every number of groups."""
    size = BLOCK // together * together
    parts = []
    for low in range(0, k, size):
        count = min(size, k - low)
        with engine():
            found = function(low + np.arange(size), np.asarray(count))
            parts.append(jax.tree.map(lambda a, count=count: np.asarray(a)[:count], found))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
