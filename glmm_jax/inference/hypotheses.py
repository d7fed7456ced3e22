"""Wald tests of linear hypotheses about the fixed effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy

from glmm_jax.formula.constraints import read_constraints
from glmm_jax.inference import digits
from glmm_jax.inference.layout import html_table
from glmm_jax.inference.notes import notes_html, notes_text
from glmm_jax.inference.term_tests import test_terms
from glmm_jax.inference.wald import two_sided, wald

if TYPE_CHECKING:
    from glmm_jax.results import Fit

__all__ = ["WaldTest", "test", "test_terms"]

# Rows of a hypothesis whose smallest singular value is below this part of the largest depend on
# one another; rounding in typed fractions stays far below it.
DEPENDENT = 1e-9


@dataclass(frozen=True, eq=False)
class WaldTest:
    """What `Fit.test` returns: the joint test, and one row per constraint.

    statistic : chi-square. df : its degrees of freedom, the number of constraints. pvalue : of the
    joint test. frame : one row per constraint with columns Estimate (of L beta), Value (c),
    Std. Error, z value, Pr(>|z|). L : (r, p) and c : (r,), the hypothesis L beta = c. notes : what
    makes the test doubtful, each a sentence.
    """

    statistic: float
    df: int
    pvalue: float
    frame: pd.DataFrame
    L: np.ndarray
    c: np.ndarray
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["Wald test of linear hypotheses", ""]
        lines += digits.aligned(self._cells(), left=(0, 6))
        lines += ["", self._joint(), *notes_text(self.notes)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = html_table(self._cells(), "Wald test of linear hypotheses")
        return f"{table}<p>{escape(self._joint())}</p>{notes_html(self.notes)}"

    def _joint(self) -> str:
        (written,) = digits.common([self.statistic], 5)
        (p,) = digits.p_values([self.pvalue], 4)
        sign = "" if p.startswith("<") else "= "
        return f"Chisq = {written} on {self.df} Df, Pr(>Chisq) {sign}{p}"

    def _cells(self) -> list[list[str]]:
        frame = self.frame
        estimates = digits.estimates(frame[["Estimate", "Std. Error"]].to_numpy())
        values = digits.common(frame["Value"], 7)
        z = digits.statistics(frame["z value"].to_numpy())
        p = digits.p_values(frame["Pr(>|z|)"])
        marks = [digits.stars(value) for value in frame["Pr(>|z|)"]]
        rows = zip(frame.index, estimates, values, z, p, marks, strict=True)
        header = ["", *map(str, frame.columns), ""]
        return [header, *([str(n), e, v, se, *rest] for n, (e, se), v, *rest in rows)]


def test(fit: Fit, hypothesis: Any) -> WaldTest:
    """Wald chi-square test of linear hypotheses such as "urban[T.Y] = 0, age = 0".

    The hypothesis L beta = c has the statistic

        (L beta^ - c)' (L V L')^-1 (L beta^ - c),

    chi-squared with as many degrees of freedom as L has rows if it is true and the sample large;
    V is `fit.cov_params()`. About a variance such a test says nothing: use `anova`.

    Parameters
    ----------
    hypothesis : text, constraints separated by commas, on the names of `fit.params`: "age = 0",
        "age = 2*ch[T.Y]", "livch[T.1] = livch[T.2] = livch[T.3+]"; without "=" it is set to zero. A
        name may stand in backticks. Or a list of such texts; a dictionary {"age": 0.5}; a matrix L,
        (r, p) or (p,), for L beta = 0 (columns of a DataFrame are matched by name); or a pair
        (L, c) with c a number or (r,).

    Returns
    -------
    WaldTest, with `statistic`, `df`, `pvalue` and one row per constraint in `frame`.

    Raises
    ------
    ValueError : names that are no coefficients, constraints that depend on one another or concern
        none, or a matrix of another width.

    Source: Wald (1943), Tests of statistical hypotheses concerning several parameters.
    """
    names = list(fit.frame.X_names)
    if not names:
        raise ValueError("hypothesis: the model has no fixed effects to test")
    L, c = _read(hypothesis, names, fit.frame.dropped_columns)
    _check_rank(L, fit)
    estimate = L @ fit.params.to_numpy() - c
    covariance = L @ fit.cov_params().to_numpy() @ L.T
    statistic, notes = wald(estimate, covariance)
    se = np.sqrt(np.diag(covariance))
    z = np.divide(estimate, se, out=np.full(len(se), np.nan), where=se > 0)
    frame = pd.DataFrame(
        {
            "Estimate": estimate + c,
            "Value": c,
            "Std. Error": se,
            "z value": z,
            "Pr(>|z|)": two_sided(z),
        },
        index=[_written(row, value, names) for row, value in zip(L, c, strict=True)],
    )
    if not fit.converged:
        notes = (*notes, fit.status.sentence)
    p = float(scipy.special.chdtrc(len(L), statistic))
    return WaldTest(statistic, len(L), p, frame, L, c, notes)


def _read(
    hypothesis: Any, names: list[str], dropped: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """L, (r, p), and c, (r,)."""
    if _is_text(hypothesis):
        try:
            L, c = read_constraints(hypothesis, names)
        except (ValueError, TypeError) as error:
            left = f" (left out as linear combinations of others: {', '.join(dropped)})"
            raise ValueError(
                f"hypothesis={hypothesis!r}: {error}\nCoefficients: {', '.join(names)}"
                f"{left if dropped else ''}"
            ) from error
    else:
        L, c = _matrix(hypothesis, names)
    if not (np.all(np.isfinite(L)) and np.all(np.isfinite(c))):
        raise ValueError(f"hypothesis={hypothesis!r}: its numbers must be finite")
    return L, c


def _is_text(hypothesis: Any) -> bool:
    if isinstance(hypothesis, str | Mapping):
        return bool(hypothesis) or isinstance(hypothesis, str)
    return (
        isinstance(hypothesis, list | tuple)
        and len(hypothesis) > 0
        and all(isinstance(one, str) for one in hypothesis)
    )


def _matrix(hypothesis: Any, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    matrix, constant = hypothesis, 0.0
    if isinstance(hypothesis, tuple):
        if len(hypothesis) != 2:
            raise ValueError(
                f"hypothesis: a tuple of {len(hypothesis)} came; give (L, c), or the rows as a list"
            )
        matrix, constant = hypothesis
    if isinstance(matrix, pd.DataFrame):
        if len(matrix.columns) != len(names) or set(matrix.columns) != set(names):
            raise ValueError(
                f"hypothesis: columns {', '.join(map(str, matrix.columns))} are not the "
                f"coefficients {', '.join(names)}"
            )
        matrix = matrix[names]
    try:
        L = np.atleast_2d(np.asarray(matrix, dtype=np.float64))
        c = np.asarray(constant, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"hypothesis={hypothesis!r}: give text such as 'age = 0', a list of such, a "
            f"dictionary, a matrix L or (L, c) ({error})"
        ) from error
    if L.ndim != 2 or L.shape[1] != len(names) or not len(L):
        raise ValueError(
            f"hypothesis: a matrix of shape {L.shape} came; one or more rows of {len(names)} "
            f"numbers are needed, for the coefficients {', '.join(names)}"
        )
    if c.ndim > 1 or c.size not in (1, len(L)):
        raise ValueError(
            f"hypothesis: {len(L)} rows and constants of shape {c.shape}; give one for each row"
        )
    return L, np.broadcast_to(c.ravel(), (len(L),)).copy()


def _check_rank(L: np.ndarray, fit: Fit) -> None:
    # In units of standard errors, so that the scales of the covariates do not matter.
    se = fit.bse.to_numpy()
    scaled = L * np.where(np.isfinite(se) & (se > 0), se, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    known = f"Coefficients: {', '.join(fit.frame.X_names)}"
    if np.any(length == 0):
        row = int(np.argmin(length))
        raise ValueError(f"hypothesis: constraint {row + 1} involves no coefficient. {known}")
    sizes = np.linalg.svd(scaled / length, compute_uv=False)
    if len(L) > L.shape[1] or sizes[-1] <= DEPENDENT * sizes[0]:
        raise ValueError(
            f"hypothesis: its {len(L)} constraints depend on one another (rank "
            f"{int(np.sum(sizes > DEPENDENT * sizes[0]))}); leave out those that follow from, or "
            f"contradict, the others. {known}"
        )


def _written(row: np.ndarray, value: float, names: list[str]) -> str:
    """A constraint as text."""
    parts = []
    for j in np.flatnonzero(row):
        size = abs(row[j])
        sign = "-" if row[j] < 0 else "+"
        parts.append(f"{sign} {names[j] if size == 1 else f'{size:.6g}*{names[j]}'}")
    first = parts[0].removeprefix("+ ").replace("- ", "-", 1)
    return f"{' '.join([first, *parts[1:]])} = {value:.6g}"
