"""What the wrappers of count families share: the probability of a zero, and of none.

With f(0) the inner family's probability of a zero, written as exp(-exp(x)),

    log(1 - f(0)) = log(1 - exp(-exp(x))),        x = log(-log f(0)),

which is accurate in both tails: for a small mean 1 - f(0) keeps its digits although f(0) rounds
to one. For the Poisson family x is log(mu).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from glmm_jax.families.base import Dispersion, Family, as_dispersion, parameter_values
from glmm_jax.families.poisson import Poisson
from glmm_jax.tails import log_one_minus_exp_neg_exp, softplus

RESIDUALS = "use response, Pearson or quantile residuals"


# The derivative of log(x) as an exponential of log(x): x^2, in the second derivative of the
# logarithm, would underflow long before x does.
@jax.custom_jvp
def _log(x: Array) -> Array:
    tiny = float(jnp.finfo(x.dtype).tiny)
    # A probability of a positive count below the smallest number is held there.
    return jnp.log(jnp.where(x > 0, x, jnp.where(x == 0, tiny, jnp.nan)))


@_log.defjvp
def _log_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    logarithm = _log(x)
    return logarithm, tangent * jnp.exp(-logarithm)


def log_zero(inner: Family, eta: Array, dispersion: Dispersion) -> Array:
    """log f(0) of the inner family, the shape of eta."""
    return inner.log_prob(jnp.zeros_like(eta), eta, dispersion)


def log_positive(inner: Family, eta: Array, dispersion: Dispersion) -> Array:
    """log(1 - f(0)) of the inner family, the shape of eta."""
    if isinstance(inner, Poisson):
        x = inner.link.log_mean(eta)
    else:
        x = _log(-log_zero(inner, eta, dispersion))
    return log_one_minus_exp_neg_exp(x)


def log_sum(a: Array, b: Array) -> Array:
    """log(exp(a) + exp(b)), with derivatives that keep their digits wherever either dominates."""
    d = a - b
    return jnp.where(d > 0, a + softplus(-d), b + softplus(d))


def split(family: Family, dispersion: Dispersion) -> tuple[Dispersion, Array]:
    """The inner family's dispersion and logit(zero), the last of a wrapper's parameters."""
    values = parameter_values(family, dispersion)
    return as_dispersion(values[:-1]), values[-1]


def require_counts(wrapper: str, inner: Any) -> None:
    """Raise a ValueError unless `inner` is a family of counts 0, 1, 2, ..., not itself wrapped."""
    if not isinstance(inner, Family):
        raise ValueError(
            f"inner={inner!r} is not a family; write families.{wrapper}(families.Poisson()), or "
            "with another family of counts"
        )
    if hasattr(inner, "inner"):
        raise ValueError(
            f"inner={inner!r} has its zeros changed already; give the family of counts inside it"
        )
    if not _takes(inner, [0.0, 1.0, 2.0]) or _takes(inner, [0.5, 1.0]):
        raise ValueError(
            f"inner={inner!r} is not a family of counts 0, 1, 2, ...; use Poisson, a negative "
            "binomial or another count family"
        )


def _takes(family: Family, y: list[float]) -> bool:
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
