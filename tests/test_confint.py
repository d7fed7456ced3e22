"""Confidence intervals: names, methods, and what is refused."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.special
from reference_cases import case

from glmm_jax import Fit, glmer
from glmm_jax.inference import parameter_names

Z95 = -scipy.special.ndtri(0.025)


@cache
def fitted(name: str) -> Fit:
    return glmer(**case(f"{name}/lme4").glmer_arguments())


def test_wald_intervals_are_estimates_and_standard_errors() -> None:
    fit = fitted("cm4")
    table = fit.conf_int()
    assert list(table.columns) == ["2.5 %", "97.5 %"] and list(table.index) == list(
        fit.params.index
    )
    np.testing.assert_allclose(table["97.5 %"], fit.params + Z95 * fit.bse, rtol=1e-12)
    np.testing.assert_allclose(table["2.5 %"], fit.params - Z95 * fit.bse, rtol=1e-12)


@pytest.mark.parametrize("name", ["cm4", "sleep_corr_ml"])
def test_wald_intervals_of_all_are_those_of_varcorr(name: str) -> None:
    fit = fitted(name)
    table = fit.conf_int(0.9, parameters="all")
    assert list(table.index) == parameter_names.names(fit)
    pd.testing.assert_frame_equal(table.iloc[: len(fit.params)], fit.conf_int(0.9))
    variances = fit.varcorr(level=0.9)
    for column in ("5 %", "95 %"):
        np.testing.assert_array_equal(table[column].iloc[len(fit.params) :], variances[column])
    # The rows of both tables are the same parameters.
    estimates = parameter_names.values(fit, [*fit.params, *fit.theta, *_log_phi(fit)])
    np.testing.assert_allclose(variances["sdcor"], estimates[len(fit.params) :], rtol=1e-10)
    inside = (table["5 %"] < estimates) & (estimates < table["95 %"])
    assert inside.all()


def _log_phi(fit: Fit) -> list[float]:
    return [] if fit.dispersion is None else [float(np.log(fit.dispersion))]


def test_names_say_which_parameter() -> None:
    assert parameter_names.names(fitted("cm4"))[5:] == [
        "age:ch[T.Y]",
        "sd(Intercept | district)",
        "sd(urban[T.Y] | district)",
        "cor(Intercept, urban[T.Y] | district)",
    ]
    assert parameter_names.names(fitted("sleep_corr_ml"))[-1] == "sigma"


def test_values_of_parameters() -> None:
    fit = fitted("cm4")
    flat = np.concatenate([fit.params, fit.theta])
    natural = parameter_names.values(fit, np.stack([flat, -flat])[:, None])
    assert natural.shape == (2, 1, 9)
    component = case("cm4/lme4").components[0]
    assert component.corr is not None
    np.testing.assert_allclose(natural[0, 0, 6:8], component.sd, rtol=1e-4)
    assert natural[0, 0, 8] == pytest.approx(component.corr[1, 0], abs=1e-4)
    np.testing.assert_allclose(natural[1, 0, 6:], natural[0, 0, 6:], rtol=1e-12)
    assert np.isnan(parameter_names.values(fit, np.zeros(9))[8])
    with pytest.raises(ValueError, match="must hold the 9 parameters"):
        parameter_names.values(fit, np.zeros(8))


def test_profile_intervals_are_those_of_the_profile() -> None:
    fit = fitted("cbpp")
    table = fit.conf_int(method="profile", parameters="all")
    assert list(table.index) == parameter_names.names(fit)
    pd.testing.assert_frame_equal(table, fit.profile().conf_int(), rtol=1e-7)
    assert table.attrs["notes"] == ()
    fixed = fit.conf_int(0.8, method="profile", progress=False)
    assert list(fixed.index) == list(fit.params.index)
    assert (fixed.iloc[:, 0] > table.iloc[:4, 0]).all() and fixed.columns[0] == "10 %"


def test_bootstrap_intervals_are_those_of_the_bootstrap() -> None:
    fit = fitted("cbpp")
    for kind in ("percentile", "basic"):
        table = fit.conf_int(0.8, method="bootstrap", n=60, seed=3, kind=kind, parameters="all")
        expected = fit.bootstrap(n=60, seed=3).conf_int(0.8, kind)
        np.testing.assert_allclose(table, expected, rtol=1e-9)
        assert list(table.index) == parameter_names.names(fit)
    fixed = fit.conf_int(0.8, method="bootstrap", n=60, seed=3)
    assert list(fixed.index) == list(fit.params.index)


def test_bad_arguments_are_refused() -> None:
    fit = fitted("cbpp")
    with pytest.raises(ValueError, match="method='exact'; available: 'wald', 'profile', 'boot"):
        fit.conf_int(method="exact")
    with pytest.raises(ValueError, match="parameters='random'; use 'fixed' or 'all'"):
        fit.conf_int(parameters="random")
    with pytest.raises(ValueError, match="seed= is no option of method='wald'; its options: none"):
        fit.conf_int(seed=1)
    with pytest.raises(ValueError, match=r"n= is no option of method='profile'; .* progress"):
        fit.conf_int(method="profile", n=10)
    for method in ("wald", "profile", "bootstrap"):
        with pytest.raises(ValueError, match="level=95; use a number between 0 and 1"):
            fit.conf_int(95, method=method)
