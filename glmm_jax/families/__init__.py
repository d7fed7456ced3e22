"""Conditional distributions of the response, one file each.

`get` turns what a caller writes for `family` into an instance; the classes can be used directly:
`families.Bernoulli(link="probit")`.
"""

from __future__ import annotations

from collections.abc import Callable

from glmm_jax import links
from glmm_jax.families.base import Family
from glmm_jax.families.beta import Beta
from glmm_jax.families.beta_binomial import BetaBinomial
from glmm_jax.families.binomial import Bernoulli, Binomial
from glmm_jax.families.conway_maxwell_poisson import ConwayMaxwellPoisson
from glmm_jax.families.custom import custom
from glmm_jax.families.exponential import Exponential
from glmm_jax.families.gamma import Gamma
from glmm_jax.families.gaussian import Gaussian
from glmm_jax.families.generalized_poisson import GeneralizedPoisson
from glmm_jax.families.hurdle import Hurdle
from glmm_jax.families.inverse_gaussian import InverseGaussian
from glmm_jax.families.known import Known
from glmm_jax.families.lognormal import Lognormal
from glmm_jax.families.negative_binomial import NegativeBinomial, NegativeBinomial1
from glmm_jax.families.ordinal import Ordinal
from glmm_jax.families.poisson import Poisson
from glmm_jax.families.student_t import StudentT
from glmm_jax.families.truncated import Truncated
from glmm_jax.families.tweedie import Tweedie
from glmm_jax.families.weibull import Weibull
from glmm_jax.families.zero_inflated import ZeroInflated
from glmm_jax.links import Link

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "ConwayMaxwellPoisson",
    "Exponential",
    "Family",
    "Gamma",
    "Gaussian",
    "GeneralizedPoisson",
    "Hurdle",
    "InverseGaussian",
    "Known",
    "Lognormal",
    "NegativeBinomial",
    "NegativeBinomial1",
    "Ordinal",
    "Poisson",
    "StudentT",
    "Truncated",
    "Tweedie",
    "Weibull",
    "ZeroInflated",
    "custom",
    "get",
    "with_zeros",
]

_FAMILIES: dict[str, type[Family]] = {
    "bernoulli": Bernoulli,
    "binomial": Binomial,
    "poisson": Poisson,
    "gamma": Gamma,
    "gaussian": Gaussian,
    "normal": Gaussian,
    # Then glmmTMB's names beside ours, where it has others.
    "negative_binomial": NegativeBinomial,
    "nbinom2": NegativeBinomial,
    "negative_binomial_1": NegativeBinomial1,
    "nbinom1": NegativeBinomial1,
    "beta": Beta,
    "beta_family": Beta,
    "beta_binomial": BetaBinomial,
    "betabinomial": BetaBinomial,
    "inverse_gaussian": InverseGaussian,
    "student_t": StudentT,
    "t_family": StudentT,
    "lognormal": Lognormal,
    "exponential": Exponential,
    "weibull": Weibull,
    "generalized_poisson": GeneralizedPoisson,
    "genpois": GeneralizedPoisson,
    "tweedie": Tweedie,
    "conway_maxwell_poisson": ConwayMaxwellPoisson,
    "compois": ConwayMaxwellPoisson,
    "ordinal": Ordinal,
}

# "zero_inflated_nbinom2" is ZeroInflated(NegativeBinomial()), and so for every family of counts.
_WRAPPERS: dict[str, Callable[[Family], Family]] = {
    "truncated_": Truncated,
    "zero_inflated_": ZeroInflated,
    "hurdle_": Hurdle,
}

# A quasi-likelihood is no probability density, so there is nothing to integrate over the random
# effects: each of these has a proper model that says the same thing.
_QUASI_REMEDIES = {
    "quasipoisson": "family='poisson' with a random effect of each observation (1 | row)",
    "quasibinomial": "family='binomial' with a random effect of each observation (1 | row)",
}


def get(family: str | Family | type[Family], link: str | Link | None = None) -> Family:
    """The family of that name, with the given link or its default one.

    Args:
        family: a name, a family (returned as it is) or its class.
        link: a link or its name; None for the default, or for the link of a family given as such.

    Raises:
        ValueError: the family is unknown or a quasi-likelihood, the link does not fit it, or a
            family that has a link already is given together with another one.
    """
    if isinstance(family, Family):
        if link is not None and links.get(link) != family.link:
            raise ValueError(
                f"link={link!r} was given together with {family!r}, which has a link already; "
                f"write families.{type(family).__name__}(link=...) or give the family by name"
            )
        return family
    if isinstance(family, type) and issubclass(family, Family):
        if family in (*_WRAPPERS.values(), Known):
            raise ValueError(
                f"family={family.__name__} is made of another family; give it one, of counts say: "
                f"families.{family.__name__}(families.NegativeBinomial())"
            )
        return family(link)
    if isinstance(family, str):
        if family in _FAMILIES:
            return _FAMILIES[family](link)
        for prefix, wrapper in _WRAPPERS.items():
            if family.removeprefix(prefix) in _FAMILIES:
                return wrapper(_FAMILIES[family.removeprefix(prefix)](link))
        if family.startswith("quasi"):
            remedy = _QUASI_REMEDIES.get(family, "a family with a density")
            raise ValueError(
                f"family={family!r} is a quasi-likelihood, which has no density and so no marginal "
                f"likelihood; for overdispersion use {remedy}, a negative binomial family for "
                "counts, or a beta-binomial family for proportions"
            )
    if isinstance(family, type) or callable(family):
        raise ValueError(f"family={family!r} is no family; give families.custom(log_prob, ...)")
    known = ", ".join(repr(name) for name in _FAMILIES)
    raise ValueError(
        f"family={family!r} is not known; use one of {known}; one of counts with "
        f"{', '.join(map(repr, _WRAPPERS))} before it; or an instance of families.Family"
    )


def with_zeros(family: Family) -> Family:
    """The family with a probability of excess zeros: as it is if it has one, else zero-inflated.

    Raises:
        ValueError: the family is none of counts.
    """
    if "logit(zero)" in family.parameters:
        return family
    try:
        return ZeroInflated(family)
    except ValueError as error:
        raise ValueError(f"zero_inflation= is for a family of counts: {error}") from error
