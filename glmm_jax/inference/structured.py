"""What analysts see of a covariance with one correlation: names, values, standard errors, limits.

Compound symmetry has a standard deviation per column and a "common" correlation, AR(1) one standard
deviation and the correlation of neighbours, "lag 1". Their parameters are those of `covariance`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from glmm_jax import covariance
from glmm_jax.covariance import AR1, Structured
from glmm_jax.formula.frame import RandomBlock

LAG, COMMON = BETWEEN = ("lag 1", "common")


def names(block: RandomBlock) -> list[tuple[str, str | None]]:
    """Of each parameter the column, or what stands for all of them, and for a correlation what it
    is between; in the order of theta."""
    if block.structure == "ar1":
        return [(block.label, None), (block.label, LAG)]
    return [*((name, None) for name in block.names), (block.label, COMMON)]


def theta_names(block: RandomBlock) -> list[str]:
    """Names of the parameters as the engine has them, in the order of theta."""
    if block.structure == "ar1":
        first = [f"{block.grouping}.sd({block.label})"]
    else:
        first = [f"{block.grouping}.sqrt(sd({name}))" for name in block.names]
    return [*first, f"{block.grouping}.angle({block.label})"]


def defined(kind: Structured, theta: np.ndarray) -> bool:
    """Whether enough standard deviations are positive for a correlation to mean anything."""
    return int(np.sum(theta[:-1] != 0)) >= (1 if isinstance(kind, AR1) else 2)


def at_end(theta: np.ndarray) -> bool:
    """Whether the correlation is exactly at an end of its range."""
    return bool(abs(theta[-1]) == covariance.RIGHT_ANGLE)


class Values(NamedTuple):
    """Standard deviations and then the correlation, (size,), and their derivatives in their own
    parameter, (size,); NaN for a correlation that is not defined."""

    values: np.ndarray
    slopes: np.ndarray


def reported(kind: Structured, theta: np.ndarray) -> Values:
    """Standard deviations and the correlation from the parameters, (size,)."""
    sd, t = covariance.deviations(kind, theta), theta[-1]
    rho = covariance.correlation(kind, t) if defined(kind, theta) else np.nan
    if isinstance(kind, AR1):
        slopes = [np.sign(theta[0]), np.cos(t)]
    else:
        k = kind.columns
        slopes = [*(2 * theta[:-1]), 0.5 * k / (k - 1) * np.cos(t)]
    return Values(np.append(sd, rho), np.array(slopes))


def correlation_limits(
    kind: Structured, r: float, se: float, quantile: float
) -> tuple[float, float]:
    """Limits symmetric in Fisher's z = log((1 + (k - 1) r) / (1 - r)) / k, k = 2 for AR(1).

    Source: Fisher (1925), Statistical Methods for Research Workers, on intraclass correlations.
    """
    if not np.isfinite(se):
        return np.nan, np.nan
    k = 2 if isinstance(kind, AR1) else kind.columns
    z = np.log((1 + (k - 1) * r) / (1 - r)) / k
    half = quantile * se / ((1 + (k - 1) * r) * (1 - r))
    # exp(k z) may be beyond the largest number: divide by it instead.
    low, high = (
        (1 - np.exp(-k * end)) / (1 + (k - 1) * np.exp(-k * end))
        if end > 0
        else np.expm1(k * end) / (np.exp(k * end) + k - 1)
        for end in (z - half, z + half)
    )
    return float(low), float(high)
