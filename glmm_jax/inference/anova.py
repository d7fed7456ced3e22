"""Likelihood-ratio tests between nested fits, in lme4's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.special

from glmm_jax.inference import digits
from glmm_jax.inference.layout import html_table

if TYPE_CHECKING:
    from glmm_jax.results import Fit


@dataclass(frozen=True, eq=False)
class AnovaTable:
    """What `anova` returns.

    frame : one row per model with columns npar, AIC, BIC, logLik, -2*log(L), Chisq, Df,
    Pr(>Chisq); the tests compare a row with the one above. formulas : by model name. notes : what
    makes a row doubtful, each a sentence.
    """

    frame: pd.DataFrame
    formulas: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["Models:", *(f"{name}: {text}" for name, text in self.formulas.items())]
        lines += digits.aligned(self._cells(), left=(0, 9))
        if any(digits.stars(p) for p in self.frame["Pr(>Chisq)"]):
            lines += ["---", digits.LEGEND]
        lines += [f"Note: {note}" for note in self.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        cells = self._cells()
        for row, text in zip(cells[1:], self.formulas.values(), strict=True):
            row.append(text)
        cells[0].append("Formula")
        notes = html_table([["Note"], *([note] for note in self.notes)], labelled=False)
        return html_table(cells, "Likelihood-ratio tests") + (notes if self.notes else "")

    def _cells(self) -> list[list[str]]:
        frame = self.frame
        columns = [[f"{value:d}" for value in frame["npar"]]]
        for name in ("AIC", "BIC", "logLik", "-2*log(L)"):
            columns.append([f"{value:.3f}" for value in frame[name]])
        tested = digits.common(frame["Chisq"], 5)
        columns.append(["" if text == "NA" else text for text in tested])
        columns.append(["" if np.isnan(value) else f"{value:.0f}" for value in frame["Df"]])
        p = frame["Pr(>Chisq)"]
        columns.append(["" if text == "NA" else text for text in digits.p_values(p, 4)])
        columns.append([digits.stars(value) for value in p])
        rows = zip(frame.index, *columns, strict=True)
        return [["", *map(str, frame.columns), ""], *(list(row) for row in rows)]


def anova(*fits: Fit, names: Sequence[str] | None = None) -> AnovaTable:
    """Likelihood-ratio tests between fits to the same data, ordered by their numbers of parameters.

    Each model is tested against the one before it: Chisq = twice the difference in
    log-likelihood, chi-squared with Df degrees of freedom if the smaller model is true and lies
    inside the larger one (a variance of zero is on its boundary: the p-value is then too large).
    That the models are nested is for the caller to know.

    Parameters
    ----------
    fits : two or more, of the same rows, response, weights, family, link, nagq and curvature.
    names : one for each, in the order of the arguments; default model1, model2, ...

    Raises
    ------
    ValueError : fewer than two fits, names of another number, or fits that cannot be compared.
    """
    if len(fits) < 2:
        raise ValueError(f"fits: {len(fits)} given; anova compares two or more")
    labels = [f"model{i + 1}" for i in range(len(fits))] if names is None else list(names)
    if len(labels) != len(fits) or len(set(labels)) != len(labels):
        raise ValueError(f"names={names!r}; give {len(fits)} different names, one for each fit")
    for label, fit in zip(labels[1:], fits[1:], strict=True):
        difference = _difference(fits[0], fit)
        if difference:
            raise ValueError(f"fits: {labels[0]} and {label} {difference}")
    # Python's sort is stable: models with as many parameters stay in the order given.
    order = sorted(range(len(fits)), key=lambda i: fits[i].df)
    chosen = {labels[i]: fits[i] for i in order}
    table = pd.DataFrame(
        {
            "npar": [fit.df for fit in chosen.values()],
            "AIC": [fit.aic for fit in chosen.values()],
            "BIC": [fit.bic for fit in chosen.values()],
            "logLik": [fit.llf for fit in chosen.values()],
            "-2*log(L)": [fit.deviance for fit in chosen.values()],
        },
        index=list(chosen),
    )
    table["Chisq"] = -table["-2*log(L)"].diff()
    table["Df"] = table["npar"].diff()
    testable = table["Df"] > 0
    p = scipy.special.chdtrc(table["Df"].where(testable), table["Chisq"].clip(lower=0))
    table["Pr(>Chisq)"] = np.where(testable, p, np.nan)
    formulas = {name: fit.frame.formula.text.strip() for name, fit in chosen.items()}
    return AnovaTable(table, formulas, _notes(chosen, table))


def _difference(first: Fit, other: Fit) -> str:
    """Why two fits cannot be compared; empty if they can."""
    a, b = first.frame, other.frame
    if first.nobs != other.nobs:
        missing = " (missing values?)" if a.n_missing != b.n_missing else ""
        return (
            f"use {first.nobs} and {other.nobs} rows{missing}; fit both to the rows that are "
            "complete for both"
        )
    if not a.index.equals(b.index):
        return "use rows with different labels; fit both to the same rows in the same order"
    if not np.array_equal(a.y, b.y) or not _same(a.trials, b.trials):
        return "have different responses; likelihoods of different responses do not compare"
    if not _same(a.weights, b.weights):
        return "have different weights; fit both with the same"
    for word in ("family", "nagq", "curvature"):
        ours, theirs = getattr(first, word), getattr(other, word)
        if ours != theirs:
            return f"differ in {word} ({ours!r}, {theirs!r}); fit both with the same"
    return ""


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


def _notes(fits: dict[str, Fit], table: pd.DataFrame) -> tuple[str, ...]:
    notes = [f"{name}: {fit.status.sentence}" for name, fit in fits.items() if not fit.converged]
    # Optima are found to about 1e-6; a deviance that rises by more is no rounding.
    lower = np.asarray((table["Chisq"] < -1e-4) & (table["Df"] > 0))
    for name in table.index[lower]:
        notes.append(
            f"{name} has more parameters but a lower likelihood than the model above it: they are "
            "not nested, or one is not at its maximum."
        )
    return tuple(notes)
