"""Confidence intervals of the parameters: Wald, profile likelihood, bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy

from glmm_jax.inference import parameter_names
from glmm_jax.inference.bootstrap_table import check_interval
from glmm_jax.inference.levels import check_level, percent

if TYPE_CHECKING:
    from glmm_jax.results import Fit

METHODS = ("wald", "profile", "bootstrap")
SETS = ("fixed", "all")
# The arguments that each method takes beside level and parameters.
OPTIONS = {
    "wald": (),
    "profile": ("progress",),
    "bootstrap": ("n", "seed", "random", "kind", "progress"),
}


def conf_int(
    fit: Fit,
    level: float = 0.95,
    method: str = "wald",
    parameters: str = "fixed",
    **options: Any,
) -> pd.DataFrame:
    """Confidence intervals, one row per parameter; columns "2.5 %" and "97.5 %" at level 0.95.

    "wald": the estimate plus and minus a normal quantile times its standard error; for standard
    deviations on the scale of the logarithm, for correlations of the inverse hyperbolic tangent. It
    is poor where the likelihood is not close to quadratic: near separation, and for few groups.
    "profile": the values that a likelihood-ratio test at this level does not reject. A limit at
    the boundary is 0 for a standard deviation, -1 or 1 for a correlation; NaN where there is none.
    "bootstrap": from the estimates of simulated responses.

    Parameters
    ----------
    level : of confidence, between 0 and 1.
    method : "wald", "profile" or "bootstrap".
    parameters : "fixed", the coefficients; "all": then of each term its standard deviations and
        correlations, then sigma or the other parameters of the family, as "sd(Intercept |
        district)", "cor(Intercept, age | district)", "log(phi)", "logit(zero): x".
    options : for "profile" progress; for "bootstrap" n, seed, random, progress (see `bootstrap`)
        and kind, "percentile" (default) or "basic".

    Returns
    -------
    A data frame. For "profile" its attrs["notes"] say, in sentences, what is unusual: limits at a
    boundary, a profile that is flat, points at which the search failed.

    Raises
    ------
    ValueError: an unknown method, set of parameters or option, or a level outside (0, 1).
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}; available: {', '.join(map(repr, METHODS))}")
    if parameters not in SETS:
        raise ValueError(f"parameters={parameters!r}; use 'fixed' or 'all'")
    unknown = [name for name in options if name not in OPTIONS[method]]
    if unknown:
        known = ", ".join(OPTIONS[method]) or "none"
        raise ValueError(f"{unknown[0]}= is no option of method={method!r}; its options: {known}")
    check_level(level)
    if method == "wald":
        return _wald(fit, level, parameters)
    chosen = list(fit.params.index) if parameters == "fixed" else parameter_names.names(fit)
    if method == "profile":
        return _profile(fit, level, chosen, **options)
    kind = options.pop("kind", "percentile")
    check_interval(level, kind, options.get("n"))
    return fit.bootstrap(**options).conf_int(level, kind).loc[chosen]


def _wald(fit: Fit, level: float, parameters: str) -> pd.DataFrame:
    tail = (1.0 - level) / 2.0
    quantile = -scipy.special.ndtri(tail)
    estimate, error = np.asarray(fit.params), np.asarray(fit.bse)
    limits = np.column_stack([estimate - quantile * error, estimate + quantile * error])
    columns = [percent(tail), percent(1.0 - tail)]
    table = pd.DataFrame(limits, fit.params.index, columns)
    if parameters == "fixed":
        return table
    random = fit.varcorr(level=level)[columns].to_numpy(float)
    names = parameter_names.names(fit)
    others = fit.dispersion_params.to_numpy()[: 0 if parameter_names.has_sigma(fit) else None]
    half = quantile * parameter_names.dispersion_errors(fit)[: len(others)]
    limits = [limits, random, np.column_stack([others - half, others + half])]
    return pd.DataFrame(np.concatenate(limits), names, columns)


def _profile(
    fit: Fit, level: float, chosen: list[str], progress: bool | None = None
) -> pd.DataFrame:
    found = fit.profile(chosen, level, joint=False, progress=progress)
    # A parameter without a value (the correlation with a variance of zero) has no interval.
    table = found.conf_int(level).reindex(chosen)
    table.attrs["notes"] = found.notes
    return table
