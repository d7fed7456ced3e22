"""Links: inverses, and logarithms accurate with three derivatives in both tails."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from glmm_jax import links, normal

UNIT_LINKS = ("logit", "probit", "cloglog", "loglog", "cauchit")
ALL_LINKS = (*UNIT_LINKS, "log", "identity", "sqrt", "inverse")
ETAS = (-700.0, -40.0, -5.0, 0.0, 5.0, 40.0, 700.0)

# log mu and its first three derivatives in eta, computed by high-precision arithmetic (400 to 1200
# digits, differences of step 1e-60) and rounded to 15; 0 where the value is below 1e-340.
REFERENCE = """
logit -700 -700 1 -9.85967654375977e-305 -9.85967654375977e-305
logit -40 -40 1 -4.24835425529159e-18 -4.24835425529159e-18
logit -5 -5.00671534848912 0.993307149075715 -0.00664805667079015 -0.00655906776632256
logit -1.5 -1.70141327798275 0.817574476193644 -0.149146452070333 -0.0947302127847527
logit -0.25 -0.825939419878844 0.562176500885798 -0.246134082737598 -0.0306075120267188
logit 0 -0.693147180559945 0.5 -0.25 0
logit 0.5 -0.474076984180107 0.377540668798145 -0.235003712201594 0.0575567948523207
logit 2.5 -0.0788897342925496 0.0758581800212435 -0.0701037165451082 0.0594678358454341
logit 5 -0.00671534848911807 0.00669285092428486 -0.00664805667079015 0.00655906776632256
logit 40 -4.24835425529159e-18 4.24835425529159e-18 -4.24835425529159e-18 4.24835425529159e-18
logit 700 -9.85967654375977e-305 9.85967654375977e-305 -9.85967654375977e-305 9.85967654375977e-305
probit -700 -245007.470020909 700.001428565598 -0.999997959208663 5.83076099608632e-09
probit -40 -804.608442013754 40.0249688472073 -0.999377331621409 3.10174403964863e-05
probit -5 -15.0649983939887 5.18650396712584 -0.967303565382888 0.0108257645063567
probit -1.5 -2.70594440082389 1.93867716662254 -0.850453406449797 0.0831519244239271
probit -0.25 -0.913061764811135 0.963553979416404 -0.687547776395087 0.189537868453596
probit 0 -0.693147180559945 0.797884560802865 -0.636619772367581 0.21801361414499
probit 0.5 -0.368946415288656 0.509160433837033 -0.513824564303633 0.270990124468708
probit 2.5 -0.00622902548586 0.0176378254869167 -0.0444056566051988 0.0949427544697491
probit 5 -2.86651612963764e-07 1.48671994090491e-06 -7.43360191486071e-06 3.5681311736767e-05
probit 40 0 0 0 0
probit 700 0 0 0 0
cloglog -700 -700 1 -4.92983827187989e-305 -4.92983827187989e-305
cloglog -40 -40 1 -2.12417712764579e-18 -2.12417712764579e-18
cloglog -5 -5.00336708183652 0.996634809825075 -0.00336140685603315 -0.00335384023542521
cloglog -1.5 -1.60949147889053 0.892580403654356 -0.103280981746164 -0.0950243274079837
cloglog -0.25 -0.614254800673944 0.660640154885015 -0.290312329314346 -0.195139965455396
cloglog 0 -0.458675145387082 0.581976706869326 -0.338696887338466 -0.187749308629063
cloglog 0.5 -0.213559185373434 0.39252223827991 -0.408711232739271 -0.0611635974529552
cloglog 2.5 -5.11930740230251e-06 6.23660911469948e-05 -0.000697412327133276 0.00703912159729859
cloglog 5 -3.50738919646462e-65 5.20542710849562e-63 -7.67348454541531e-61 1.12344705934797e-58
cloglog 40 0 0 0 0
cloglog 700 0 0 0 0
cauchit -700 -7.69581090116431 0.00142856948494027 2.04080799669261e-06 5.83085619108332e-09
cauchit -40 -4.83381761689466 0.0249895889724541 0.000624219454728168 3.11719806808981e-05
cauchit -5 -2.76727553124683 0.194845003052695 0.0369758105748934 0.0136475099027998
cauchit -1.5 -1.67575378914073 0.523283920574369 0.209205249767735 0.098019234025205
cauchit -0.25 -0.862700512086875 0.709883792002257 -0.169872037205265 -1.01780671486342
cauchit 0 -0.693147180559945 0.636619772367581 -0.405284734569351 -0.757214993803971
cauchit 0.5 -0.434507354517728 0.3932278427162 -0.469210410460197 0.366882794331097
cauchit 2.5 -0.129105705118166 0.049955351144887 -0.0369475034148276 0.0391516780924372
cauchit 5 -0.0648937396217886 0.0130635067004574 -0.00519508086133496 0.00306142624546199
cauchit 40 -0.00798790847530824 0.000200413927959884 -1.00546031171554e-05 7.56494489446468e-07
cauchit 700 -0.000454831519670775 6.49906217503021e-07 -1.85729349571014e-09 7.9616183463444e-12
"""


TABULATED = ("logit", "probit", "cloglog", "cauchit")


def reference(name):
    """eta (k,) and the derivatives of orders 0 to 3, (k, 4)."""
    rows = [line.split() for line in REFERENCE.splitlines() if line.startswith(name)]
    values = np.array([row[1:] for row in rows], float)
    return jnp.array(values[:, 0]), values[:, 1:]


def derivatives(function, x, modes="rrr"):
    """The function and its first three derivatives at each x, (k, 4), as one compiled program.

    Each derivative is that of the one before, reverse or forward, beside those already there.
    """

    def extended(f, mode):
        def with_slope(x):
            if mode == "f":
                values, slopes = jax.jvp(f, (x,), (jnp.ones_like(x),))
                return jnp.append(values, slopes[-1])
            values, pull = jax.vjp(f, x)
            (slope,) = pull(jnp.eye(values.size, dtype=x.dtype)[-1])
            return jnp.append(values, slope)

        return with_slope

    def orders(x):
        return function(x)[None]

    for mode in modes:
        orders = extended(orders, mode)
    return jax.jit(jax.vmap(orders))(x)


def close(got, expected, rtol):
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=rtol, atol=1e-300)


def both_tails(name, eta, modes="rrr"):
    """log mu and its derivatives, twice: the other tail of its mirror image has the same.

    Symmetric links are their own, loglog is that of cloglog.
    """
    link = links.get(name)
    mirror = links.Loglog() if name == "cloglog" else link
    mirrored = derivatives(mirror.log_complement, -eta, modes)
    signs = jnp.array([[1, -1, 1, -1]], eta.dtype)
    return derivatives(link.log_mean, eta, modes), mirrored * signs


@pytest.mark.parametrize(
    ("name", "modes"), [*((name, "rrr") for name in TABULATED), ("probit", "fff")]
)
def test_log_mean_and_derivatives_have_all_their_digits(name, modes):
    eta, expected = reference(name)
    # The third derivative m (r^2 - r') of the probit cancels like 1 / x^2: 1e-11 at x = -700.
    rtol = np.array([1e-13, 1e-13, 1e-13, 1e-10 if name == "probit" else 1e-13])
    for values in both_tails(name, eta, modes):
        error = np.abs(values - expected)
        assert np.all(error <= rtol * np.abs(expected) + 1e-300), error / np.abs(expected)


def test_simple_tails_in_closed_form():
    eta = jnp.array([-5.0, -0.5, 0.0, 2.0, 700.0])
    close(links.Cloglog().log_complement(eta), -np.exp(eta), 1e-15)
    close(links.Loglog().log_mean(-eta), -np.exp(eta), 1e-15)
    close(links.Log().log_mean(eta), eta, 0)
    close(links.Sqrt().log_mean(eta[3:]), 2 * np.log(eta[3:]), 1e-15)
    below = jnp.array([-700.0, -40.0, -1.0, -0.5, -1e-10])
    close(
        links.Log().log_complement(below),
        [*(-np.exp(below[:2])), *np.log(-np.expm1(below[2:]))],
        1e-14,
    )


@pytest.mark.parametrize("name", UNIT_LINKS)
def test_unit_links_are_finite_with_three_derivatives(name):
    """What has no table above, in mixed mode: their sum is finite only if each is."""
    link = links.get(name)

    def everything(eta):
        return link.inverse(eta) + link.log_abs_derivative(eta) + link.information(eta)

    values = derivatives(everything, jnp.array(ETAS), "rfr")
    assert np.all(np.isfinite(values)), values


@pytest.mark.parametrize("name", TABULATED)
def test_unit_links_keep_float32_and_its_digits(name):
    eta, exact = reference(name)
    near = np.abs(eta) < 100
    eta, exact = eta[near].astype(jnp.float32), exact[near]
    for values in both_tails(name, eta):
        assert values.dtype == jnp.float32
        # 1e-35: float32 has no smaller number with all its digits. Exponents of about 100 cost
        # some; the third derivative of the probit costs a factor x^2 = 1600 of roundings of 6e-8.
        np.testing.assert_allclose(values[:, :3], exact[:, :3], rtol=1e-5, atol=1e-35)
        np.testing.assert_allclose(values[:, 3], exact[:, 3], rtol=1e-3, atol=1e-35)


@pytest.mark.parametrize("name", ALL_LINKS)
def test_inverse_undoes_link(name):
    link = links.get(name)
    low, high = link.mean_range
    if (low, high) == (0.0, 1.0):
        mu = jnp.array([1e-12, 1e-5, 0.03, 0.3, 0.5, 0.77, 0.999, 1 - 1e-9])
    else:
        mu = jnp.array([1e-8, 0.2, 1.0, 3.0, 700.0])
    close(link.inverse(link.link(mu)), mu, 1e-12)
    if low < 0:
        close(link.inverse(link.link(-mu)), -mu, 1e-12)


@pytest.mark.parametrize("name", ALL_LINKS)
def test_derivative_of_inverse(name):
    link = links.get(name)
    eta = jnp.array([0.1, 0.4, 1.0, 2.2])
    if name != "sqrt":
        eta = jnp.concatenate([-eta, eta])
    step = 1e-3
    # Five-point central difference, error of order step^4.
    f = link.inverse
    difference = (8 * (f(eta + step) - f(eta - step)) - (f(eta + 2 * step) - f(eta - 2 * step))) / (
        12 * step
    )
    # 1 / eta^6 in the remainder of the inverse link at eta = 0.1
    rtol = 1e-6 if name == "inverse" else 1e-9
    np.testing.assert_allclose(jnp.exp(link.log_abs_derivative(eta)), np.abs(difference), rtol=rtol)
    derivative = jax.jit(jax.vmap(jax.grad(link.inverse)))(eta)
    np.testing.assert_allclose(
        jnp.exp(link.log_abs_derivative(eta)), np.abs(derivative), rtol=1e-13
    )


@pytest.mark.parametrize("name", [*UNIT_LINKS, "log", "identity"])
def test_kernel_and_information_follow_from_the_mean(name):
    link = links.get(name)
    eta = jnp.log(jnp.array([0.1, 0.5, 0.9])) if name == "log" else jnp.array([0.1, 0.4, 0.9])
    mu = np.asarray(link.inverse(eta))
    successes, failures = jnp.array([0.0, 3.0, 2.0]), jnp.array([4.0, 0.0, 1.0])
    expected = special.xlogy(successes, mu) + special.xlog1py(failures, -mu)
    np.testing.assert_allclose(link.log_kernel(eta, successes, failures), expected, rtol=1e-13)
    slope = np.exp(link.log_abs_derivative(eta))
    np.testing.assert_allclose(link.information(eta), slope**2 / (mu * (1 - mu)), rtol=1e-13)


@pytest.mark.parametrize("name", UNIT_LINKS)
def test_information_keeps_its_digits_in_the_tails(name):
    """Against exp(2 log mu' - log mu - log(1 - mu)), whose error is a rounding of the exponent."""
    link = links.get(name)
    eta = jnp.array([-300.0, -30.0, -3.0, 0.0, 3.0, 30.0, 300.0])
    exponent = 2 * link.log_abs_derivative(eta) - link.log_mean(eta) - link.log_complement(eta)
    exponent = np.where(np.isfinite(exponent), exponent, -np.inf)
    np.testing.assert_allclose(link.information(eta), np.exp(exponent), rtol=1e-10, atol=1e-300)


def test_means_outside_the_range_are_not_finite():
    nothing = jnp.zeros(1)
    one = jnp.ones(1)
    assert np.isnan(links.Log().log_kernel(jnp.array([0.3]), one, nothing))
    assert np.isnan(links.Identity().log_kernel(jnp.array([-0.3]), nothing, one))
    assert np.isnan(links.Identity().log_kernel(jnp.array([1.3]), one, nothing))
    assert np.isnan(links.Sqrt().log_mean(jnp.array([-0.3])))


def test_links_are_static_metadata():
    assert links.Logit() == links.Logit() != links.Probit()
    assert hash(links.Logit()) == hash(links.Logit())
    double = jax.jit(lambda link, eta: link.inverse(eta), static_argnums=0)
    assert float(double(links.Logit(), jnp.zeros(()))) == 0.5


def test_get():
    for name in ALL_LINKS:
        assert links.get(name).name == name
    assert links.get(links.Probit()) == links.Probit()
    for unknown in ("logistic", "Logit", None, 3, ["logit"]):
        with pytest.raises(ValueError, match="is not known; use one of 'logit', 'probit'"):
            links.get(unknown)  # type: ignore[arg-type]


X = jnp.array([-700.0, -37.0, -12.0, -3.0, -0.7, 0.0, 0.2, 1.9, 6.0, 37.0])


def test_normal_distribution_function():
    # 1e-12: a rounding of x^2 / 2 = 684 in the exponent.
    close(normal.cdf(X), stats.norm.cdf(X), 1e-12)
    close(normal.log_probability(X), special.log_ndtr(X), 1e-12)
    close(normal.log_probability(X, upper=True), special.log_ndtr(-X), 1e-12)
    # phi / Phi by the scaled complementary error function, which does not underflow on the left.
    ratio = math.sqrt(2 / math.pi) / special.erfcx(-np.asarray(X) / math.sqrt(2))
    close(normal.density_ratio(X), ratio, 1e-12)
    close(normal.density_ratio(-X, upper=True), ratio, 1e-12)


def test_normal_hazard_on_a_fine_grid():
    a = np.concatenate([np.linspace(0, 30, 3001), np.geomspace(30, 1e8, 500)])
    hazard = normal.density_ratio(jnp.array(a), upper=True)
    close(hazard, math.sqrt(2 / math.pi) / special.erfcx(a / math.sqrt(2)), 1e-15 * 3)


def test_normal_derivatives_of_both_tails_mirror_each_other():
    lower = derivatives(normal.log_probability, X)
    upper = derivatives(lambda x: normal.log_probability(x, upper=True), -X)
    close(upper, lower * jnp.array([[1.0, -1.0, 1.0, -1.0]]), 1e-13)
