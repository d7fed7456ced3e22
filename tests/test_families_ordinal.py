"""Ordered categories: probabilities of intervals, derivatives, MASS::polr, quadrature."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference_cases
from scipy import integrate, optimize, stats

from glmm_jax import families, glmer, links
from glmm_jax.families import Ordinal
from glmm_jax.families.intervals import log_interval
from glmm_jax.objective import marginal

LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit")
each_link = pytest.mark.parametrize("link", LINKS)
CDF = {
    "logit": stats.logistic.cdf,
    "probit": stats.norm.cdf,
    "cloglog": lambda x: -np.expm1(-np.exp(x)),
    "loglog": lambda x: np.exp(-np.exp(-x)),
    "cauchit": stats.cauchy.cdf,
}
DENSITY = {
    "logit": stats.logistic.pdf,
    "probit": stats.norm.pdf,
    "cloglog": lambda x: np.exp(x - np.exp(x)),
    "loglog": lambda x: np.exp(-x - np.exp(-x)),
    "cauchit": stats.cauchy.pdf,
}
PARAMETERS = (-0.5, 0.3, -1.0)
TAU = np.cumsum([-0.5, np.exp(0.3), np.exp(-1.0)])
ETA = np.array([-2.2, -0.4, 0.0, 0.7, 2.9])


def dispersion(values=PARAMETERS):
    return tuple(jnp.asarray(value) for value in values)


def exact_probabilities(link, eta, tau=TAU):
    ends = np.concatenate([[-np.inf], tau, [np.inf]])
    with np.errstate(over="ignore"):
        cumulative = CDF[link](ends - np.asarray(eta)[..., None])
    return np.diff(cumulative, axis=-1)


@each_link
def test_probabilities_moments_and_information(link):
    family = Ordinal(link, 4)
    eta = jnp.asarray(ETA)

    @jax.jit
    def everything(eta, dispersion):
        mean = family.mean(eta, dispersion)
        return (
            family.probabilities(eta, dispersion),
            mean,
            family.variance(mean, dispersion),
            family.fisher(eta, dispersion),
            jnp.stack(
                [family.curvature(jnp.full(5, float(k)), eta, dispersion) for k in range(4)], 1
            ),
        )

    got, mean, variance, fisher, curvature = map(np.asarray, everything(eta, dispersion()))
    p = exact_probabilities(link, ETA)
    # The differences of F lose their digits in a tail: ours are tested there by quadrature below.
    np.testing.assert_allclose(got, p, rtol=2e-12, atol=2e-16)
    k = np.arange(4)
    np.testing.assert_allclose(mean, p @ k, rtol=1e-12)
    np.testing.assert_allclose(variance, p @ k**2 - (p @ k) ** 2, rtol=1e-10)
    ends = np.concatenate([[-50.0], TAU, [50.0]]) - ETA[:, None]
    slope = np.diff(DENSITY[link](ends), axis=1)
    if link == "cauchit":
        slope[:, 0], slope[:, -1] = DENSITY[link](ends[:, 1]), -DENSITY[link](ends[:, -2])
    np.testing.assert_allclose(fisher, np.sum(slope**2 / p, axis=1), rtol=1e-10)
    np.testing.assert_allclose(np.sum(p * curvature, axis=1), fisher, rtol=1e-9)


@each_link
def test_an_interval_far_out_and_a_short_one_against_quadrature(link):
    """log(F(b) - F(a)) = log f(m) + log of an integral of f / f(m), all by logarithms."""
    kernel = {
        "logit": stats.logistic.logpdf,
        "probit": stats.norm.logpdf,
        "cloglog": lambda x: x - np.exp(x),
        "loglog": lambda x: -x - np.exp(-x),
        "cauchit": stats.cauchy.logpdf,
    }[link]
    # Where exp(x) dominates, an interval far out is narrower than quadrature can see.
    far = {"cloglog": (-600.0, -30.0, 4.0), "loglog": (-4.0, 30.0, 600.0)}.get(
        link, (-600.0, -30.0, 30.0, 600.0)
    )
    for a in (*far, -1.0, -0.2, 0.0, 0.9):
        for log_gap in (-12.0, -5.0, -1.0, 0.7):
            gap = np.exp(log_gap)
            peak = kernel(np.linspace(a, a + gap, 2001)).max()
            integral = integrate.quad(
                lambda x, peak=peak: np.exp(kernel(x) - peak), a, a + gap, epsabs=0, limit=200
            )[0]
            got = float(log_interval(links.get(link), jnp.asarray(a), jnp.asarray(log_gap)))
            assert abs(got - (peak + np.log(integral))) < 1e-9 * max(1.0, abs(got)), (a, log_gap)


def test_both_ways_of_the_probit_interval_meet():
    """At the border between the quadrature and the difference nothing jumps, second slope too."""
    middle = jnp.array([-30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0])
    border = jnp.log(2.0 / (1.0 + jnp.abs(middle)))

    def value(a, log_gap):
        return jnp.sum(log_interval(links.Probit(), a, log_gap))

    def everything(log_gap):
        a = middle - 0.5 * jnp.exp(log_gap)
        second = jax.grad(lambda a: jnp.sum(jax.grad(value)(a, log_gap)))(a)
        return log_interval(links.Probit(), a, log_gap), jax.grad(value)(a, log_gap), second

    everything = jax.jit(everything)
    below, above = everything(border - 1e-9), everything(border + 1e-9)
    for one, other in zip(below, above, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


@each_link
def test_derivatives_against_differences(link):
    family = Ordinal(link, 4)
    y = jnp.tile(jnp.arange(4.0), 5)
    eta = jnp.repeat(jnp.asarray(ETA), 4)
    point = (eta, *(value * jnp.ones_like(eta) for value in dispersion()))
    h, weights = 1e-3, (4 / 5, -1 / 5, 4 / 105, -1 / 280)

    def gradient(point):
        return jnp.stack(jax.grad(lambda p: jnp.sum(family.log_prob(y, p[0], p[1:])))(point))

    @jax.jit
    def at(point):
        """Log density, gradient and Hessian of each row."""
        directions = jnp.broadcast_to(jnp.eye(4)[..., None], (4, 4, eta.size))
        hessian = jax.vmap(lambda d: jax.jvp(gradient, (point,), (tuple(d),))[1])(directions)
        return family.log_prob(y, point[0], point[1:]), gradient(point), hessian

    def moved(part, i):
        def value(step):
            return at(tuple(x + step * h * (j == i) for j, x in enumerate(point)))[part]

        return sum(w * (value(k) - value(-k)) for k, w in enumerate(weights, 1)) / h

    _, first, second = at(point)
    np.testing.assert_allclose(first, [moved(0, i) for i in range(4)], atol=1e-8)
    np.testing.assert_allclose(second, [moved(1, i) for i in range(4)], atol=1e-7)


@each_link
def test_finite_with_three_derivatives_far_out(link):
    family = Ordinal(link, 4)
    etas = jnp.array([-700.0, -300.0, -40.0, -5.0, 0.0, 5.0, 40.0, 300.0, 700.0])
    eta, y = (axis.ravel() for axis in jnp.meshgrid(etas, jnp.arange(4.0)))

    def total(eta, dispersion):
        return family.log_prob(y, eta, dispersion) + family.fisher(eta, dispersion)

    def derivative(function):
        return lambda eta: jax.jvp(function, (eta,), (jnp.ones_like(eta),))[1]

    @jax.jit
    def everything(eta, dispersion):
        functions = [lambda eta: total(eta, dispersion)]
        for _ in range(3):
            functions.append(derivative(functions[-1]))
        slopes = jax.grad(lambda d: jnp.sum(total(eta, d)))(dispersion)
        return jnp.stack([f(eta) for f in functions]), jnp.stack(slopes)

    values, slopes = everything(eta, dispersion())
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(slopes))


# polr cuts the linear predictor at +-100, where a Cauchy variable still has 0.3 % of its tail.
@pytest.mark.parametrize("link", [link for link in LINKS if link != "cauchit"])
def test_likelihood_and_its_maximum_against_polr(link):
    """At the estimates of MASS::polr the likelihood is polr's and its gradient is zero."""
    path = reference_cases.FOLDER / "families_ordinal.json"
    theirs = json.loads(path.read_text(encoding="utf-8"))[link]
    frame = reference_cases.load("salamanders")
    y = jnp.asarray(np.minimum(frame["count"].to_numpy(), 3), float)
    no = np.asarray(frame["mined"] == "no", float)
    X = jnp.asarray(np.column_stack([no, frame["DOY"].to_numpy()]))
    tau = np.array(theirs["tau"])
    point = (jnp.asarray(theirs["beta"]), jnp.asarray([tau[0], *np.log(np.diff(tau))]))
    family = Ordinal(link, 4)

    def likelihood(beta, parameters):
        return jnp.sum(family.log_prob(y, X @ beta, tuple(parameters)))

    value, gradient = jax.jit(jax.value_and_grad(likelihood, argnums=(0, 1)))(*point)
    np.testing.assert_allclose(value, theirs["logLik"], atol=1e-7)
    # polr stops by the likelihood: its estimates are good to about 1e-4 in the gradient.
    assert max(np.max(np.abs(part)) for part in gradient) < 2e-2


def test_a_custom_link_takes_the_general_route():
    own = links.custom(
        lambda x: jax.nn.sigmoid(x),
        "own",
        (0.0, 1.0),
        log_mean=jax.nn.log_sigmoid,
        log_complement=lambda x: jax.nn.log_sigmoid(-x),
    )
    for eta in (-20.0, -1.0, 0.0, 3.0, 25.0):
        ours = Ordinal(own, 4).probabilities(jnp.asarray([eta]), dispersion())
        known = Ordinal("logit", 4).probabilities(jnp.asarray([eta]), dispersion())
        np.testing.assert_allclose(ours, known, rtol=1e-9)


def test_samples_and_starting_values():
    family = Ordinal("cloglog", 4)
    n = 40_000
    eta = jnp.repeat(jnp.asarray(ETA[1:4]), n)
    y = family.sample(jax.random.key(2), eta, dispersion())
    counts = np.stack([np.bincount(part, minlength=4) for part in np.asarray(y, int).reshape(3, n)])
    expected = n * exact_probabilities("cloglog", ETA[1:4])
    assert np.sum((counts - expected) ** 2 / expected) < stats.chi2.ppf(1 - 1e-5, 9)
    mu = family.link.inverse(eta)
    got = family.start_parameters(y, mu, jnp.ones_like(y), None, 0.0)
    # At the true eta the shares of the categories give the thresholds back.
    np.testing.assert_allclose(got, PARAMETERS, atol=0.03)
    far = family.start_parameters(y, jnp.ones_like(mu), jnp.ones_like(y), None, 0.0)
    start = family.link.link(family.start_mean(y))
    assert np.all(np.isfinite(start)) and not np.any(np.isnan(start)) and len(far) == 3


def test_unit_deviance_is_that_of_a_sure_prediction():
    family = Ordinal(categories=4)
    eta = jnp.asarray(ETA)
    y = jnp.array([0.0, 1.0, 2.0, 3.0, 1.0])
    mu = family.mean(eta, dispersion())
    np.testing.assert_allclose(
        family.unit_deviance(y, mu, None, dispersion()),
        -2 * np.log(exact_probabilities("logit", ETA)[np.arange(5), np.asarray(y, int)]),
        rtol=1e-9,
    )


LEVELS = ["none", "some", "many"]


@pytest.fixture(scope="module")
def simulated():
    rng = np.random.default_rng(21)
    groups, each = 30, 10
    g = np.repeat(np.arange(groups), each)
    x = rng.normal(size=g.size)
    latent = 0.8 * x + 0.9 * rng.normal(size=groups)[g] + rng.logistic(size=g.size)
    y = np.sum(latent[:, None] > np.array([-0.5, 1.0]), axis=1)
    levels = pd.Categorical.from_codes(y, LEVELS, ordered=True)
    data = pd.DataFrame({"y": levels, "x": x, "g": g})
    return y, x, glmer("y ~ x + (1 | g)", data, "ordinal")


def test_fit_and_quadrature_against_direct_integration(simulated):
    """One random intercept: the marginal likelihood against SciPy and NumPy alone; recovery."""
    y, x, fit = simulated
    assert fit.family == Ordinal("logit", 3) and fit.converged
    found = fit.estimate
    # 60 plain Gauss-Hermite nodes are enough for ten rows a group.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def negative(flat):
        tau = np.cumsum([flat[2], *np.exp(flat[3:])])
        eta = flat[0] * x[:, None] + flat[1] * nodes
        p = np.take_along_axis(exact_probabilities("logit", eta, tau), y[:, None, None], -1)[..., 0]
        rows = np.log(p).reshape(30, 10, -1).sum(1)
        top = rows.max(1)
        return -np.sum(top + np.log(np.exp(rows - top[:, None]) @ weights))

    flat = np.concatenate([found.params.beta, found.params.theta, found.params.dispersion])
    exact = jax.jit(lambda params, model: marginal.deviance(params, model, 25))
    assert abs(negative(flat) - 0.5 * exact(found.params, fit.numbers)) < 1e-7
    # The Laplace approximation is near, and so is its maximum.
    assert abs(negative(flat) - 0.5 * found.deviance) < 0.5
    best = optimize.minimize(negative, flat, method="BFGS")
    assert np.all(np.abs(best.x - flat) < 0.05)
    covariance = np.linalg.inv(0.5 * np.asarray(found.hessian))
    z = (flat - [0.8, 0.9, -0.5, np.log(1.5)]) / np.sqrt(np.diag(covariance))
    assert np.all(np.abs(z) < 3.5)


def test_thresholds_of_a_fit(simulated):
    """With errors by the delta method, named after the categories that they lie between."""
    _, _, fit = simulated
    table = fit.thresholds()
    assert list(table.index) == ["none|some", "some|many"]
    values = jnp.asarray(fit.dispersion_params.to_numpy())
    taus = fit.family.thresholds(tuple(values))
    np.testing.assert_allclose(table["Estimate"], taus, rtol=1e-12)
    J = np.asarray(jax.jacfwd(lambda v: jnp.stack(fit.family.thresholds(tuple(v))))(values))
    V = J @ fit.vcov_all.to_numpy()[-2:, -2:] @ J.T
    np.testing.assert_allclose(table["Std. Error"], np.sqrt(np.diag(V)), rtol=1e-10)
    assert "none|some" in str(fit.summary()) and "none|some" in fit.summary()._repr_html_()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ordinal("log", 3), "link='log' does not fit the ordinal family"),
        (lambda: Ordinal(categories=1), "integer of at least 2"),
        (lambda: Ordinal(categories=True), "integer of at least 2"),
        (lambda: Ordinal().parameters, r"families\.Ordinal\(categories=K\)"),
        (lambda: Ordinal(categories=3).check([0, 1, 3, 2]), "at most 2; got 3 in row 2"),
        (lambda: Ordinal(categories=3).check([0, 1, 0.5]), "0.5 in row 2"),
        (lambda: Ordinal(categories=3).check([0, -1, 2]), "-1 in row 1"),
        (lambda: Ordinal(categories=4).check([0, 1, 3]), "category 2 of 0, ..., 3 has no rows"),
        (lambda: Ordinal(categories=3).check([0, 1, 2], [1, 2, 1]), "ordinal family has none"),
        (lambda: Ordinal().matched(["low", "high"]), "numbers"),
        (lambda: Ordinal(categories=3).log_prob(jnp.ones(1), jnp.ones(1)), "2 parameters"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_two_categories_are_a_bernoulli_response():
    family = Ordinal("cloglog", 2)
    assert family.parameters == ("tau_1",)
    eta, tau = jnp.asarray(ETA), jnp.asarray(0.4)
    for y in (0.0, 1.0):
        # P(y <= 0) = F(tau - eta): a failure is the success of the mirrored model.
        mirrored = families.Bernoulli("cloglog").log_prob(jnp.full(5, 1.0 - y), tau - eta)
        np.testing.assert_allclose(family.log_prob(jnp.full(5, y), eta, tau), mirrored, rtol=1e-14)
    assert family.absorbs_intercept
    assert hash(family) == hash(Ordinal("cloglog", 2)) and family != Ordinal("cloglog", 3)
