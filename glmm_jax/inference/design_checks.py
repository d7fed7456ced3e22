"""What the design alone does to a fit: variance inflation and leverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import pirls, predictors
from glmm_jax.formula.fixed import term_columns
from glmm_jax.inference.varcorr import correlations
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, lambdas
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def vif(fit: Fit) -> pd.DataFrame:
    """Generalised variance inflation factors of the terms of the fixed effects.

        GVIF_t = |R_tt| |R_oo| / |R|

    with R the correlation matrix of the coefficients without the intercept, R_tt its block of term
    t and R_oo that of the other terms: how much larger the confidence region of the term is than it
    would be if the term were orthogonal to the others. For a term of one column it is the usual
    VIF. Terms that are functions of each other (powers, interactions) have large values by
    construction; without an intercept the values mean little.

    Returns
    -------
    A data frame with a row for each term and columns "GVIF", "df" (coefficients of the term) and
    "GVIF^(1/(2 df))", which compares terms of different df: the factor on the scale of a standard
    error. NaN where a coefficient has no standard error. No rows without terms.

    Source: Fox & Monette (1992), Generalized collinearity diagnostics, J. Am. Stat. Assoc. 87,
    178-183.
    """
    frame = fit.frame
    position = np.cumsum(frame.design.kept) - 1  # of a column of the coding in X
    columns = {}
    for term in term_columns(frame.design.fixed):
        own = np.arange(term.start, term.stop)
        own = position[own[frame.design.kept[own]]]
        if own.size:
            columns[term.name] = own
    used = np.concatenate([*columns.values(), np.empty(0, int)]).astype(int)
    V = fit.cov_params().to_numpy()
    rows = []
    for own in columns.values():
        others = np.setdiff1d(used, own)
        gvif = np.exp(_logdet(V, own) + _logdet(V, others) - _logdet(V, used))
        rows.append((gvif, len(own), gvif ** (0.5 / len(own))))
    return pd.DataFrame(rows, pd.Index(columns, name="term"), ["GVIF", "df", "GVIF^(1/(2 df))"])


def _logdet(V: np.ndarray, chosen: np.ndarray) -> float:
    """log determinant of the correlation matrix of the chosen coefficients; NaN if singular."""
    if not chosen.size:
        return 0.0
    part = V[np.ix_(chosen, chosen)]
    if not np.all(np.isfinite(part)):
        return np.nan
    sign, value = np.linalg.slogdet(correlations(part))
    return float(value) if sign > 0 else np.nan


def leverage(fit: Fit) -> pd.Series:
    """Leverage of each row used: the diagonal of the hat matrix at the estimate, (nobs,).

        h_i = w_i a_i' A^-1 a_i,     a_i' = (z_i' Lambda, x_i'),     A = sum_i w_i a_i a_i' + P

    with w the expected information about eta of each row (prior weight included), and P the
    identity for the random effects, zero for the fixed effects: the weighted least squares problem
    that PIRLS solves in its last step. h_i is the share of its own response in the fitted value of
    a row; 0 <= h_i <= 1, and the sum, between p and p + q, is the effective number of coefficients.

    lme4's `hatvalues` is the same for a linear mixed model; for the others it leaves the
    information out of w (and warns).

    Returns
    -------
    Series (nobs,) with the labels of the rows used.
    """
    with engine():
        h = run(_leverage, fit.estimate.params, fit.model, fit.estimate.u)
    return pd.Series(np.array(h)[: fit.nobs], fit.frame.index, name="leverage")


@jax.jit
def _leverage(params: Params, model: Model, u: jax.Array) -> jax.Array:
    """h of each row, (n,)."""
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, "expected")
    structure, Z, Lambda = model.structure, model.Z, lambdas(params.theta, model)

    def logdet(weights: jax.Array) -> tuple[jax.Array, base.Factor]:
        factor = base.factorise(structure, Z, Lambda, weights)
        return base.logdet(factor), factor

    # With H = sum_i w_i a_i a_i' + I, d log|H| / dw_i = a_i' H^-1 a_i: no column of H^-1 is formed
    # for any row, and a data set with thousands of levels needs no more memory than its deviance.
    random, factor = jax.grad(logdet, has_aux=True)(information)
    edge = pirls.border(params, model, factor, information)
    # What the random effects do not take from x_i: x_i - (H^-1 Lambda' Z' W X)' Lambda' z_i.
    taken = jax.lax.map(lambda column: base.multiply(structure, Z, Lambda, column), edge.columns.T)
    left = predictors.fixed_columns(model) - taken.T
    fixed = jnp.sum(left * jnp.linalg.solve(edge.schur, left.T).T, axis=1)
    return information * (random + fixed)
