"""The parameters that responses are simulated from, by the names that analysts know them by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax.covariance import Structured
from glmm_jax.families.base import Family
from glmm_jax.formula.frame import Frame
from glmm_jax.inference.varcorr import covariance_terms, theta_names


def coefficients(params: Any, frame: Frame) -> np.ndarray:
    """beta, (p,), from a dictionary or Series of coefficients by name.

    Raises:
        ValueError: names that the design has not, or lacks here; values that are no numbers.
    """
    given = _by_name("params", params, "coefficients")
    return _in_order("params", given, frame.X_names)


def covariance_parameters(sd: Any, theta: Any, frame: Frame) -> np.ndarray:
    """theta, (m,), from standard deviations by grouping factor or from theta itself.

    Parameters
    ----------
    sd : {"patient": 0.5}, or where a factor has several columns {"patient": {"Intercept": 0.5,
        "time": 0.1}}; correlations are then zero.
    theta : (m,), lower triangles of Lambda by column, in lme4's order (`Fit.theta`); as a Series or
        a dictionary, by name.

    Raises:
        ValueError: both or neither, other names than the design has, or negative values.
    """
    names = theta_names(frame)
    if (sd is None) == (theta is None):
        raise ValueError(
            "sd= or theta= must be given, and only one of them: standard deviations of the random "
            f"effects by grouping factor, or theta, {_listed(names)}"
        )
    if theta is not None:
        if isinstance(theta, Mapping | pd.Series):
            return _in_order("theta", _by_name("theta", theta, "numbers"), names)
        values = np.asarray(theta, float) if np.size(theta) else np.zeros(0)
        if values.shape != (len(names),) or not np.all(np.isfinite(values)):
            raise ValueError(f"theta={theta!r}; give {len(names)} numbers, of {_listed(names)}")
        return values
    given = _by_name("sd", sd, "standard deviations")
    terms = list(covariance_terms(frame))
    columns: dict[str, list[str]] = {}
    for term in terms:
        columns.setdefault(term.block.grouping, []).extend(term.block.names)
    _check_names("sd", given, columns)
    found = {}
    for grouping, needed in columns.items():
        value = given[grouping]
        argument = f"sd[{grouping!r}]"
        if not isinstance(value, Mapping | pd.Series):
            if len(needed) > 1:
                raise ValueError(
                    f"{argument}={value!r}, but {grouping!r} has the columns {_listed(needed)}; "
                    f"give one each, {{{needed[0]!r}: ...}}, or theta= for correlated ones"
                )
            value = {needed[0]: value}
        each = _in_order(argument, _by_name(argument, value, "standard deviations"), needed)
        if np.any(each < 0):
            raise ValueError(f"{argument}: {each.min():g} is negative; give standard deviations")
        found |= {(grouping, name): float(one) for name, one in zip(needed, each, strict=True)}
    parts = []
    for term in terms:
        if isinstance(term.kind, Structured):
            raise ValueError(
                f"sd=: {term.block.structure}(... | {term.block.grouping}) has a correlation too; "
                "give theta="
            )
        row, column = term.kind.entries()
        own = np.array([found[term.block.grouping, name] for name in term.block.names])
        parts.append(np.where(row == column, own[row], 0.0))
    return np.concatenate(parts)


def dispersion_parameters(dispersion: Any, family: Family) -> np.ndarray | None:
    """The family's parameters besides eta on their unbounded scales: () for one, (d,) for more.

    Parameters
    ----------
    dispersion : phi, a positive number, where the family has log(phi) alone (Gaussian: sigma^2;
        negative binomial: the size); else a dictionary such as {"log(phi)": 0.3,
        "logit(zero)": -1}; None where the family has none.

    Raises:
        ValueError: it does not suit the family.
    """
    names = family.parameters
    if not names:
        if dispersion is not None:
            raise ValueError(
                f"dispersion={dispersion!r}: the {family.name} family has none; leave it out"
            )
        return None
    if isinstance(dispersion, Mapping | pd.Series):
        values = _in_order("dispersion", _by_name("dispersion", dispersion, "numbers"), names)
        return values[0] if len(names) == 1 else values
    if names != ("log(phi)",):
        raise ValueError(
            f"dispersion={dispersion!r}: the {family.name} family needs {_listed(names)}; give "
            f"them by name, {{{names[0]!r}: ...}}"
        )
    if not _is_number(dispersion) or not 0 < dispersion < np.inf:
        raise ValueError(
            f"dispersion={dispersion!r}: the {family.name} family needs phi, a positive number "
            "(Gaussian: the variance sigma^2 of a row; negative binomial: the size)"
        )
    return np.log(np.float64(dispersion))


def _by_name(argument: str, given: Any, what: str) -> dict[Any, Any]:
    if not isinstance(given, Mapping | pd.Series):
        raise ValueError(f"{argument}={given!r}; give {what} by name, in a dictionary")
    return dict(given)


def _in_order(argument: str, given: dict[Any, Any], names: Iterable[str]) -> np.ndarray:
    names = list(names)
    _check_names(argument, given, names)
    for name in names:
        if not _is_number(given[name]) or not np.isfinite(given[name]):
            raise ValueError(f"{argument}[{name!r}]={given[name]!r}; give a finite number")
    return np.array([float(given[name]) for name in names])


def _check_names(argument: str, given: Mapping[Any, Any], names: Iterable[str]) -> None:
    names = list(names)
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if unknown or missing:
        wrong = [f"{unknown[0]!r} is not in the design"] if unknown else []
        wrong += [f"{_listed(missing)} must be given"] if missing else []
        raise ValueError(f"{argument}: {'; '.join(wrong)}. The design has {_listed(names)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(str(name)) for name in names)
