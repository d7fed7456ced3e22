"""Derivatives of what a fit says in the numbers that it was computed from, as labelled frames."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import sensitivity as engine_of
from glmm_jax.inference import derivatives, parameter_names
from glmm_jax.inference.design_rates import column_rates
from glmm_jax.runtime import engine, run
from glmm_jax.sensitivity import Local, Rates

if TYPE_CHECKING:
    from glmm_jax.results import Fit

OF = ("params", "theta", "dispersion", "all", "varcorr", "llf", "bse", "fitted", "link")
LARGEST = 25_000_000  # numbers in a table of rows by rows


def sensitivity(fit: Fit, of: str = "params", wrt: str = "weights") -> pd.DataFrame:
    """Derivative of something the fit says in each row's weight, response, offset or covariate.

    The derivative of the estimate is total: beta, theta and the dispersion move together, and the
    modes with them. A variance at zero stays there, its derivative being zero.

    Parameters
    ----------
    of : "params", coefficients; "theta"; "dispersion"; "all" of these; "varcorr", standard
        deviations and correlations (with sigma or the dispersion); "llf"; "bse"; "fitted" or
        "link", conditional mean and linear predictor of every row.
    wrt : "weights", the weight of the row's log density (1 where none was given); "y", of a
        continuous response; "offset"; "X:name", one column of the model matrix; or a numeric column
        of the data, through every column of X, Z and the dispersion's model that it enters.

    Returns
    -------
    A data frame with a row for each row used, and a column for each thing: entry (i, k) is the
    derivative of thing k in the number of row i.

    Raises
    ------
    ValueError : another `of` or `wrt`; wrt="y" for counts and categories; a fit that has not
        converged or is no maximum in all parameters (nagq=0, reml=True); a table of rows by rows
        with more than 25 million numbers.
    """
    if of not in OF:
        raise ValueError(f"of={of!r}; use one of {', '.join(map(repr, OF))}")
    derivatives.check_maximum(fit, "sensitivity")
    n = fit.nobs
    if of in ("fitted", "link") and n * n > LARGEST:
        raise ValueError(
            f"of={of!r}: the table of {n} by {n} rows is too large; use fit.influence(), whose "
            "column 'own' says what each row does to its own linear predictor"
        )
    rates = disturbance(fit, wrt)
    local = derivatives.local(fit, rates)
    inverse = derivatives.inverse_hessian(fit, local.hessian)
    moves = -local.mixed[:, :n].T @ inverse
    if of == "llf":
        return pd.DataFrame({"llf": -0.5 * local.slope[:n]}, fit.frame.index)
    if of == "bse":
        values = _standard_errors(fit, rates, local, inverse)
        return pd.DataFrame(values, fit.frame.index, list(fit.params.index))
    if of in ("fitted", "link"):
        values = _seen(fit, rates, moves, of)
        return pd.DataFrame(values, fit.frame.index, fit.frame.index)
    return _table(fit, of, moves)


def _table(fit: Fit, of: str, moves: np.ndarray) -> pd.DataFrame:
    """Moves of all parameters, (n, P), as those that are asked for."""
    index = fit.frame.index
    if of == "varcorr":
        where = parameter_names.layout(fit)
        with engine():
            slope = jax.jacfwd(lambda x: parameter_names.transform(x, where))
            J = np.asarray(slope(jnp.asarray(parameter_names.flat(fit))))
        p = len(fit.params)
        names = parameter_names.names(fit)[p:]
        # A correlation with a variance of zero, or a standard deviation at zero, has no slope.
        return pd.DataFrame((moves @ J.T)[:, p:], index, names)
    table = pd.DataFrame(moves, index, fit.vcov_all.index)
    chosen = {
        "params": list(fit.params.index),
        "theta": list(fit.theta.index),
        "dispersion": list(fit.dispersion_params.index),
        "all": list(table.columns),
    }
    return table.loc[:, chosen[of]]


def disturbance(fit: Fit, wrt: str) -> Rates:
    """The rates of a disturbance by its name; see `sensitivity`.

    Raises:
        ValueError: as there.
    """
    with engine():
        none = engine_of.no_rates(fit.model)
        ones = derivatives.real(fit)
        if wrt == "weights":
            return replace(none, weights=ones)
        if wrt == "offset":
            return replace(none, offset=ones)
        if wrt == "y":
            check_continuous(fit)
            return replace(none, y=ones)
        if isinstance(wrt, str) and wrt.startswith("X:"):
            name, names = wrt[2:], list(fit.frame.X_names)
            if name not in names:
                raise ValueError(
                    f"wrt={wrt!r}: the model matrix has no column {name!r}; its columns are "
                    f"{', '.join(map(repr, names))}"
                )
            return replace(none, X=none.X.at[:, names.index(name)].set(ones))
        return column_rates(fit, wrt, "wrt")[0]


def check_continuous(fit: Fit) -> None:
    """Raise a ValueError unless the response could be one half: counts and categories could not."""
    try:
        size = None if fit.model.size is None else np.ones(1)
        fit.family.check(np.array([0.5]), size)
    except ValueError:
        raise ValueError(
            f"wrt='y': a {fit.family.name} response holds counts or categories, in which nothing "
            "has a derivative; wrt='weights' says what each row contributes"
        ) from None


def _standard_errors(fit: Fit, rates: Rates, local: Local, inverse: np.ndarray) -> np.ndarray:
    """d bse_j = -h_j' dH h_j / bse_j with h_j = H^-1 e_j, and dH total, (nobs, p)."""
    p = len(fit.params)
    rows = inverse[:p]
    with engine():
        by_psi, by_delta = run(
            engine_of.bent, *derivatives.arguments(fit), rates, rows, rows, nagq=fit.nagq
        )
    moves = -inverse @ local.mixed
    total = np.asarray(by_delta) + np.asarray(by_psi) @ moves
    return -(total / np.sqrt(2.0 * np.diag(inverse)[:p])[:, None]).T[: fit.nobs]


def _seen(fit: Fit, rates: Rates, moves: np.ndarray, of: str) -> np.ndarray:
    """How eta or the mean of every row (columns) changes with each row's number (rows)."""
    n, size = fit.nobs, fit.numbers.n
    dpsi = np.zeros((size, fit.df))
    dpsi[:n] = moves
    with engine():
        found = run(
            engine_of.seen, *derivatives.arguments(fit), rates, dpsi, np.eye(size), together=8
        )
    changes = found.link if of == "link" else found.response
    return np.asarray(changes)[:n, :n]
