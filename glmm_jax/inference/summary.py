"""The summary of a fit: its numbers in one frozen record, printed in lme4's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.families.gaussian import Gaussian
from glmm_jax.inference import layout
from glmm_jax.inference.diagnosis import outcome, warnings
from glmm_jax.inference.residuals import residuals
from glmm_jax.inference.varcorr import correlations, triangles
from glmm_jax.links import Identity

if TYPE_CHECKING:
    from glmm_jax.results import Fit

__all__ = ["Summary", "TermVariances", "outcome", "summarise", "warnings"]


@dataclass(frozen=True, eq=False)
class TermVariances:
    """Random effects of one term: k column names, (k,) variances, (k, k) correlations."""

    group: str
    names: tuple[str, ...]
    variances: np.ndarray
    correlations: np.ndarray


@dataclass(frozen=True, eq=False)
class Summary:
    """What `Fit.summary()` returns: `print` gives lme4's layout, a notebook shows tables.

    statistics : AIC, BIC, logLik, -2*log(L), df.resid. quantiles : minimum, quartiles and maximum
    of the Pearson residuals over sigma. terms : random effects. residual : residual variance or
    None. coefficients : columns Estimate, Std. Error, z value, Pr(>|z|). correlation : of the
    coefficients, if asked for. convergence : how the search ended. warnings : the rest one should
    know.
    """

    title: str
    family: str
    formula: str
    response: str
    statistics: dict[str, float]
    quantiles: np.ndarray
    terms: tuple[TermVariances, ...]
    residual: float | None
    nobs: int
    missing: int
    groups: tuple[tuple[str, int], ...]
    coefficients: pd.DataFrame
    correlation: pd.DataFrame | None
    convergence: str
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return layout.text(self)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return layout.html(self)


def summarise(fit: Fit, correlation: bool = False) -> Summary:
    """Summary of a fit; with `correlation`, the correlations of the fixed effects too."""
    V = [Lambda @ Lambda.T for Lambda in triangles(fit.frame, fit.theta)]
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
        statistics={
            "AIC": fit.aic,
            "BIC": fit.bic,
            "logLik": fit.llf,
            "-2*log(L)": fit.deviance,
            "df.resid": fit.df_resid,
        },
        quantiles=np.quantile(residuals(fit, "pearson") / fit.sigma, [0, 0.25, 0.5, 0.75, 1]),
        terms=tuple(
            TermVariances(b.grouping, b.names, np.diag(v), correlations(v))
            for b, v in zip(fit.frame.blocks, V, strict=True)
        ),
        residual=fit.dispersion,
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
    )


def _title(fit: Fit) -> str:
    if isinstance(fit.family, Gaussian) and isinstance(fit.family.link, Identity):
        return "Linear mixed model fit by maximum likelihood"
    title = "Generalized linear mixed model fit by maximum likelihood"
    if fit.nagq == 0:
        return f"{title} (Adaptive Gauss-Hermite Quadrature, nAGQ = 0)"
    observed = fit.curvature == "observed" and not fit.family.is_canonical
    return f"{title} (Laplace Approximation{', observed information' if observed else ''})"


def _response(fit: Fit) -> str:
    """What counts as a success, where the response does not say so itself."""
    if fit.frame.response_levels is None:
        return ""
    failure, success = fit.frame.response_levels
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
