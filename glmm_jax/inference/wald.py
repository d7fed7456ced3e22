"""Wald statistics and their p-values, and what to say where there is none."""

from __future__ import annotations

import math

import numpy as np


def two_sided(z: np.ndarray | float) -> np.ndarray:
    """Two-sided p-values of z statistics, 2 Phi(-|z|), of the same shape.

    By Python's own erfc: SciPy's special functions take longer to import than a summary to print.
    """
    values = np.asarray(z, float)
    tails = [math.erfc(abs(value) / math.sqrt(2.0)) for value in values.ravel().tolist()]
    return np.array(tails).reshape(values.shape)


def wald(estimate: np.ndarray, covariance: np.ndarray) -> tuple[float, tuple[str, ...]]:
    """d' C^-1 d for estimates d, (r,), with covariance C, (r, r), and what there is to note.

    NaN where the covariance is not finite or singular: some combination has no standard error.
    """
    if not np.all(np.isfinite(covariance)):
        return np.nan, ("The covariance matrix of the coefficients is not known.",)
    se = np.sqrt(np.diag(covariance))
    if np.all(se > 0):
        values, vectors = np.linalg.eigh(covariance / np.outer(se, se))
        if values[0] > 1e-12 * values[-1]:
            turned = vectors.T @ (estimate / se)
            return float(np.sum(turned**2 / values)), ()
    return np.nan, (
        "The covariance matrix of what is tested is singular: the data say nothing about some "
        "combination of these coefficients (see fit.warnings).",
    )
