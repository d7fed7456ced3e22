"""Link functions: eta = g(mu), its inverse, and the logarithms that likelihoods are written in.

A link is an object without fields: hashable, equal to any other of its class, usable as static
metadata of a compiled function. Its methods are pure, elementwise functions of arrays.

Likelihoods are written in eta, not in mu, because log(mu) and log(1 - mu) formed from a rounded mu
lose all their digits in the tails. Hence the methods `log_mean` and `log_complement`, each
accurate in both tails. For the five links onto (0, 1) all methods of eta are finite, with
finite first, second and third derivatives, at least for |eta| <= 700 (float64) or 80 (float32).

Nothing is clipped. The links log, identity, sqrt and inverse do not map every eta to a valid mean:
there `log_mean` and `log_complement` are NaN (outside the range) or -inf (on its boundary), so that
a likelihood is not finite and a step that leads there is rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri

from glmm_jax import normal
from glmm_jax.inversion import inverse_of
from glmm_jax.tails import (
    DOUBLE_EXPONENTIAL_UNDERFLOW,
    cauchy_tail,
    double_exponential_information,
    elementwise_derivative,
    log_one_minus_exp_neg_exp,
    logistic,
    logistic_density,
    softplus,
)


@dataclass(frozen=True)
class Link:
    """A link g: eta = g(mu). Subclasses define `link`, `inverse` and `log_abs_derivative`.

    `mean_range` is the open interval of means that `inverse` is meant to produce.
    """

    name: ClassVar[str]
    mean_range: ClassVar[tuple[float, float]]

    def link(self, mu: Array) -> Array:
        """eta = g(mu); NaN or infinite for mu outside `mean_range`."""
        raise NotImplementedError

    def inverse(self, eta: Array) -> Array:
        """mu = g^-1(eta), the shape of eta."""
        raise NotImplementedError

    def log_abs_derivative(self, eta: Array) -> Array:
        """log |dmu/deta|, the shape of eta."""
        raise NotImplementedError

    def log_mean(self, eta: Array) -> Array:
        """log mu; NaN where mu is negative."""
        return jnp.log(self.inverse(eta))

    def log_complement(self, eta: Array) -> Array:
        """log(1 - mu); NaN where mu exceeds 1."""
        return jnp.log1p(-self.inverse(eta))

    def log_kernel(self, eta: Array, successes: Array, failures: Array) -> Array:
        """Binomial log-likelihood but its constant: successes * log mu + failures * log(1 - mu).

        Not finite where mu is outside (0, 1).
        """
        return successes * self.log_mean(eta) + failures * self.log_complement(eta)

    def information(self, eta: Array) -> Array:
        """Expected information about eta in one trial of probability mu: mu'^2 / (mu (1 - mu)).

        As (log mu)' (-log(1 - mu))' it is accurate in both tails, where mu' and mu underflow.
        """
        return -elementwise_derivative(self.log_mean, eta) * elementwise_derivative(
            self.log_complement, eta
        )


class Logit(Link):
    """eta = log(mu / (1 - mu))."""

    name = "logit"
    mean_range = (0.0, 1.0)

    def link(self, mu: Array) -> Array:
        return jnp.log(mu) - jnp.log1p(-mu)

    def inverse(self, eta: Array) -> Array:
        return logistic(eta)

    def log_abs_derivative(self, eta: Array) -> Array:
        # log s(eta) + log s(-eta), with log s(-eta) = -eta + log s(eta)
        return eta - 2.0 * softplus(eta)

    def log_mean(self, eta: Array) -> Array:
        return -softplus(-eta)

    def log_complement(self, eta: Array) -> Array:
        return -softplus(eta)

    def log_kernel(self, eta: Array, successes: Array, failures: Array) -> Array:
        # One softplus instead of two.
        return successes * eta - (successes + failures) * softplus(eta)

    def information(self, eta: Array) -> Array:
        return logistic_density(eta)


class Probit(Link):
    """eta = Phi^-1(mu), Phi the standard normal distribution function."""

    name = "probit"
    mean_range = (0.0, 1.0)

    def link(self, mu: Array) -> Array:
        return ndtri(mu)

    def inverse(self, eta: Array) -> Array:
        return normal.cdf(eta)

    def log_abs_derivative(self, eta: Array) -> Array:
        return -0.5 * eta * eta - 0.5 * math.log(2 * math.pi)

    def log_mean(self, eta: Array) -> Array:
        return normal.log_probability(eta)

    def log_complement(self, eta: Array) -> Array:
        return normal.log_probability(eta, upper=True)


def _held(x: Array) -> Array:
    """x, held where exp(-exp(x)) and its derivatives are exactly zero in floating point already.

    Without it, a derivative in reverse mode would multiply such a zero by exp(x)^2 = inf.
    """
    return jnp.where(x > DOUBLE_EXPONENTIAL_UNDERFLOW, DOUBLE_EXPONENTIAL_UNDERFLOW, x)


class Cloglog(Link):
    """Complementary log-log: eta = log(-log(1 - mu)), mu = 1 - exp(-exp(eta))."""

    name = "cloglog"
    mean_range = (0.0, 1.0)

    def link(self, mu: Array) -> Array:
        return jnp.log(-jnp.log1p(-mu))

    def inverse(self, eta: Array) -> Array:
        return -jnp.expm1(-jnp.exp(_held(eta)))

    def log_abs_derivative(self, eta: Array) -> Array:
        return eta - jnp.exp(eta)

    def log_mean(self, eta: Array) -> Array:
        return log_one_minus_exp_neg_exp(eta)

    def log_complement(self, eta: Array) -> Array:
        return -jnp.exp(eta)

    def information(self, eta: Array) -> Array:
        return double_exponential_information(eta)


class Loglog(Link):
    """eta = -log(-log(mu)), mu = exp(-exp(-eta)): complementary log-log of the failures."""

    name = "loglog"
    mean_range = (0.0, 1.0)

    def link(self, mu: Array) -> Array:
        return -jnp.log(-jnp.log(mu))

    def inverse(self, eta: Array) -> Array:
        return jnp.exp(-jnp.exp(_held(-eta)))

    def log_abs_derivative(self, eta: Array) -> Array:
        return -eta - jnp.exp(-eta)

    def log_mean(self, eta: Array) -> Array:
        return -jnp.exp(-eta)

    def log_complement(self, eta: Array) -> Array:
        return log_one_minus_exp_neg_exp(-eta)

    def information(self, eta: Array) -> Array:
        return double_exponential_information(-eta)


class Cauchit(Link):
    """eta = tan(pi (mu - 1/2)), the quantile function of the Cauchy distribution."""

    name = "cauchit"
    mean_range = (0.0, 1.0)

    def link(self, mu: Array) -> Array:
        # From the nearer end of (0, 1), where mu or 1 - mu is exact.
        left = mu < 0.5
        return jnp.where(left, -1.0, 1.0) / jnp.tan(math.pi * jnp.where(left, mu, 1.0 - mu))

    def inverse(self, eta: Array) -> Array:
        tail = cauchy_tail(jnp.where(eta < 0, -eta, eta))
        return jnp.where(eta < 0, tail, 1.0 - tail)

    def log_abs_derivative(self, eta: Array) -> Array:
        return -math.log(math.pi) - jnp.log1p(eta * eta)

    def log_mean(self, eta: Array) -> Array:
        tail = cauchy_tail(jnp.where(eta < 0, -eta, eta))
        return jnp.where(eta < 0, jnp.log(tail), jnp.log1p(-tail))

    def log_complement(self, eta: Array) -> Array:
        tail = cauchy_tail(jnp.where(eta < 0, -eta, eta))
        return jnp.where(eta < 0, jnp.log1p(-tail), jnp.log(tail))


class Log(Link):
    """eta = log(mu)."""

    name = "log"
    mean_range = (0.0, math.inf)

    def link(self, mu: Array) -> Array:
        return jnp.log(mu)

    def inverse(self, eta: Array) -> Array:
        return jnp.exp(eta)

    def log_abs_derivative(self, eta: Array) -> Array:
        return eta

    def log_mean(self, eta: Array) -> Array:
        return eta

    def log_complement(self, eta: Array) -> Array:
        # log(1 - exp(eta)), by whichever form keeps its digits; -inf at 0, NaN above.
        return jnp.where(eta < -math.log(2), jnp.log1p(-jnp.exp(eta)), jnp.log(-jnp.expm1(eta)))


class Identity(Link):
    """eta = mu."""

    name = "identity"
    mean_range = (-math.inf, math.inf)

    def link(self, mu: Array) -> Array:
        return mu

    def inverse(self, eta: Array) -> Array:
        return eta

    def log_abs_derivative(self, eta: Array) -> Array:
        return jnp.zeros_like(eta)


class Sqrt(Link):
    """eta = sqrt(mu), for eta > 0; `log_mean` is NaN for negative eta, although eta^2 exists."""

    name = "sqrt"
    mean_range = (0.0, math.inf)

    def link(self, mu: Array) -> Array:
        return jnp.sqrt(mu)

    def inverse(self, eta: Array) -> Array:
        return eta * eta

    def log_abs_derivative(self, eta: Array) -> Array:
        return math.log(2) + jnp.log(eta)

    def log_mean(self, eta: Array) -> Array:
        return 2.0 * jnp.log(eta)


class Inverse(Link):
    """eta = 1 / mu; eta = 0 has no mean. Means of one sign are joined only through infinity."""

    name = "inverse"
    mean_range = (-math.inf, math.inf)

    def link(self, mu: Array) -> Array:
        return 1.0 / mu

    def inverse(self, eta: Array) -> Array:
        return 1.0 / eta

    def log_abs_derivative(self, eta: Array) -> Array:
        return -2.0 * jnp.log(jnp.abs(eta))

    def log_mean(self, eta: Array) -> Array:
        return -jnp.log(eta)


@dataclass(frozen=True)
class Custom(Link):
    """A link given by its inverse; see `custom`. Equal to another of the same functions and name.

    Every family takes it. `link` is found numerically, derivatives automatically.
    """

    function: Callable[[Array], Array]
    name: str
    mean_range: tuple[float, float]
    log_mean_function: Callable[[Array], Array] | None
    log_complement_function: Callable[[Array], Array] | None

    def link(self, mu: Array) -> Array:
        """eta with inverse(eta) = mu, by bisection; NaN where there is none."""
        return inverse_of(self.function, mu)

    def inverse(self, eta: Array) -> Array:
        return self.function(eta)

    def log_abs_derivative(self, eta: Array) -> Array:
        return jnp.log(jnp.abs(elementwise_derivative(self.function, eta)))

    def log_mean(self, eta: Array) -> Array:
        given = self.log_mean_function
        return super().log_mean(eta) if given is None else given(eta)

    def log_complement(self, eta: Array) -> Array:
        given = self.log_complement_function
        return super().log_complement(eta) if given is None else given(eta)


def custom(
    inverse: Callable[[Array], Array],
    name: str = "custom",
    mean_range: tuple[float, float] = (-math.inf, math.inf),
    log_mean: Callable[[Array], Array] | None = None,
    log_complement: Callable[[Array], Array] | None = None,
) -> Link:
    """A link given by nothing but its inverse.

        guessing = gj.links.custom(lambda eta: 0.25 + 0.75 * jax.nn.sigmoid(eta), "guessing")
        fit = gj.glmer(formula, data, family=gj.families.Bernoulli(guessing))

    Args:
        inverse: mu = inverse(eta), a pure, elementwise function of JAX arrays that is monotone
            where it is defined, three times differentiable, and NaN where it is not defined.
        name: how output calls it.
        mean_range: the open interval of the means it produces.
        log_mean, log_complement: log(mu) and log(1 - mu) of eta, where they are to be accurate
            although mu is near 0 or 1; without them the logarithms of what `inverse` gives.

    Returns:
        A link for any family. Two are equal if made of the same function objects: define the
        function once, since each new one compiles programs of its own.

    Raises:
        ValueError: an argument of another type.
    """
    for argument, value in (("log_mean", log_mean), ("log_complement", log_complement)):
        if value is not None and not callable(value):
            raise ValueError(f"{argument}={value!r}; give a function of eta, or None")
    if not callable(inverse):
        raise ValueError(f"inverse={inverse!r}; give a function of eta, such as jnp.exp")
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r}; give a word for the link")
    low, high = mean_range
    if not low < high:
        raise ValueError(f"mean_range={mean_range!r}; give (low, high) with low < high")
    return Custom(
        function=inverse,
        name=name,
        mean_range=(float(low), float(high)),
        log_mean_function=log_mean,
        log_complement_function=log_complement,
    )


_LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        Logit(),
        Probit(),
        Cloglog(),
        Loglog(),
        Cauchit(),
        Log(),
        Identity(),
        Sqrt(),
        Inverse(),
    )
}


def get(link: str | Link) -> Link:
    """The link of that name; a `Link` is returned as it is.

    Raises ValueError for an unknown name, listing the known ones.
    """
    if isinstance(link, Link):
        return link
    if isinstance(link, str) and link in _LINKS:
        return _LINKS[link]
    known = ", ".join(repr(name) for name in _LINKS)
    raise ValueError(
        f"link={link!r} is not known; use one of {known}, or an instance of links.Link"
    )
