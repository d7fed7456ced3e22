"""How a fit ended and what to know before using it, in sentences with names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from glmm_jax.build import PARAMETER_OF
from glmm_jax.covariance import Structured
from glmm_jax.families.ordinal import Ordinal
from glmm_jax.inference import monte_carlo, parameter_names, structured
from glmm_jax.inference.parameter_names import dispersion_names
from glmm_jax.inference.varcorr import CovarianceTerm, covariance_terms, triangles, varcorr
from glmm_jax.model import Model, Params, row_dispersion
from glmm_jax.objective import marginal
from glmm_jax.runtime import engine, run
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
RANGE = 2.0  # of a correlation: a standard error beyond it leaves every value possible
# On a log or logit scale: a parameter with such a standard error may be anything.
UNKNOWN = 10.0
# Families of which another is the limit: parameter, sign of the infinity it runs to, the other.
LIMITS = {
    "negative binomial": ("log(phi)", 1, "poisson"),
    "negative binomial 1": ("log(phi)", -1, "poisson"),
    "beta-binomial": ("log(phi)", 1, "binomial"),
    "student t": ("log(df)", 1, "gaussian"),
}


def outcome(fit: Fit) -> str:
    """The status of the fit in words, with the names of what is separated or singular."""
    return " ".join(
        [_status(fit), *_settled(fit), *singular_terms(fit), *monte_carlo.sentence(fit)]
    )


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
    if fit.status is not Status.SEPARATION:
        # A correlation that is not determined makes a flat direction, and is the plainer sentence.
        found += _undetermined(fit) or _flat_directions(fit)
        found += _at_limits(fit)
        found += _approximation(fit)
    if fit.call.settled is False:
        found += _settled(fit)
    if fit.numbers.priors:
        count = len(fit.numbers.priors)
        alone = (
            "the REML criterion is without them"
            if fit.reml
            else "log-likelihood, AIC and BIC are of the likelihood alone, which is higher at its "
            "own maximum"
        )
        found.append(
            "Penalised: the estimates are those of the likelihood times "
            f"{'a prior density' if count == 1 else f'{count} prior densities'}; {alone}."
        )
    return tuple(found)


def _approximation(fit: Fit) -> list[str]:
    """Where the approximation of the integral may mislead, or has found an optimum of its own."""
    amount = _outcomes(fit)
    if amount is None or not np.all(np.isfinite(fit.theta)):
        return []
    spurious, small, fewest = [], [], np.inf
    for block, Lambda in zip(fit.frame.blocks, triangles(fit.frame, fit.theta), strict=True):
        sd = float(np.sqrt(np.max(np.sum(Lambda**2, axis=1))))
        held = np.bincount(block.index, amount, len(block.levels))
        median = float(np.median(held[held > 0]))
        if sd > SPURIOUS_SD and fit.family.link.name in LATENT_LINKS:
            spurious.append(_wide(fit, block.grouping, sd))
        elif median < FEW_ROWS and sd > 0 and fit.nagq <= 1:
            small.append(block.grouping)
            fewest = min(fewest, median)
    if small:
        what = "ordered categories" if isinstance(fit.family, Ordinal) else "0/1 data"
        small = [
            f"Half of the levels of {' and of '.join(dict.fromkeys(small))} have no more than "
            f"{fewest:g} rows of {what}, for which the Laplace approximation may mislead; "
            f"{remedy(fit)}."
        ]
    found = dict.fromkeys(sentence for sentence in spurious if sentence)
    return [*found, *small]


def _outcomes(fit: Fit) -> np.ndarray | None:
    """Outcomes of few values that each row holds: trials, or one; None for other responses."""
    if fit.family.name not in ("bernoulli", "binomial") and not isinstance(fit.family, Ordinal):
        return None
    return np.ones(fit.nobs) if fit.frame.trials is None else fit.frame.trials


def _wide(fit: Fit, grouping: str, sd: float) -> str:
    """What to make of a standard deviation for which nearly every level is all 0 or all 1."""
    told = f"The standard deviation by {grouping} is {sd:.3g}: nearly every level would be all 0 "
    if fit.nagq <= 1:
        return (
            f"{told}or all 1. This may be an optimum of the Laplace approximation alone, not of "
            f"the likelihood; {remedy(fit)}."
        )
    if fit.call.settled is not None:
        return ""  # nagq="auto" has its own sentence
    return (
        f"{told}or all 1, and {fit.nagq} nodes may be too few for that; see by nagq='auto' whether "
        "more change it."
    )


def remedy(fit: Fit) -> str:
    """What shows how far the Laplace approximation is off, in this model."""
    try:
        marginal.check(fit.numbers, ENOUGH_NODES)
    except ValueError:
        return "fit.laplace_error() measures its error"
    if fit.reml:
        return "fit.laplace_error() measures its error, and reml=False with nagq='auto' removes it"
    return "refit with nagq='auto' (quadrature), or measure its error by fit.laplace_error()"


def _status(fit: Fit) -> str:
    sentence = fit.status.sentence
    if fit.status in (Status.MODE_FAILED, Status.NOT_FINITE):
        return " ".join([sentence, *_without_density(fit)])
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


def _without_density(fit: Fit) -> list[str]:
    """The rows whose log density, or a derivative of it, is no number at the fixed effects where
    the search ended, which is where it began if there was no mode."""
    with engine():
        values = run(_derivatives, fit.estimate.params, fit.numbers)
    eta, *values = (np.asarray(value)[: fit.nobs] for value in values)
    orders = "", "first derivative of the ", "second derivative of the "
    for order, value in zip(orders, values, strict=True):
        rows = np.flatnonzero(~np.isfinite(value))
        if not rows.size:
            continue
        row = rows[0]
        others = f" (and {rows.size - 1} more)" if rows.size > 1 else ""
        return [
            f"The {order}log density of the {fit.family.name} family is {value[row]:g} in row "
            f"{row}{others}: y = {fit.frame.y[row]:g}, linear predictor {eta[row]:.4g} without "
            "random effects. Is the response possible there, and the density written for it?"
        ]
    return []


@jax.jit
def _derivatives(params: Params, model: Model) -> tuple[jax.Array, ...]:
    """eta without random effects, and the log density of each row with two derivatives, (n,)."""
    eta = model.X @ params.beta + model.offset
    arguments = model.y, eta, row_dispersion(params, model), model.size
    family = model.family
    return eta, *(f(*arguments) for f in (family.log_prob, family.score, family.curvature))


def has_usable_means(fit: Fit) -> bool:
    """Whether the coefficients of eta are finite: if not, there is nothing to simulate from."""
    flags = np.asarray(fit.estimate.separated)[: len(fit.frame.X_names)]
    return fit.status is not Status.SEPARATION or not flags.any()


def singular_terms(fit: Fit) -> list[str]:
    """A sentence for each term whose covariance is singular."""
    sentences = []
    flags = np.asarray(fit.estimate.singular)
    for term in covariance_terms(fit.frame):
        block, Lambda = term.block, term.triangle(fit.theta)
        if isinstance(term.kind, Structured):
            sentences += _singular_structured(term, np.asarray(fit.theta)[term.part])
            continue
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


def _singular_structured(term: CovarianceTerm, theta: np.ndarray) -> list[str]:
    block, kind = term.block, term.kind
    assert isinstance(kind, Structured)
    written = f"{block.structure}({block.label} | {block.grouping})"
    names = [name for name, other in structured.names(block) if other is None]
    sentences = [
        f"Singular fit: the variance of {name} in {written} is estimated as zero."
        for name, value in zip(names, theta[:-1], strict=True)
        if value == 0
    ]
    values = structured.reported(kind, theta).values
    if structured.defined(kind, theta) and structured.at_end(theta):
        sentences.append(
            f"Singular fit: the correlation of {written} is estimated as {values[-1]:.3g}, an end "
            "of its range."
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
    if fit.flat_directions.size:
        # Inside its range a correlation has no standard error if it moves along one of them.
        table["se"] = table["se"].mask(table["se"].isna() & (table["sdcor"].abs() < 1), np.inf)
    unknown = table[table["name2"].notna() & (table["se"] > RANGE)]
    columns = (unknown[name] for name in ("group", "name1", "name2", "se"))
    return [
        f"Not determined: the data say nothing about {_named(first, second)} by {group} (standard "
        f"error {se:.2g}, and it lies between -1 and 1); take the columns as independent terms or "
        "leave one out."
        for group, first, second, se in zip(*columns, strict=True)
    ]


def _at_limits(fit: Fit) -> list[str]:
    """Parameters of the family that ran to a limit, or of which the data say nothing."""
    values, errors = fit.dispersion_params, parameter_names.dispersion_errors(fit)
    models = {PARAMETER_OF[model.argument]: model for model in fit.frame.parameter_models}
    out, at = [], 0
    for parameter in fit.family.parameters:
        model = models.get(parameter)
        part = slice(at, at + (1 if model is None else len(model.names)))
        at = part.stop
        # What a coefficient changes in the rows of its column.
        scale = 1.0 if model is None else np.sqrt(np.mean(model.X**2, axis=0))
        flat = errors[part] * scale > UNKNOWN
        if not np.any(flat):
            continue
        if model is None:
            value, error = values.iloc[at - 1], errors[at - 1]
            why = _simpler(fit, parameter, value)
            out.append(
                f"Not determined: {parameter} is {value:.3g}, standard error {error:.2g}; {why}."
            )
            continue
        named = ", ".join(np.array(model.names)[flat])
        out.append(
            f"Not determined: coefficients of {parameter} without a finite estimate or with little "
            f"information: {named}. Drop or merge these columns of {model.argument}=, or put a "
            "prior on them (priors.Normal(of=...))."
        )
    return out


def _simpler(fit: Fit, parameter: str, value: float) -> str:
    """Why a constant parameter is not determined, and what to do."""
    inner = getattr(fit.family, "inner", fit.family).name
    limit, sign, plainer = LIMITS.get(inner, ("", 0, ""))
    if parameter == limit and np.sign(value) == sign:
        return (
            f"{plainer} responses, the limit of {inner} ones, fit as well as what is near. Take "
            "the simpler family, or search from elsewhere (start=)"
        )
    if parameter == "logit(zero)" and value < 0:
        return "a probability of zero fits as well. Leave the excess zeros out"
    return "other values fit as well. Take a simpler family"


def _named(first: str, second: str) -> str:
    if second in structured.BETWEEN:
        return f"the {second} correlation of {first}"
    return f"the correlation of {first} and {second}"
