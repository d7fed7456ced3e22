"""The deviance alone, no optimizer: at given parameters it is the references' to rounding.

Tolerances. The references print 12 significant digits. lme4 and glmmTMB give their own objective;
lme4's points also carry the value of separate code, for both curvatures. Up to deviances of 10,000
(all but InstEval) 1e-8 absolute is asked, and met by both programs' own values. Where a conditional
mode is far from zero (the toenail data, standard deviations of 4 and more; grouse ticks) the inner
iterations of the separate code, and of glmmTMB at one point, stopped up to 4e-8 short: ours and
lme4's agree there to 5e-9, and ours has a score of zero to rounding (tests of PIRLS).
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from maxima import SIZES, coarse, widened
from reference_cases import Case, Point, case, cases, independent, independents, load

import glmm_jax as gj
from glmm_jax import families
from glmm_jax.build import place
from glmm_jax.fitting import Call, prepared
from glmm_jax.model import Model, Params, flatten

# One model for each family, link, structure of random effects and kind of weights, by every program
# that fitted it. Points of the models that test_reference_fits does not search are compared there.
MODELS = (
    "cm3", "cm4", "cm5", "cm3_probit", "cm3_cloglog", "cm3_cauchit", "toenail_visit", "separation",
    "cbpp", "wts_bin_real", "gt_pois3", "cross_pois", "wts_pois_real",
    "sal_nb2", "sal_nb2_disp", "genpois", "sal_zip", "sal_zinb1", "hurdle_pois",
    "sim_gauss_slope_ml", "gauss_log", "t_dist",
    "gamma_log", "gamma_inv", "ig_log", "betabinom", "tweedie_log",
)  # fmt: skip
# Node counts of a model that is fitted with another.
QUADRATURE = ("cm3_agq25", "toenail_visit_agq25")
PROFILED = ("sleep_corr_ml", "sleep_diag_reml", "pastes_nested_ml", "sim_gauss_w_reml")


def of(*ids: str) -> list[Case]:
    """The references of the models, in the order of the models."""
    return [one for id in ids for one in cases(plain=None) if one.id == id]


WITH_POINTS = [one for one in of(*MODELS) if one.points]
OWN, SEPARATE = 1e-8, 5e-8
LESS_EXACT = ("toenail_visit/glmmTMB",)  # glmmTMB's own value at one point, 2.3e-8


@jax.jit
def deviance(params: Params, model: Model) -> jax.Array:
    return gj.deviance(params, model)


@jax.jit
def joint_deviance(params: Params, model: Model) -> jax.Array:
    return gj.deviance(params, model, nagq=0)


@jax.jit
def restricted_deviance(params: Params, model: Model) -> jax.Array:
    return gj.deviance(params, model, reml=True)


@partial(jax.jit, static_argnames="nagq")
def quadrature(params: Params, model: Model, nagq: int) -> jax.Array:
    return gj.deviance(params, model, nagq=nagq)


def model_of(one: Case) -> tuple[Model, list[int]]:
    """The model with columns of zeros, and the order of beta: see `maxima` for why."""
    model, order = narrow_model_of(one)
    return widened(model), order


def narrow_model_of(one: Case) -> tuple[Model, list[int]]:
    """The model with rows and levels padded alone: a joint mode is to determine beta."""
    arguments = one.glmer_arguments()
    family = families.get(arguments["family"], arguments.get("link"))
    names = ("weights", "trials", "dispersion", "zero_inflation")
    others = tuple((name, arguments.get(name)) for name in names)
    model, names = _model(one.dataset, one.formula, family, others)
    return model, [one.names().index(name) for name in names]


@lru_cache(maxsize=4)
def _model(
    dataset: str, formula: str, family: families.Family, others: tuple[tuple[str, Any], ...]
) -> tuple[Model, tuple[str, ...]]:
    frame, family, _ = prepared(formula, family, Call(load(dataset), **dict(others)))
    single = len({block.grouping for block in frame.blocks}) == 1
    pad = partial(coarse, least=SIZES[single])
    return place(frame, family, padded=True, pad=pad)[0], frame.X_names


def params_of(point: Point, order: list[int], model: Model) -> Params:
    beta = np.zeros(model.p)
    if point.beta is not None:
        beta[: len(order)] = point.beta[order]
    shape = model.dispersion_shape
    others = None if shape is None else jnp.asarray(point.others).reshape(shape)
    return Params(jnp.asarray(beta), jnp.asarray(point.theta), others)


def agree(found: float, reference: float, tolerance: float) -> None:
    """Agreement within the tolerance and the rounding of 12 printed digits.

    That is half a unit of the last one, doubled: glmmTMB prints the half of a deviance.
    """
    rounding = 10.0 ** (np.floor(np.log10(abs(reference))) - 11)
    assert found == pytest.approx(reference, abs=tolerance + rounding, rel=0)


@pytest.mark.parametrize("one", WITH_POINTS, ids=str)
def test_deviance_at_given_parameters(one: Case) -> None:
    model, order = model_of(one)
    known = ["expected", "observed"] if model.family.has_fisher else ["observed"]
    if model.family.is_canonical:
        known = ["expected"]  # there is one curvature: one program serves both
    for point in one.points:
        params = params_of(point, order, model)
        found = {
            name: float(deviance(params, model.replace(curvature=name)))
            for name in known
            if name == one.curvature or one.engine == "lme4" or model.family.is_canonical
        }
        found = {"observed": found.get("expected"), **found}
        compared = 0
        if one.nagq < 2 and point.deviance is not None:
            agree(found[one.curvature], point.deviance, SEPARATE if one.key in LESS_EXACT else OWN)
            compared += 1
        for curvature in ("expected", "observed"):
            value = getattr(point, f"laplace_{curvature}")
            if value is not None:
                agree(found[curvature], value, SEPARATE)
                compared += 1
        assert compared


@pytest.mark.parametrize("one", of(*QUADRATURE), ids=str)
def test_quadrature_at_given_parameters(one: Case) -> None:
    """lme4's nodes are centred and scaled as ours: the value is its own, exact or not."""
    model, order = model_of(one)
    for point in one.points:
        assert point.deviance is not None
        value = quadrature(params_of(point, order, model), model, nagq=one.nagq)
        agree(float(value), point.deviance, OWN)


@pytest.mark.parametrize("one", [one for one in of(*PROFILED) if one.profiled_points], ids=str)
def test_profiled_deviance_of_a_linear_mixed_model(one: Case) -> None:
    """lmer's objective has beta and sigma profiled out: the joint mode does so for beta.

    With Lambda / sigma held, the deviance is a + 2 N log(sigma) + r / sigma^2, N the rows (less the
    coefficients, if restricted): two values give r, and so the best sigma, sqrt(r / N).
    """
    model, _ = narrow_model_of(one)
    beta = jnp.zeros(model.p)
    function = restricted_deviance if one.reml else joint_deviance
    N = one.n - one.reml * model.p
    assert one.sigma is not None
    for point in one.profiled_points:
        relative = point.theta_over_sigma

        def at(log_sigma: float, relative: np.ndarray = relative) -> float:
            theta = jnp.asarray(np.exp(log_sigma) * relative)
            return float(function(Params(beta, theta, jnp.asarray(2.0 * log_sigma)), model))

        ends = np.log(one.sigma) + np.array([-0.1, 0.1])
        values = np.array([at(end) for end in ends])
        r = np.diff(values - 2.0 * N * ends) / np.diff(np.exp(-2.0 * ends))
        best = 0.5 * np.log(r.item() / N)
        agree(at(best), point.objective, OWN)


def test_both_curvatures_are_compared() -> None:
    point = case("cm3_probit/lme4").points[1]
    assert point.laplace_expected is not None and point.laplace_observed is not None
    assert abs(point.laplace_expected - point.laplace_observed) > 1e-3


# --- the integral itself -------------------------------------------------------------------------

NODES = 81  # as the separate code of the references


@jax.jit
def integral(params: Params, model: Model) -> tuple[jax.Array, Params]:
    return jax.value_and_grad(gj.deviance)(params, model, nagq=NODES)


@jax.jit
def laplace(params: Params, model: Model) -> tuple[jax.Array, Params]:
    return jax.value_and_grad(gj.deviance)(params, model)


# One random effect a level.
EXACT = [one for one in WITH_POINTS if one.points[0].exact is not None and len(one.theta) == 1]


@pytest.mark.parametrize("one", EXACT, ids=str)
def test_many_nodes_give_the_integral(one: Case) -> None:
    model, order = model_of(one)
    model = model.replace(curvature="observed")
    for point in one.points:
        assert point.exact is not None
        agree(float(integral(params_of(point, order, model), model)[0]), point.exact, SEPARATE)


# glmmTMB's optima are those of the observed curvature: separate code where it has none.
OPTIMA = [
    (id, kind)
    for id, kind in independents()
    if id in MODELS and (kind == "exact" or not any(one.engine == "glmmTMB" for one in of(id)))
]


@pytest.mark.parametrize("key", OPTIMA, ids="-".join)
def test_optima_of_separate_code_are_ours(key: tuple[str, str]) -> None:
    """Its maximum is ours: the same value, and a gradient of nothing a standard error."""
    record = independent(*key)
    one = next(c for c in WITH_POINTS if c.id == key[0] and c.engine == "lme4")
    model, order = model_of(one)
    others = []
    if model.d:
        # sigma^2, phi, or the size of a negative binomial
        others = [np.log(record["dispersion"]["value"])]
    point = Point(np.array(record["beta"]), np.array([record["sd"]]), None, np.array(others),
                  None, None, None, None)  # fmt: skip
    params = params_of(point, order, model)
    function = integral if key[1] == "exact" else laplace
    value, gradient = function(params, model.replace(curvature="observed"))
    agree(float(value), -2.0 * record["logLik"], SEPARATE)
    # The reference has standard errors of beta; a unit of the others is their natural scale.
    se = np.array(record["se"])[order]
    assert np.max(np.abs(gradient.beta[: len(order)]) * se) < 1e-4
    assert np.max(np.abs(flatten(gradient)[model.p :])) < 1e-3
