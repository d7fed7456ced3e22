"""The summary of a fit: its numbers in one frozen record, printed in lme4's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.build import PARAMETER_OF
from glmm_jax.covariance import Diagonal, Structured
from glmm_jax.families.gaussian import Gaussian
from glmm_jax.families.ordinal import Ordinal
from glmm_jax.formula.frame import CONDITIONAL
from glmm_jax.inference import layout, structured
from glmm_jax.inference.categories import thresholds
from glmm_jax.inference.diagnosis import outcome, warnings
from glmm_jax.inference.parameter_names import dispersion_errors, has_sigma
from glmm_jax.inference.residuals import available
from glmm_jax.inference.varcorr import CovarianceTerm, correlations, covariance_terms
from glmm_jax.inference.wald import two_sided
from glmm_jax.links import Identity

if TYPE_CHECKING:
    from glmm_jax.results import Fit

__all__ = ["Summary", "TermVariances", "outcome", "summarise", "warnings"]


@dataclass(frozen=True, eq=False)
class TermVariances:
    """Random effects of one term: k column names, (k,) variances, (k, k) correlations.

    common : of a covariance with one correlation, that correlation and the structure, "0.41 (cs)";
    AR(1) then has one name and one variance. None for others.
    """

    group: str
    names: tuple[str, ...]
    variances: np.ndarray
    correlations: np.ndarray
    common: str | None = None


@dataclass(frozen=True, eq=False)
class ParameterBlock:
    """One of the family's parameters besides eta.

    title : what it is; a constant is told of in it. coefficients : of its model, columns as those
    of `Summary.coefficients`; thresholds, without p-values; None for a constant. terms : its random
    effects.
    """

    title: str
    coefficients: pd.DataFrame | None
    terms: tuple[TermVariances, ...] = ()


@dataclass(frozen=True, eq=False)
class Summary:
    """What `Fit.summary()` returns: `print` gives lme4's layout, a notebook shows tables.

    statistics : AIC, BIC, logLik, -2*log(L), df.resid; for a REML fit its criterion alone.
    quantiles : minimum, quartiles and maximum of the residuals over their standard deviations
    (Pearson's), or None where these do not exist. terms : random effects. residual : residual
    variance of a Gaussian response or None. parameters : the family's others. coefficients :
    columns Estimate, Std. Error, z value, Pr(>|z|). correlation : of the coefficients, if asked
    for. relationships : grouping factors whose levels are related by a known matrix, and how many
    levels it has. convergence : how the search ended. warnings : the rest one should know.
    """

    title: str
    family: str
    formula: str
    response: str
    statistics: dict[str, float]
    quantiles: np.ndarray | None
    terms: tuple[TermVariances, ...]
    residual: float | None
    nobs: int
    missing: int
    groups: tuple[tuple[str, int], ...]
    coefficients: pd.DataFrame
    correlation: pd.DataFrame | None
    convergence: str
    warnings: tuple[str, ...]
    parameters: tuple[ParameterBlock, ...] = ()
    relationships: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return layout.text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return layout.html(self)


def summarise(fit: Fit, correlation: bool = False) -> Summary:
    """Summary of a fit; with `correlation`, the correlations of the fixed effects too."""
    coefficients = {
        "Estimate": fit.params,
        "Std. Error": fit.bse,
        "z value": fit.zvalues,
        "Pr(>|z|)": fit.pvalues,
    }
    ended = outcome(fit)
    names = list(fit.frame.X_names)
    return Summary(
        title=_title(fit),
        family=f"{fit.family.name}  ( {fit.family.link.name} )",
        formula=fit.frame.formula.text.strip(),
        response=_response(fit),
        statistics=_statistics(fit),
        quantiles=_quantiles(fit),
        terms=_terms(fit, CONDITIONAL),
        residual=fit.dispersion if has_sigma(fit) else None,
        nobs=fit.nobs,
        missing=fit.frame.n_missing,
        groups=tuple({b.grouping: len(b.levels) for b in fit.frame.blocks}.items()),
        coefficients=pd.DataFrame(coefficients, index=names),
        correlation=(
            pd.DataFrame(correlations(fit.cov_params().to_numpy()), names, names)
            if correlation
            else None
        ),
        convergence=f"{ended}\n{_effort(fit)}",
        warnings=tuple(w for w in warnings(fit) if w not in ended),
        parameters=_parameters(fit),
        relationships=tuple(
            {
                block.grouping: len(block.relationship.labels)
                for block in fit.frame.blocks
                if block.relationship is not None
            }.items()
        ),
    )


def _terms(fit: Fit, part: str) -> tuple[TermVariances, ...]:
    """The random effects of one part of the model."""
    theta = fit.theta.to_numpy()
    return tuple(_term(t, theta) for t in covariance_terms(fit.frame) if t.block.part == part)


def _term(term: CovarianceTerm, theta: np.ndarray) -> TermVariances:
    block, Lambda = term.block, term.triangle(theta)
    V = Lambda @ Lambda.T
    if not isinstance(term.kind, Structured):
        R = correlations(V)
        if isinstance(term.kind, Diagonal):
            R = np.zeros((len(V), 0))  # none to show
        return TermVariances(block.grouping, block.names, np.diag(V), R)
    values = structured.reported(term.kind, theta[term.part]).values
    names = tuple(name for name, other in structured.names(block) if other is None)
    common = f"{layout.correlation_text(values[-1])} ({block.structure})"
    return TermVariances(block.grouping, names, values[:-1] ** 2, np.zeros((len(V), 0)), common)


def _statistics(fit: Fit) -> dict[str, float]:
    if fit.reml:
        return {"REML criterion at convergence": fit.deviance}
    return {
        "AIC": fit.aic,
        "BIC": fit.bic,
        "logLik": fit.llf,
        "-2*log(L)": fit.deviance,
        "df.resid": fit.df_resid,
    }


def _quantiles(fit: Fit) -> np.ndarray | None:
    found = available(fit, "pearson")
    if found is None:
        return None
    # Where phi is one factor of the variance, Pearson residuals leave it out.
    sigma = fit.sigma if np.isfinite(fit.sigma) else 1.0
    return np.quantile(found / sigma, [0, 0.25, 0.5, 0.75, 1])


def _parameters(fit: Fit) -> tuple[ParameterBlock, ...]:
    """The family's parameters besides eta, but for a residual variance."""
    if has_sigma(fit):
        return ()
    if fit.frame.known is not None:
        low, high = np.min(fit.frame.known), np.max(fit.frame.known)
        values = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        return (ParameterBlock(f"phi: {values} (known; {fit.family.phi_is})", None),)
    if isinstance(fit.family, Ordinal):
        return (ParameterBlock("Thresholds:", thresholds(fit)),)
    estimates, errors = fit.dispersion_params.to_numpy(), dispersion_errors(fit)
    models = {PARAMETER_OF[model.argument]: model for model in fit.frame.parameter_models}
    out, at = [], 0
    for name in fit.family.parameters:
        if name not in models:
            told = _constant(name, estimates[at], errors[at], fit.family.phi_is)
            out.append(ParameterBlock(told, None))
            at += 1
            continue
        model = models[name]
        part = slice(at, at + len(model.names))
        at = part.stop
        error = errors[part]
        z = np.divide(estimates[part], error, out=np.full(len(error), np.nan), where=error > 0)
        columns = {
            "Estimate": estimates[part],
            "Std. Error": error,
            "z value": z,
            "Pr(>|z|)": two_sided(z),
        }
        title = f"Model of {name} ({model.argument} ~ {model.formula}):"
        table = pd.DataFrame(columns, index=list(model.names))
        out.append(ParameterBlock(title, table, _terms(fit, model.argument)))
    return tuple(out)


def _constant(name: str, value: float, error: float, phi_is: str) -> str:
    """A constant on its own scale, and on that without bounds with its standard error."""
    bare = f"{name}: {value:.4g} (standard error {error:.3g})"
    for link, inverse in (("log", np.exp), ("logit", lambda x: np.exp(-np.logaddexp(0.0, -x)))):
        if name.startswith(f"{link}(") and name.endswith(")"):
            own = name[len(link) + 1 : -1]
            own = "probability of an excess zero" if name == "logit(zero)" else own
            meaning = f" ({phi_is})" if own == "phi" and phi_is else ""
            with np.errstate(over="ignore"):
                return f"{own}: {inverse(value):.4g}{meaning}; {bare}"
    return bare


def _title(fit: Fit) -> str:
    how = "REML" if fit.reml else "maximum likelihood"
    if fit.numbers.priors:
        how = f"penalised {how}"
    linear = isinstance(fit.family, Gaussian) and isinstance(fit.family.link, Identity)
    if linear and fit.nagq == 1:
        return f"Linear mixed model fit by {how}"
    title = f"Generalized linear mixed model fit by {how}"
    if fit.nagq != 1:
        return f"{title} (Adaptive Gauss-Hermite Quadrature, nAGQ = {fit.nagq})"
    observed = fit.curvature == "observed" and not fit.family.is_canonical
    return f"{title} (Laplace Approximation{', observed information' if observed else ''})"


def _response(fit: Fit) -> str:
    """What counts as a success, or the order of categories, where the response does not say so."""
    levels = fit.frame.response_levels
    if levels is None:
        return ""
    if isinstance(fit.family, Ordinal):
        return f"{fit.frame.response_name} (ordered: {' < '.join(levels)})"
    failure, success = levels
    return f"{fit.frame.response_name} (success: {success}, failure: {failure})"


def _effort(fit: Fit) -> str:
    found = fit.estimate
    # In units of standard errors the gradient does not depend on the scale of a covariate.
    scaled = np.abs(np.asarray(found.gradient)) * np.sqrt(np.diag(fit.vcov_all))
    largest = np.max(scaled, initial=0.0)
    return (
        f"Gradient evaluations: {int(found.evaluations)}, Hessians: {int(found.hessians)}; "
        f"largest |gradient| x standard error: {largest:.2g}; "
        f"smallest eigenvalue of the scaled Hessian: {float(found.smallest_eigenvalue):.3g}"
    )
