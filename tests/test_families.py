"""Families: densities, their derivatives, information, deviance, sampling, checks."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from glmm_jax import families, links
from glmm_jax.families import Bernoulli, Binomial, Gaussian, Poisson

UNIT_LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit")
ETAS = np.array([-700.0, -40.0, -5.0, 0.0, 5.0, 40.0, 700.0])
LOG_PHI = jnp.asarray(np.log(0.49))

# Family, a response, its size and dispersion, and linear predictors inside the range of the link.
MODERATE = np.array([-1.8, -0.6, 0.0, 0.4, 1.3])
CASES = [
    *((Bernoulli(name), [1, 0, 1, 1, 0], None, None, MODERATE) for name in UNIT_LINKS),
    *((Binomial(name), [0, 3, 1, 7, 2], [4, 3, 1, 9, 5], None, MODERATE) for name in UNIT_LINKS),
    *(
        (cls("log"), y, size, None, np.array([-3.0, -1.0, -0.7, -0.2, -0.1]))
        for cls, y, size in (
            (Bernoulli, [1, 0, 1, 1, 0], None),
            (Binomial, [0, 3, 1, 7, 2], [9] * 5),
        )
    ),
    *(
        (cls("identity"), y, size, None, np.array([0.1, 0.3, 0.5, 0.8, 0.95]))
        for cls, y, size in (
            (Bernoulli, [1, 0, 1, 1, 0], None),
            (Binomial, [0, 3, 1, 7, 2], [9] * 5),
        )
    ),
    (Poisson(), [0, 3, 1, 0, 12], None, None, MODERATE),
    (Poisson("sqrt"), [0, 3, 1, 0, 12], None, None, np.array([0.3, 1.0, 1.7, 2.0, 3.1])),
    (Poisson("identity"), [0, 3, 1, 0, 12], None, None, np.array([0.3, 1.0, 1.7, 2.0, 13.1])),
    (Gaussian(), [0.3, -1.0, 2.0, 1.1, 0.0], None, LOG_PHI, MODERATE),
    (Gaussian(), [0.3, -1.0, 2.0, 1.1, 0.0], [1, 2, 0.5, 3, 10], LOG_PHI, MODERATE),
    (Gaussian("log"), [0.3, 1.0, 2.0, 1.1, 0.5], None, LOG_PHI, MODERATE),
    (Gaussian("inverse"), [0.3, 1.0, 2.0, 1.1, 0.5], None, LOG_PHI, MODERATE + 3),
]


def arrays(case):
    family, y, size, dispersion, eta = case
    size = None if size is None else jnp.array(size, float)
    return family, jnp.array(y, float), size, dispersion, jnp.array(eta)


def label(case):
    return f"{case[0].name}-{case[0].link.name}{'' if case[2] is None else '-sized'}"


table = pytest.mark.parametrize("case", CASES, ids=label)
# One case a family, for what does not depend on the link or costs a compilation of its own.
few = pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if label(case)
        in (
            "bernoulli-cloglog",
            "binomial-logit-sized",
            "poisson-log",
            "gaussian-identity-sized",
            "gaussian-log",
        )
    ],
    ids=label,
)


def scipy_log_density(family, y, mu, dispersion, size):
    one = np.ones_like(np.asarray(y))
    size = one if size is None else np.asarray(size)
    if family.name in ("bernoulli", "binomial"):
        return stats.binom.logpmf(y, size, mu)
    if family.name == "poisson":
        return stats.poisson.logpmf(y, mu)
    return stats.norm.logpdf(y, mu, np.sqrt(np.exp(dispersion) / size))


@table
def test_log_density_against_scipy(case):
    family, y, size, dispersion, eta = arrays(case)
    expected = scipy_log_density(family, y, np.asarray(family.mean(eta)), dispersion, size)
    got = family.log_prob(y, eta, dispersion, size)
    assert got.shape == eta.shape
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


@table
def test_score_and_curvature_against_differences(case):
    family, y, size, dispersion, eta = arrays(case)
    h = 1e-3

    def difference(f):
        """Central difference of eighth order: weights 4/5, -1/5, 4/105, -1/280."""
        weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
        terms = (w * (f(eta + k * h) - f(eta - k * h)) for k, w in enumerate(weights, 1))
        return sum(terms) / h

    log_prob = jax.jit(lambda eta: family.log_prob(y, eta, dispersion, size))
    exact_score = jax.jit(lambda eta: family.score(y, eta, dispersion, size))
    score, curvature = difference(log_prob), -difference(exact_score)
    np.testing.assert_allclose(exact_score(eta), score, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        family.curvature(y, eta, dispersion, size), curvature, rtol=1e-9, atol=1e-9
    )


@table
def test_first_two_moments_of_the_score(case):
    """E[score] = 0, E[score^2] = E[curvature] = fisher, summed over the support (or quadrature)."""
    family, _, size, dispersion, eta = arrays(case)
    mu = family.mean(eta)
    log_prob, score, curvature = (
        jax.jit(lambda y, f=f: f(y, eta, dispersion, size))
        for f in (family.log_prob, family.score, family.curvature)
    )
    if family.name == "gaussian":
        nodes, weights = np.polynomial.hermite_e.hermegauss(12)
        support = mu[:, None] + np.sqrt(family.variance(mu, dispersion, size))[:, None] * nodes
        probabilities = np.broadcast_to(weights / weights.sum(), support.shape)
    else:
        last = 120 if family.name == "poisson" else 1 if size is None else int(size.max())
        support = jnp.broadcast_to(jnp.arange(last + 1.0), (eta.size, last + 1))
        allowed = support <= (jnp.inf if family.name == "poisson" else _trials(size, eta)[:, None])
        support = jnp.where(allowed, support, 0.0)
        probabilities = np.stack([np.exp(log_prob(y)) for y in support.T], axis=1)
        probabilities = np.where(allowed, probabilities, 0.0)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)

    def expectation(values):
        return np.sum(np.stack([values(y) for y in support.T], axis=1) * probabilities, axis=1)

    fisher = family.fisher(eta, dispersion, size)
    assert fisher.shape == eta.shape
    scores = expectation(score)
    squares = expectation(lambda y: score(y) ** 2)
    curvatures = expectation(curvature)
    np.testing.assert_allclose(scores, 0, atol=1e-11)
    np.testing.assert_allclose(squares, fisher, rtol=1e-10)
    np.testing.assert_allclose(curvatures, fisher, rtol=1e-10)
    # The definition, away from the tails: (dE[y]/deta)^2 / Var(y).
    total = 1.0 if size is None or family.name == "gaussian" else size
    slope = total * np.exp(family.link.log_abs_derivative(eta))
    variance = family.variance(mu, dispersion, size)
    np.testing.assert_allclose(fisher, slope**2 / variance, rtol=1e-12)
    moment = expectation(lambda y: (y - total * mu) ** 2)
    np.testing.assert_allclose(variance, moment, rtol=1e-10)
    # The generic definition of the base class is the same number.
    if total is not size:
        generic = families.Family.fisher(family, eta, dispersion, size)
        np.testing.assert_allclose(fisher, generic, rtol=1e-11)


def _trials(size, eta):
    return jnp.ones_like(eta) if size is None else size


@table
def test_unit_deviance_is_twice_the_distance_to_the_saturated_model(case):
    family, y, size, dispersion, eta = arrays(case)
    mu = np.asarray(family.mean(eta))
    trials = np.asarray(_trials(size, eta)) if family.name != "gaussian" else 1.0
    saturated = scipy_log_density(family, y, np.asarray(y) / trials, dispersion, size)
    fitted = scipy_log_density(family, y, mu, dispersion, size)
    phi = 1.0 if dispersion is None else np.exp(dispersion)
    expected = 2 * phi * (saturated - fitted)
    np.testing.assert_allclose(family.unit_deviance(y, mu, size), expected, rtol=1e-10, atol=1e-12)


def test_unit_deviance_has_a_derivative_at_the_edge_of_the_support():
    slope = jax.grad(lambda mu: Poisson().unit_deviance(jnp.zeros(()), mu))(jnp.asarray(0.3))
    assert slope == 2.0
    slope = jax.grad(lambda mu: Bernoulli().unit_deviance(jnp.ones(()), mu))(jnp.asarray(0.25))
    assert slope == -8.0


FAR = [
    *((Bernoulli(name), [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]) for name in UNIT_LINKS),
    # The other links reach the binomial through the same kernel as the Bernoulli.
    *((Binomial(name), [0.0, 3.0, 7.0], [7.0, 7.0, 7.0]) for name in ("logit", "cloglog")),
    (Poisson(), [0.0, 4.0, 1e6], [1.0, 1.0, 1.0]),
    (Gaussian(), [-2.0, 1e3, 0.0], [1.0, 2.5, 1.0]),
]


@pytest.mark.parametrize("row", FAR, ids=lambda r: f"{r[0].name}-{r[0].link.name}")
def test_finite_with_three_derivatives_far_out(row):
    family, y, size = row
    phi = LOG_PHI if family.has_dispersion else None
    eta, y = (a.reshape(-1) for a in jnp.meshgrid(jnp.array(ETAS), jnp.array(y)))
    size = jnp.tile(jnp.array(size)[:, None], (1, len(ETAS))).reshape(-1)

    def everything(eta, y, size):
        # The sum is finite only if both are.
        return family.log_prob(y, eta, phi, size) + family.fisher(eta, phi, size)

    first = jax.grad(everything)
    second = jax.jacfwd(first)
    functions = (everything, first, second, jax.grad(second))
    together = jax.jit(jax.vmap(lambda *row: [f(*row) for f in functions]))
    values = np.array(together(eta, y, size))
    assert np.all(np.isfinite(values)), values


@pytest.mark.parametrize("name", UNIT_LINKS)
def test_float32_far_out(name):
    family = Bernoulli(name)
    three = jax.jit(
        lambda y, eta: jnp.stack(
            [f(y, eta) for f in (family.log_prob, family.score, family.curvature)]
        )
    )
    eta = jnp.array([-80, -40, -5, 0, 5, 40, 80], jnp.float32)
    for y in (0.0, 1.0):
        y32 = jnp.full_like(eta, y)
        values = three(y32, eta)
        assert values.dtype == jnp.float32
        exact = three(y32.astype(float), eta.astype(float))
        np.testing.assert_allclose(values, exact, rtol=2e-6, atol=2e-6)


def test_fisher_does_not_underflow_before_the_mean():
    tiny = jnp.array([-500.0, -700.0])
    np.testing.assert_allclose(Poisson().fisher(tiny), np.exp(tiny), rtol=1e-12)
    np.testing.assert_allclose(Bernoulli().fisher(tiny), np.exp(tiny), rtol=1e-12)
    np.testing.assert_allclose(Bernoulli().fisher(-tiny), np.exp(tiny), rtol=1e-12)
    np.testing.assert_allclose(Bernoulli("cloglog").fisher(tiny), np.exp(tiny), rtol=1e-12)


def test_no_valid_mean_is_not_finite():
    """Where the link leaves the range of the mean, the log density is NaN or infinite, not bent."""
    y0, y1 = jnp.zeros(()), jnp.ones(())
    for family, y, eta in [
        (Bernoulli("log"), y1, 0.5),
        (Bernoulli("log"), y0, 0.5),
        (Bernoulli("identity"), y1, 1.5),
        (Bernoulli("identity"), y0, -0.5),
        (Poisson("identity"), y0, -0.5),
        (Poisson("sqrt"), y1, -0.5),
        (Poisson("sqrt"), y0, -0.5),
    ]:
        assert not np.isfinite(family.log_prob(y, jnp.asarray(eta))), (family, y, eta)
    assert not np.isfinite(Gaussian("inverse").log_prob(y1, y0, LOG_PHI))


def test_bernoulli_is_binomial_of_one_trial():
    eta, y = jnp.array(MODERATE), jnp.array([1.0, 0, 0, 1, 1])
    ones = jnp.ones_like(eta)
    for name in UNIT_LINKS:
        for method in ("log_prob", "score", "curvature"):
            bernoulli = getattr(Bernoulli(name), method)(y, eta)
            np.testing.assert_allclose(bernoulli, getattr(Binomial(name), method)(y, eta))
            np.testing.assert_allclose(
                bernoulli, getattr(Binomial(name), method)(y, eta, None, ones), rtol=1e-13
            )
            np.testing.assert_allclose(
                bernoulli, getattr(Bernoulli(name), method)(y, eta, None, ones)
            )


@table
def test_response_and_dispersion_are_differentiable(case):
    family, y, size, dispersion, eta = arrays(case)
    y = y + 0.25 * (family.name == "gaussian")
    gradient = jax.grad(lambda y: family.log_prob(y, eta, dispersion, size).sum())(y)
    assert np.all(np.isfinite(gradient))
    if dispersion is not None:
        mu = np.asarray(family.mean(eta))
        weight = np.asarray(_trials(size, eta))
        slope = jax.jacfwd(lambda d: family.log_prob(y, eta, d, size))(dispersion)
        expected = -0.5 + 0.5 * weight * (np.asarray(y) - mu) ** 2 / np.exp(dispersion)
        np.testing.assert_allclose(slope, expected, rtol=1e-12)


@few
def test_under_jit_and_vmap(case):
    family, y, size, dispersion, eta = arrays(case)

    def all_of_it(y, eta):
        return [
            method(y, eta, dispersion, size)
            for method in (family.log_prob, family.score, family.curvature)
        ]

    plain = all_of_it(y, eta)
    batched = jax.jit(jax.vmap(all_of_it))(jnp.stack([y, y]), jnp.stack([eta, eta]))
    for one, two in zip(plain, batched, strict=True):
        np.testing.assert_allclose(two, np.stack([one, one]), rtol=1e-12, atol=1e-14)


@few
def test_sampling_moments(case):
    family, _, size, dispersion, eta = arrays(case)
    draws = 20_000
    many = jnp.tile(eta, (draws, 1)).reshape(-1)
    sizes = None if size is None else jnp.tile(size, (draws, 1)).reshape(-1)
    sample = jax.jit(family.sample)
    y = sample(jax.random.key(7), many, dispersion, sizes)
    assert y.shape == many.shape and y.dtype == eta.dtype
    family.check(y, sizes)
    y = np.asarray(y).reshape(draws, -1)
    total = _trials(size, eta) if family.name == "binomial" else 1.0
    mean = np.asarray(total * family.mean(eta))
    variance = np.asarray(family.variance(family.mean(eta), dispersion, size))
    # Five standard errors each; that of a variance is taken from the fourth moment of the draws.
    np.testing.assert_array_less(np.abs(y.mean(0) - mean), 5 * np.sqrt(variance / draws))
    squares = (y - mean) ** 2
    standard_error = squares.std(0) / np.sqrt(draws)
    # 1e-12: at mu = 1/2 all squares are equal.
    np.testing.assert_array_less(np.abs(squares.mean(0) - variance), 5 * standard_error + 1e-12)
    again = sample(jax.random.key(7), many, dispersion, sizes)
    np.testing.assert_array_equal(np.asarray(again).reshape(draws, -1), y)


def test_start_means_are_inside_the_range():
    y = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(Bernoulli().start_mean(y), [0.25, 0.75])
    np.testing.assert_allclose(Binomial().start_mean(y), [0.25, 0.75])
    np.testing.assert_allclose(Binomial().start_mean(y, jnp.array([4.0, 1.0])), [0.1, 0.75])
    np.testing.assert_allclose(Poisson().start_mean(y), [0.1, 1.1])
    z = jnp.array([-2.0, 0.0, 4.0])
    np.testing.assert_allclose(Gaussian().start_mean(z), z)
    np.testing.assert_allclose(Gaussian("log").start_mean(z), [2.0, 2.0, 4.0])
    np.testing.assert_allclose(Gaussian("inverse").start_mean(z), [-2.0, 2.0, 4.0])


def test_families_are_static_metadata():
    assert Bernoulli() == Bernoulli("logit") == Bernoulli(links.Logit())
    assert Bernoulli() != Binomial() and Bernoulli() != Bernoulli("probit")
    assert hash(Bernoulli("probit")) == hash(Bernoulli(link="probit"))
    assert repr(Poisson()) == "Poisson(link=Log())"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Bernoulli().link = links.Probit()  # type: ignore[misc]
    log_prob = jax.jit(lambda family, y, eta: family.log_prob(y, eta), static_argnums=0)
    np.testing.assert_allclose(log_prob(Bernoulli(), jnp.ones(2), jnp.zeros(2)), np.log(0.5))


def test_get():
    assert families.get("bernoulli") == Bernoulli()
    assert families.get("binomial", "probit") == Binomial("probit")
    assert families.get("poisson", links.Sqrt()) == Poisson("sqrt")
    assert families.get("gaussian") == families.get("normal") == Gaussian()
    assert families.get(Poisson("identity")) == Poisson("identity")
    assert families.get(Poisson("sqrt"), link="sqrt") == Poisson("sqrt")
    assert families.get(Bernoulli, "cloglog") == Bernoulli("cloglog")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gausian",), "family='gausian' is not known; use one of 'bernoulli'"),
        ((None,), "family=None is not known"),
        (("quasipoisson",), r"family='quasipoisson' is a quasi-likelihood.*\(1 \| row\)"),
        (("quasibinomial",), "beta-binomial"),
        (("quasi",), "a family with a density"),
        (("poisson", "logit"), "'logit' does not fit the poisson family; use one of 'log', 'sqrt'"),
        (("bernoulli", "sqrt"), "'sqrt' does not fit the bernoulli family; use one of 'logit'"),
        (("binomial", "inverse"), "does not fit the binomial family"),
        (("gaussian", "probit"), "does not fit the gaussian family; use one of 'identity'"),
        (("poisson", "logg"), "link='logg' is not known"),
        ((Poisson(), "sqrt"), r"which has a link already; write families.Poisson\(link="),
    ],
)
def test_get_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        families.get(*arguments)


def test_gaussian_needs_a_dispersion():
    z = jnp.zeros(2)
    for call in (
        lambda: Gaussian().log_prob(z, z),
        lambda: Gaussian().variance(z),
        lambda: Gaussian().fisher(z),
        lambda: Gaussian().sample(jax.random.key(0), z),
    ):
        with pytest.raises(ValueError, match=r"dispersion=None.*give log\(phi\)"):
            call()


@pytest.mark.parametrize(
    ("family", "y", "size"),
    [
        (Bernoulli(), [0, 1, 1], None),
        (Bernoulli(), [True, False], None),
        (Bernoulli(), [0.0, 1.0], [1, 1]),
        (Binomial(), [0, 1], None),
        (Binomial(), [0, 3, 7], [1, 3, 9]),
        (Binomial(), [0.07 * 100], [100]),
        (Poisson(), [0, 5, 1e6], None),
        (Gaussian(), [-1.0, 2.5], None),
        (Gaussian(), [-1, 2], [0.5, 1e3]),
    ],
)
def test_check_accepts(family, y, size):
    assert family.check(np.array(y), size) is None


@pytest.mark.parametrize(
    ("family", "y", "size", "message"),
    [
        (Bernoulli(), [0, 2, 1], None, "y must be 0 or 1; got 2 in row 1; for counts of successes"),
        (Bernoulli(), [0, 0.5, 0.2], None, r"got 0.5 in row 1 \(and 1 more\)"),
        (Bernoulli(), [0, np.nan], None, "y must be finite; got nan in row 1"),
        (Bernoulli(), [0, 1], [1, 2], "the bernoulli family has none; use family='binomial'"),
        (Binomial(), [0, -1], [2, 2], "y must be non-negative; got -1 in row 1"),
        (Binomial(), [0, 1.5], [2, 2], "an integer number of successes; got 1.5 in row 1"),
        (Binomial(), [0, 3], [2, 2], "at most the number of trials; got 3 in row 1; check"),
        (Binomial(), [0, 3], None, "at most the number of trials; got 3 in row 1; give 0 and 1"),
        (Binomial(), [0, 0], [2, 0], "size must be positive; got 0 in row 1"),
        (Binomial(), [0, 0], [2, 2.5], "size must be an integer number of trials; got 2.5"),
        (Binomial(), [0, 0], [2, np.inf], "size must be finite; got inf in row 1"),
        (Binomial(), [0, 0], [2], "size has 1 values and y has 2"),
        (Poisson(), [0, -1], None, "y must be non-negative; got -1 in row 1"),
        (Poisson(), [0, 1.5], None, "y must be an integer; got 1.5 in row 1.*offset"),
        (Poisson(), [0, 1], [1, 2], r"the poisson family has none; exposure .* log\(exposure\)"),
        (Gaussian(), [0, np.inf], None, "y must be finite; got inf in row 1"),
        (Gaussian(), [0, 1.0], [1, 0], "size must be positive; got 0 in row 1"),
        (Gaussian(), [0, 1.0], [1, -2], "size must be positive; got -2 in row 1"),
        (Gaussian(), [], None, "y is empty"),
        (Gaussian(), [[0.0], [1.0]], None, r"y has shape \(2, 1\); give a vector"),
        (Gaussian(), ["a", "b"], None, "y has dtype <U1; give numbers or booleans"),
    ],
)
def test_check_refuses(family, y, size, message):
    with pytest.raises(ValueError, match=message):
        family.check(np.array(y), size)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_start_of_the_dispersion_is_finite_where_the_means_fit_exactly(dtype):
    """Compiled too, where a number below the smallest normal one counts as zero."""
    y = jnp.ones(6, dtype)
    start = jax.jit(lambda y, weights, lost: Gaussian().start_parameters(y, y, weights, None, lost))
    for weights, lost in ((y, 2.0), (0.1 * y, 3.0)):
        (log_phi,) = start(y, weights, jnp.asarray(lost, dtype))
        assert log_phi.dtype == dtype and np.isfinite(log_phi) and np.isfinite(jnp.exp(-log_phi))
    (log_phi,) = Gaussian().start_parameters(y, y + 2, y, None, 2.0)
    np.testing.assert_allclose(log_phi, np.log(24 / 4), rtol=1e-6)


def test_a_density_over_the_parts_of_another_is_refused() -> None:
    with pytest.raises(TypeError, match="define log_kernel, log_scale and log_base"):

        class Doubled(families.Poisson):
            def log_prob(self, y, eta, dispersion=None, size=None):
                return 2.0 * super().log_prob(y, eta, dispersion, size)
