"""How a fit ended and what to know before using it, in sentences with names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from glmm_jax.inference.parameter_names import dispersion_names, has_sigma
from glmm_jax.inference.varcorr import covariance_terms, triangles, varcorr
from glmm_jax.objective import marginal
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# An eigenvalue of the Hessian, scaled to a unit diagonal, that leaves half the digits of a
# standard error to rounding.
NEARLY_FLAT = 1e-8
# Rows of 0/1 data in half of the levels below which the integrand is far from normal.
FEW_ROWS = 10
# On the scale of a logit or probit: a level is then all 0 or all 1 but one time in five.
SPURIOUS_SD = 5.0
LATENT_LINKS = ("logit", "probit", "cloglog", "loglog")
ENOUGH_NODES = 11
# Of the deviance in a parameter on its scale without bounds: a standard error above a hundred.
NO_CURVATURE = 1e-4
RANGE = 2.0  # of a correlation: a standard error beyond it leaves every value possible


def outcome(fit: Fit) -> str:
    """The status of the fit in words, with the names of what is separated or singular."""
    return " ".join([_status(fit), *_settled(fit), *singular_terms(fit)])


def _settled(fit: Fit) -> list[str]:
    """What became of nagq="auto"."""
    if fit.call.settled is None:
        return []
    if fit.call.settled:
        return [f"The quadrature settled at {fit.nagq} nodes in each dimension."]
    return [
        f"The quadrature has not settled at {fit.nagq} nodes in each dimension, the most that were "
        "tried: the integrand is far from normal."
    ]


def warnings(fit: Fit) -> tuple[str, ...]:
    """What an analyst should know before using the fit, each a sentence; empty if nothing."""
    found = [] if fit.converged else [_status(fit)]
    found += singular_terms(fit)
    if fit.frame.dropped_columns:
        found.append(
            "Rank deficient: these columns are linear combinations of others and were dropped: "
            f"{', '.join(fit.frame.dropped_columns)}."
        )
    found += _limits(fit)
    if fit.status is not Status.SEPARATION:
        found += _flat_directions(fit)
        found += _undetermined(fit)
        found += _approximation(fit)
    if fit.model.priors:
        found.append(
            f"Penalised: the estimates are those of the likelihood times {len(fit.model.priors)} "
            "prior densities; log-likelihood, AIC and BIC are of the likelihood alone, which is "
            "higher at its own maximum."
        )
    return tuple(found)


def _approximation(fit: Fit) -> list[str]:
    """Where the Laplace approximation may mislead, or has found an optimum of its own."""
    if fit.nagq > 1 or not is_binary(fit) or not np.all(np.isfinite(fit.theta)):
        return []
    spurious, small = [], []
    for block, Lambda in zip(fit.frame.blocks, triangles(fit.frame, fit.theta), strict=True):
        sd = float(np.sqrt(np.max(np.sum(Lambda**2, axis=1))))
        median = float(np.median(np.bincount(block.index, minlength=len(block.levels))))
        if sd > SPURIOUS_SD and fit.family.link.name in LATENT_LINKS:
            spurious.append(
                f"The standard deviation by {block.grouping} is {sd:.3g}: nearly every level would "
                "be all 0 or all 1. This may be an optimum of the Laplace approximation alone, "
                f"not of the likelihood; {remedy(fit)}."
            )
        elif median < FEW_ROWS and sd > 0:
            small.append(
                f"Half of the levels of {block.grouping} have no more than {median:g} rows of 0/1 "
                f"data, for which the Laplace approximation may mislead; {remedy(fit)}."
            )
    return [*spurious, *small]


def is_binary(fit: Fit) -> bool:
    """Whether every row is one trial with outcome 0 or 1."""
    trials = fit.frame.trials
    name = fit.family.name
    return name == "bernoulli" or (
        name == "binomial" and (trials is None or bool(np.all(trials == 1)))
    )


def remedy(fit: Fit) -> str:
    """What shows how far the Laplace approximation is off, in this model."""
    try:
        marginal.check(fit.model, ENOUGH_NODES)
    except ValueError:
        return "fit.laplace_error() measures its error"
    if fit.reml:
        return "fit.laplace_error() measures its error, and reml=False with nagq='auto' removes it"
    return "refit with nagq='auto' (quadrature), or measure its error by fit.laplace_error()"


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
    flags = np.asarray(fit.estimate.separated)
    named = np.array([*fit.frame.X_names, *dispersion_names(fit)])[flags]
    told = f"Coefficients without a finite estimate: {', '.join(named)}."
    if has_usable_means(fit):
        sentence = (
            "Separation in the model of another parameter than the mean: the likelihood rises for "
            "ever as a combination of its covariates makes the parameter reach its limit in some "
            "rows (of logit(zero) a probability of 0 or 1). Drop or merge the covariate; the other "
            "estimates are those of the limit."
        )
    return f"{sentence} {told}"


def has_usable_means(fit: Fit) -> bool:
    """Whether the coefficients of eta are finite: if not, there is nothing to simulate from."""
    flags = np.asarray(fit.estimate.separated)[: len(fit.frame.X_names)]
    return fit.status is not Status.SEPARATION or not flags.any()


def _limits(fit: Fit) -> list[str]:
    """Constant parameters of the family at their limit, where the likelihood has levelled off."""
    if has_sigma(fit) or not fit.converged:
        return []
    curved = np.diag(np.asarray(fit.estimate.hessian))[fit.model.p + fit.model.m :]
    constant = [name in fit.family.parameters for name in dispersion_names(fit)]
    return [
        f"At a limit: the likelihood hardly changes with {name}, estimated as {value:.3g}, so that "
        "the family is at an end of its range (Poisson for a negative binomial one, no excess of "
        "zeros for a zero-inflated one). The simpler family fits as well; the standard error of "
        f"{name} means nothing."
        for name, value, curvature, alone in zip(
            dispersion_names(fit), fit.dispersion_params, curved, constant, strict=True
        )
        if alone and curvature <= NO_CURVATURE
    ]


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
                f"Singular fit: the variance of {block.named(name)} is estimated as zero."
            )
        if bound:
            what = "is a combination" if len(bound) == 1 else "are combinations"
            sentences.append(
                f"Singular fit: the columns of {block.named(' + '.join(block.names))} are "
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
