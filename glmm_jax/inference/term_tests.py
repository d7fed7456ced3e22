"""Wald tests of each term of the fixed effects, Type II or III."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy

from glmm_jax.formula.fixed import Coding, TermColumns, containing, term_columns
from glmm_jax.formula.frame import Frame
from glmm_jax.inference import digits
from glmm_jax.inference.layout import html_table
from glmm_jax.inference.notes import notes_html, notes_text
from glmm_jax.inference.wald import wald

if TYPE_CHECKING:
    from glmm_jax.results import Fit

KINDS = {"II": "II", "2": "II", "III": "III", "3": "III"}


@dataclass(frozen=True, eq=False)
class TermTests:
    """What `Fit.test_terms` returns.

    kind : "II" or "III". response : left side of the formula. frame : one row per term with columns
    Chisq, Df, Pr(>Chisq). notes : how to read the table and what makes it doubtful, each a
    sentence.
    """

    kind: str
    response: str
    frame: pd.DataFrame
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self._title(), "", f"Response: {self.response}"]
        lines += digits.starred(self._cells(), (0, 4), self.frame["Pr(>Chisq)"])
        lines += notes_text(self.notes)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells(), f"{self._title()}: {self.response}") + notes_html(
            self.notes
        )

    def _title(self) -> str:
        return f"Analysis of deviance table (Type {self.kind} Wald chi-square tests)"

    def _cells(self) -> list[list[str]]:
        chisq = digits.statistics(self.frame["Chisq"].to_numpy(), 5)
        p = digits.p_values(self.frame["Pr(>Chisq)"], 4)
        marks = [digits.stars(value) for value in self.frame["Pr(>Chisq)"]]
        df = [f"{value:d}" for value in self.frame["Df"]]
        rows = zip(self.frame.index, chisq, df, p, marks, strict=True)
        return [["", *map(str, self.frame.columns), ""], *(list(row) for row in rows)]


def test_terms(fit: Fit, kind: str | int = "III") -> TermTests:
    """Wald chi-square test of each term of the fixed effects, as car's Anova for lme4's models.

    Type III tests the coefficients of a term as they stand, so with interactions it depends on the
    coding: where `a:b` is in the model, `a` is tested where the contrasts of b are zero. Type II
    tests a term in the model without the terms that contain it: with the coefficients b_r of
    these set to zero, those of the term are estimated by

        b_t - V_tr V_rr^-1 b_r,    with covariance    V_tt - V_tr V_rr^-1 V_rt,

    where V is `fit.cov_params()`. It does not depend on the coding.

    Parameters
    ----------
    kind : "III" (with a row for the intercept) or "II"; 3 and 2 will do.

    Returns
    -------
    TermTests, its `frame` with columns Chisq, Df, Pr(>Chisq).

    Raises
    ------
    ValueError : another kind, or a model without terms to test.

    Source: Fox (2016), Applied Regression Analysis and Generalized Linear Models, 3rd ed.,
    chapters 8 and 15.
    """
    if str(kind) not in KINDS:
        raise ValueError(f"kind={kind!r}; use 'II' or 'III'")
    chosen = KINDS[str(kind)]
    frame = fit.frame
    terms = term_columns(frame.design.fixed)
    tested = list(terms)
    if chosen == "III" and frame.design.fixed.intercept:
        tested.insert(0, TermColumns("Intercept", frozenset(), 0, 1))
    if not tested:
        raise ValueError(
            f"kind={kind!r}: the formula {frame.formula.text.strip()!r} has no term to test"
        )
    beta, V = fit.params.to_numpy(), fit.cov_params().to_numpy()
    rows, notes = [], []
    for term in tested:
        own = _columns(frame, [term])
        above = _columns(frame, containing(terms, term)) if chosen == "II" else own[:0]
        if not len(own):
            notes.append(
                f"{term.name} has no columns of its own: they are linear combinations of others."
            )
            rows.append((np.nan, 0, np.nan))
            continue
        estimate, covariance = _without(beta, V, own, above)
        statistic, trouble = wald(estimate, covariance)
        notes += [f"{term.name}: {note}" for note in trouble]
        rows.append((statistic, len(own), scipy.special.chdtrc(len(own), statistic)))
        if len(own) < term.stop - term.start:
            notes.append(
                f"{term.name} is tested by {len(own)} of its {term.stop - term.start} columns; "
                "the others were left out as linear combinations of columns before them."
            )
    if chosen == "III":
        notes += _coding_notes(frame, terms)
    if not fit.converged:
        notes.append(fit.status.sentence)
    table = pd.DataFrame(rows, [term.name for term in tested], ["Chisq", "Df", "Pr(>Chisq)"])
    return TermTests(chosen, frame.response_name, table, tuple(notes))


def _columns(frame: Frame, terms: Sequence[TermColumns]) -> np.ndarray:
    """Positions of the terms' coefficients among those of the fit."""
    position = np.cumsum(frame.design.kept) - 1
    before = [j for term in terms for j in range(term.start, term.stop)]
    return np.array([position[j] for j in before if frame.design.kept[j]], dtype=np.intp)


def _without(
    beta: np.ndarray, V: np.ndarray, own: np.ndarray, above: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates of the coefficients `own` and their covariance with those `above` set to zero."""
    estimate, covariance = beta[own], V[np.ix_(own, own)]
    if not len(above) or not np.all(np.isfinite(V)):
        return estimate, covariance
    se = np.sqrt(np.diag(V))
    unit = np.where(se > 0, se, 1.0)
    R = V / np.outer(unit, unit)
    # V_tr V_rr^-1 in units of standard errors.
    part = np.linalg.lstsq(R[np.ix_(above, above)], R[np.ix_(above, own)], rcond=None)[0].T
    part = part * unit[own][:, None] / unit[above]
    return (
        estimate - part @ beta[above],
        covariance - part @ V[np.ix_(above, own)],
    )


def _coding_notes(frame: Frame, terms: Sequence[TermColumns]) -> list[str]:
    """What Type III tests of terms within interactions mean in this coding."""
    places: dict[str, None] = {}
    for term in terms:
        others = {f for larger in containing(terms, term) for f in larger.factors - term.factors}
        where = [place for f in sorted(others) if (place := _zero(frame, f))]
        if where:
            places[f"{term.name} where {' and '.join(where)}"] = None
    if not places:
        return []
    return [
        f"With interactions, Type III tests depend on the coding. Here they test "
        f"{'; '.join(places)}. For tests of average effects code factors by C(x, Sum) and centre "
        "covariates; or use kind='II'."
    ]


def _zero(frame: Frame, factor: str) -> str:
    """Where the columns of a factor are zero; empty if they are centred already."""
    coding = frame.design.fixed
    part = _part_of(coding, factor)
    if part.matrix is not None:
        sums = part.matrix.sum(axis=0)
        if np.all(np.abs(sums) < 1e-9 * np.abs(part.matrix).sum(axis=0)):
            return ""
        zero = np.flatnonzero(np.all(part.matrix == 0, axis=1))
        name = factor.strip("`")
        if len(zero) == 1:
            return f"{name} is {coding.levels[factor][zero[0]]}"
        return f"the contrasts of {name} are zero"
    names = [name for name in part.names if name in frame.X_names]
    columns = frame.X[:, [frame.X_names.index(name) for name in names]]
    centred = np.abs(columns.mean(axis=0)) < 1e-6 * columns.std(axis=0)
    return "" if names and np.all(centred) else f"{factor.strip('`')} is 0"


def _part_of(coding: Coding, factor: str):
    """The factor as its own term codes it, or else the first interaction that has it."""
    parts = [part for term in sorted(coding.terms, key=len) for part in term]
    return next(part for part in parts if part.factor == factor)
