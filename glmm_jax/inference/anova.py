"""Likelihood-ratio tests between nested fits, in lme4's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

from glmm_jax.inference import digits
from glmm_jax.inference.layout import html_table
from glmm_jax.inference.nesting import Nesting, Verdict, nesting, spanned
from glmm_jax.inference.notes import notes_html, notes_text
from glmm_jax.inference.parameter_rows import matrices

if TYPE_CHECKING:
    from glmm_jax.results import Fit


MIXTURE = "Pr(>Chibarsq)"

# Optima are found to about 1e-6: a statistic below that is zero, a deviance that rises by more
# than SLACK with a parameter more is no rounding.
ROUNDING = 1e-6
SLACK = 1e-4


@dataclass(frozen=True, eq=False)
class AnovaTable:
    """What `anova` returns.

    frame : one row per model with columns npar, AIC, BIC, logLik, -2*log(L), Chisq, Df,
    Pr(>Chisq), and Pr(>Chibarsq) where one variance is tested; the tests compare a row with the one
    above. formulas : by model name. notes : what makes a row doubtful, each a sentence.
    """

    frame: pd.DataFrame
    formulas: dict[str, str]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["Models:", *(f"{name}: {text}" for name, text in self.formulas.items())]
        cells = self._cells()
        marks = [j for j, title in enumerate(cells[0]) if not title]
        lines += digits.starred(cells, marks, self.frame[self._tested()].to_numpy().ravel())
        lines += notes_text(self.notes)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        cells = self._cells()
        for row, text in zip(cells[1:], self.formulas.values(), strict=True):
            row.append(text)
        cells[0].append("Formula")
        return html_table(cells, "Likelihood-ratio tests") + notes_html(self.notes)

    def _tested(self) -> list[str]:
        return [name for name in ("Pr(>Chisq)", MIXTURE) if name in self.frame]

    def _cells(self) -> list[list[str]]:
        frame = self.frame
        columns = {"": list(map(str, frame.index)), "npar": [f"{v:d}" for v in frame["npar"]]}
        for name in ("AIC", "BIC", "logLik", "-2*log(L)"):
            columns[name] = [f"{value:.3f}" for value in frame[name]]
        table = [[name, *cells] for name, cells in columns.items()]
        if "Chisq" in frame:
            chisq = digits.common(frame["Chisq"], 5, floor=1.0)
            table.append(["Chisq", *("" if text == "NA" else text for text in chisq)])
            df = ["" if np.isnan(value) else f"{value:.0f}" for value in frame["Df"]]
            table.append(["Df", *df])
        for name in self._tested():
            p = digits.p_values(frame[name], 4)
            table.append([name, *("" if text == "NA" else text for text in p)])
            table.append(["", *(digits.stars(value) for value in frame[name])])
        return [list(row) for row in zip(*table, strict=True)]


def anova(*fits: Fit, names: Sequence[str] | None = None, test: bool = True) -> AnovaTable:
    """Likelihood-ratio tests between nested fits to the same data, ordered by their parameters.

    Each model is tested against the one before it, which must lie inside it: Chisq = twice the
    difference in log-likelihood, chi-squared with Df degrees of freedom if the smaller model is
    true. Where a variance of the larger model is zero in the smaller one, that is the boundary of
    what a variance can be, and Pr(>Chisq) is too large. With one such variance Chisq has half the
    time Df degrees of freedom and half the time one less:

        Pr(>Chibarsq) = Pr(chi2(Df - 1) >= Chisq) / 2 + Pr(chi2(Df) >= Chisq) / 2,

    if all other variances are positive; chi2(0) is zero always. With more such variances no simple
    law is known, and simulation from the smaller model answers.

    Parameters
    ----------
    fits : two or more, of the same rows, response, weights, family, link, nagq and curvature, by
        maximum likelihood; by REML only with the same fixed effects.
    names : one for each, in the order of the arguments; default model1, model2, ...
    test : False leaves the tests out, for a table of AIC and BIC of models that need not be nested.

    Raises
    ------
    ValueError : fewer than two fits, names of another number, fits that cannot be compared, or a
        model that is not inside the next larger one.

    Source: Self & Liang (1987), J. Am. Stat. Assoc. 82, 605; Stram & Lee (1994), Biometrics 50,
    1171.
    """
    strangers = [fit for fit in fits if not hasattr(fit, "estimate")]
    if strangers:
        raise ValueError(
            f"fits: {type(strangers[0]).__name__} is no Fit; give fits: anova(fit1, fit2)"
        )
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
    formulas = {name: fit.frame.formula.text.strip() for name, fit in chosen.items()}
    notes = [f"{name}: {fit.status.sentence}" for name, fit in chosen.items() if not fit.converged]
    if test:
        notes += _tests(chosen, table)
    return AnovaTable(table, formulas, tuple(notes))


def _tests(fits: dict[str, Fit], table: pd.DataFrame) -> list[str]:
    """Add the columns of the tests to the table; returns what there is to note."""
    table["Chisq"] = -table["-2*log(L)"].diff()
    table["Df"] = table["npar"].diff()
    testable = table["Df"] > 0
    p = scipy.special.chdtrc(table["Df"].where(testable), table["Chisq"].clip(lower=0))
    table["Pr(>Chisq)"] = np.where(testable, p, np.nan)
    notes = []
    for small, large in pairwise(fits):
        found = nesting(fits[small].frame, fits[large].frame)
        reason = _outside(found, small, large) or _parameters_outside(fits, small, large)
        if reason:
            raise ValueError(
                f"fits: {reason}, so {small} is not inside {large} and a likelihood-ratio test "
                "does not apply; compare AIC or BIC by anova(..., test=False), or give nested "
                "models"
            )
        row = table.loc[large]
        if row["Df"] > 0 and row["Chisq"] < -SLACK:
            notes.append(
                f"{large} has more parameters but a lower likelihood than {small}: "
                + ("they are not nested, or " if found.random is Verdict.UNDECIDED else "")
                + "one is not at its maximum."
            )
        notes += _boundary(found, small, large, fits, table)
    return notes


def _outside(found: Nesting, small: str, large: str) -> str:
    """Why one model is not inside another; empty if it is or may be."""
    if found.fixed is Verdict.OUTSIDE:
        return (
            f"the fixed effects (and offset) of {small} are no linear combinations of those of "
            f"{large}"
        )
    if found.random is Verdict.OUTSIDE:
        return f"the random effects of {small} have covariances that those of {large} cannot have"
    return ""


def _parameters_outside(fits: dict[str, Fit], small: str, large: str) -> str:
    """Why models of the other parameters are not inside those of the larger fit, or ''."""
    inner, outer = (matrices(fits[name], fits[name].frame) for name in (small, large))
    for name, columns in inner.items():
        if not spanned(columns, outer[name]):
            return f"the model of {name} in {small} is no special case of that in {large}"
    return ""


def _boundary(
    found: Nesting, small: str, large: str, fits: dict[str, Fit], table: pd.DataFrame
) -> list[str]:
    """Note what the boundary does to a test, and add the p-value of the mixture if there is one."""
    if found.random is Verdict.UNDECIDED:
        return [
            f"Whether the random effects of {small} are a special case of those of {large} could "
            "not be decided; the test holds only if they are."
        ]
    if not found.zero or not table.loc[large, "Df"] > 0:
        return []
    if found.zero > 1:
        return [
            f"{found.zero} variances of {large} are zero in {small}, on the boundary of what they "
            "can be. Pr(>Chisq) is then too large, and no simple mixture of chi-squares is known: "
            f"simulate from {small}, refit both models, and compare the statistics."
        ]
    if MIXTURE not in table:
        table[MIXTURE] = np.nan
    statistic, df = table.loc[large, "Chisq"], int(table.loc[large, "Df"])
    table.loc[large, MIXTURE] = float(mixture(statistic, df))
    zero = "zero" if df == 1 else f"chi-square on {df - 1} Df"
    doubt = ""
    if fits[small].is_singular:
        doubt = f" {small} is singular itself, so that here it does not hold exactly."
    return [
        f"One variance of {large} is zero in {small}, on the boundary of what it can be. "
        f"Pr(>Chisq) is then too large; {MIXTURE} is from the equal mixture of {zero} and "
        f"chi-square on {df} Df, which holds in large samples if all other variances are "
        f"positive.{doubt}"
    ]


def mixture(statistic: ArrayLike, df: int) -> np.ndarray:
    """Upper tail of the equal mixture of chi2(df - 1) and chi2(df); NaN stays."""
    value = np.asarray(statistic, float)
    lower = scipy.special.chdtrc(df - 1, value) if df > 1 else np.where(np.isnan(value), value, 0.0)
    return np.where(value <= ROUNDING, 1.0, (lower + scipy.special.chdtrc(df, value)) / 2)


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
    if first.model.priors or other.model.priors:
        return (
            "are penalised (priors=), at least one of them: their log-likelihoods are no maxima, "
            "so neither a likelihood-ratio test nor AIC applies; compare fits without priors"
        )
    if first.reml != other.reml:
        return (
            "are fitted by REML and by maximum likelihood; refit both with reml=False (or, to "
            "compare random effects alone, both with reml=True)"
        )
    if first.reml and not (_same(a.X, b.X) and _same(a.offset, b.offset)):
        return (
            "are fitted by REML with different fixed effects, whose criteria do not compare; "
            "refit both with update(reml=False)"
        )
    for word in ("family", "nagq", "curvature"):
        ours, theirs = getattr(first, word), getattr(other, word)
        if ours != theirs:
            return f"differ in {word} ({ours!r}, {theirs!r}); fit both with the same"
    return ""


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)
