"""Variances and correlations of the random effects, and the terms of the covariance parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

from glmm_jax import covariance as kinds
from glmm_jax.build import kind_of
from glmm_jax.covariance import Covariance, Full, Structured, structured_factor
from glmm_jax.formula.frame import CONDITIONAL, Frame, RandomBlock
from glmm_jax.inference import structured, vcov
from glmm_jax.inference.levels import check_level, percent
from glmm_jax.inference.parameter_names import has_sigma, prefix

if TYPE_CHECKING:
    from glmm_jax.results import Fit


@dataclass(frozen=True, eq=False)
class CovarianceTerm:
    """One term of theta: its block of the frame, the kind of its covariance, its part of theta."""

    block: RandomBlock
    kind: Covariance
    part: slice

    def triangle(self, theta: ArrayLike) -> np.ndarray:
        """Lambda of the term, (k, k) lower triangular, from the whole theta, (m,)."""
        if isinstance(self.kind, Structured):
            return structured_factor(self.kind, np.asarray(theta)[self.part])
        Lambda = np.zeros((self.kind.columns, self.kind.columns))
        Lambda[self.kind.entries()] = np.asarray(theta)[self.part]
        return Lambda


def covariance_terms(frame: Frame) -> Iterator[CovarianceTerm]:
    """The terms of theta in its order, which is that of the frame's blocks."""
    start = 0
    for block in frame.blocks:
        kind = kind_of(block)
        yield CovarianceTerm(block, kind, slice(start, start + kind.size))
        start += kind.size


def theta_names(frame: Frame) -> list[str]:
    """Names of theta, (m,): "district.Intercept", "district.urban[T.Y].Intercept", ...

    As lme4 writes them: the grouping factor, then the row and the column of Lambda; a diagonal
    element names its column once. A covariance with one correlation: "district.sd(week)" say, and
    "district.angle(week)"; see `covariance`. Those of another part of the model begin with its
    parameter, "logit(zero): site.Intercept".
    """
    names = []
    for term in covariance_terms(frame):
        block = term.block
        if isinstance(term.kind, Structured):
            names += structured.theta_names(block)
            continue
        for i, j in zip(*term.kind.entries(), strict=True):
            parts = [block.names[i]] if i == j else [block.names[i], block.names[j]]
            names.append(prefix(block) + ".".join([block.grouping, *parts]))
    return names


def triangles(frame: Frame, theta: ArrayLike) -> tuple[np.ndarray, ...]:
    """Lambda of each block of the frame, (k, k) lower triangular, from theta, (m,)."""
    return tuple(term.triangle(theta) for term in covariance_terms(frame))


def held(frame: Frame, theta: ArrayLike) -> np.ndarray:
    """Which elements of theta, (m,) bool, are on the boundary; see `covariance.held`."""
    theta = np.asarray(theta)
    return np.concatenate([kinds.held(t.kind, theta[t.part]) for t in covariance_terms(frame)])


class _Row(NamedTuple):
    part: str
    group: str
    name1: str | None
    name2: str | None
    vcov: float
    sdcor: float
    se: float
    lower: float
    upper: float


def varcorr(fit: Fit, level: float = 0.95) -> pd.DataFrame:
    """Variances, covariances, standard deviations and correlations, with standard errors.

    A standard deviation sd_i = |Lambda_i| (row i of the term's factor) and a correlation
    r_ij = Lambda_i . Lambda_j / (sd_i sd_j) are functions of theta; their standard errors follow
    from `fit.vcov_all` by the delta method. The limits are symmetric about log(sd) and about
    atanh(r), so that they stay inside the range.

    Parameters
    ----------
    level : of the confidence intervals.

    Returns
    -------
    A data frame of lme4's shape (as.data.frame(VarCorr(fit))), one row per parameter: group; name1
    and name2, columns of the term (name2 is missing for a variance); vcov, variance or covariance;
    sdcor, standard deviation or correlation (NaN where a variance is zero). To it are added se, the
    standard error of sdcor, and its limits, "2.5 %" and "97.5 %" at level 0.95. Within a term the
    variances stand first. A term diag(...) has no correlations. cs(...) has one, name2 "common",
    and ar1(...) one variance and one correlation, name2 "lag 1", for all its columns; vcov is
    missing beside a common correlation, since covariances differ. A Gaussian response adds a last
    row "Residual", unless its variance has a model of its own. A model with random effects in
    zero_inflation= has a first column part, "conditional" or "zero_inflation".

    A variance of zero and a correlation of 1 or -1 lie on the boundary, where neither a standard
    error nor a Wald interval exists: both are NaN. Where another column of Lambda is zero it is
    held there. What the data do not determine (see `fit.warnings`) has neither of them as well.
    Near the boundary the intervals are poor: use a profile or a bootstrap.

    Raises
    ------
    ValueError : a level outside (0, 1).
    """
    check_level(level)
    tail = (1.0 - level) / 2.0
    quantile = float(-scipy.special.ndtri(tail))
    p, m = len(fit.params), len(fit.theta)
    V_all = fit.vcov_all.to_numpy()
    V_theta, flat_theta = V_all[p : p + m, p : p + m], fit.flat_directions[p : p + m]
    theta = np.asarray(fit.theta)
    rows: list[_Row] = []
    for term in covariance_terms(fit.frame):
        V, flat = V_theta[term.part, term.part], flat_theta[term.part]
        if isinstance(term.kind, Structured):
            rows += _structured_rows(term, theta[term.part], V, flat, quantile)
        else:
            rows += _term_rows(term, term.triangle(theta), V, flat, quantile)
    if has_sigma(fit):
        assert fit.dispersion is not None
        # sigma = exp(log(phi) / 2)
        se = 0.5 * fit.sigma * float(np.sqrt(V_all[-1, -1]))
        limits = _sd_limits(fit.sigma, se, quantile)
        rows.append(
            _Row(CONDITIONAL, "Residual", None, None, fit.dispersion, fit.sigma, se, *limits)
        )
    ends = percent(tail), percent(1.0 - tail)
    names = ["part", "group", "name1", "name2", "vcov", "sdcor", "se", *ends]
    # One dtype whether or not a column holds nothing but missing names.
    words = {"name1": "str", "name2": "str"}
    table = pd.DataFrame(rows).set_axis(names, axis=1).astype(words)
    return table if len(fit.frame.parts) > 1 else table.drop(columns="part")


def _term_rows(
    term: CovarianceTerm,
    Lambda: np.ndarray,
    V_theta: np.ndarray,
    flat: np.ndarray,
    quantile: float,
) -> list[_Row]:
    assert not isinstance(term.kind, Structured)
    where, names = (term.block.part, term.block.grouping), term.block.names
    row, column = term.kind.entries()
    V = Lambda @ Lambda.T
    sd, R = np.sqrt(np.diag(V)), correlations(V)
    rows = []
    for j, name in enumerate(names):
        se = np.nan
        if sd[j] > 0:
            gradient = np.where(row == j, Lambda[j, column], 0.0) / sd[j]
            se = _delta(gradient, V_theta, flat)
        limits = _sd_limits(sd[j], se, quantile)
        rows.append(_Row(*where, name, None, V[j, j], sd[j], se, *limits))
    pairs = np.tril_indices(len(V), -1) if isinstance(term.kind, Full) else ((), ())
    for i, j in zip(*pairs, strict=True):
        se = np.nan
        r = R[i, j]
        if 1.0 - abs(r) > 1e-12:  # neither NaN nor, to rounding, 1 or -1
            towards_i = (Lambda[j] / sd[j] - r * Lambda[i] / sd[i]) / sd[i]
            towards_j = (Lambda[i] / sd[i] - r * Lambda[j] / sd[j]) / sd[j]
            gradient = np.where(row == i, towards_i[column], 0.0)
            gradient = gradient + np.where(row == j, towards_j[column], 0.0)
            se = _delta(gradient, V_theta, flat)
        limits = _correlation_limits(r, se, quantile)
        rows.append(_Row(*where, names[j], names[i], V[i, j], r, se, *limits))
    return rows


def _structured_rows(
    term: CovarianceTerm,
    theta: np.ndarray,
    V_theta: np.ndarray,
    flat: np.ndarray,
    quantile: float,
) -> list[_Row]:
    kind = term.kind
    assert isinstance(kind, Structured)
    where = term.block.part, term.block.grouping
    values, slopes = structured.reported(kind, theta)
    error = np.abs(slopes) * np.sqrt(np.diag(V_theta))
    error[kinds.held(kind, theta) | np.any(flat != 0, axis=1)] = np.nan
    rows = []
    for (name1, name2), value, se in zip(structured.names(term.block), values, error, strict=True):
        if name2 is None:
            limits, vcov = _sd_limits(value, se, quantile), value**2
        else:
            limits = structured.correlation_limits(kind, value, se, quantile)
            vcov = values[0] ** 2 * value if name2 == structured.LAG else np.nan
        rows.append(_Row(*where, name1, name2, vcov, value, se, *limits))
    return rows


def _delta(gradient: np.ndarray, V: np.ndarray, flat: np.ndarray) -> float:
    if vcov.moves(gradient, flat):
        return np.nan
    return float(np.sqrt(np.maximum(gradient @ V @ gradient, 0.0)))


def _sd_limits(sd: float, se: float, quantile: float) -> tuple[float, float]:
    """exp(log(sd) -+ quantile se / sd)."""
    if np.isnan(se):
        return np.nan, np.nan
    # An interval from zero to beyond the largest number is what a flat likelihood has to say.
    with np.errstate(over="ignore"):
        factor = float(np.exp(np.float64(quantile * se / sd)))
    return sd / factor, sd * factor


def _correlation_limits(r: float, se: float, quantile: float) -> tuple[float, float]:
    """tanh(atanh(r) -+ quantile se / (1 - r^2))."""
    if np.isnan(se):
        return np.nan, np.nan
    half = quantile * se / (1.0 - r * r)
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


def correlations(V: np.ndarray) -> np.ndarray:
    """Correlation matrix of a covariance matrix, (k, k); NaN where a variance is zero."""
    sd = np.sqrt(np.diag(V))
    sd = np.where(sd > 0, sd, np.nan)
    return V / np.outer(sd, sd)
