"""What the estimate and the design of a fit say about it, one finding a question."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from glmm_jax.formula.fixed import TermColumns, term_columns
from glmm_jax.inference.design_checks import leverage, vif
from glmm_jax.inference.diagnosis import remedy, singular_terms
from glmm_jax.inference.residuals import fitted
from glmm_jax.inference.varcorr import triangles
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

FEW_LEVELS = 5
# A squared GVIF^(1/(2 df)) from which a standard error is more than tripled.
HIGH_VIF = 10.0
# A row that makes half of its own fitted value, and three times as much as the average row.
HIGH_LEVERAGE, TIMES_MEAN = 0.5, 3.0
# Trials of a level below which the integrand of the likelihood is far from normal, and the standard
# deviation on the scale of the link from which this shows in the estimates.
TINY, SMALL = 5, 10
LARGE_SD, HUGE_SD = 1.0, 2.0
EXTREME_PROBABILITY = 1e-8


class Finding(NamedTuple):
    """topic; severity "fine", "note" or "problem"; a sentence on what it means and what to do."""

    topic: str
    severity: str
    sentence: str


def of_estimate(fit: Fit) -> list[Finding]:
    """Convergence, separation, the singular, the rank deficient and the flat."""
    told = list(fit.warnings)
    status = told.pop(0) if not fit.converged else fit.status.sentence
    topic = "Separation" if fit.status is Status.SEPARATION else "Convergence"
    severity = "fine" if fit.converged else "problem"
    found = [Finding(topic, severity, status.removeprefix(f"{topic}: "))]
    if fit.nagq == 0:
        sentence = (
            "The fixed effects are at the joint mode with the random effects (nagq = 0), which is "
            "fast and slightly biased; refit with nagq=1 before reporting."
        )
        found.append(Finding("Approximation", "note", sentence))
    if fit.status is not Status.SEPARATION:
        found += _nearly_separated(fit)
    singular = singular_terms(fit)
    for sentence in singular:
        advice = (
            "Leave the term out, or simplify it, unless the design asks for it; its tests against "
            "zero are on the boundary."
        )
        found.append(Finding("Random effects", "note", f"{sentence} {advice}"))
    if not singular:
        sentence = "No variance is estimated as zero and no correlation as one."
        found.append(Finding("Random effects", "fine", sentence))
    for sentence in told:
        if sentence.startswith("Rank deficient"):
            advice = "The fitted values are not affected; coefficients of the others are."
            found.append(Finding("Fixed effects", "note", f"{sentence} {advice}"))
        elif sentence.startswith("Penalised"):
            found.append(Finding("Penalty", "note", sentence))
        elif "Laplace approximation alone" in sentence:
            found.append(Finding("Approximation", "problem", sentence))
        elif "Laplace approximation may mislead" in sentence:
            continue  # `_clusters` says more
        elif sentence.startswith("Not determined: "):
            found.append(Finding("Convergence", "note", sentence))
        elif sentence.startswith("The quadrature"):
            found.append(Finding("Approximation", "problem", sentence))
        elif "nodes may be too few" in sentence:
            found.append(Finding("Approximation", "note", sentence))
        elif sentence not in singular:
            advice = "Rescale or centre the covariates, or leave one out."
            found.append(Finding("Convergence", "problem", f"{sentence} {advice}"))
    return found


def _nearly_separated(fit: Fit) -> list[Finding]:
    """Probabilities that are 0 or 1 but for rounding."""
    if fit.family.name not in ("bernoulli", "binomial"):
        return []
    mu = fitted(fit)
    count = int(np.sum((mu < EXTREME_PROBABILITY) | (mu > 1 - EXTREME_PROBABILITY)))
    if not count:
        return [Finding("Separation", "fine", "No fitted probability is 0 or 1.")]
    sentence = (
        f"The fitted probability of {_rows(count)} is 0 or 1 to eight digits: some combination of "
        "covariates may predict the response perfectly. Look at the coefficients with the largest "
        "standard errors."
    )
    return [Finding("Separation", "note", sentence)]


def of_design(fit: Fit) -> list[Finding]:
    """Numbers of levels, sizes of clusters, variance inflation, leverage."""
    return [*_levels(fit), *_clusters(fit), _inflation(fit), _leverage(fit)]


def _levels(fit: Fit) -> list[Finding]:
    levels = {block.grouping: len(block.levels) for block in fit.frame.blocks}
    few = {name: k for name, k in levels.items() if k < FEW_LEVELS}
    if not few:
        told = ", ".join(f"{name} ({k})" for name, k in levels.items())
        sentence = f"Grouping factors have enough levels to estimate a variance: {told}."
        return [Finding("Levels", "fine", sentence)]
    return [
        Finding(
            "Levels",
            "note",
            f"{name} has only {k} levels, so its variance is hardly known and its standard error "
            f"not to be trusted; consider {name} among the fixed effects.",
        )
        for name, k in few.items()
    ]


def _clusters(fit: Fit) -> list[Finding]:
    """Levels with so few 0/1 responses that the Laplace approximation is poor."""
    if fit.family.name not in ("bernoulli", "binomial") or fit.nagq > 1:
        return []
    trials = np.ones(fit.nobs) if fit.frame.trials is None else fit.frame.trials
    found, medians = [], {}
    for block, Lambda in zip(fit.frame.blocks, triangles(fit.frame, fit.theta), strict=True):
        sd = float(np.sqrt(np.max(np.sum(Lambda**2, axis=1))))
        median = float(np.median(np.bincount(block.index, trials, len(block.levels))))
        medians[block.grouping] = median
        if median >= SMALL or (median >= TINY and sd < LARGE_SD):
            continue
        severe = sd > (LARGE_SD if median < TINY else HUGE_SD)
        sentence = (
            f"Half of the levels of {block.grouping} have no more than {median:g} trials, and the "
            f"standard deviation is {sd:.2g}: the Laplace approximation is then unreliable, above "
            "all for the variance, which it tends to misjudge with the coefficients. Before "
            f"reporting, {remedy(fit)}."
        )
        found.append(Finding("Small clusters", "problem" if severe else "note", sentence))
    if found:
        return found
    told = ", ".join(f"{name} {median:g}" for name, median in medians.items())
    sentence = f"Levels have enough trials for the Laplace approximation (median: {told})."
    return [Finding("Small clusters", "fine", sentence)]


def _inflation(fit: Fit) -> Finding:
    topic = "Collinearity"
    table = vif(fit)
    squared = dict(zip(table.index, np.square(table["GVIF^(1/(2 df))"].to_numpy()), strict=True))
    if len(squared) < 2:
        return Finding(topic, "fine", "Fewer than two terms: nothing to inflate a variance.")
    unknown = [name for name, value in squared.items() if np.isnan(value)]
    if unknown:
        told = ", ".join(unknown)
        sentence = f"Variance inflation cannot be computed for {told}: no standard errors."
        return Finding(topic, "note", sentence)
    high = {name: value for name, value in squared.items() if value > HIGH_VIF}
    if not high:
        worst = max(squared, key=lambda name: squared[name])
        sentence = f"The largest squared GVIF^(1/(2 df)) is {squared[worst]:.1f} ({worst})."
        return Finding(topic, "fine", sentence)
    related = _related(term_columns(fit.frame.design.fixed))
    told = ", ".join(f"{name} ({value:.1f})" for name, value in high.items())
    if all(name in related for name in high):
        sentence = (
            f"High variance inflation of {told}, but these are functions of the same variables "
            "(powers, interactions), which makes it high by construction. Centring the variables "
            "lowers it and changes neither fit nor test of the highest terms."
        )
        return Finding(topic, "fine", sentence)
    sentence = (
        f"High variance inflation of {told}: the data can hardly tell these effects apart, so "
        "each has a large standard error. Test them together, or leave one out for a reason of "
        "substance."
    )
    return Finding(topic, "note", sentence)


def _related(terms: Iterable[TermColumns]) -> set[str]:
    """Names of terms that share a variable with another term."""
    variables = {
        # Names that are not followed by a bracket: the variables, not the functions.
        term.name: set(re.findall(r"\b[A-Za-z_][\w.]*\b(?!\s*\()", " ".join(term.factors)))
        for term in terms
    }
    return {
        name
        for name, own in variables.items()
        if any(own & other for label, other in variables.items() if label != name)
    }


def _leverage(fit: Fit) -> Finding:
    h = leverage(fit).to_numpy()
    mean = float(np.mean(h))
    high = np.flatnonzero((h > HIGH_LEVERAGE) & (h > TIMES_MEAN * mean))
    if not high.size:
        sentence = f"No row decides its own fitted value (largest {h.max():.2f}, mean {mean:.2f})."
        return Finding("Leverage", "fine", sentence)
    named = labels(fit.frame.index[high[np.argsort(-h[high])]])
    sentence = (
        f"{_rows(len(high))} with leverage above {HIGH_LEVERAGE} and {TIMES_MEAN:g} times the "
        f"mean ({mean:.2f}): {named}. Most of such a fitted value comes from the row itself; refit "
        "without them to see what depends on them."
    )
    return Finding("Leverage", "note", sentence)


def labels(index: pd.Index, most: int = 5) -> str:
    """The first labels of an index, and how many more there are."""
    shown = ", ".join(str(label) for label in index[:most])
    return shown if len(index) <= most else f"{shown} and {len(index) - most} more"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
