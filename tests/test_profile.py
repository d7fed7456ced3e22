"""Profile likelihood: against lme4's deviances, an independent likelihood, and made-up curves."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from designs import Design
from designs import model as built
from reference_cases import case

from glmm_jax import Fit, datasets, glmer
from glmm_jax.covariance import Full
from glmm_jax.inference import parameter_names
from glmm_jax.inference.profile_table import Curve, Profile
from glmm_jax.inference.profile_walk import Origin, Solution, Walk
from glmm_jax.model import Params
from glmm_jax.objective.marginal import deviance
from glmm_jax.optimize import coordinates

REFERENCE = json.loads(
    (Path(__file__).parent / "reference" / "inference_profile.json").read_text(encoding="utf-8")
)
Z95 = -scipy.special.ndtri(0.025)


@cache
def fitted(name: str) -> Fit:
    return glmer(**case(f"{name}/lme4").glmer_arguments())


@cache
def profiled(name: str) -> Profile:
    return fitted(name).profile()


# --- against lme4 -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cbpp", "cm4"])
def test_zeta_is_that_of_constrained_fits_of_lme4(name: str) -> None:
    # Interpolated between points; the largest errors are those of SDs near zero, 7e-5 for cbpp.
    profile, record = profiled(name), REFERENCE[name]
    assert fitted(name).deviance == pytest.approx(record["deviance"], abs=1e-6)
    compared = 0
    for parameter, value, lowest in record["points"]:
        zeta = float(profile.zeta(parameter, value))
        if np.isnan(zeta):  # farther out than was asked for
            assert lowest - record["deviance"] > 9
            continue
        size = np.sqrt(lowest - record["deviance"])
        assert abs(zeta) == pytest.approx(size, abs=1e-4), parameter
        assert np.sign(zeta) == np.sign(value - profile.estimates[parameter])
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize("name", ["cbpp", "sleep_corr_ml"])
def test_limits_are_lme4s(name: str) -> None:
    # lme4's own points and splines are good to about 0.6 % of a half-width (README).
    limits = profiled(name).conf_int()
    assert set(limits.index) == set(REFERENCE[name]["lme4_confint"])
    for parameter, theirs in REFERENCE[name]["lme4_confint"].items():
        half = 0.5 * (theirs[1] - theirs[0])
        assert np.allclose(limits.loc[parameter], theirs, rtol=0, atol=7e-3 * half), parameter


def test_limits_solve_the_constrained_problem() -> None:
    # The Gaussian likelihood itself, in other coordinates and without the engine: every subject has
    # the same ten days, so one 10 x 10 covariance serves, and SciPy holds the parameter.
    profile = profiled("sleep_corr_ml")
    data = datasets.load("sleepstudy")
    y = data["Reaction"].to_numpy(float).reshape(18, 10)
    X = np.column_stack([np.ones(10), np.arange(10.0)])
    assert np.array_equal(data["Days"].to_numpy().reshape(18, 10), np.tile(np.arange(10), (18, 1)))
    names = list(profile.estimates.index)
    scale = np.array([10.0, 1.0, 10.0, 1.0, 0.3, 1.0])

    def exact(natural: np.ndarray) -> float:
        beta, (first, second, r, sigma) = natural[:2], natural[2:]
        cross = r * first * second
        V = X @ np.array([[first**2, cross], [cross, second**2]]) @ X.T + sigma**2 * np.eye(10)
        rest = y - (X @ beta)[None, :]
        logdet = np.linalg.slogdet(V)[1]
        squares = np.sum(rest * np.linalg.solve(V, rest.T).T)
        return 18 * logdet + squares + y.size * np.log(2 * np.pi)

    estimate = profile.estimates.to_numpy()
    assert exact(estimate) == pytest.approx(fitted("sleep_corr_ml").deviance, abs=1e-8)
    limits = profile.conf_int()
    for index, name in enumerate(names):
        free = np.arange(6) != index
        for limit in limits.loc[name]:
            # Starts at the profile's own point, moved off it.
            rows = profile.frame[profile.frame["parameter"] == name]
            near = rows.iloc[(rows["value"] - limit).abs().argmin()]
            begin = near[names].to_numpy(float) / scale + 0.02

            def held(z: np.ndarray, index=index, limit=limit, free=free) -> float:
                natural = np.empty(6)
                natural[free], natural[index] = z * scale[free], limit
                return exact(natural)

            found = scipy.optimize.minimize(
                held, begin[free], method="BFGS", options={"gtol": 1e-7, "xrtol": 1e-10}
            )
            zeta = np.sqrt(found.fun - exact(estimate))
            assert zeta == pytest.approx(Z95, abs=1e-5), (name, limit)


# --- shape --------------------------------------------------------------------------------------


def test_a_gaussian_coefficient_has_a_symmetric_profile() -> None:
    # The design is balanced: the limits of a slope lie symmetrically about its estimate.
    profile = profiled("sleep_corr_ml")
    steps = np.array([0.5, 1.0, 2.0, 2.7])
    for name in ("Intercept", "Days"):
        above = profile.value(name, steps) - profile.estimates[name]
        below = profile.estimates[name] - profile.value(name, -steps)
        np.testing.assert_allclose(above, below, rtol=1e-6)
    # The subjects' own least-squares lines are 18 independent normal pairs with a covariance that
    # is free, so the likelihood ratio is that of a t test: zeta^2 = 18 log(1 + (v / se)^2 / 18).
    se = fitted("sleep_corr_ml").bse["Days"]
    np.testing.assert_allclose(above, se * np.sqrt(18 * np.expm1(steps**2 / 18)), rtol=1e-4)


def test_points_are_a_table_of_all_parameters() -> None:
    fit, profile = fitted("cm4"), profiled("cm4")
    names = parameter_names.names(fit)
    frame = profile.frame
    own = ["parameter", "value", "zeta", "deviance", "converged"]
    assert list(frame.columns) == [*own, *names]
    np.testing.assert_allclose(frame["zeta"] ** 2, frame["deviance"] - fit.deviance, atol=1e-9)
    assert profile.parameters == tuple(names) and frame["converged"].all()
    for name, rows in frame.groupby("parameter"):
        np.testing.assert_allclose(rows[name], rows["value"], rtol=1e-10, atol=1e-12)
        assert (np.diff(rows["value"]) > 0).all() and (np.diff(rows["zeta"]) > 0).all()
        centre = rows[rows["zeta"] == 0]
        np.testing.assert_allclose(centre[names].to_numpy()[0], profile.estimates, rtol=1e-9)
    # Wide enough for joint regions of two parameters, unless a boundary comes first.
    cutoff = np.sqrt(scipy.special.chdtri(2, 0.01))
    reach = frame.groupby("parameter")["zeta"].max()
    np.testing.assert_allclose(reach, cutoff, rtol=0.04)


@pytest.mark.parametrize("name", ["cm4", "singular_pois_slope"])
def test_no_point_lies_below_another_profile(name: str) -> None:
    # A point of any profile shows a deviance that is possible at its values of all parameters.
    profile = profiled(name)
    for parameter in profile.parameters:
        zeta = profile.zeta(parameter, profile.frame[parameter])
        known = np.isfinite(zeta)
        assert known.sum() > len(zeta) // 3
        assert np.all(zeta[known] ** 2 <= profile.frame["zeta"][known] ** 2 + 2e-3), parameter


def test_interpolation_goes_both_ways() -> None:
    profile = profiled("cm4")
    zeta = np.linspace(-2.4, 2.4, 25).reshape(5, 5)
    for name in profile.parameters:
        value = profile.value(name, zeta)
        assert value.shape == (5, 5)
        np.testing.assert_allclose(profile.zeta(name, value), zeta, atol=1e-9)
        assert np.isnan(profile.value(name, 9.0)) and profile.value(name, 0.0).shape == ()
        assert float(profile.value(name, 0.0)) == pytest.approx(profile.estimates[name])
    assert np.isnan(profile.zeta("sd(Intercept | district)", -0.1))
    assert np.isnan(profile.zeta("cor(Intercept, urban[T.Y] | district)", 1.5))


def test_slopes_are_derivatives_of_zeta() -> None:
    # Each point knows dzeta/dw: the cubic through its neighbours, without it, has the same slope.
    curve = profiled("cbpp").curves["period[T.3]"]
    for i in range(3, len(curve.w) - 3):
        near = slice(i - 3, i + 4)
        polynomial = np.polynomial.Polynomial.fit(curve.w[near], curve.zeta[near], 6)
        assert polynomial.deriv()(curve.w[i]) == pytest.approx(curve.slope[i], rel=1e-4)


def test_limits_between_points_are_good_to_four_digits() -> None:
    fine = fitted("cbpp").profile(level=0.8, joint=False).conf_int(0.8)
    np.testing.assert_allclose(profiled("cbpp").conf_int(0.8), fine, rtol=2e-4)


# --- boundaries ---------------------------------------------------------------------------------


def test_a_singular_fit_has_one_sided_profiles() -> None:
    profile = profiled("singular_pois_slope")
    first, second, cor = profile.parameters[2:]
    limits = profile.conf_int()
    assert limits.loc[first].iloc[0] == 0 and limits.loc[second].iloc[0] == 0
    assert tuple(limits.loc[cor]) == (-1.0, 1.0)
    assert profile.estimates[cor] == pytest.approx(-1.0)
    assert profile.value(cor, 1.0) > -1 and np.isnan(profile.value(cor, -1.0))
    text = "\n".join(profile.notes)
    assert f"{cor}: the estimate is at the boundary, -1; so is the lower limit." in text
    assert f"{first}: zeta is only -1.49 at the boundary, 0" in text


def test_a_correlation_costs_no_more_than_a_variance_of_zero() -> None:
    # With either standard deviation at zero the correlation may be anything: its profile has two
    # minima, and at +1 the lower one is the fit without the random intercepts.
    profile = profiled("singular_pois_slope")
    first, second, cor = profile.parameters[2:]
    assert abs(float(profile.zeta(first, 0.0))) < abs(float(profile.zeta(second, 0.0)))
    assert float(profile.zeta(cor, 1.0)) == pytest.approx(
        -float(profile.zeta(first, 0.0)), abs=1e-4
    )


def test_a_variance_at_zero_has_no_correlations() -> None:
    fit = fitted("singular_pois_slope")
    theta = np.zeros(3)
    theta[0] = 0.1
    params = replace(fit.estimate.params, theta=theta)
    found = replace(fit, estimate=replace(fit.estimate, params=params))
    cor = parameter_names.names(found)[-1]
    profile = found.profile(cor)
    assert profile.parameters == () and len(profile.frame) == 0 and len(profile.conf_int()) == 0
    assert profile.notes[-1] == (
        f"{cor}: not profiled, since it is undefined where a standard deviation is zero."
    )


def test_a_separated_coefficient_has_one_limit() -> None:
    # The likelihood rises for ever as `s` grows: the lower limit is where it is too low.
    profile = fitted("separation").profile("s", 0.95, joint=False)
    lower, upper = profile.conf_int().loc["s"]
    assert 1 < lower < profile.estimates["s"] and np.isnan(upper)
    assert float(profile.zeta("s", lower)) == pytest.approx(-Z95, abs=1e-6)
    assert "not a certified maximum" in profile.notes[0] and "Separation" in profile.notes[0]
    assert profile.notes[1].startswith("s: the likelihood is nearly flat; zeta is only ")
    assert profile.notes[1].endswith("Beyond that there is no upper limit (NaN).")


def test_a_level_beyond_the_points_is_refused() -> None:
    profile = profiled("cbpp")
    with pytest.raises(ValueError, match=r"level=0\.9999: .* computed for 0\.99 only; use profile"):
        profile.conf_int(0.9999)


# --- what is said -------------------------------------------------------------------------------


def test_a_fit_that_is_not_at_the_maximum_is_told() -> None:
    fit = fitted("cbpp")
    worse = replace(fit, estimate=replace(fit.estimate, deviance=fit.estimate.deviance + 1.0))
    notes = worse.profile("Intercept").notes
    assert any("below that of the fit was found: the fit is not at" in note for note in notes)
    assert not any("below that of the fit" in note for note in profiled("cbpp").notes)


def test_it_is_printed_with_intervals_and_notes() -> None:
    profile = profiled("cm4")
    lines = str(profile).splitlines()
    assert lines[0] == "Profile likelihood of 9 parameters"
    assert lines[2].split() == ["Estimate", "2.5", "%", "97.5", "%"]
    assert lines[3].split()[0] == "Intercept"
    assert any(line.startswith("Note: cor(Intercept, ") for line in lines)
    assert max(map(len, lines)) <= 90
    page = profile._repr_html_()
    assert "<th>cor(Intercept, urban[T.Y] | district)</th>" in page and "boundary, -1" in page


def test_bad_arguments_are_refused() -> None:
    fit = fitted("cbpp")
    for parameters in ("period", ["Intercept", "sd"], []):
        with pytest.raises(ValueError, match="use None for all, 'fixed', or some of 'Intercept'"):
            fit.profile(parameters)
    for level in (0, 1, 95, True, "0.9"):
        with pytest.raises(ValueError, match="use a number between 0 and 1"):
            fit.profile(level=level)
    with pytest.raises(ValueError, match="was not profiled; use one of 'Intercept'"):
        profiled("cbpp").zeta("x", 1.0)
    joint = replace(fit, estimate=replace(fit.estimate, nagq=0))
    with pytest.raises(ValueError, match=r"at nagq=0; .* refit with nagq=1"):
        joint.profile()
    broken = replace(fit.estimate, hessian=np.full_like(fit.estimate.hessian, np.nan))
    with pytest.raises(ValueError, match="no finite deviance or Hessian"):
        replace(fit, estimate=broken).profile()


def test_some_parameters_in_single_precision_with_a_bar(
    default_precision: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = fitted("cbpp").profile("fixed", progress=True)
    assert fixed.parameters == tuple(fitted("cbpp").params.index)
    assert "profile" in capsys.readouterr().err
    rows = profiled("cbpp").frame
    rows = rows[rows["parameter"].isin(fixed.parameters)]
    np.testing.assert_allclose(fixed.frame["zeta"], rows["zeta"], atol=1e-9)


# --- coordinates --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def charted():
    """A model with a term of three columns, its parameters, and the charts of all its targets."""
    model = built(Design("slopes", "gaussian", "identity"))
    draw = np.random.default_rng(3)
    L = np.tril(draw.normal(size=(3, 3)))
    theta = L.T[np.triu_indices(3)]
    flat = np.concatenate([draw.normal(size=model.p), theta, [0.3]])
    targets = coordinates.targets(model)
    found = coordinates.charts(model, jnp.asarray(flat), targets)
    layout = parameter_names.Layout(model.p, (Full(3),), True)
    return model, flat, targets, jax.tree.map(np.asarray, found), layout


def held(layout: parameter_names.Layout, index: int, w: float) -> float:
    kind = layout.kinds[index]
    return {"beta": w, "sd": w, "cor": np.sin(w), "sigma": np.exp(w / 2)}[kind]


def test_rows_that_are_parallel_to_rounding_leave_no_direction_between_them(charted) -> None:
    # A correlation of 1: c is the row's own column, and the correlation leaves its end along it.
    model, flat, targets, _, layout = charted
    cor = list(layout.kinds).index("cor")
    draw = np.random.default_rng(5)
    for _ in range(20):
        L = np.tril(draw.normal(size=(3, 3)))
        L[1] = [L[1, 0], 1e-17 * L[1, 0], 0.0]
        point = np.concatenate([flat[: model.p], L.T[np.triu_indices(3)], [0.3]])
        found = coordinates.charts(model, jnp.asarray(point), targets)
        assert np.sin(found.w[cor]) == pytest.approx(np.sign(L[0, 0] * L[1, 0]), abs=1e-15)
        assert np.max(np.abs(found.Jw[cor])) == pytest.approx(abs(L[1, 0]))
        assert np.max(np.abs(found.Jx[cor])) < 100


def test_coordinates_hold_one_parameter_and_miss_none(charted) -> None:
    model, flat, targets, chart, layout = charted
    natural = np.asarray(parameter_names.transform(jnp.asarray(flat), layout))
    draw = np.random.default_rng(4)
    place = jax.jit(lambda x, w, target: coordinates.place(x, w, target, model))
    settled = jax.jit(lambda x, t: coordinates.settled(x, t, model, jnp.asarray(chart.natural)))
    for index in range(layout.size):
        target = jax.tree.map(lambda part, i=index: jnp.asarray(part[i]), targets)
        again = place(chart.x[index], chart.w[index], target)
        np.testing.assert_allclose(parameter_names.transform(again, layout), natural, atol=1e-12)
        w = chart.w[index] - 0.3
        x = chart.x[index] + 0.2 * draw.normal(size=layout.size)
        moved = np.asarray(parameter_names.transform(place(x, w, target), layout))
        expected = held(layout, index, w)
        if layout.kinds[index] == "sd":
            expected = abs(expected)
        assert moved[index] == pytest.approx(expected, abs=1e-12)
        # What is idle changes nothing when it is settled.
        same = parameter_names.transform(place(settled(x, target), w, target), layout)
        np.testing.assert_allclose(same, moved, atol=1e-12)
        # Together with w, x reaches every direction of the parameters: one of x is idle.
        both = np.column_stack([chart.Jx[index], chart.Jw[index]])
        assert np.linalg.matrix_rank(both, tol=1e-9) == layout.size
        assert np.linalg.matrix_rank(chart.Jx[index], tol=1e-9) == layout.size - 1


def test_profile_of_a_correlation_among_three_columns() -> None:
    # SLSQP in theta, with the correlation as its constraint.
    draw = np.random.default_rng(11)
    data = datasets.load("sleepstudy").copy()
    data["z"] = draw.normal(size=len(data))
    data["x"] = data["Days"] - 4.5
    b = draw.normal(size=(18, 3)) @ np.linalg.cholesky(
        np.array([[1, 0.3, -0.5], [0.3, 0.5, 0.2], [-0.5, 0.2, 0.8]])
    ).T  # fmt: skip
    code = data["Subject"].astype("category").cat.codes.to_numpy()
    eta = 0.2 + b[code, 0] + b[code, 1] * data["x"] / 3 + b[code, 2] * data["z"]
    data["y"] = draw.normal(eta, 1.0)
    data["x"] /= 3
    fit = glmer("y ~ 1 + (x + z | Subject)", data, family="gaussian")
    assert fit.converged and not fit.is_singular
    name = "cor(x, z | Subject)"
    names = parameter_names.names(fit)
    profile = fit.profile(name, 0.9, joint=False)
    layout, index = parameter_names.layout(fit), names.index(name)

    @jax.jit
    def value(flat):
        params = Params(flat[:1], flat[1:7], flat[7])
        return deviance(params, fit.model)

    both = jax.jit(jax.value_and_grad(value))
    natural = jax.jit(lambda flat: parameter_names.transform(flat, layout)[index])
    slope = jax.jit(jax.grad(natural))
    begin = np.concatenate([fit.params, fit.theta, [np.log(fit.dispersion)]])
    for limit, zeta in zip(profile.conf_int(0.9).loc[name], (-1, 1), strict=True):
        found = scipy.optimize.minimize(
            lambda flat: tuple(map(np.asarray, both(flat))), begin, jac=True, method="SLSQP",
            constraints={"type": "eq", "fun": lambda f, v=limit: float(natural(f)) - v,
                         "jac": lambda f: np.asarray(slope(f))},
            options={"ftol": 1e-13, "maxiter": 500},
        )  # fmt: skip
        rise = found.fun - fit.deviance
        assert np.sign(zeta) * np.sqrt(rise) == pytest.approx(
            zeta * -scipy.special.ndtri(0.05), abs=1e-4
        )


# --- the walk, with made-up deviances -----------------------------------------------------------


def walk(function, slope, bounds=(-np.inf, np.inf), error=1.0, fails=lambda w: False) -> Walk:
    one = np.zeros(1)

    def solve(w, x, u, B):
        return Solution(one, one, one, function(w), slope(w), np.eye(1), 1, not fails(w))

    origin = Origin(0.0, error, one, Solution(one, one, one, 0.0, 0.0, np.eye(1), 0, True))
    return Walk(solve, origin, bounds)


def test_walk_steps_evenly_and_hits_its_limits() -> None:
    # zeta = sinh(w): steps in w shrink as it bends.
    found = walk(lambda w: np.sinh(w) ** 2, lambda w: np.sinh(2 * w))
    found.run(3.0, [1.96])
    zeta = np.array([node.zeta for node in found.nodes])
    assert found.ends == ["cutoff", "cutoff"] and not found.failed
    assert np.min(np.abs(zeta - 1.96)) < 1e-4 and np.min(np.abs(zeta + 1.96)) < 1e-4
    assert np.max(np.diff(zeta)) < 1.0 and len(zeta) < 25
    assert zeta.max() >= 0.98 * 3.0 and zeta.max() < 3.5
    curve = Curve("beta", *np.array([n[:3] for n in found.nodes]).T, 0.0, ("cutoff", "cutoff"))
    np.testing.assert_allclose(curve.value_at([-1.96, 1.0, 2.5]), np.arcsinh([-1.96, 1.0, 2.5]),
                               atol=2e-4)  # fmt: skip


def test_walk_stops_at_a_boundary_and_where_it_is_flat() -> None:
    flat = walk(lambda w: np.tanh(w) ** 2, lambda w: 2 * np.tanh(w) / np.cosh(w) ** 2,
                bounds=(-1.0, np.inf))  # fmt: skip
    flat.run(3.0, [1.96])
    assert flat.ends == ["boundary", "flat"]
    assert flat.nodes[0].w == -1.0 and flat.nodes[0].zeta == pytest.approx(np.tanh(-1.0))


def test_walk_keeps_and_counts_what_fails() -> None:
    found = walk(lambda w: w**2, lambda w: 2 * w, fails=lambda w: w > 1.3)
    found.run(3.0, [1.96])
    assert found.ends == ["cutoff", "failed"]
    assert len(found.failed) >= 1 and all(node.w > 1.3 for node in found.failed)
    # It was followed to within a small part of a step of where it cannot be followed.
    assert 1.25 < max(node.w for node in found.nodes) <= 1.3


def test_walk_halves_a_step_that_goes_much_too_far() -> None:
    # The standard error promises steps a hundred times too long.
    found = walk(lambda w: (100 * w) ** 2, lambda w: 2e4 * w)
    found.run(2.0, [1.96])
    zeta = np.array([node.zeta for node in found.nodes])
    assert found.ends == ["cutoff", "cutoff"]
    assert np.min(np.abs(zeta - 1.96)) < 1e-4


def test_a_boundary_just_short_of_the_cutoff_ends_the_profile() -> None:
    # A deviance that is even about a standard deviation of zero, where zeta is -1.94: the walk
    # must neither pass below zero nor give up between 1.94 and 1.96.
    found = walk(
        lambda w: (1.94 * (1 - (w + 1) ** 2)) ** 2,
        lambda w: -4 * 1.94**2 * (1 - (w + 1) ** 2) * (w + 1),
        bounds=(-1.0, np.inf),
        error=1 / (2 * 1.94),
    )
    found.run(1.96, [1.96])
    assert found.ends == ["boundary", "cutoff"]
    assert found.nodes[0].w == -1.0 and found.nodes[0].zeta == pytest.approx(-1.94)
