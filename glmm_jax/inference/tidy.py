"""A fit as tidy data frames: a row per parameter, per fit, per observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy

from glmm_jax.build import PARAMETER_OF
from glmm_jax.formula.frame import CONDITIONAL
from glmm_jax.inference import confint, predict, residuals, varcorr
from glmm_jax.inference.levels import check_level
from glmm_jax.inference.parameter_names import dispersion_errors, has_sigma
from glmm_jax.inference.parameter_rows import ZERO_PART
from glmm_jax.inference.wald import two_sided

if TYPE_CHECKING:
    from glmm_jax.results import Fit

RESIDUALS = ("response", "pearson", "deviance")


def tidy(fit: Fit, level: float | None = None) -> pd.DataFrame:
    """Every parameter of the model, one row each: coefficients, standard deviations and
    correlations of the random effects, then what other parameters the family has.

    Parameters
    ----------
    level : of Wald confidence intervals, 0.95 say; None for no intervals. Those of a standard
        deviation are symmetric on the log scale, those of a correlation on the atanh scale.

    Returns
    -------
    A data frame with columns effect ("fixed" or "random"; for other parameters "dispersion",
    "zero_inflation" or "parameter"); group, the grouping factor (missing for a coefficient;
    "Residual" for the residual standard deviation); term, the coefficient, or "sd__x" and
    "cor__x.z" with the names of columns of the random effects ("sd__Observation" for the residual
    one), or the coefficient of another parameter, "log(phi)" for a constant; estimate; std_error;
    statistic and p_value, of the Wald z test that a coefficient is zero (NaN for random effects,
    where zero is the end of the range); and with `level` conf_low and conf_high. A model with
    random effects in zero_inflation= has a column part, "conditional" or "zero_inflation". Names
    and values are those of R's broom.mixed, with its dots written as underscores.

    Raises
    ------
    ValueError : a level outside (0, 1).
    """
    if level is not None:
        check_level(level)
    fixed = pd.DataFrame(
        {
            "effect": "fixed",
            "group": None,
            "term": fit.params.index,
            "estimate": fit.params.to_numpy(),
            "std_error": fit.bse.to_numpy(),
            "statistic": fit.zvalues.to_numpy(),
            "p_value": fit.pvalues.to_numpy(),
        }
    )
    shown = 0.95 if level is None else level
    variances = varcorr.varcorr(fit, shown)
    random = pd.DataFrame(
        {
            "effect": "random",
            "group": variances["group"],
            "term": list(map(_term, variances["name1"], variances["name2"])),
            "estimate": variances["sdcor"],
            "std_error": variances["se"],
            "statistic": np.nan,
            "p_value": np.nan,
        }
    )
    if "part" in variances:
        random["part"] = variances["part"]
    if level is not None:
        fixed[["conf_low", "conf_high"]] = confint.conf_int(fit, level, "wald").to_numpy()
        random[["conf_low", "conf_high"]] = variances.iloc[:, -2:].to_numpy()
    others = _others(fit, level)
    words = {"effect": "str", "group": "str", "term": "str"}
    # Typed before they are joined: a model without coefficients leaves no column of objects.
    parts = [part.astype(words) for part in (fixed, random, others) if len(part)]
    table = pd.concat(parts, ignore_index=True)
    if "part" in table:
        of = np.where(table["effect"] == ZERO_PART, ZERO_PART, CONDITIONAL)
        part = np.where(table["effect"] == "random", table["part"], of)
        table = table.drop(columns="part")
        table.insert(3, "part", pd.Series(part, dtype="str"))
    return table


def _others(fit: Fit, level: float | None) -> pd.DataFrame:
    """Rows of the family's parameters besides eta, on their scales without bounds."""
    if has_sigma(fit):  # a row of `varcorr`
        return pd.DataFrame()
    rows = []
    estimates, errors = fit.dispersion_params, dispersion_errors(fit)
    models = {PARAMETER_OF[m.argument]: m for m in fit.frame.parameter_models}
    effects = {name: argument for argument, name in PARAMETER_OF.items()}
    at = 0
    for name in fit.family.parameters:
        terms = models[name].names if name in models else (name,)
        for term in terms:
            estimate, error = float(estimates.iloc[at]), float(errors[at])
            # That log(phi) is zero is no hypothesis; that a covariate has no effect on it is one.
            z = estimate / error if name in models and error > 0 else np.nan
            p = float(two_sided(z))
            rows.append((effects.get(name, "parameter"), None, term, estimate, error, z, p))
            at += 1
    names = ["effect", "group", "term", "estimate", "std_error", "statistic", "p_value"]
    table = pd.DataFrame(rows, columns=names)
    if level is not None and len(table):
        half = -scipy.special.ndtri((1.0 - level) / 2.0) * table["std_error"]
        table["conf_low"], table["conf_high"] = table["estimate"] - half, table["estimate"] + half
    return table


def _term(name1: object, name2: object) -> str:
    """broom.mixed's name of a row of `varcorr`."""
    if not isinstance(name1, str):
        return "sd__Observation"
    return f"cor__{name1}.{name2}" if isinstance(name2, str) else f"sd__{name1}"


def glance(fit: Fit) -> pd.DataFrame:
    """The fit in one row, so that rows of several fits make a table (`pandas.concat`).

    Returns
    -------
    A data frame of one row with columns family, link, nagq, reml; nobs, rows used; npar, number of
    parameters; df_resid = nobs - npar; llf, log-likelihood; deviance = -2 llf; aic; bic; sigma,
    residual standard deviation (see `Fit.sigma`); converged; singular; and for
    each grouping factor g a column "levels_g", the number of its levels.
    """
    levels = {f"levels_{block.grouping}": len(block.levels) for block in fit.frame.blocks}
    row = {
        "family": fit.family.name,
        "link": fit.family.link.name,
        "nagq": fit.nagq,
        "reml": fit.reml,
        "nobs": fit.nobs,
        "npar": fit.df,
        "df_resid": fit.df_resid,
        "llf": fit.llf,
        "deviance": fit.deviance,
        "aic": fit.aic,
        "bic": fit.bic,
        "sigma": fit.sigma,
        "converged": fit.converged,
        "singular": fit.is_singular,
        **levels,
    }
    return pd.DataFrame([row])


def augment(fit: Fit, *, prefix: str = "", se: bool = False) -> pd.DataFrame:
    """The data of the rows used, with fitted values and residuals beside them.

    Parameters
    ----------
    prefix : put before the name of every added column, for data that have such a column already.
    se : whether to add standard errors of the fitted values; they cost more than all the rest.

    Returns
    -------
    A data frame with the columns and row labels of the data given to the fit, without the rows
    dropped for missing values, and then

        observed          y as it was fitted: 0 and 1 for two levels, a proportion where there are
                          trials. After `refit` it is the new response, the data keep the old one
        fitted            mu, the conditional mean
        fitted_population mu with the random effects at zero
        linear_predictor  eta = X beta + Z b + offset
        resid_response, resid_pearson, resid_deviance     as `fit.resid` gives them, those that
                          the family has
        fitted_se         with `se`: of fitted, as `fit.predict` gives it (and intervals)

    A fit that was loaded from a file has no data. In their place stand the columns of X by their
    names, the grouping factors (a covariate that groups too is there as numbers only), and the
    trials, weights and offset where there are any.

    Raises
    ------
    ValueError : a column of the data has the name of an added one.
    """
    if not isinstance(prefix, str):
        raise ValueError(f"prefix={prefix!r}; give a text such as 'fit_'")
    frame = fit.frame
    y = frame.y if frame.trials is None else frame.y / frame.trials
    added = {
        "observed": y,
        "fitted": residuals.fitted(fit),
        "fitted_population": np.asarray(predict.predict(fit, random="population")),
        "linear_predictor": residuals.linear_predictor(fit),
    }
    for kind in RESIDUALS:
        found = residuals.available(fit, kind)
        if found is not None:
            added[f"resid_{kind}"] = found
    if se:
        added["fitted_se"] = np.asarray(predict.predict(fit, se=True)["se"])
    data = _used_data(fit)
    # By position: labels may occur twice.
    new = pd.DataFrame({prefix + name: np.array(x) for name, x in added.items()}, data.index)
    clashes = [name for name in new.columns if name in data.columns]
    if clashes:
        raise ValueError(
            f"prefix={prefix!r}: the data have columns of the names "
            f"{', '.join(map(repr, clashes))} already; give another prefix, such as 'fit_'"
        )
    return pd.concat([data, new], axis=1)


def _used_data(fit: Fit) -> pd.DataFrame:
    """The caller's rows that the fit uses; without them, what the frame has kept of them."""
    frame = fit.frame
    if fit.call.data is not None:
        rows = slice(None) if frame.kept_rows is None else np.flatnonzero(frame.kept_rows)
        return fit.call.data.iloc[rows].copy()
    columns: dict[str, np.ndarray | pd.Categorical] = {}
    columns |= {name: frame.X[:, j].copy() for j, name in enumerate(frame.X_names)}
    for block in frame.blocks:
        if block.grouping not in columns:
            columns[block.grouping] = pd.Categorical.from_codes(block.index, block.levels)
    for name, values in (("trials", frame.trials), ("weights", frame.weights)):
        if values is not None:
            columns.setdefault(name, values.copy())
    if np.any(frame.offset):
        columns.setdefault("offset", frame.offset.copy())
    return pd.DataFrame(columns, frame.index)
