"""How a fit ended and what to know before using it, in sentences with names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from glmm_jax.inference.varcorr import covariance_terms, varcorr
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# An eigenvalue of the Hessian, scaled to a unit diagonal, that leaves half the digits of a
# standard error to rounding.
NEARLY_FLAT = 1e-8
RANGE = 2.0  # of a correlation: a standard error beyond it leaves every value possible


def outcome(fit: Fit) -> str:
    """The status of the fit in words, with the names of what is separated or singular."""
    return " ".join([_status(fit), *singular_terms(fit)])


def warnings(fit: Fit) -> tuple[str, ...]:
    """What an analyst should know before using the fit, each a sentence; empty if nothing."""
    found = [] if fit.converged else [_status(fit)]
    found += singular_terms(fit)
    if fit.frame.dropped_columns:
        found.append(
            "Rank deficient: these columns are linear combinations of others and were dropped: "
            f"{', '.join(fit.frame.dropped_columns)}."
        )
    if fit.status is not Status.SEPARATION:
        found += _flat_directions(fit)
        found += _undetermined(fit)
    return tuple(found)


def _status(fit: Fit) -> str:
    sentence = fit.status.sentence
    if fit.status is not Status.SEPARATION:
        return sentence
    y = fit.frame.y
    if np.all(y == 0) or np.all(y == (1.0 if fit.frame.trials is None else fit.frame.trials)):
        return (
            "Separation: the response is the same in every row, so the likelihood has no maximum "
            "and nothing can be estimated. Check how the response is coded."
        )
    named = ", ".join(np.array(fit.frame.X_names)[np.asarray(fit.estimate.separated)])
    return f"{sentence} Coefficients without a finite estimate: {named}."


def singular_terms(fit: Fit) -> list[str]:
    """A sentence for each term whose covariance is singular."""
    sentences = []
    flags = np.asarray(fit.estimate.singular)
    for term in covariance_terms(fit.frame):
        block, Lambda = term.block, term.triangle(fit.theta)
        row, column = term.kind.entries()
        zero = row[(row == column) & flags[term.part]]
        none = [block.names[i] for i in zero if not Lambda[i].any()]
        bound = [block.names[i] for i in zero if Lambda[i].any()]
        for name in none:
            sentences.append(
                f"Singular fit: the variance of ({name} | {block.grouping}) is estimated as zero."
            )
        if bound:
            what = "is a combination" if len(bound) == 1 else "are combinations"
            sentences.append(
                f"Singular fit: the columns of ({' + '.join(block.names)} | {block.grouping}) are "
                f"perfectly correlated: {', '.join(bound)} {what} of those before."
            )
    return sentences


def _flat_directions(fit: Fit) -> list[str]:
    """Combinations of parameters along which the deviance is nearly constant."""
    H = np.asarray(fit.estimate.hessian)
    # Rows without a standard error are those that a singular fit has taken out.
    free = np.diag(fit.vcov_all) > 0
    H = H[np.ix_(free, free)]
    if not H.size or not np.all(np.isfinite(H)) or np.any(np.diag(H) <= 0):
        return []
    size = np.sqrt(np.diag(H))
    values, vectors = np.linalg.eigh(H / np.outer(size, size))
    if values[0] > NEARLY_FLAT:
        return []
    names = fit.vcov_all.index[free][np.abs(vectors[:, 0]) > 0.3]
    return [
        "Nearly flat: the likelihood hardly changes along a combination of "
        f"{', '.join(names)}; their standard errors cannot be trusted."
    ]


def _undetermined(fit: Fit) -> list[str]:
    """Correlations about which the data say nothing: a single flat parameter, which the scaled
    eigenvalues do not show."""
    table = varcorr(fit)
    unknown = table[table["name2"].notna() & (table["se"] > RANGE)]
    columns = (unknown[name] for name in ("group", "name1", "name2", "se"))
    return [
        f"Not determined: the data say nothing about the correlation of {first} and {second} by "
        f"{group} (standard error {se:.2g}, and it lies between -1 and 1); take the columns as "
        "independent terms or leave one out."
        for group, first, second, se in zip(*columns, strict=True)
    ]
