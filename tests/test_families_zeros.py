"""Wrappers of count families: zero-truncated, zero-inflated, hurdle."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import reference_cases
from scipy import stats

from glmm_jax import families, glmer
from glmm_jax.build import place
from glmm_jax.families import (
    Hurdle,
    NegativeBinomial,
    NegativeBinomial1,
    Poisson,
    Truncated,
    ZeroInflated,
)
from glmm_jax.families.base import as_dispersion
from glmm_jax.families.zeros import log_positive
from glmm_jax.formula.frame import build_frame
from glmm_jax.model import Params

WRAPPERS = (Truncated, ZeroInflated, Hurdle)
LOG_PHI = 0.4
LOGIT = -0.7
# The curvature of a truncated density under the sqrt link is not defined at a mean of zero.
INNER = (Poisson(), Poisson("sqrt"), NegativeBinomial(), NegativeBinomial1())
FAMILIES = [wrapper(inner) for wrapper in WRAPPERS for inner in INNER]
ETA = np.array([-2.5, -0.6, 0.0, 0.4, 1.7])
Y = np.array([1.0, 3.0, 0.0, 2.0, 9.0])


PLAIN = families.custom(
    lambda y, eta, dispersion: y * eta - jnp.exp(eta) - jax.scipy.special.gammaln(y + 1.0),
    link="log",
    support=lambda y: (y >= 0) & (y == np.round(y)),
    name="plain",
)


def label(family):
    return f"{family.name}-{family.link.name}".replace(" ", "-")


table = pytest.mark.parametrize("family", FAMILIES, ids=label)
few = pytest.mark.parametrize(
    "family",
    [wrapper(inner) for wrapper in WRAPPERS for inner in (Poisson(), NegativeBinomial())],
    ids=label,
)


def values_of(family):
    """One value for each parameter besides eta."""
    known = {"log(phi)": LOG_PHI, "logit(zero)": LOGIT}
    return tuple(jnp.asarray(known[name]) for name in family.parameters)


def predictors(family):
    return jnp.asarray(np.abs(ETA) + 0.3 if family.link.name == "sqrt" else ETA)


def responses(family):
    return jnp.asarray(np.maximum(Y, 1.0) if isinstance(family, Truncated) else Y)


def inner_mass(family, y, mu):
    """SciPy's probability of the inner family, y and mu broadcasting."""
    if family.inner.name == "poisson":
        return stats.poisson.pmf(y, mu)
    phi = np.exp(LOG_PHI)
    k = phi if isinstance(family.inner, NegativeBinomial) else mu / phi
    return stats.nbinom.pmf(y, k, k / (k + mu))


def mass(family, y, mu):
    f, f0 = inner_mass(family, y, mu), inner_mass(family, 0 * y, mu)
    pi = 1 / (1 + np.exp(-LOGIT))
    if isinstance(family, Truncated):
        return np.where(y > 0, f / (1 - f0), 0.0)
    if isinstance(family, ZeroInflated):
        return (1 - pi) * f + np.where(y > 0, 0.0, pi)
    return np.where(y > 0, (1 - pi) * f / (1 - f0), pi)


def inner_mean(family, eta):
    return np.asarray(eta) ** 2 if family.link.name == "sqrt" else np.exp(np.asarray(eta))


@table
def test_log_density_against_scipy(family):
    y, eta = responses(family), predictors(family)
    got = family.log_prob(y, eta, as_dispersion(values_of(family)))
    np.testing.assert_allclose(
        np.exp(got), mass(family, np.asarray(y), inner_mean(family, eta)), rtol=2e-12
    )


@table
def test_moments_and_information_against_sums(family):
    eta, dispersion = predictors(family), as_dispersion(values_of(family))
    counts = jnp.arange(1000.0)
    y = jnp.broadcast_to(counts[:, None], (1000, eta.size))

    @jax.jit
    def everything(y, eta):
        return (
            family.log_prob(y, eta[None], dispersion),
            family.score(y[1:], jnp.broadcast_to(eta[None], y[1:].shape), dispersion),
            family.curvature(y, jnp.broadcast_to(eta[None], y.shape), dispersion),
            family.mean(eta, dispersion),
            family.variance(family.mean(eta, dispersion), dispersion),
            family.positive_information(y[1], eta, dispersion),
        )

    log_prob, score, curvature, mean, variance, information = map(np.asarray, everything(y, eta))
    p = np.exp(log_prob)
    np.testing.assert_allclose(p.sum(0), 1, rtol=1e-12)
    exact = np.sum(p * np.asarray(y), 0)
    np.testing.assert_allclose(mean, exact, rtol=1e-11)
    spread = np.sum(p * (np.asarray(y) - exact) ** 2, 0)
    np.testing.assert_allclose(variance, spread, rtol=1e-9)
    first = 1 if isinstance(family, Truncated) else 0
    expected = np.sum((p * curvature)[first:], 0)
    squares = np.sum(p[1:] * score**2, 0)
    if isinstance(family, ZeroInflated):
        # The row of zero counts has a score of its own.
        zero = np.asarray(family.score(jnp.zeros_like(eta), eta, dispersion))
        squares = squares + p[0] * zero**2
    np.testing.assert_allclose(squares, expected, rtol=1e-8, atol=1e-12)
    if family.has_fisher:
        np.testing.assert_allclose(information, expected, rtol=1e-9, atol=1e-12)
    assert np.all(information > 0)


# The rest of the table differs by what the families inside are tested for themselves.
DIFFERENTIATED = [
    *(family for family in FAMILIES if family.inner.name == "poisson"),
    Truncated(NegativeBinomial1()),
    ZeroInflated(NegativeBinomial()),
]


@pytest.mark.parametrize("family", DIFFERENTIATED, ids=label)
def test_derivatives_against_differences(family):
    y, eta, values = responses(family), predictors(family), values_of(family)
    rows = tuple(value * jnp.ones_like(eta) for value in values)
    steps = jnp.eye(1 + len(rows))
    h = 1e-3

    def log_prob(point):
        return family.log_prob(y, point[0], as_dispersion(point[1:]))

    def gradient(point):
        # Elementwise: the gradient of the sum holds the derivative of each row.
        return jnp.stack(jax.grad(lambda point: jnp.sum(log_prob(point)))(point))

    def along(direction):
        return tuple(d * jnp.ones_like(eta) for d in direction)

    @jax.jit
    def at(point):
        """Log density, gradient and Hessian."""
        hessian = jax.vmap(lambda d: jax.jvp(gradient, (point,), (along(d),))[1])(steps)
        return log_prob(point), gradient(point), hessian

    def difference(i):
        """Central differences of eighth order along each coordinate."""
        weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)

        def moved(direction, k):
            return at(tuple(x + k * h * d for x, d in zip(point, direction, strict=True)))[i]

        return [
            sum(w * (moved(d, k) - moved(d, -k)) for k, w in enumerate(weights, 1)) / h
            for d in steps
        ]

    point = (eta, *rows)
    _, exact, second = at(point)
    np.testing.assert_allclose(exact, difference(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(second, difference(1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "family",
    [
        *(wrapper(Poisson()) for wrapper in WRAPPERS),
        Hurdle(NegativeBinomial()),
        ZeroInflated(NegativeBinomial()),
        ZeroInflated(NegativeBinomial1()),
        Truncated(NegativeBinomial1()),
    ],
    ids=label,
)
def test_finite_with_three_derivatives_far_out(family):
    etas = jnp.array([-700.0, -300.0, -40.0, -5.0, 0.0, 5.0, 40.0, 300.0, 700.0])
    counts = [1.0, 7.0] if isinstance(family, Truncated) else [0.0, 1.0, 7.0]
    others = [{"log(phi)": (-3.0, 4.0), "logit(zero)": (-30.0, 30.0)}[n] for n in family.parameters]
    grid = jnp.meshgrid(etas, jnp.array(counts), *map(jnp.array, others))
    eta, y, *parameters = (axis.ravel() for axis in grid)
    dispersion = as_dispersion(parameters)

    def log_prob(eta, dispersion):
        return family.log_prob(y, eta, dispersion)

    def total(eta, dispersion):
        value = log_prob(eta, dispersion)
        return value + (family.fisher(eta, dispersion) if family.has_fisher else 0.0)

    def derivative(function):
        return lambda eta: jax.jvp(function, (eta,), (jnp.ones_like(eta),))[1]

    @jax.jit
    def everything(eta):
        functions = []
        # Fisher's information is itself a second derivative, of which Laplace's Hessian has two.
        for function, order in [(log_prob, 3), (family.fisher, 2)][: 1 + family.has_fisher]:
            functions.append(lambda eta, f=function: f(eta, dispersion))
            for _ in range(order):
                functions.append(derivative(functions[-1]))
        values = [function(eta) for function in functions]
        values.append(family.mean(eta, dispersion))
        # Reverse over forward, as the gradient of a Laplace deviance takes it.
        values.append(jax.grad(lambda eta: jnp.sum(functions[2](eta)))(eta))
        if parameters:
            values += jax.tree.leaves(jax.grad(lambda d: jnp.sum(total(eta, d)))(dispersion))
        return jnp.stack(values)

    values = np.asarray(everything(eta))
    bad = ~np.all(np.isfinite(values), axis=0)
    assert not np.any(bad), (np.asarray(eta)[bad], np.asarray(y)[bad], values[:, bad])


def test_the_truncated_tail_keeps_its_digits():
    """For a small mean y is 1 with probability 1 - mu / 2, and the information mu / 2."""
    family = Truncated(Poisson())
    eta = jnp.array([-40.0, -20.0, -10.0])
    mu = np.exp(np.asarray(eta))
    one = jnp.ones_like(eta)
    np.testing.assert_allclose(family.log_prob(one, eta), -mu / 2 - mu**2 / 24, atol=1e-14)
    np.testing.assert_allclose(family.mean(eta), 1 + mu / 2 + mu**2 / 12, rtol=40 * 2.3e-16)
    np.testing.assert_allclose(family.fisher(eta), mu / 2, rtol=1e-4)


def test_the_probability_of_a_zero_at_the_poisson_limit():
    """From the log density at zero of a family that nothing else is known of; by closed forms."""
    eta = jnp.array([-40.0, -3.0, 0.0, 2.0])
    limit = log_positive(PLAIN, eta[1:], None)
    np.testing.assert_allclose(limit, log_positive(Poisson(), eta[1:], None), rtol=1e-13)
    for family, log_phi in ((NegativeBinomial(), 60.0), (NegativeBinomial1(), -60.0)):
        limit = log_positive(family, eta, jnp.asarray(log_phi))
        np.testing.assert_allclose(limit, log_positive(Poisson(), eta, None), rtol=1e-13)


@few
def test_samples_have_the_probabilities(family):
    n = 10_000
    eta = jnp.repeat(predictors(family)[1:4], n)
    dispersion = as_dispersion(values_of(family))
    draws = np.asarray(family.sample(jax.random.key(11), eta, dispersion)).reshape(3, n)
    assert draws.dtype == np.float64
    for row, mu in zip(draws, inner_mean(family, predictors(family)[1:4]), strict=True):
        cells = np.arange(6)
        expected = mass(family, cells, np.full(6, mu)) * n
        observed = np.array([np.sum(row == cell) for cell in cells])
        expected, observed = (
            np.append(part, n - part.sum()) for part in (expected, observed.astype(float))
        )
        used = expected > 5
        statistic = np.sum((observed - expected)[used] ** 2 / expected[used])
        assert statistic < stats.chi2.ppf(1 - 1e-5, used.sum())
        assert np.all(observed[expected == 0] == 0)


@few
def test_starting_values_are_finite_and_near(family):
    eta = jnp.repeat(predictors(family)[1:], 500)
    dispersion = as_dispersion(values_of(family))
    y = family.sample(jax.random.key(3), eta, dispersion)
    weights = jnp.ones_like(y)
    mu = family.link.inverse(eta)
    got = family.start_parameters(y, mu, weights, None, 0.0)
    assert len(got) == len(family.parameters)
    for name, value in zip(family.parameters, got, strict=True):
        assert np.isfinite(value)
        if name == "logit(zero)":
            assert abs(value - LOGIT) < (0.1 if isinstance(family, Hurdle) else 0.6)
    assert np.all(np.isfinite(family.link.link(family.start_mean(y))))
    nothing = family.start_parameters(y, jnp.full_like(mu, 1e-300), weights, None, 0.0)
    assert np.all(np.isfinite(nothing))


def test_names():
    assert families.get("truncated_poisson") == Truncated(Poisson())
    assert families.get("zero_inflated_nbinom2") == ZeroInflated(NegativeBinomial())
    assert families.get("hurdle_nbinom1", "sqrt") == Hurdle(NegativeBinomial1("sqrt"))
    assert families.get("hurdle_poisson") != families.get("zero_inflated_poisson")
    assert hash(Hurdle(Poisson())) == hash(Hurdle(Poisson()))
    assert ZeroInflated(NegativeBinomial()).parameters == ("log(phi)", "logit(zero)")
    assert Truncated(Poisson()).parameters == ()
    assert "Poisson" in repr(ZeroInflated(Poisson()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Truncated(families.Gaussian()), "not a family of counts"),
        (lambda: Hurdle(families.Binomial()), "not a family of counts"),
        (lambda: Hurdle(Truncated(Poisson())), "changed already"),
        (lambda: ZeroInflated("poisson"), r"families\.ZeroInflated\(families\.Poisson\(\)\)"),
        (lambda: families.get(Hurdle), r"give it one, of counts say: families\.Hurdle\(families"),
        (lambda: families.get("zero_inflated_gaussian"), "not a family of counts"),
        (lambda: families.get("zero_inflated_nothing"), "is not known"),
        (lambda: Truncated(Poisson()).check([1, 2, 0, 0]), r"0 in row 2 \(and 1 more\).*hurdle"),
        (lambda: Hurdle(Poisson()).check([1, 2, 3]), "no zeros"),
        (lambda: ZeroInflated(Poisson()).check([0, 0]), "zero in all rows"),
        (lambda: ZeroInflated(Poisson()).check([0, 1.5]), "1.5 in row 1"),
        (lambda: Hurdle(Poisson()).unit_deviance(jnp.ones(1), jnp.ones(1)), "quantile residuals"),
        (lambda: ZeroInflated(Poisson()).log_prob(jnp.ones(1), jnp.ones(1)), "one parameter"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


INNER_OF = {"poisson": Poisson, "nbinom1": NegativeBinomial1, "nbinom2": NegativeBinomial}


def model_of(case):
    """The model of a glmmTMB case with a ziformula or a dispformula, and glmmTMB's estimates."""
    inner = INNER_OF[case.family.removeprefix("truncated_")](case.link)
    family = inner
    if case.ziformula:
        family = (Hurdle if case.family.startswith("truncated_") else ZeroInflated)(inner)
    constant = case.ziformula == "~1"
    frame = build_frame(
        case.formula,
        case.frame(),
        dispersion=case.dispformula,
        zero_inflation=None if constant else case.ziformula,
    )
    model, _ = place(frame, family, "observed", padded=True)
    phi = (case.record.get("family_params") or case.record.get("dispersion") or {}).get("betad", [])
    zero = (case.record.get("zi") or {}).get("beta", [])
    flat = np.concatenate([phi, zero])
    theirs = Params(
        jnp.asarray(case.beta),
        jnp.asarray(case.theta),
        jnp.asarray(flat).reshape(model.dispersion_shape),
    )
    return model, theirs


def test_recovery_of_zero_inflated_negative_binomial_counts():
    """On the design of a reference that is fitted from a start: one program serves both."""
    case = reference_cases.case("sal_zinb2/glmmTMB")
    data, theirs = case.frame(), case.points[0]
    rng = np.random.default_rng(8)
    site = data["site"].cat.codes.to_numpy()
    beta = np.array([1.5, *np.linspace(-0.3, 0.3, 6), 0.5])
    sd, log_phi, zero = 0.4, np.log(2.0), np.array([-1.0, *np.linspace(0.4, -0.4, 6), 0.5])
    X = np.column_stack(
        [np.ones(len(data)), pd.get_dummies(data["spp"]).to_numpy()[:, 1:], data["mined"] == "no"]
    ).astype(float)
    eta = X @ beta + sd * rng.normal(size=site.max() + 1)[site]
    y = ZeroInflated(NegativeBinomial()).sample(
        jax.random.key(5), jnp.asarray(eta), (jnp.asarray(log_phi), jnp.asarray(X @ zero))
    )
    start = Params(np.asarray(case.beta), theirs.theta, theirs.others)
    arguments = case.glmer_arguments() | {"data": data.assign(count=np.asarray(y))}
    found = glmer(**arguments, start=start)
    assert found.converged
    assert list(found.params.index[[0, -1]]) == ["Intercept", "mined[T.no]"]
    got = np.concatenate([found.params, found.theta, found.dispersion_params])
    z = (got - [*beta, sd, log_phi, *zero]) / np.sqrt(np.diag(found.vcov_all))
    assert np.all(np.abs(z) < 3.5)


def test_a_model_of_the_zero_part_takes_padding():
    """Rows of weight zero change neither part."""
    case = reference_cases.case("zip/glmmTMB")
    model, theirs = model_of(case)
    assert model.n > case.n
    assert model.dispersion_columns == (2,)
    assert dataclasses.replace(model).d == 2
    assert theirs.dispersion is not None and theirs.dispersion.shape == (2,)
