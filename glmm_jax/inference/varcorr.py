"""Variances and correlations of the random effects, and the names of the covariance parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from glmm_jax.covariance import Full
from glmm_jax.formula.frame import Frame

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def theta_names(frame: Frame) -> list[str]:
    """Names of theta, (m,): "district.Intercept", "district.urban[T.Y].Intercept", ...

    As lme4 writes them: the grouping factor, then the row and the column of Lambda; a diagonal
    element names its column once.
    """
    names = []
    for block in frame.blocks:
        row, column = Full(len(block.names)).entries()
        for i, j in zip(row, column, strict=True):
            parts = [block.names[i]] if i == j else [block.names[i], block.names[j]]
            names.append(".".join([block.grouping, *parts]))
    return names


def triangles(frame: Frame, theta: ArrayLike) -> tuple[np.ndarray, ...]:
    """Lambda of each block of the frame, (k, k) lower triangular, from theta, (m,)."""
    elements = np.asarray(theta)
    out, start = [], 0
    for block in frame.blocks:
        kind = Full(len(block.names))
        Lambda = np.zeros((kind.columns, kind.columns))
        Lambda[kind.entries()] = elements[start : start + kind.size]
        out.append(Lambda)
        start += kind.size
    return tuple(out)


def in_zero_column(frame: Frame, theta: ArrayLike) -> np.ndarray:
    """Which elements of theta, (m,) bool, lie in a column of Lambda that is exactly zero.

    The deviance is even in such a column, so its gradient vanishes there by symmetry, and the
    column has no standard error.
    """
    flags = []
    for Lambda in triangles(frame, theta):
        _, column = Full(len(Lambda)).entries()
        zero = np.all(Lambda == 0, axis=0)
        flags.append(zero[column])
    return np.concatenate(flags)


def varcorr(fit: Fit) -> pd.DataFrame:
    """Variances, covariances, standard deviations and correlations of the random effects.

    Returns
    -------
    A data frame of lme4's shape (as.data.frame(VarCorr(fit))), one row per parameter: group; name1
    and name2, columns of the term (name2 is missing for a variance); vcov, variance or covariance;
    sdcor, standard deviation or correlation (NaN where a variance is zero). Within a term the
    variances stand first. A family with a dispersion adds a last row "Residual".
    """
    rows: list[tuple[str, str | None, str | None, float, float]] = []
    for block, Lambda in zip(fit.frame.blocks, triangles(fit.frame, fit.theta), strict=True):
        V = Lambda @ Lambda.T
        sd = np.sqrt(np.diag(V))
        for j, name in enumerate(block.names):
            rows.append((block.grouping, name, None, V[j, j], sd[j]))
        R = correlations(V)
        for i, j in zip(*np.tril_indices(len(V), -1), strict=True):
            rows.append((block.grouping, block.names[j], block.names[i], V[i, j], R[i, j]))
    if fit.dispersion is not None:
        rows.append(("Residual", None, None, fit.dispersion, fit.sigma))
    table = pd.DataFrame(rows, columns=["group", "name1", "name2", "vcov", "sdcor"])
    # One dtype whether or not a column holds nothing but missing names.
    return table.astype({"name1": "str", "name2": "str"})


def correlations(V: np.ndarray) -> np.ndarray:
    """Correlation matrix of a covariance matrix, (k, k); NaN where a variance is zero."""
    sd = np.sqrt(np.diag(V))
    sd = np.where(sd > 0, sd, np.nan)
    return V / np.outer(sd, sd)
