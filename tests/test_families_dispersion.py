"""Families with parameters of their own: densities, derivatives, moments, limits, sampling, checks.

Everything is compared with SciPy, a textbook formula written out here, or a numerical integral.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from glmm_jax import families
from glmm_jax.families import (
    Beta,
    BetaBinomial,
    ConwayMaxwellPoisson,
    Exponential,
    Gamma,
    Gaussian,
    GeneralizedPoisson,
    InverseGaussian,
    Lognormal,
    NegativeBinomial,
    NegativeBinomial1,
    Poisson,
    StudentT,
    Tweedie,
    Weibull,
    tilting,
)
from glmm_jax.families.conway_maxwell_poisson import _asymptotic_log_prob as expansion

ETA = np.array([-1.8, -0.6, 0.0, 0.4, 1.3])
COUNTS = [0.0, 3.0, 1.0, 0.0, 12.0]
POSITIVE = [0.2, 1.0, 3.0, 0.7, 5.0]
UNIT = [0.1, 0.5, 0.9, 0.001, 0.7]
REAL = [0.3, -1.0, 2.0, 1.1, 0.0]
TRIALS = [4.0, 3.0, 1.0, 9.0, 15.0]


@dataclass(frozen=True)
class Row:
    """A family at a value of its parameters, a response for each of ETA, and where y may lie."""

    family: Any
    y: list[float]
    parameters: tuple[float, ...]
    support: str
    size: list[float] | None = None

    def __str__(self) -> str:
        values = ",".join(f"{value:g}" for value in self.parameters)
        return f"{self.family.name.replace(' ', '-')}({values})"

    @property
    def dispersion(self) -> Any:
        return as_dispersion(self.parameters)

    @property
    def trials(self) -> Any:
        return None if self.size is None else jnp.array(self.size)


def as_dispersion(values):
    values = tuple(jnp.asarray(float(value)) for value in values)
    return None if not values else values[0] if len(values) == 1 else values


def rows(family, y, support, *parameters, size=None):
    return [Row(family, y, values, support, size) for values in parameters]


ROWS = [
    *rows(NegativeBinomial(), COUNTS, "counts", (-2.0,), (1.0,)),
    *rows(NegativeBinomial1(), COUNTS, "counts", (-2.0,), (1.0,)),
    *rows(GeneralizedPoisson(), COUNTS, "counts", (0.4,), (2.0,)),
    *rows(ConwayMaxwellPoisson(), COUNTS, "counts", (-1.5,), (0.7,)),
    *rows(BetaBinomial(), [0.0, 3.0, 1.0, 4.0, 12.0], "trials", (-1.0,), (3.0,), size=TRIALS),
    *rows(Beta(), UNIT, "unit", (2.0,), (4.0,)),
    *rows(Gamma(), POSITIVE, "positive", (-3.0,), (0.5,)),
    *rows(InverseGaussian(), POSITIVE, "positive", (-3.0,), (0.5,)),
    *rows(Lognormal(), POSITIVE, "positive", (-1.0,), (0.5,)),
    *rows(Weibull(), POSITIVE, "positive", (-0.3,), (1.5,)),
    *rows(Exponential(), POSITIVE, "positive", ()),
    *rows(Tweedie(), [0.0, 1.0, 3.0, 0.0, 5.0], "semicontinuous", (0.3, -0.5), (-2.0, 1.0)),
    *rows(StudentT(), REAL, "real", (-0.5, 1.5)),
    *rows(StudentT(df=5), REAL, "real", (0.4,)),
]
table = pytest.mark.parametrize("row", ROWS, ids=str)
# One row a family, for what costs a compilation of its own.
FEW = list({type(row.family): row for row in reversed(ROWS)}.values())[::-1]
few = pytest.mark.parametrize("row", FEW, ids=str)


# Parameters are arguments, so that the rows of a family share what is compiled.
compiled = cache(jax.jit)


def conway_maxwell_poisson(y, mu, phi):
    """By plain summation, lambda by Brent's method."""
    nu, out = 1 / phi, []
    for count, mean in zip(np.broadcast_to(y, mu.shape), mu, strict=True):
        j = np.arange(0.0, 3000.0)
        log_factorial = special.gammaln(j + 1)

        def terms(log_rate, j=j, log_factorial=log_factorial):
            return j * log_rate - nu * log_factorial

        def excess(log_rate, j=j, mean=mean, terms=terms):
            return np.sum(special.softmax(terms(log_rate)) * (j - mean))

        bounds = sorted((nu * math.log(mean), math.log(mean) + (nu - 1) * math.log1p(mean)))
        rate = optimize.brentq(excess, bounds[0] - 1e-6, bounds[1] + 1e-6, xtol=1e-15, rtol=1e-15)
        normaliser = special.logsumexp(terms(rate))
        out.append(count * rate - nu * special.gammaln(count + 1) - normaliser)
    return np.array(out)


def tweedie(y, mu, phi, p):
    """Dunn and Smyth's series in its textbook form."""
    out = []
    for value, mean in zip(np.broadcast_to(y, mu.shape), mu, strict=True):
        if value == 0:
            out.append(-(mean ** (2 - p)) / (phi * (2 - p)))
            continue
        a = (2 - p) / (p - 1)
        log_z = a * math.log(value / (p - 1)) - (1 + a) * math.log(phi) - math.log(2 - p)
        j = np.arange(1.0, 20 * value ** (2 - p) / (phi * (2 - p)) + 200)
        series = special.logsumexp(j * log_z - special.gammaln(1 + j) - special.gammaln(a * j))
        kernel = value * mean ** (1 - p) / (1 - p) - mean ** (2 - p) / (2 - p)
        out.append(series - math.log(value) + kernel / phi)
    return np.array(out)


def plain_log_density(family, y, eta, parameters, size=None):
    """Textbook densities; `parameters` on their unbounded scales."""
    phi = math.exp(parameters[0]) if parameters else 1.0
    mu = np.asarray(family.link.inverse(jnp.asarray(eta)))
    match family:
        case NegativeBinomial():
            return stats.nbinom.logpmf(y, phi, phi / (phi + mu))
        case NegativeBinomial1():
            return stats.nbinom.logpmf(y, mu / phi, 1 / (1 + phi))
        case GeneralizedPoisson():
            t, rate = mu / math.sqrt(phi), 1 - 1 / math.sqrt(phi)
            total = t + rate * y
            return np.log(t) + (y - 1) * np.log(total) - total - special.gammaln(y + 1)
        case ConwayMaxwellPoisson():
            return conway_maxwell_poisson(y, mu, phi)
        case BetaBinomial():
            return stats.betabinom.logpmf(y, size, mu * phi, (1 - mu) * phi)
        case Beta():
            return stats.beta.logpdf(y, mu * phi, (1 - mu) * phi)
        case Gamma():
            return stats.gamma.logpdf(y, 1 / phi, scale=mu * phi)
        case InverseGaussian():
            return stats.invgauss.logpdf(y, mu * phi, scale=1 / phi)
        case Lognormal():
            s = np.sqrt(np.log1p(phi**2 / mu**2))
            return stats.lognorm.logpdf(y, s, scale=mu * np.exp(-(s**2) / 2))
        case Weibull():
            return stats.weibull_min.logpdf(y, phi, scale=mu / special.gamma(1 + 1 / phi))
        case Exponential():
            return stats.expon.logpdf(y, scale=mu)
        case Tweedie():
            return tweedie(y, mu, phi, 1 + special.expit(parameters[1]))
        case StudentT():
            df = family.df or math.exp(parameters[1])
            return stats.t.logpdf(y, df, loc=mu, scale=phi)
    raise AssertionError(family)


@table
def test_log_density_against_its_textbook_form(row):
    y, eta = jnp.array(row.y), jnp.array(ETA)
    got = row.family.log_prob(y, eta, row.dispersion, row.trials)
    expected = plain_log_density(row.family, np.array(row.y), ETA, row.parameters, row.size)
    assert got.shape == eta.shape
    np.testing.assert_allclose(got, expected, rtol=2e-12, atol=2e-12)


OTHER_LINKS = [
    *((cls(name), (0.4,), COUNTS) for name in ("sqrt", "identity")
      for cls in (NegativeBinomial, NegativeBinomial1, GeneralizedPoisson, ConwayMaxwellPoisson)),
    *((cls(name), (0.4,), POSITIVE) for name in ("inverse", "identity")
      for cls in (Gamma, InverseGaussian, Lognormal, Weibull)),
    *((Exponential(name), (), POSITIVE) for name in ("inverse", "identity")),
    *((Tweedie(name), (0.4, 0.2), POSITIVE) for name in ("inverse", "identity")),
    *((Beta(name), (0.4,), UNIT) for name in ("probit", "cloglog", "loglog", "cauchit")),
    *((StudentT(name, df=3), (0.4,), POSITIVE) for name in ("log", "inverse")),
]  # fmt: skip


@pytest.mark.parametrize("one", OTHER_LINKS, ids=lambda one: f"{one[0].name}-{one[0].link.name}")
def test_other_links(one):
    family, parameters, y = one
    eta = np.array([0.4, 0.9, 1.0, 1.7, 2.2])
    got = family.log_prob(jnp.array(y), jnp.array(eta), as_dispersion(parameters))
    expected = plain_log_density(family, np.array(y), eta, parameters)
    np.testing.assert_allclose(got, expected, rtol=2e-12, atol=2e-12)


def difference(f, x, i, h=4e-3):
    """Central difference of eighth order along element i of x."""
    weights, step = (4 / 5, -1 / 5, 4 / 105, -1 / 280), h * np.eye(len(x))[i]
    return sum(w * (f(x + k * step) - f(x - k * step)) for k, w in enumerate(weights, 1)) / h


def totals(row, order):
    """Sum over rows of the derivative in eta of that order, as a function of a shift of eta and of
    the parameters; its gradient; its Hessian."""

    def value(x):
        dispersion = None if len(x) == 1 else x[1] if len(x) == 2 else tuple(x[1:])
        function = lambda eta: row.family.log_prob(jnp.array(row.y), eta, dispersion, row.trials)  # noqa: E731
        for _ in range(order):
            function = _derivative(function)
        return jnp.sum(function(jnp.array(ETA) + x[0]))

    gradient = jax.grad(value)
    return jax.jit(lambda x: (value(x), gradient(x), jax.jacfwd(gradient)(x)))


def _derivative(f):
    return lambda eta: jax.jvp(f, (eta,), (jnp.ones_like(eta),))[1]


@few
def test_derivatives_against_differences(row):
    """In eta up to the fourth, in the parameters up to the second, and mixed: all of Laplace's."""
    x = np.array([0.0, *row.parameters])
    for order in (0, 2):
        at = totals(row, order)
        value, gradient, hessian = at(x)
        scale = 1 + abs(value)
        for i in range(len(x)):
            slope = difference(lambda x, at=at: at(x)[0], x, i)
            np.testing.assert_allclose(gradient[i], slope, rtol=1e-8, atol=1e-9 * scale)
            slope = difference(lambda x, at=at: at(x)[1], x, i)
            np.testing.assert_allclose(hessian[i], slope, rtol=1e-8, atol=1e-8 * scale)


FAR = np.array([-700.0, -300.0, -40.0, 40.0, 300.0, 700.0])
# Where the density itself is no longer a number: exp(-y / mu) far below every float, and so on.
FINITE_FROM = {"inverse gaussian": -350.0, "weibull": -200.0, "lognormal": -701.0}
FINITE_TO = {"lognormal": 100.0}


@few
def test_finite_with_derivatives_far_out(row):
    family = row.family
    use = (FAR >= FINITE_FROM.get(family.name, -701.0)) & (FAR <= FINITE_TO.get(family.name, 701.0))
    eta = jnp.array(FAR[use])
    x = jnp.array(row.parameters)

    def arguments(eta, x):
        dispersion = None if len(x) == 0 else x[0] if len(x) == 1 else tuple(x)
        return eta, dispersion, None if row.size is None else jnp.asarray(9.0)

    def density(y, eta, x):
        return family.log_prob(y, *arguments(eta, x))

    def fisher(_, eta, x):
        return family.fisher(*arguments(eta, x))

    def derivatives(function, order):
        along = lambda f: lambda y, eta, x: _derivative(lambda eta: f(y, eta, x))(eta)  # noqa: E731
        first = higher = along(function)
        for _ in range(order - 1):
            higher = along(higher)
        return function, first, higher, jax.jacfwd(first, 2)

    functions = derivatives(density, 3)
    if family.has_fisher:  # itself a second derivative, of which Laplace's Hessian has two
        functions += derivatives(fisher, 2)
    run = jax.jit(jax.vmap(lambda y, eta: [f(y, eta, x) for f in functions], (None, 0)))
    for y in {"unit": (0.01, 0.9), "trials": (0.0, 4.0, 9.0)}.get(row.support, (1.0, 7.0)):
        for values in run(jnp.asarray(y), eta):
            assert np.all(np.isfinite(values)), (y, values)


def nodes(row, mean):
    """Points of the support of each row, (n, k), and the weight of each in an integral."""
    n = len(ETA)
    if row.support in ("counts", "trials"):
        last = 15 if row.support == "trials" else 700
        points = np.tile(np.arange(last + 1.0), (n, 1))
        limit = np.full(n, np.inf) if row.size is None else np.array(row.size)
        inside = points <= limit[:, None]
        return np.where(inside, points, 0.0), inside.astype(float)
    t = np.linspace(-1, 1, 6001)
    if row.support == "real":
        t = 60 * t
        return ETA[:, None] + np.sinh(t), np.tile(np.cosh(t) * (t[1] - t[0]), (n, 1))
    if row.support == "unit":
        t = 300 * t
        y = special.expit(t)
        inside = (y > 0) & (y < 1)
        weight = np.where(inside, y * (1 - y), 0.0) * (t[1] - t[0])
        return np.tile(np.where(inside, y, 0.5), (n, 1)), np.tile(weight, (n, 1))
    t = 60 * t if row.support == "positive" else 40 * t
    y = np.exp(t) * np.asarray(mean)[:, None]
    weight = y * (t[1] - t[0])
    if row.support == "semicontinuous":
        zero = np.zeros((n, 1))
        return np.hstack([zero, y]), np.hstack([zero + 1, weight])
    return y, weight


@cache
def densities(family):
    """Log density, score and curvature, (n, k); eta and size (n,)."""

    def at(y, eta, dispersion, size):
        # Elementwise in eta of more dimensions than one, as quadrature needs it.
        eta, size = (
            None if a is None else jnp.broadcast_to(a[:, None], y.shape) for a in (eta, size)
        )
        arguments = y, eta, dispersion, size
        return family.log_prob(*arguments), family.score(*arguments), family.curvature(*arguments)

    return jax.jit(at)


@table
def test_moments_of_the_response_and_of_the_score(row):
    """The density sums to one, has mean and variance as stated, and Fisher's information."""
    family, eta = row.family, jnp.array(ETA)
    size, dispersion = row.trials, row.dispersion
    mean = np.asarray(family.mean(eta, dispersion)) * (1 if size is None else np.asarray(size))
    points, weight = nodes(row, mean)

    log_density, score, curvature = (
        np.asarray(a) for a in densities(family)(jnp.array(points), eta, dispersion, size)
    )
    probability = np.where(weight > 0, np.exp(log_density) * weight, 0.0)

    def expectation(values):
        return np.sum(np.where(probability > 1e-30, values, 0.0) * probability, axis=1)

    np.testing.assert_allclose(expectation(1.0), 1, rtol=1e-9)
    np.testing.assert_allclose(expectation(score), 0, atol=1e-8)
    np.testing.assert_allclose(expectation(points), mean, rtol=1e-8, atol=1e-8)
    mu = family.mean(eta, dispersion)
    variance = family.variance(mu, dispersion, size)
    second = expectation((points - mean[:, None]) ** 2)
    np.testing.assert_allclose(variance, second, rtol=1e-6)
    information = expectation(score**2)
    np.testing.assert_allclose(expectation(curvature), information, rtol=1e-7)
    if family.has_fisher:
        fisher = family.fisher(eta, dispersion, size)
        np.testing.assert_allclose(fisher, information, rtol=1e-7)
    y = jnp.array(row.y)
    assert np.all(family.positive_information(y, eta, dispersion, size) > 0)


@few
def test_unit_deviance_is_twice_the_distance_to_the_best_mean(row):
    family, size, dispersion = row.family, row.trials, row.dispersion
    y, mu = np.array(row.y), np.asarray(family.link.inverse(jnp.array(ETA)))
    got = family.unit_deviance(jnp.array(y), jnp.array(mu), size, dispersion)
    best = np.empty(len(y))
    costly = isinstance(family, ConwayMaxwellPoisson)  # 256 terms each
    grid = jnp.linspace(-8.0, 8.0, 801) if costly else jnp.linspace(-30.0, 30.0, 20001)
    for i, value in enumerate(y):
        trials = None if size is None else size[i]
        curve = family.log_prob(jnp.asarray(value), grid, dispersion, trials)
        best[i] = np.max(curve)
    fitted = family.log_prob(jnp.array(y), jnp.array(ETA), dispersion, size)
    exponential_dispersion = (Gamma, InverseGaussian, Tweedie)
    phi = math.exp(row.parameters[0]) if isinstance(family, exponential_dispersion) else 1.0
    # The grid misses the maximum by at most half the curvature times half its step squared.
    atol = 4e-3 if costly else 2e-4
    np.testing.assert_allclose(got, 2 * phi * (best - fitted), rtol=1e-5, atol=atol)
    assert np.all(np.asarray(got) >= -1e-12)


@table
def test_sample_has_the_moments_of_the_family(row):
    family = row.family
    # The mean of the squares of a heavy tail is in no more draws than these.
    draws = {ConwayMaxwellPoisson: 4_000, Lognormal: 40_000}.get(type(family), 10_000)
    eta = jnp.repeat(jnp.array(ETA[[0, 2, 4]]), draws)
    size = None if row.size is None else jnp.repeat(row.trials[jnp.array([0, 2, 4])], draws)
    draw = np.asarray(compiled(family.sample)(jax.random.key(5), eta, row.dispersion, size))
    assert draw.dtype == eta.dtype
    family.check(draw, None if size is None else np.asarray(size))
    mu = family.mean(eta, row.dispersion)
    sd = np.sqrt(np.asarray(family.variance(mu, row.dispersion, size)))
    mean = np.asarray(mu if size is None else mu * size)
    z = ((draw - mean) / sd).reshape(3, draws)
    # Five standard errors; that of the mean square from the draws themselves (0 for one trial).
    assert np.all(np.abs(z.mean(1)) < 5 / math.sqrt(draws))
    limit = 5 * (z**2).std(1) / math.sqrt(draws) + 5 / draws
    assert np.all(np.abs((z**2).mean(1) - 1) < limit)


LIMITS = [
    (NegativeBinomial(), Poisson(), COUNTS, None, 1),
    (NegativeBinomial1(), Poisson(), COUNTS, None, -1),
    (BetaBinomial(), families.Binomial(), [0.0, 3.0, 1.0, 4.0, 12.0], TRIALS, 1),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda one: one[0].name)
def test_limits_of_large_and_small_dispersion(limit):
    """The parameter runs to where the plainer family is: smoothly, to it, and without a NaN."""
    family, plain, y, size, sign = limit
    y, eta = jnp.array(y), jnp.array(ETA)
    size = None if size is None else jnp.array(size)

    @jax.jit
    def at(log_phi):
        def value(log_phi):
            return jnp.sum(family.log_prob(y, eta, log_phi, size))

        return (
            family.log_prob(y, eta, log_phi, size) - plain.log_prob(y, eta, None, size),
            family.score(y, eta, log_phi, size) - plain.score(y, eta, None, size),
            jax.grad(value)(log_phi),
            jax.grad(jax.grad(value))(log_phi),
        )

    for distance in (4.0, 8.0, 20.0, 30.0, 60.0, 100.0, 500.0, 900.0):
        difference, score, first, second = at(jnp.asarray(sign * distance))
        bound = 200 * math.exp(-distance) + 1e-13
        assert np.all(np.abs(difference) < bound), distance
        assert np.all(np.abs(score) < bound)
        assert abs(first) < 5 * bound
        assert abs(second) < 5 * bound


def test_limits_of_student_t_and_conway_maxwell_poisson():
    y, eta = jnp.array(REAL), jnp.array(ETA)
    normal = Gaussian().log_prob(y, eta, jnp.asarray(-0.6))
    for log_df in (30.0, 200.0):
        t = StudentT().log_prob(y, eta, as_dispersion((-0.3, log_df)))
        np.testing.assert_allclose(t, normal, rtol=1e-11)
    y = jnp.array(COUNTS)
    one = ConwayMaxwellPoisson().log_prob(y, eta, jnp.asarray(0.0))
    np.testing.assert_allclose(one, Poisson().log_prob(y, eta), rtol=1e-12, atol=1e-13)
    one = GeneralizedPoisson().log_prob(y, eta, jnp.asarray(0.0))
    np.testing.assert_allclose(one, Poisson().log_prob(y, eta), rtol=1e-12, atol=1e-13)


TWEEDIE, CONWAY_MAXWELL_POISSON = Tweedie(), ConwayMaxwellPoisson()


@pytest.mark.parametrize("power", [1.02, 1.3, 1.7, 1.97])
def test_tweedie_series_over_the_range_of_dispersions(power):
    """From one term that matters (large phi) to a thousand (phi = 0.001, or p near 2)."""
    y, eta = np.array([0.0, 1e-4, 0.1, 1.0, 300.0]), np.full(5, 0.3)
    psi = math.log((power - 1) / (2 - power))
    log_prob = compiled(TWEEDIE.log_prob)
    for phi in (0.001, 0.03, 1.0, 30.0):
        got = log_prob(jnp.array(y), jnp.array(eta), as_dispersion((math.log(phi), psi)))
        np.testing.assert_allclose(got, tweedie(y, np.exp(eta), phi, power), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("phi", [0.02, 0.3, 1.0, 2.0, 20.0])
def test_conway_maxwell_poisson_over_the_range_of_means(phi):
    mu = np.array([1e-5, 0.1, 1.0, 7.0, 30.0, 150.0])
    log_prob = compiled(CONWAY_MAXWELL_POISSON.log_prob)
    tolerance = 1e-11 if phi <= 2 else 1e-10  # as documented: not all integers are summed then
    for y in (np.zeros(6), np.round(mu), np.round(mu + 2 * np.sqrt(phi * mu) + 1)):
        got = log_prob(jnp.array(y), jnp.log(jnp.array(mu)), jnp.asarray(math.log(phi)))
        plain = [conway_maxwell_poisson(a, b[None], phi)[0] for a, b in zip(y, mu, strict=True)]
        np.testing.assert_allclose(got, plain, rtol=tolerance, atol=tolerance)


@cache
def derivatives(density):
    """The log density of y, its gradient, and the change of that along (1, 1)."""

    def at(y, *x):
        first = jax.grad(lambda log_mu, nu: jnp.sum(density(y, log_mu, nu)), (0, 1))
        return density(y, *x), first(*x), jax.jvp(first, x, tuple(map(jnp.ones_like, x)))

    return jax.jit(at)


@pytest.mark.parametrize("phi", [0.05, 1.0, 8.0])
def test_conway_maxwell_poisson_expansion_continues_the_sum(phi):
    """Where the one takes over from the other both are right, with two derivatives in each."""
    mu = np.array([0.5, 1.0, 2.0]) * 1e4 * max(phi, 1 / phi)
    y = jnp.array(np.round(mu + np.sqrt(phi * mu) * np.array([0.3, -1.0, 2.0])))
    x = jnp.log(jnp.array(mu)), jnp.full(3, 1 / phi)

    summed = derivatives(tilting.log_prob)(y, *x)
    expanded = derivatives(expansion)(y, *x)
    for one, other in zip(jax.tree.leaves(summed), jax.tree.leaves(expanded), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-8, atol=1e-9)


BAD = [
    (NegativeBinomial(), [1.0, -1.0], None, r"y must be non-negative; got -1 in row 1"),
    (NegativeBinomial1(), [1.5, 1.0], None, r"y must be an integer; got 1.5 in row 0"),
    (GeneralizedPoisson(), [1.0, np.inf], None, r"y must be finite"),
    (ConwayMaxwellPoisson(), [1.0, 2.0], [1.0, 2.0], r"size was given"),
    (Beta(), [0.0, 0.5], None, r"y must be strictly between 0 and 1; got 0 in row 0"),
    (Beta(), [0.3, 1.0], None, r"got 1 in row 1"),
    (BetaBinomial(), [3.0, 1.0], [2.0, 1.0], r"at most the number of trials; got 3 in row 0"),
    (Gamma(), [1.0, 0.0], None, r"y must be positive; got 0 in row 1"),
    (Gamma(), [1.0, 1.0], [1.0, 2.0], r"size was given"),
    (InverseGaussian(), [-1.0, 2.0], None, r"y must be positive; got -1 in row 0"),
    (Lognormal(), [1.0, 0.0], None, r"y must be positive"),
    (Weibull(), [1.0, 0.0], None, r"y must be positive"),
    (Exponential(), [1.0, 0.0], None, r"y must be positive"),
    (Tweedie(), [1.0, -0.5], None, r"y must be non-negative; got -0.5 in row 1"),
    (Tweedie(), [0.0, 0.0], None, r"y is zero in every row"),
    (StudentT(), [np.nan, 1.0], None, r"y must be finite"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[0].name}-{bad[1]}")
def test_response_outside_the_support(bad):
    family, y, size, message = bad
    with pytest.raises(ValueError, match=message):
        family.check(np.array(y), None if size is None else np.array(size))


@pytest.mark.parametrize("df", [0, -1.0, math.inf, math.nan, "4", True])
def test_degrees_of_freedom_that_are_none(df):
    with pytest.raises(ValueError, match="df="):
        StudentT(df=df)


def test_names():
    assert families.get("nbinom2") == NegativeBinomial()
    assert families.get("nbinom1") == NegativeBinomial1()
    assert families.get("t_family") == StudentT() != StudentT(df=4)
    assert StudentT(df=4).parameters == ("log(phi)",)
    assert Tweedie().parameters == ("log(phi)", "logit(p - 1)")
    with pytest.raises(ValueError, match="2 parameters"):
        Tweedie().log_prob(jnp.ones(2), jnp.ones(2), jnp.zeros(()))
    with pytest.raises(ValueError, match="does not fit the beta family"):
        Beta("log")


@few
def test_start_parameters_are_finite_for_awkward_data(row):
    """No spread, no information about the dispersion, padding: a start is finite all the same."""
    family = row.family
    size = None if row.size is None else jnp.ones(5)
    value = 0.5 if row.support == "unit" else 1.0
    for y, mu in [
        (jnp.full(5, value), jnp.full(5, value)),
        (jnp.array(row.y) if size is None else jnp.zeros(5), jnp.full(5, 0.3)),
    ]:
        weights = jnp.array([1.0, 1.0, 2.0, 1.0, 0.0])
        values = family.start_parameters(y, mu, weights, size, 0.5)
        assert len(values) == len(family.parameters)
        assert np.all(np.isfinite(np.array(values)))
        assert np.all(np.isfinite(family.link.link(family.start_mean(y, size))))


@few
def test_single_precision(row):
    """The dtype that is given is kept, and its digits."""

    @jax.jit
    def at(y, eta, x, size):
        dispersion = None if len(x) == 0 else x[0] if len(x) == 1 else tuple(x)
        return row.family.log_prob(y, eta, dispersion, size)

    arguments = np.array(row.y), ETA, np.array(row.parameters), row.size and np.array(row.size)
    exact = plain_log_density(row.family, np.array(row.y), ETA, row.parameters, row.size)
    single = at(*(None if a is None else jnp.array(a, jnp.float32) for a in arguments))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("family", [NegativeBinomial(), NegativeBinomial1()], ids=lambda f: f.name)
def test_poisson_limit_in_single_precision(family):
    y, eta = jnp.array(COUNTS, jnp.float32), jnp.array(ETA, jnp.float32)
    plain = Poisson().log_prob(y, eta)
    sign = 1.0 if isinstance(family, NegativeBinomial) else -1.0
    for distance in (20.0, 50.0, 80.0, 300.0):
        log_phi = jnp.asarray(sign * distance, jnp.float32)
        got = family.log_prob(y, eta, log_phi)
        np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-6)
        assert np.isfinite(jax.grad(lambda p: jnp.sum(family.log_prob(y, eta, p)))(log_phi))
