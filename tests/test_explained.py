"""R-squared and intraclass correlations against the formulae written out in R on lme4's fits."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import scipy.special
import scipy.stats
from reference_cases import FOLDER, case

from glmm_jax import Fit, families, glmer
from glmm_jax.inference import explained

REFERENCE = json.loads((FOLDER / "inference_residuals.json").read_text(encoding="utf-8"))
# Random intercepts, a random slope with and without dispersion, other links, an effect per row.
IDS = ("cm4", "cm3_probit", "cm3_cloglog", "cbpp", "gt_pois3", "sleep_corr_ml")


@cache
def fitted(id: str) -> Fit:
    return glmer(**case(f"{id}/lme4").glmer_arguments())


@pytest.mark.parametrize("id", IDS)
def test_r_squared_and_icc_are_those_of_lme4s_parts(id: str) -> None:
    fit, known = fitted(id), REFERENCE[id]
    table = fit.r_squared()
    assert list(table.index) == list(known["r_squared"])
    assert list(table.columns) == ["marginal", "conditional"]
    for method, values in known["r_squared"].items():
        np.testing.assert_allclose(table.loc[method], values, rtol=2e-5)
        shares, expected = fit.icc(method), known["icc"][method]
        assert list(shares.index) == [*expected["group"], "total"]
        np.testing.assert_allclose(shares["adjusted"], expected["adjusted"], rtol=5e-5)
        np.testing.assert_allclose(shares["unadjusted"], expected["unadjusted"], rtol=5e-5)
    assert fit.icc().equals(fit.icc(table.index[0]))


def test_an_effect_per_row_explains_nothing() -> None:
    fit = fitted("gt_pois3")
    assert fit.theta.index.to_list()[0].startswith("INDEX") and "INDEX" not in fit.icc().index
    # The same variances, with the effect per row left out of the total, would explain more.
    parts = explained._variances(fit)
    assert parts.per_row == pytest.approx(fit.theta.iloc[0] ** 2, rel=1e-12)
    grouped = sum(parts.groups.values())
    total = parts.fixed + grouped + parts.per_row + parts.observation["delta"]
    assert fit.r_squared().loc["delta", "conditional"] == pytest.approx(
        (parts.fixed + grouped) / total
    )


def test_random_intercepts_of_a_linear_model_give_the_classical_icc() -> None:
    fit = fitted("pastes_nested_ml")
    variances = fit.varcorr()["vcov"].to_numpy()
    expected = variances[:-1] / variances.sum()
    # No fixed effects but the intercept: nothing to adjust for.
    for column in ("adjusted", "unadjusted"):
        np.testing.assert_allclose(fit.icc()[column].iloc[:-1], expected, rtol=1e-10)
    assert fit.icc().loc["total", "adjusted"] == pytest.approx(expected.sum())
    np.testing.assert_allclose(fit.r_squared().loc["exact"], [0, expected.sum()], atol=1e-12)


def test_precision_weights_divide_the_residual_variance() -> None:
    fit = fitted("sim_gauss_w_ml")
    assert fit.frame.weights is not None and fit.dispersion is not None
    (residual,) = explained._observation(fit).values()
    assert residual == pytest.approx(np.mean(fit.dispersion / fit.frame.weights), rel=1e-12)


@pytest.mark.parametrize(
    ("family", "mean", "expected"),
    [
        (families.Bernoulli("logit"), 0.3, 1 / 0.21),
        (families.Bernoulli("identity"), 0.3, 0.21),
        (families.Bernoulli("cauchit"), 0.3, 0.21 * np.pi**2 / np.sin(0.3 * np.pi) ** 4),
        (families.Poisson("log"), 2.5, 0.4),
        (families.Poisson("sqrt"), 2.5, 0.25),
        (families.Gaussian("log"), 2.0, 1.7 / 4.0),
    ],
)
def test_variance_by_the_delta_method(
    family: families.Family, mean: float, expected: float
) -> None:
    log_phi = np.log(1.7) if family.has_dispersion else None
    assert float(explained._delta(family, mean, log_phi)) == pytest.approx(expected, rel=1e-9)


def test_latent_variances_are_those_of_the_distributions() -> None:
    known = {"logit": "logistic", "probit": "norm", "cloglog": "gumbel_l", "loglog": "gumbel_r"}
    for link, name in known.items():
        assert explained.LATENT[link] == pytest.approx(getattr(scipy.stats, name).var())


def test_mean_of_a_poisson_response_enters_by_three_methods() -> None:
    fit = fitted("gt_pois3")
    mean = fit.frame.y.mean()
    assert explained._observation(fit) == pytest.approx(
        {
            "trigamma": float(scipy.special.polygamma(1, mean)),
            "lognormal": np.log(1 + 1 / mean),
            "delta": 1 / mean,
        }
    )


def test_a_method_that_the_family_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method='lognormal'; the binomial .*'theoretical'"):
        fitted("cbpp").icc("lognormal")
