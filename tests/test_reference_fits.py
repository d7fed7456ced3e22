"""Fits from formula and data agree with the optima that two established programs found.

Each family and structure is fitted; the other references of these are maxima of our deviance, to
which no search is needed (see `maxima`). One fit serves every reference of the same model: where
the link is canonical lme4 and glmmTMB maximise the same function. The tolerances are the
references': both programs agree with each other to 5e-6 in the log-likelihood.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import numpy as np
import pandas as pd
import pytest
from maxima import Maximum
from reference_cases import Case, case, cases, independent, load, map_names
from test_objective_points import OWN, agree

import glmm_jax as gj
from glmm_jax import families
from glmm_jax.inference import parameter_names
from glmm_jax.results import Fit

# Where the program maximised another function, its optimum is no reference for ours: those models
# are compared with separate code (test_objective_points), and weights that lme4 rounds there too.
ELSEWHERE = {"separation", "zi-re"}
# The zero part has coefficients that run to an infinity: where they are then says nothing.
RUNAWAY = "sal_zinb1/glmmTMB"
# The same models with another number of nodes: one of each is fitted, and the objective of others
# compared at two numbers of nodes (test_objective_points).
OTHER_NODES = (
    "cm3_agq5/lme4", "cm3_agq25/lme4", "toenail_visit_agq25/lme4", "toenail_time_agq25/lme4",
    "small_clusters_agq25/lme4",
)  # fmt: skip
COMPARED = [
    one
    for one in cases(plain=None)
    if one.other_objective is None
    and not ELSEWHERE.intersection(one.tags)
    and one.key not in (*OTHER_NODES, RUNAWAY)
]
# glmer.nb finds the size by golden section search, to four digits, and the rest given it.
PROFILED = ("gt_nb2/lme4", "sal_nb2/lme4")
# One of each family, structure and kind of criterion, where others need no program of their own
# here or in other modules; and what is hard to find: saddles, zeros, raw scales, large variances.
FITTED = (
    "cm1", "cm3", "cm4", "cm3_0urban", "cm3_ageslope_raw", "cm3_ageslope_scaled", "cm5",
    "cm3_cloglog", "cm3_agq11", "contra_rankdef", "toenail_visit", "toenail_slope",
    "cbpp", "cbpp_prop", "cbpp_agq9", "cbpp_prop_agq9", "betabinom_as_binom", "betabinom",
    "gt_pois3", "gt_pois2", "cross_pois", "wts_pois_int",
    "singular_pois", "singular_pois_slope",
    "sal_nb2", "sal_nb1", "sal_nb2_disp", "genpois",
    "sal_zip", "hurdle_pois",
    "sleep_corr_ml", "sim_gauss_slope_ml", "sim_gauss_w_ml", "pastes_nested_ml",
    "sleep_corr_reml", "sim_gauss_w_reml", "cm3_agq0", "insteval", "insteval_agq0",
    "insteval_lmm",
    "gamma_log", "tweedie_log", "t_dist",
)  # fmt: skip


def test_what_is_not_compared_is_known() -> None:
    left = {one.key for one in cases(plain=None)} - {one.key for one in COMPARED}
    assert left == {
        "gamma_log/lme4", "gamma_inv/lme4", "ig_log/lme4", "gauss_log/lme4", "wts_bin_real/lme4",
        "separation/lme4", "separation/glmmTMB", "sal_zip_re/glmmTMB", RUNAWAY, *OTHER_NODES,
    }  # fmt: skip


def key_of(one: Case) -> tuple:
    """What the fits of a model have in common; the arguments of the first are kept."""
    arguments = one.glmer_arguments()
    family = families.get(arguments["family"], arguments.get("link"))
    # Both curvatures are one for a canonical link: a single program serves both references.
    if family.is_canonical and not one.ziformula:
        arguments["curvature"] = "expected"
    weights = (one.weights, family.weights_are_precisions) if one.weights else None
    others = (one.nagq, one.reml, one.dispformula, one.ziformula)
    key = (one.dataset, one.formula, family, others, weights, arguments["curvature"])
    if key not in _arguments:
        _arguments[key] = one, arguments
    return key


def fit_of(one: Case) -> Fit:
    return _fit(key_of(one))


def found_of(one: Case) -> tuple[Fit, np.ndarray, dict[str, pd.DataFrame]]:
    """Fit, fitted values and random effects, of a search or of the maximum beside the reference."""
    if one.id in FITTED:
        fit = fit_of(one)
        return fit, fit.fittedvalues.to_numpy(), fit.ranef()
    found = _maximum(key_of(one))
    return found.fit, found.fittedvalues, found.effects


_arguments: dict[tuple, tuple[Case, dict]] = {}


# Tests of one model stand side by side, so a few fits at a time are enough.
@lru_cache(maxsize=4)
def _fit(key: tuple) -> Fit:
    if _fit.cache_info().misses % 8 == 0:
        jax.clear_caches()  # a process may hold the memory maps of some forty programs only
    return gj.glmer(**_arguments[key][1])


@lru_cache(maxsize=4)
def _maximum(key: tuple) -> Maximum:
    return Maximum(*_arguments[key])


@pytest.mark.parametrize("one", COMPARED, ids=str)
def test_agrees_with_the_reference(one: Case) -> None:
    fit, fitted, effects = found_of(one)
    assert fit.converged, fit.message
    assert fit.nobs == one.n
    assert fit.is_singular == one.singular

    gain = fit.llf - one.log_likelihood
    assert gain >= -1e-5
    # None of the references is unconverged: nothing may be gained on them either. A glmmTMB
    # fit at the boundary stops where theta is small, not zero (see the README of the references).
    assert gain <= 1e-4
    # lme4's criteria at nagq > 1 lack the saturated log-likelihood, as its own log-likelihood does.
    constant = 2 * (one.record["logLik"] - one.log_likelihood)
    assert fit.aic == pytest.approx(one.aic + constant, abs=2e-4)
    assert fit.bic == pytest.approx(one.bic + constant, abs=2e-4)
    assert fit.df == one.df

    beta = fit.params.reindex(one.names()).to_numpy()
    np.testing.assert_array_less(np.abs(beta - one.beta) / one.se, 1e-3)
    np.testing.assert_allclose(_signs_of(one, fit.theta.to_numpy()), one.theta, atol=1e-3, rtol=0)
    if one.sigma is not None and one.family == "gaussian":
        assert fit.sigma == pytest.approx(one.sigma, rel=1e-4)
    _others_agree(one, fit)

    if one.key not in PROFILED:
        se = fit.bse.reindex(one.names()).to_numpy()
        np.testing.assert_allclose(se, _standard_errors(one), rtol=1e-3)
    _modes_agree(one, effects)
    np.testing.assert_allclose(fitted[:10], one.fitted10, atol=0, rtol=1e-3)
    if one.id not in FITTED and one.nagq:
        for point in one.points:  # of a fitted model the maximum is compared, above
            assert point.deviance is not None
            agree(_maximum(key_of(one)).deviance(point), point.deviance, OWN)


def _others_agree(one: Case, fit: Fit) -> None:
    """The family's parameters besides eta, and standard errors where the reference has them."""
    reference = next((point.others for point in one.points if point.deviance is not None), None)
    if reference is None or one.nagq == 0:
        return
    np.testing.assert_allclose(fit.dispersion_params, reference, atol=1e-3)
    for record, names in (("dispersion", ["betad", "se_betad"]), ("zi", ["beta", "se"])):
        known = one.record.get(record) or {}
        if names[1] not in known:
            continue
        size = len(known[names[0]])
        part = slice(0, size) if record == "dispersion" else slice(-size, None)
        se = parameter_names.dispersion_errors(fit)[part]
        np.testing.assert_allclose(se, known[names[1]], rtol=1e-3)


def _signs_of(one: Case, theta: np.ndarray) -> np.ndarray:
    """theta with the diagonal of Lambda positive: ours has it so; a check that it is."""
    start = 0
    for component in one.components:
        k = len(component.terms)
        for j in range(k):
            assert theta[start] >= 0 and not np.signbit(theta[start])
            start += k - j
    assert start == len(theta)
    return theta


def _standard_errors(one: Case) -> np.ndarray:
    """What `bse` is to be compared with.

    From the joint Hessian in (beta, theta) where the reference has one. At nagq = 0 beta has no
    part in the deviance that is maximised: lme4 gives those with theta held fixed. lmer's, too,
    hold theta fixed, which for a Gaussian response with identity link changes nothing: there beta
    and the covariance parameters are orthogonal in expectation, and by less than 0.1 % otherwise.
    At the boundary (theta = 0) glmmTMB's Hessian is that of beta alone, as ours is.
    """
    if one.nagq == 0:
        assert one.se_rx is not None
        return one.se_rx
    return one.se if one.se_hessian is None else one.se_hessian


def _modes_agree(one: Case, found: dict[str, pd.DataFrame]) -> None:
    """Conditional modes within 1e-3 of their standard deviations, the sum of squares of all."""
    for effects in one.effects:
        frame = found[effects.group]
        names = [name for name in frame.columns if not name.endswith(" (sd)")]
        assert len(names) >= len(effects.terms)
        chosen = _columns(effects.terms, names, one)
        modes = frame[chosen].reindex(list(effects.levels)).to_numpy()
        deviations = frame[[f"{name} (sd)" for name in chosen]].reindex(list(effects.levels))
        sd = deviations.to_numpy() if effects.conditional_sd is None else effects.conditional_sd
        np.testing.assert_array_less(np.abs(modes - effects.mode), 1e-3 * sd + 1e-6)
        if effects.conditional_sd is not None:
            # Quantities that glmmTMB cannot resolve at a variance of zero are zero here, and no
            # larger than what it has for zero there.
            zero = np.min(one.theta[one.theta > 0], initial=np.inf) if one.singular else 0.0
            least = max(1e-6, 1.1 * zero if zero < 1e-5 else 0.0)
            np.testing.assert_allclose(deviations.to_numpy(), sd, rtol=1e-3, atol=least)
        if effects.sum_of_squares is not None:
            squares = np.sum(frame[chosen].to_numpy() ** 2)
            np.testing.assert_allclose(squares, effects.sum_of_squares, rtol=1e-3, atol=1e-6)


def _columns(terms: tuple[str, ...], names: list[str], one: Case) -> list[str]:
    if all(name in names for name in map_names(terms, one.frame())):
        return map_names(terms, one.frame())
    return names


def test_a_higher_maximum_than_the_reference_is_said_to_lie_at_infinity() -> None:
    """sal_zinb2 has a maximum, -817.1495, where glmmTMB stopped, and a higher one without end."""
    one = case("sal_zinb2/glmmTMB")
    point = one.points[0]
    away = gj.Params(np.asarray(point.beta), point.theta, point.others.copy())
    away.dispersion[-1] -= 10  # of the zero part: mined, on its way to minus infinity
    fit = gj.glmer(**one.glmer_arguments(), start=away)
    # glmmTMB's objective is 814.7579 on the way, where an earlier search of ours ended.
    assert -814.7579 - 1e-4 <= fit.llf <= -814.7579 + 1e-3
    assert fit.status is gj.Status.SEPARATION
    assert any("logit(zero)" in text and "mined" in text for text in fit.warnings)
    errors = parameter_names.dispersion_errors(fit)
    assert not np.any(errors == 0) and np.max(errors) > 1e3


@pytest.mark.parametrize("key", ["beta_logit/glmmTMB", "compois/glmmTMB"])
def test_a_family_that_is_not_fitted_here_starts_near_its_maximum(key: str) -> None:
    """The programs of these fits take the longest to compile."""
    fit, mu, _ = found_of(case(key))
    start = fit.family.start_parameters(fit.frame.y, mu, np.ones(fit.nobs), None, 0.0)
    np.testing.assert_allclose(start, fit.dispersion_params, atol=0.5)


@pytest.mark.parametrize("key", ["separation/lme4", "separation/glmmTMB"])
def test_separation_is_named(key: str) -> None:
    one = case(key)
    fit = fit_of(one)
    assert fit.status is gj.Status.SEPARATION and not fit.converged
    # The supremum of the likelihood; the coefficient of s runs away from it in every program.
    assert fit.llf == pytest.approx(-194.8517, abs=1e-4)
    assert list(fit.params.index[fit.estimate.separated]) == ["s"]
    assert "s" in fit.message
    others = [i for i, name in enumerate(one.names()) if name != "s"]
    beta = fit.params.reindex(one.names()).to_numpy()[others]
    np.testing.assert_array_less(np.abs(beta - one.beta[others]), 1e-3 * one.se[others])


def test_dispersion_and_rounded_weights_follow_the_likelihood() -> None:
    """Where lme4 has another objective, ours is no lower at its own optimum than at lme4's."""
    ours, _, _ = found_of(case("gauss_log/glmmTMB"))
    reference = independent("gauss_log", "observed")
    assert ours.llf == pytest.approx(reference["logLik"], abs=1e-5)
    np.testing.assert_allclose(ours.bse, reference["se"], rtol=1e-3)
    assert ours.theta.iloc[0] == pytest.approx(reference["sd"], abs=1e-4)


@pytest.mark.parametrize("id", ["contra_rankdef", "contra_rankdef2"])
def test_dropped_columns_are_named(id: str) -> None:
    one = case(f"{id}/lme4")
    fit, _, _ = found_of(one)
    assert set(fit.frame.dropped_columns) and fit.params.size == one.beta.size


def test_integer_weights_repeat_rows() -> None:
    weighted, _, _ = found_of(case("wts_pois_int/lme4"))
    expanded, _, _ = found_of(case("wts_pois_expanded/lme4"))
    assert weighted.llf == pytest.approx(expanded.llf, abs=1e-9)
    np.testing.assert_allclose(weighted.params, expanded.params, rtol=1e-8)
    assert weighted.nobs == 400 and expanded.nobs == len(load("sim_wts_expanded"))
