"""Likelihood-ratio tests of dropping one term at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy

from glmm_jax.fitting import absorbs, fit_frame
from glmm_jax.formula.fixed import containing, separable, term_columns, without
from glmm_jax.formula.frame import Frame, build_frame
from glmm_jax.formula.rank import independent_columns
from glmm_jax.inference import digits
from glmm_jax.inference.anova import SLACK
from glmm_jax.inference.layout import html_table
from glmm_jax.inference.notes import notes_html, notes_text
from glmm_jax.priors import penalty
from glmm_jax.runtime import engine
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit


@dataclass(frozen=True, eq=False)
class Deletions:
    """What `Fit.drop1` returns.

    frame : row "<none>", the model as it is, then one row per term left out, with columns npar
    (parameters fewer), AIC, LRT (rise of the deviance), Pr(Chi). formula : of the model. notes :
    what makes a row doubtful, each a sentence.
    """

    frame: pd.DataFrame
    formula: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["Single term deletions", "", "Model:", self.formula]
        lines += digits.starred(self._cells(), (0, 5), self.frame["Pr(Chi)"])
        lines += notes_text(self.notes)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells(), f"Single term deletions: {self.formula}") + notes_html(
            self.notes
        )

    def _cells(self) -> list[list[str]]:
        frame = self.frame
        npar = ["" if np.isnan(value) else f"{value:.0f}" for value in frame["npar"]]
        aic = [f"{value:.3f}" for value in frame["AIC"]]
        lrt = digits.common(frame["LRT"], 5, floor=1.0)
        p = digits.p_values(frame["Pr(Chi)"], 4)
        marks = [digits.stars(value) for value in frame["Pr(Chi)"]]
        shown = [["" if text == "NA" else text for text in column] for column in (lrt, p)]
        rows = zip(frame.index, npar, aic, *shown, marks, strict=True)
        return [["", *map(str, frame.columns), ""], *(list(row) for row in rows)]


def drop1(fit: Fit) -> Deletions:
    """Refit without each fixed term that no other term contains, and test it.

    LRT = d(without the term) - d(fit), where d is the deviance, is chi-squared with as many
    degrees of freedom as parameters went, if the term has no effect and the sample is large. Every
    refit uses the rows, random effects, weights and settings of the fit.

    Returns
    -------
    Deletions; its `frame` has the rows and columns of lme4's drop1(fit, test = "Chisq").

    Raises
    ------
    ValueError : a fit by REML, whose criteria do not compare between fixed effects; no term to
        drop, or a fit loaded from a file where the data are needed (only where
        the other terms' coding would change, as in a formula without intercept).

    Source: Wilks (1938), The large-sample distribution of the likelihood ratio.
    """
    if fit.reml:
        raise ValueError(
            "fit: it is by REML, whose criteria for different fixed effects do not compare; use "
            "fit.update(reml=False).drop1()"
        )
    terms = term_columns(fit.frame.design.fixed)
    droppable = [i for i, term in enumerate(terms) if not containing(terms, term)]
    if not droppable:
        raise ValueError(
            f"fit: the formula {fit.frame.formula.text.strip()!r} has no fixed term to drop"
        )
    rows = [(np.nan, fit.aic, np.nan, np.nan)]
    notes = [] if fit.converged else [f"<none>: {fit.status.sentence}"]
    if fit.numbers.priors:
        notes.append(
            "The fits are penalised (priors=), so their likelihoods are no maxima and LRT is "
            "not chi-squared: a guide only."
        )
    for i in droppable:
        name = terms[i].name
        frame = _reduced(fit, i)
        fewer = len(fit.frame.X_names) - len(frame.X_names)
        call = replace(fit.call, priors=kept_priors(fit.call.priors, frame.X_names))
        model, _, found = fit_frame(frame, fit.family, call)
        with engine():
            deviance = float(found.deviance) - float(penalty(found.params, model))
        rise = deviance - fit.deviance
        p = float(scipy.special.chdtrc(fewer, max(rise, 0.0))) if fewer else np.nan
        rows.append((fewer, deviance + 2 * (fit.df - fewer), rise, p))
        status = Status(int(found.status))
        if status is not Status.CONVERGED:
            notes.append(f"without {name}: {status.sentence}")
        if rise < -SLACK and not fit.numbers.priors:
            notes.append(
                f"without {name} the likelihood is higher than with it: one of the two fits is not "
                "at its maximum."
            )
        if not fewer:
            notes.append(
                f"without {name} the model is the same: its columns are linear combinations of "
                "the others."
            )
    table = pd.DataFrame(
        rows, ["<none>", *(terms[i].name for i in droppable)], ["npar", "AIC", "LRT", "Pr(Chi)"]
    )
    return Deletions(table, fit.frame.formula.text.strip(), tuple(notes))


def kept_priors(priors: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
    """The priors without the coefficients that the model does not have."""
    out = []
    for prior in priors:
        of = getattr(prior, "of", None)
        if of is None:
            out.append(prior)
        elif any(name in names for name in of):
            out.append(replace(prior, of=tuple(name for name in of if name in names)))
    return tuple(out)


def _reduced(fit: Fit, i: int) -> Frame:
    """The frame of a fit without its fixed term number `i`."""
    frame, design = fit.frame, fit.frame.design
    term = term_columns(design.fixed)[i]
    if design.kept.all() and separable(design.fixed, i):
        kept = np.ones(len(frame.X_names), bool)
        kept[term.start : term.stop] = False
        X, names = frame.X[:, kept], np.array(frame.X_names)[kept]
    else:
        X, names = _coded_again(fit, i)
    return replace(frame, X=np.ascontiguousarray(X), X_names=tuple(names.tolist()))


def _coded_again(fit: Fit, i: int) -> tuple[np.ndarray, np.ndarray]:
    """X and its names without term `i` where the columns of the other terms change too."""
    call, formula = fit.call, fit.frame.formula
    if call.data is None:
        raise ValueError(
            f"fit: without {term_columns(fit.frame.design.fixed)[i].name!r} the other terms have "
            "to be coded again from the data, which a fit loaded from a file does not hold; fit "
            "the model again"
        )
    # Labels may occur twice in the caller's index; positions do not.
    data = call.data.reset_index(drop=True)
    weights, offset, trials = (
        value.to_numpy() if isinstance(value, pd.Series) else value
        for value in (call.weights, call.offset, call.trials)
    )
    absorbed = absorbs(fit.family)
    used = build_frame(
        formula, data, weights=weights, offset=offset, trials=trials, absorbed=absorbed
    ).index
    if len(used) != fit.nobs:
        raise ValueError(
            f"fit: its data give {len(used)} complete rows and it used {fit.nobs}; fit the model "
            "again"
        )
    reduced = build_frame(
        replace(formula, fixed=without(formula.fixed, i)), data, absorbed=absorbed
    )
    # A term less may have fewer missing values; its rows are kept to those of the fit.
    X = reduced.X[reduced.index.get_indexer(used)]
    independent = independent_columns(X)
    return X[:, independent], np.array(reduced.X_names)[independent]
