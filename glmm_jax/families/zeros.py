"""What the wrappers of count families share: the probability of a zero, and of none.

With f(0) the inner family's probability of a zero, written as exp(-exp(x)),

    log(1 - f(0)) = log(1 - exp(-exp(x))),        x = log(-log f(0)),

which is accurate in both tails: for a small mean 1 - f(0) keeps its digits although f(0) rounds
to one. Such an x in closed form, with mu the mean and phi the dispersion of the inner family:

    Poisson                log(mu)
    NegativeBinomial       log(phi) + log(log(1 + mu / phi))
    NegativeBinomial1      log(mu) + log(log(1 + phi)) - log(phi)
    GeneralizedPoisson     log(mu) - log(phi) / 2

For another family it is the logarithm of its log density at zero, which is a sum that cancels but
for an absolute error of about 1e-15: there 1 - f(0) is held from below at 1e-14.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array

from glmm_jax.families.base import (
    Dispersion,
    Family,
    as_dispersion,
    one_parameter,
    parameter_values,
)
from glmm_jax.families.generalized_poisson import GeneralizedPoisson
from glmm_jax.families.negative_binomial import NegativeBinomial, NegativeBinomial1
from glmm_jax.families.poisson import Poisson
from glmm_jax.rules import with_rule
from glmm_jax.tails import elementwise_derivative, log_one_minus_exp_neg_exp, softplus

_TAKEN_OVER = (
    "link",
    "default_link",
    "allowed_links",
    "has_dispersion",
    "has_fisher",
    "mean_range",
)
RESIDUALS = "use response, Pearson or quantile residuals"

# An exponent of log f(0) below which f(0) and what is multiplied by it are exactly zero.
_GONE = -1500.0
# Of -log f(0) where that is a sum of terms that cancel, in units of the rounding.
_FLOOR = 50.0


# The derivative of log(x) as an exponential of log(x): x^2, in the second derivative of the
# logarithm, would underflow long before x does.
@with_rule
def _log(x: Array) -> Array:
    return jnp.log(x)


@_log.defjvp
def _log_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    logarithm = _log(x)
    return logarithm, tangent * jnp.exp(-logarithm)


def _log_softplus(v: Array) -> Array:
    """log(log(1 + exp(v))), which tends to v on the left."""
    left = v < -700.0
    return jnp.where(left, v, _log(softplus(jnp.where(left, 0.0, v))))


def _log_exponent(inner: Family, eta: Array, dispersion: Dispersion) -> Array | None:
    """x of the module's docstring, None where there is no closed form."""
    if isinstance(inner, Poisson):
        return inner.link.log_mean(eta)
    if isinstance(inner, NegativeBinomial):
        log_phi = one_parameter(inner, dispersion)
        return log_phi + _log_softplus(inner.link.log_mean(eta) - log_phi)
    if isinstance(inner, NegativeBinomial1):
        log_phi = one_parameter(inner, dispersion)
        return inner.link.log_mean(eta) + (_log_softplus(log_phi) - log_phi)
    if isinstance(inner, GeneralizedPoisson):
        return inner.link.log_mean(eta) - 0.5 * one_parameter(inner, dispersion)
    return None


def log_zero(inner: Family, eta: Array, dispersion: Dispersion) -> Array:
    """log f(0) of the inner family, the shape of eta."""
    x = _log_exponent(inner, eta, dispersion)
    if x is not None:
        return -jnp.exp(x)
    return inner.log_prob(jnp.zeros_like(eta), eta, dispersion)


def log_positive(inner: Family, eta: Array, dispersion: Dispersion) -> Array:
    """log(1 - f(0)) of the inner family, the shape of eta."""
    x = _log_exponent(inner, eta, dispersion)
    if x is None:
        exponent = -inner.log_prob(jnp.zeros_like(eta), eta, dispersion)
        floor = _FLOOR * float(jnp.finfo(exponent.dtype).eps)
        # NaN stays NaN: only what is below the floor is held.
        x = _log(jnp.where(exponent < floor, floor, exponent))
    return log_one_minus_exp_neg_exp(x)


def zero_and_slope(inner: Family, eta: Array, dispersion: Dispersion) -> tuple[Array, Array]:
    """log f(0) and sqrt(f(0)) dlog f(0) / deta; held where f(0) is zero beyond any doubt.

    There the product of a zero with a slope that may be 1e304 has derivatives 0 * inf.
    """

    def value(eta: Array) -> Array:
        return log_zero(inner, eta, dispersion)

    log_f0 = value(eta)
    gone = log_f0 < _GONE
    held = jnp.where(gone, _GONE, log_f0)
    slope = jnp.where(gone, 0.0, elementwise_derivative(value, eta))
    return held, jnp.exp(0.5 * held) * slope


def log_sum(a: Array, b: Array) -> Array:
    """log(exp(a) + exp(b)), with derivatives that keep their digits wherever either dominates."""
    d = a - b
    # Further apart than this the smaller term is exactly nothing; so are its derivatives.
    near = jnp.where(jnp.abs(d) < -_GONE, d, jnp.where(d > 0, -_GONE, _GONE))
    return jnp.where(d > 0, a + softplus(-near), b + softplus(near))


def split(family: Family, dispersion: Dispersion) -> tuple[Dispersion, Array]:
    """The inner family's dispersion and logit(zero), the last of a wrapper's parameters."""
    values = parameter_values(family, dispersion)
    return as_dispersion(values[:-1]), values[-1]


def wrap(wrapper: Family, inner: Any, prefix: str) -> None:
    """Give the wrapper its inner family, and what it takes over from that.

    Raises:
        ValueError: inner is no family of counts 0, 1, 2, ..., or is itself wrapped.
    """
    _require_counts(type(wrapper).__name__, inner)
    put = partial(object.__setattr__, wrapper)
    put("inner", inner)
    put("name", f"{prefix} {inner.name}")
    for name in _TAKEN_OVER:
        put(name, getattr(inner, name))
    put("phi_is", inner.phi_is and f"of {inner.name} counts: {inner.phi_is}")


def _require_counts(wrapper: str, inner: Any) -> None:
    if not isinstance(inner, Family):
        raise ValueError(
            f"inner={inner!r} is not a family; write families.{wrapper}(families.Poisson()), or "
            "with another family of counts"
        )
    if hasattr(inner, "inner"):
        raise ValueError(
            f"inner={inner!r} has its zeros changed already; give the family of counts inside it"
        )
    if not takes(inner, [0.0, 1.0, 2.0]) or takes(inner, [0.5, 1.0]):
        raise ValueError(
            f"inner={inner!r} is not a family of counts 0, 1, 2, ...; use Poisson, a negative "
            "binomial or another count family"
        )


def takes(family: Family, y: list[float]) -> bool:
    try:
        family.check(y)
    except ValueError:
        return False
    return True


def start_logit(share: Array) -> Array:
    """logit of a share of zeros to start from; within 0.02 and 0.98, where a search can begin."""
    inside = jnp.clip(jnp.where(jnp.isfinite(share), share, 0.5), 0.02, 0.98)
    return jnp.log(inside) - jnp.log1p(-inside)


def weighted_mean(values: Array, weights: Array) -> Array:
    """Mean with weights of which at least one is positive; 0 where all are zero, ()."""
    total = jnp.sum(weights)
    return jnp.sum(weights * values) / jnp.where(total > 0, total, 1.0)
