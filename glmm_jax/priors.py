"""Penalties: minus twice a log prior density, added to the deviance of hard cases.

A penalty is a pure function (params, model) -> (), of arrays; any such function that can be hashed
will do. Those of this module carry the numbers they need:

    Normal, StudentT    on coefficients: finite estimates under separation;
    Wishart             on the covariance of each term: keeps it off the boundary.

They are prepared for a model by `resolve`, which knows the names of the coefficients.

Source: Chung, Rabe-Hesketh, Dorie, Gelman and Liu (2013), Psychometrika 78, 685-709, for the
covariances; Gelman, Jakulin, Pittau and Su (2008), Annals of Applied Statistics 2, 1360-1383.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from glmm_jax.model import Model, Params, lambdas

Penalty = Callable[[Params, Model], jax.Array]


@dataclass(frozen=True)
class Normal:
    """beta_j ~ N(mean, sd^2), independently.

    sd : in units of the coefficient. of : names of the coefficients, those of dispersion= and
    zero_inflation= included ("logit(zero): x"); None for all of eta but the intercept. mean : of
    the prior.
    """

    sd: float = 2.5
    of: tuple[str, ...] | None = None
    mean: float = 0.0
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_positive("sd", self.sd)
        _check_number("mean", self.mean)

    def __call__(self, params: Params, model: Model) -> jax.Array:
        """-2 log density, ()."""
        scaled = (_chosen(self.positions, params) - self.mean) / self.sd
        return jnp.sum(jnp.square(scaled) + math.log(2.0 * math.pi) + 2.0 * math.log(self.sd))


@dataclass(frozen=True)
class StudentT:
    """beta_j ~ mean + scale t(df), independently; df = 1 is Cauchy's.

    scale : in units of the coefficient. of : names of the coefficients, as for `Normal`.
    """

    df: float = 7.0
    scale: float = 2.5
    of: tuple[str, ...] | None = None
    mean: float = 0.0
    positions: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_positive("df", self.df)
        _check_positive("scale", self.scale)
        _check_number("mean", self.mean)

    def __call__(self, params: Params, model: Model) -> jax.Array:
        """-2 log density, ()."""
        x = _chosen(self.positions, params)
        scaled = (x - self.mean) / self.scale
        constant = (
            gammaln(0.5 * (self.df + 1.0))
            - gammaln(0.5 * self.df)
            - 0.5 * math.log(self.df * math.pi)
            - math.log(self.scale)
        )
        kernel = 0.5 * (self.df + 1.0) * jnp.log1p(jnp.square(scaled) / self.df)
        return 2.0 * jnp.sum(kernel - constant)


@dataclass(frozen=True)
class Wishart:
    """A Wishart density for the covariance Sigma (k, k) of each term, without its constant.

        -2 log p = -(df - k - 1) log|Sigma| + tr(Sigma) / scale^2

    df : None for k + 2.5, with which a variance is proportional to a gamma density of shape 1.75
    for Sigma (2.5 for a standard deviation) and the mode moves off zero by about one standard
    error. scale : a standard deviation, in units of b; infinite (no trace) by default.
    """

    df: float | None = None
    scale: float = math.inf

    def __post_init__(self) -> None:
        if self.df is not None:
            _check_positive("df", self.df)
        _check_positive("scale", self.scale)

    def __call__(self, params: Params, model: Model) -> jax.Array:
        """-2 log density up to a constant, ()."""
        total = jnp.zeros((), params.theta.dtype)
        for terms, Lambda in zip(model.terms, lambdas(params.theta, model), strict=True):
            row = 0
            for term in terms:
                k = term.covariance.columns
                block = Lambda[row : row + k, row : row + k]
                power = 1.5 if self.df is None else self.df - k - 1.0
                total = total - 2.0 * power * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(block))))
                total = total + jnp.sum(jnp.square(block)) / self.scale**2
                row += k
        return total


PRIORS = (Normal, StudentT, Wishart)


def listed(priors: Any) -> tuple[Any, ...]:
    """What the argument priors= holds, one or several, as a tuple; names of coefficients as one."""
    given = priors if isinstance(priors, Sequence) and not isinstance(priors, str) else (priors,)
    return tuple(_named(prior) for prior in given)


def _named(prior: Any) -> Any:
    if not isinstance(prior, Normal | StudentT) or prior.of is None:
        return prior
    of = (prior.of,) if isinstance(prior.of, str) else tuple(prior.of)
    return replace(prior, of=of)


def resolve(priors: Any, names: Sequence[str], others: Sequence[str] = ()) -> tuple[Penalty, ...]:
    """The penalties of a model whose coefficients have these names; others: of its dispersion.

    Raises:
        ValueError: something that is no penalty, or a coefficient that the model has not.
    """
    out = []
    for prior in listed(priors):
        if isinstance(prior, Normal | StudentT):
            out.append(_placed(prior, names, others))
        elif callable(prior) and not isinstance(prior, type):
            out.append(prior)
        else:
            raise ValueError(
                f"priors: {prior!r} is no penalty; use priors.Normal(), priors.StudentT(), "
                "priors.Wishart() or a function (params, model) -> -2 log density"
            )
    return tuple(out)


def check_degrees(priors: Any, terms: tuple[tuple[Any, ...], ...]) -> None:
    """Raise a ValueError for a Wishart prior without bound where a variance goes to zero."""
    largest = max(term.covariance.columns for factor in terms for term in factor)
    for prior in listed(priors):
        if isinstance(prior, Wishart) and prior.df is not None and prior.df < largest + 1:
            raise ValueError(
                f"priors: Wishart(df={prior.df:g}) has no largest density for {largest} columns of "
                f"random effects; use df of {largest + 1} or more (None: {largest + 2.5:g})"
            )


def _placed(prior: Normal | StudentT, names: Sequence[str], others: Sequence[str]) -> Penalty:
    wanted = [name for name in names if name != "Intercept"] if prior.of is None else prior.of
    known = [*names, *others]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise ValueError(
            f"priors: {missing[0]!r} is no coefficient of this model; it has {', '.join(known)}"
        )
    positions = tuple(known.index(name) for name in wanted)
    if isinstance(prior, Normal):
        return Normal(prior.sd, tuple(wanted), prior.mean, positions)
    return StudentT(prior.df, prior.scale, tuple(wanted), prior.mean, positions)


def penalty(params: Params, model: Model) -> jax.Array:
    """Sum of the penalties of a model, (); zero without any."""
    total = jnp.zeros((), params.theta.dtype)
    for prior in model.priors:
        total = total + prior(params, model)
    return total


def _chosen(positions: tuple[int, ...] | None, params: Params) -> jax.Array:
    if positions is None:
        return params.beta
    others = [] if params.dispersion is None else [jnp.ravel(params.dispersion)]
    return jnp.concatenate([params.beta, *others])[jnp.array(positions, int)]


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}; use a number")


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0:
        raise ValueError(f"{name}={value!r}; use a positive number")
