"""Measurement error in a covariate: how far it has pulled the estimates, and where they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import sensitivity
from glmm_jax.inference import derivatives
from glmm_jax.inference.design_rates import column_rates
from glmm_jax.inference.robust import fewest, shares, tying
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

LARGEST = 25_000_000  # numbers in a table of errors by rows


def measurement_error(fit: Fit, column: str, sd: float, *, by: str | None = None) -> pd.DataFrame:
    """First-order correction of the estimates for random error in a numeric column of the data.

    Let each value be the true one plus an independent error of mean 0 and variance sd^2, and
    psi(x) the estimate from the values x. More error of that kind, lambda sd^2 of it, changes the
    expectation of the estimate by lambda b + O(lambda^2),

        b = (sd^2 / 2) sum_i d^2 psi / dx_i^2,

    with the second derivatives total, by the implicit function theorem, through every column of X,
    Z and further models that x enters (I(x^2) and interactions too). The corrected estimate is
    psi - b: the simulation-extrapolation (SIMEX) estimate with the straight line at lambda = 0
    continued to lambda = -1, without its simulations. It leaves an error of the order sd^4, and
    undoes most of the attenuation if sd is small beside the spread of x.

    It takes a second derivative for each error that may meet others in a level: as many as the
    largest group of the outermost grouping factor has errors, and as there are errors altogether
    where factors are crossed, levels are related or an error is in several levels of that factor.

    Parameters
    ----------
    column : a numeric column of the data. sd : standard deviation of its error, in its units.
    by : a column whose groups share one error, where the covariate was measured once for each. None
        for an error a row.

    Returns
    -------
    A data frame with a row for each parameter of `Fit.vcov_all`: "estimate", "std_error", "change"
    (b), "corrected" (psi - b; standard errors of it are larger), "change_in_se".

    Raises
    ------
    ValueError : no numeric column of that name in the model, an sd that is not positive, `by` no
        column, a table of more than 25 million numbers, errors by rows, where all errors may meet,
        a fit that has not converged or is no maximum.

    Source: Cook and Stefanski (1994), Simulation-extrapolation estimation in parametric measurement
    error models, JASA 89, 1314-1328; Stefanski (1985), Biometrika 72, 583-592 (small error).
    """
    derivatives.check_maximum(fit, "measurement_error")
    number = isinstance(sd, int | float | np.number) and not isinstance(sd, bool)
    if not number or not (np.isfinite(sd) and sd > 0):
        raise ValueError(f"sd={sd!r}; use the standard deviation of the error, above 0")
    with engine():
        rates, bends = column_rates(fit, column, "column")
    unit = np.arange(fit.nobs)
    if by is not None:
        unit, _ = derivatives.groups(fit, by, "measurement_error")
    outer = _apart(fit, by, unit)
    local = derivatives.local(fit, rates)
    inverse = derivatives.inverse_hessian(fit, local.hessian)
    total = second_derivatives(fit, rates, bends, local, inverse, unit, outer)
    change = 0.5 * sd**2 * total
    error = np.sqrt(2.0 * np.diag(inverse))
    estimate = np.array([*fit.params, *fit.theta, *fit.dispersion_params])
    in_se = np.divide(change, error, out=np.full(len(change), np.nan), where=error > 0)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "std_error": error,
            "change": change,
            "corrected": estimate - change,
            "change_in_se": in_se,
        },
        fit.vcov_all.index,
    )


def _apart(fit: Fit, by: str | None, unit: np.ndarray) -> np.ndarray:
    """Group of each row, (nobs,): errors of different groups do not meet given the parameters.

    Raises:
        ValueError: all may meet, and are more than a table by rows can hold.
    """
    groups = np.asarray(fewest(fit).index)
    if tying(fit, groups) is None and not shares(groups, unit):
        return groups
    together = unit.max() + 1
    if together * fit.numbers.n > LARGEST:
        raise ValueError(
            f"by={by!r}: {together} errors move together, each a second derivative in {fit.nobs} "
            "rows; use a column whose groups share one error, or fewer rows"
        )
    return np.zeros(fit.nobs, int)


def second_derivatives(
    fit: Fit,
    rates: sensitivity.Rates,
    bends: sensitivity.Rates,
    local: sensitivity.Local,
    inverse: np.ndarray,
    unit: np.ndarray,
    outer: np.ndarray,
) -> np.ndarray:
    """sum over units of d^2 psi / de^2, (P,).

    H psi'' = -(G_ee + 2 G_pe psi' + G_pp[psi', psi']) for one error e. The last two sum over all
    units by P directions each. In the first, units in different groups of the outermost grouping
    factor (`outer`; one for all if nothing keeps them apart) do not meet given psi, so one of each
    group is moved at a time: as many second derivatives along a direction as the largest group has
    units, and each exact.
    """
    n, size = fit.nobs, fit.numbers.n
    sums = np.zeros((unit.max() + 1, fit.df))
    np.add.at(sums, unit, np.asarray(local.mixed)[:, :n].T)
    moves = -inverse @ sums.T  # psi' of each unit, (P, units)
    first = np.zeros(len(sums), int)
    first[unit] = outer
    place = np.zeros(len(first), int)
    for group in np.unique(first):
        own = np.flatnonzero(first == group)
        place[own] = np.arange(len(own))
    colours = np.zeros((place.max() + 1, size))
    np.add.at(colours, (place[unit], np.arange(n)), 1.0)
    carried = np.zeros((fit.df, size))
    carried[:, :n] = moves[:, unit]
    with engine():
        found = run(
            sensitivity.second, *derivatives.arguments(fit), rates, bends, jnp.asarray(colours),
            jnp.asarray(carried), nagq=fit.nagq,
        )  # fmt: skip
    own, mixed = jax.tree.map(np.asarray, found)
    bent = np.einsum("abc,bu,cu->a", derivatives.third(fit)[1], moves, moves, optimize=True)
    return -inverse @ (own + 2.0 * mixed + bent)
