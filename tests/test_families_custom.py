"""Families and links of the caller's own, and the numerical inverse behind them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference_cases
from jax.scipy.special import gammaln
from scipy import stats

import glmm_jax as gj
from glmm_jax import families, links
from glmm_jax.build import place
from glmm_jax.estimate import checked, program
from glmm_jax.families import Bernoulli, Gamma, Gaussian, Poisson
from glmm_jax.formula.frame import build_frame
from glmm_jax.inversion import inverse_of
from glmm_jax.model import Params
from glmm_jax.objective import marginal
from glmm_jax.runtime import run
from glmm_jax.status import Status


def gumbel(y, eta, log_scale):
    z = (y - eta) / jnp.exp(log_scale)
    return -z - jnp.exp(-z) - log_scale


def poisson(y, eta, dispersion):
    return y * eta - jnp.exp(eta) - gammaln(y + 1.0)


def two_parameters(y, eta, dispersion):
    """Student-t errors: log scale and log degrees of freedom."""
    log_scale, log_freedom = dispersion
    nu = jnp.exp(log_freedom)
    z2 = jnp.square((y - eta) * jnp.exp(-log_scale))
    constant = gammaln(0.5 * (nu + 1)) - gammaln(0.5 * nu) - 0.5 * jnp.log(nu * math.pi)
    return constant - log_scale - 0.5 * (nu + 1) * jnp.log1p(z2 / nu)


def guessing(eta):
    return 0.25 + 0.75 * jax.nn.sigmoid(eta)


def fitted(formula, data, family, curvature=None):
    model, _ = place(build_frame(formula, data), family, curvature, padded=True)
    return run(program, model, None, **checked(model, 1, None, "quasi-newton", 500))


def grouped(rng, groups=30, each=10):
    g = np.repeat(np.arange(groups), each)
    return g, rng.normal(size=g.size), rng.normal(size=groups)[g]


# What `inverse_of` and links.custom find.


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (jnp.exp, [-20.0, -1.0, 0.0, 0.3, 600.0]),
        (lambda x: -(x**3) - x, [-1e9, -2.0, 0.0, 1e-5, 7e4]),
        (jax.nn.sigmoid, [-30.0, -1.0, 0.0, 0.25, 5.0]),
        (lambda x: jnp.where(x > 0, x * x, jnp.nan), [1e-3, 1.0, 2.0, 1e6]),
    ],
)
def test_inverse_of(function, x):
    x = jnp.array(x)
    got = jax.jit(lambda y: inverse_of(function, y))(function(x))
    np.testing.assert_allclose(got, x, rtol=1e-12, atol=1e-15)


def test_inverse_of_has_derivatives_and_says_what_it_cannot_reach():
    y, shift = jnp.asarray(2.5), jnp.asarray(0.5)

    def root(y, shift):
        return inverse_of(lambda x: jnp.exp(x) + shift, y)  # log(y - shift)

    np.testing.assert_allclose(jax.grad(root, (0, 1))(y, shift), (0.5, -0.5), rtol=1e-14)
    np.testing.assert_allclose(jax.hessian(root)(y, shift), -0.25, rtol=1e-13)
    assert jnp.isnan(root(jnp.asarray(0.3), shift))


def test_a_custom_link_agrees_with_the_known_one():
    own = links.custom(lambda eta: -jnp.expm1(-jnp.exp(eta)), "own", (0.0, 1.0))
    eta = jnp.array([-4.0, -0.3, 0.0, 0.8, 1.5])
    known = links.Cloglog()
    mu = known.inverse(eta)
    np.testing.assert_allclose(own.link(mu), eta, rtol=1e-12, atol=1e-13)
    for method in ("log_mean", "log_complement", "log_abs_derivative", "information"):
        np.testing.assert_allclose(
            getattr(own, method)(eta), getattr(known, method)(eta), rtol=1e-11
        )
    assert own.mean_range == (0.0, 1.0)


@pytest.mark.parametrize("family", [Poisson, Gamma, Gaussian, Bernoulli])
def test_a_custom_link_fits_each_family(family):
    if family is Bernoulli:
        own, known, eta = jax.nn.sigmoid, "logit", np.array([-2.0, 0.1, 1.4])
    else:
        own, known, eta = jnp.exp, "log", np.array([-1.0, 0.2, 1.4])
    phi = jnp.asarray(-0.4) if family.has_dispersion else None
    y = jnp.array([1.0, 1.0, 0.0 if family is Bernoulli else 3.0])
    ours, theirs = family(links.custom(own, "own")), family(known)
    eta = jnp.asarray(eta)
    for method in ("log_prob", "score", "curvature"):
        np.testing.assert_allclose(
            getattr(ours, method)(y, eta, phi), getattr(theirs, method)(y, eta, phi), rtol=1e-10
        )
    np.testing.assert_allclose(ours.fisher(eta, phi), theirs.fisher(eta, phi), rtol=1e-11)
    np.testing.assert_allclose(ours.start_mean(y), theirs.start_mean(y), rtol=1e-14)
    assert not ours.is_canonical


def test_starting_means_that_the_link_does_not_reach():
    own = links.custom(lambda eta: 1.0 + jnp.exp(eta), "above one", (1.0, math.inf))
    start = Gaussian(own).start_mean(jnp.array([0.5, 3.0, 5.0]))
    np.testing.assert_allclose(start, [4.0, 3.0, 5.0])
    start = Gaussian(own).start_mean(jnp.array([0.5, -3.0, 1.0]))
    np.testing.assert_allclose(start, 2.0)  # the mean at eta = 0


def test_a_link_is_equal_to_one_of_the_same_function():
    assert links.custom(guessing, "g") == links.custom(guessing, "g")
    assert hash(links.custom(guessing, "g")) == hash(links.custom(guessing, "g"))
    assert links.custom(guessing, "g") != links.custom(jnp.exp, "g")
    family = Bernoulli(links.custom(guessing, "g"))
    assert families.get(family, links.custom(guessing, "g")) is family


def test_a_fit_with_a_link_that_no_list_has():
    """Items with four answers: a subject who knows nothing is right in a quarter of them."""
    rng = np.random.default_rng(4)
    g, x, b = grouped(rng, 60, 20)
    chance = 0.25 + 0.75 / (1 + np.exp(-(0.5 + 1.2 * x + b)))
    y = rng.uniform(size=x.size) < chance
    family = Bernoulli(links.custom(guessing, "guessing", (0.25, 1.0)))
    found = fitted("y ~ x + (1 | g)", {"y": y.astype(int), "x": x, "g": g}, family)
    assert Status(int(found.status)) is Status.CONVERGED
    covariance = np.linalg.inv(0.5 * np.asarray(found.hessian))
    got = np.concatenate([found.params.beta, found.params.theta])
    assert np.all(np.abs(got - [0.5, 1.2, 1.0]) / np.sqrt(np.diag(covariance)) < 3.5)


def test_a_custom_link_starts_at_the_scale_of_the_data():
    """As the same link by name does, whatever the unit of the response."""
    rng = np.random.default_rng(7)
    data = reference_cases.case("t_dist/glmmTMB").frame()
    b = rng.normal(size=40)[data["g"].cat.codes]
    data["y"] = 4e5 + 3e4 * data["x"] + 5e4 * b + 2e4 * rng.normal(size=800)
    own, known = (
        gj.glmer("y ~ x + (1|g)", data, Gaussian(link))
        for link in (links.custom(lambda eta: eta, "own"), "identity")
    )
    assert own.converged and known.converged
    np.testing.assert_allclose(own.deviance, known.deviance, rtol=1e-12)
    np.testing.assert_allclose(own.params, known.params, rtol=1e-7)
    assert int(own.estimate.evaluations) <= int(known.estimate.evaluations) + 2


# Families.


def test_a_custom_family_is_the_built_in_one():
    """The same density gives the same deviance and gradient."""
    rng = np.random.default_rng(6)
    g, x, b = grouped(rng)
    data = {"y": rng.poisson(np.exp(0.5 + 0.3 * x + 0.5 * b)), "x": x, "g": g}
    params = Params(jnp.array([0.4, 0.2]), jnp.array([0.6]))
    results = []
    for family in (families.custom(poisson, link="log"), Poisson()):
        model, _ = place(build_frame("y ~ x + (1 | g)", data), family, padded=True)
        results.append(jax.jit(jax.value_and_grad(marginal.deviance))(params, model))
    ours, theirs = results
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1].beta, theirs[1].beta, rtol=1e-9)
    np.testing.assert_allclose(ours[1].theta, theirs[1].theta, rtol=1e-9)


def own_lognormal(y, eta, log_scale):
    """Without the support that a zero lies outside of."""
    z = (jnp.log(y) - eta) / jnp.exp(log_scale)
    return -0.5 * jnp.square(z) - log_scale - jnp.log(y) - 0.5 * math.log(2 * math.pi)


@pytest.fixture(scope="module")
def sizes():
    rng = np.random.default_rng(5)
    g, x, b = grouped(rng)
    y = np.exp(1.0 - 0.5 * x + 0.6 * b + 0.8 * rng.normal(size=x.size))
    return pd.DataFrame({"y": y, "x": x, "g": g})


OWN = families.custom(own_lognormal, parameters=("log(phi)",), name="lognormal of my own")


def test_a_family_that_no_list_has(sizes):
    """Its parameter is that of the logarithm, with a dispersion."""
    fit = gj.glmer("y ~ x + (1 | g)", sizes, OWN)
    assert fit.converged
    got = np.concatenate([fit.params, fit.theta, fit.dispersion_params])
    z = (got - [1.0, -0.5, 0.6, np.log(0.8)]) / np.sqrt(np.diag(fit.vcov_all))
    assert np.all(np.abs(z) < 3.5)


def test_a_density_that_is_no_number_in_a_row_names_it(sizes):
    y = sizes["y"].to_numpy().copy()
    y[[7, 20]] = 0.0
    fit = gj.glmer("y ~ x + (1 | g)", sizes.assign(y=y), OWN)
    assert not fit.converged
    for told in (fit.message, *fit.warnings[:1]):
        assert "lognormal of my own family" in told
        assert "in row 7 (and 1 more): y = 0" in told


def test_what_is_given_is_used():
    family = families.custom(
        gumbel,
        parameters=["log(phi)"],
        mean=lambda eta, log_scale: eta + 0.5772156649 * jnp.exp(log_scale),
        variance=lambda mu, log_scale: math.pi**2 / 6 * jnp.exp(2 * log_scale) * jnp.ones_like(mu),
        sample=lambda key, eta, log_scale: (
            eta + jnp.exp(log_scale) * jax.random.gumbel(key, eta.shape, eta.dtype)
        ),
        fisher=lambda eta, log_scale: jnp.exp(-2 * log_scale) * jnp.ones_like(eta),
        unit_deviance=lambda y, mu, log_scale: jnp.square(y - mu),
        start=[0.7],
        support=lambda y: y > -50,
        name="gumbel",
    )
    eta, log_scale = jnp.linspace(-1, 1, 20_000), jnp.asarray(-0.2)
    draws = family.sample(jax.random.key(1), eta, log_scale) - family.mean(eta, log_scale)
    variance = family.variance(eta, log_scale)
    assert abs(np.mean(draws)) < 4.5 * np.sqrt(variance[0] / 20_000)
    assert abs(np.var(draws) / variance[0] - 1) < 0.07
    # E[curvature] = fisher, from the sample.
    y = draws + family.mean(eta, log_scale)
    curvature = family.curvature(y, eta, log_scale)
    fisher = family.fisher(eta, log_scale)
    assert abs(np.mean(curvature) / fisher[0] - 1) < 0.05
    assert family.has_fisher and family.has_dispersion
    assert family.start_parameters(y, eta, eta, None, 0.0) == (0.7,)
    np.testing.assert_allclose(family.unit_deviance(y, eta, None, log_scale), (y - eta) ** 2)
    with pytest.raises(ValueError, match=r"support of the gumbel family; got -60 in row 1"):
        family.check([0.0, -60.0])


def test_several_parameters():
    family = families.custom(two_parameters, parameters=("log(phi)", "log(nu)"), start=(0.0, 2.0))
    assert family.parameters == ("log(phi)", "log(nu)")
    y, eta = jnp.array([0.3, 4.0]), jnp.array([0.0, 1.0])
    got = family.log_prob(y, eta, (jnp.asarray(0.2), jnp.asarray(1.1)))
    exact = stats.t.logpdf(y, np.exp(1.1), loc=eta, scale=np.exp(0.2))
    np.testing.assert_allclose(got, exact, rtol=1e-12)
    with pytest.raises(ValueError, match="2 parameters"):
        family.log_prob(y, eta, jnp.asarray(0.2))


def test_a_family_is_equal_to_one_of_the_same_functions():
    one, other = (families.custom(gumbel, parameters=("log(phi)",)) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    assert one != families.custom(gumbel, parameters=("log(phi)",), name="gumbel")
    assert families.get(one) is one


PLAIN = families.custom(poisson, link="log", name="plain")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: families.custom("poisson"), "log_prob='poisson'; give a function of"),
        (lambda: families.custom(poisson, mean=3), "mean=3; give a function, or None"),
        (lambda: families.custom(poisson, link="nothing"), "link='nothing' is not known"),
        (lambda: families.custom(poisson, parameters="log(phi)"), "give a tuple of names"),
        (lambda: families.custom(gumbel, parameters=("a", "a")), "a name of its own"),
        (lambda: families.custom(gumbel, parameters=("a",), start=()), "a finite number for each"),
        (lambda: families.custom(poisson, name=""), "give a word"),
        (
            lambda: families.custom(lambda y, eta, d: jnp.sum(y * eta)),
            r"shape \(3, 2\), without a sum",
        ),
        (lambda: PLAIN.variance(jnp.ones(2)), r"the variance of the plain family .* variance=a"),
        (lambda: PLAIN.sample(jax.random.key(0), jnp.ones(2)), "a simulation .* sample=a function"),
        (lambda: PLAIN.unit_deviance(jnp.ones(2), jnp.ones(2)), "unit_deviance=a function"),
        (lambda: PLAIN.fisher(jnp.ones(2)), "expected information"),
        (lambda: PLAIN.check([1.0, 2.0], [3, 4]), "the plain family has none"),
        (lambda: PLAIN.check([1.0, math.inf]), "finite"),
        (lambda: families.custom(poisson, support=lambda y: 1).check([1.0]), "one boolean for"),
        (lambda: families.get(poisson), r"families\.custom\(log_prob"),
        (lambda: families.Truncated(PLAIN), "not a family of counts"),
        (lambda: links.custom("exp"), "inverse='exp'; give a function"),
        (lambda: links.custom(jnp.exp, ""), "give a word"),
        (lambda: links.custom(jnp.exp, mean_range=(1, 0)), "low < high"),
        (lambda: links.custom(jnp.exp, log_mean=1.0), "log_mean=1.0; give a function"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_expected_curvature_needs_an_expected_information():
    frame = build_frame("y ~ 1 + (1 | g)", {"y": [1, 2, 3, 4], "g": [0, 0, 1, 1]})
    with pytest.raises(ValueError, match="no expected information"):
        place(frame, PLAIN, "expected")
    assert place(frame, PLAIN)[0].curvature == "observed"
