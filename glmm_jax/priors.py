"""Penalties: minus twice a log prior density, added to the deviance of hard cases.

A penalty is a pure function (params, model) -> (), of arrays; any such function that can be hashed
will do, and any pytree that can be called so. Those of this module are pytrees whose numbers are
leaves, so that one program serves every scale, and estimates can be differentiated in the scales:

    Normal, StudentT    on coefficients: finite estimates under separation;
    Wishart             on the covariance of each term: keeps it off the boundary.

They are prepared for a model by `resolve`, which knows the names of the coefficients. Other numbers
for a model that has them: `model.replace(priors=(dataclasses.replace(model.priors[0], sd=sd),))`.

Source: Chung, Rabe-Hesketh, Dorie, Gelman and Liu (2013), Psychometrika 78, 685-709, for the
covariances; Gelman, Jakulin, Pittau and Su (2008), Annals of Applied Statistics 2, 1360-1383.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln

from glmm_jax.model import Model, Params, lambdas

Penalty = Callable[[Params, Model], jax.Array]


@partial(
    jax.tree_util.register_dataclass, data_fields=["sd", "mean"], meta_fields=["of", "positions"]
)
@dataclass(frozen=True)
class Normal:
    """beta_j ~ N(mean, sd^2), independently.

    sd : in units of the coefficient; a number, or an array with one for each. of : names of the
    coefficients, those of dispersion= and zero_inflation= included ("logit(zero): x"); None for all
    of eta but the intercept. mean : of the prior.
    """

    sd: Any = 2.5
    of: tuple[str, ...] | None = None
    mean: Any = 0.0
    positions: tuple[int, ...] | None = None

    def __call__(self, params: Params, model: Model) -> jax.Array:
        """-2 log density, ()."""
        scaled = (_chosen(self.positions, params) - self.mean) / self.sd
        return jnp.sum(jnp.square(scaled) + math.log(2.0 * math.pi) + 2.0 * jnp.log(self.sd))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["df", "scale", "mean"],
    meta_fields=["of", "positions"],
)
@dataclass(frozen=True)
class StudentT:
    """beta_j ~ mean + scale t(df), independently; df = 1 is Cauchy's.

    scale : in units of the coefficient. of : names of the coefficients, as for `Normal`; numbers
    and arrays too.
    """

    df: Any = 7.0
    scale: Any = 2.5
    of: tuple[str, ...] | None = None
    mean: Any = 0.0
    positions: tuple[int, ...] | None = None

    def __call__(self, params: Params, model: Model) -> jax.Array:
        """-2 log density, ()."""
        x = _chosen(self.positions, params)
        scaled = (x - self.mean) / self.scale
        constant = (
            gammaln(0.5 * (self.df + 1.0))
            - gammaln(0.5 * self.df)
            - 0.5 * jnp.log(self.df * math.pi)
            - jnp.log(self.scale)
        )
        kernel = 0.5 * (self.df + 1.0) * jnp.log1p(jnp.square(scaled) / self.df)
        return 2.0 * jnp.sum(kernel - constant)


@partial(jax.tree_util.register_dataclass, data_fields=["df", "scale"], meta_fields=[])
@dataclass(frozen=True)
class Wishart:
    """A Wishart density for the covariance Sigma (k, k) of each term, without its constant.

        -2 log p = -(df - k - 1) log|Sigma| + tr(Sigma) / scale^2

    df : None for k + 2.5, with which a variance is proportional to a gamma density of shape 1.75
    for Sigma (2.5 for a standard deviation) and the mode moves off zero by about one standard
    error. scale : a standard deviation, in units of b; infinite (no trace) by default.
    """

    df: Any = None
    scale: Any = math.inf

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


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["function"])
@dataclass(frozen=True)
class Function:
    """A user's penalty that is no pytree: a function, known to a program by what it is."""

    function: Callable[..., Any]

    def __call__(self, params: Params, model: Model) -> jax.Array:
        """What the function gives, ()."""
        return self.function(params, model)


def listed(priors: Any) -> tuple[Any, ...]:
    """What the argument priors= holds, one or several, as a tuple; names of coefficients as one.

    Raises:
        ValueError: a number of a prior that is none, or is not positive where it must be.
    """
    given = priors if isinstance(priors, Sequence) and not isinstance(priors, str) else (priors,)
    return tuple(_named(prior) for prior in given)


def _named(prior: Any) -> Any:
    if not isinstance(prior, PRIORS):
        return prior
    if isinstance(prior, Normal):
        _check_positive("sd", prior.sd)
    else:
        if not isinstance(prior, Wishart) or prior.df is not None:
            _check_positive("df", prior.df)
        _check_positive("scale", prior.scale)
    if isinstance(prior, Wishart):
        return prior
    _check_number("mean", prior.mean)
    if prior.of is None:
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
            out.append(_arrays(_placed(prior, names, others)))
        elif isinstance(prior, Wishart):
            out.append(_arrays(prior))
        elif callable(prior) and not isinstance(prior, type):
            out.append(Function(prior) if jax.tree_util.all_leaves([prior]) else prior)
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
        known = isinstance(prior, Wishart) and isinstance(prior.df, int | float)
        if known and prior.df < largest + 1:
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
    for name, value in vars(prior).items():
        if name in ("sd", "scale", "mean", "df") and jnp.shape(value) not in ((), (len(wanted),)):
            raise ValueError(
                f"priors: {name}= has shape {jnp.shape(value)}; give one number, or one for each "
                f"of {', '.join(wanted)}"
            )
    # Names are no part of a program: models of other coefficients share it.
    return replace(prior, of=None, positions=positions)


def _arrays(prior: Any) -> Penalty:
    """The prior with arrays for numbers: of NumPy, as models are made, unless they are traced."""
    kind = jnp.result_type(float)
    return jax.tree.map(lambda x: x if _known(x) is None else np.asarray(x, kind), prior)


def penalty(params: Params, model: Model) -> jax.Array:
    """Sum of the penalties of a model, (); zero without any."""
    total = jnp.zeros((), params.theta.dtype)
    for prior in model.priors:
        total = total + prior(params, model)
    return total


def leaves_beta(prior: Any, p: int) -> bool:
    """Whether a penalty is known to say nothing about the p coefficients of eta."""
    if isinstance(prior, Normal | StudentT):
        return prior.positions is not None and all(position >= p for position in prior.positions)
    return isinstance(prior, Wishart)


def _chosen(positions: tuple[int, ...] | None, params: Params) -> jax.Array:
    if positions is None:
        return params.beta
    others = [] if params.dispersion is None else [jnp.ravel(params.dispersion)]
    return jnp.concatenate([params.beta, *others])[jnp.array(positions, int)]


def _is_array(value: Any) -> bool:
    """Whether this is an array of floats, which may be traced."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def _known(value: Any) -> np.ndarray | None:
    """The numbers to be judged, None for an array that is traced; NaN for what is no number."""
    if _is_array(value):
        return None if isinstance(value, Tracer) else np.asarray(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return np.asarray(value if number else np.nan)


def _check_number(name: str, value: Any) -> None:
    known = _known(value)
    if known is not None and not np.all(np.isfinite(known)):
        raise ValueError(f"{name}={value!r}; use a number")


def _check_positive(name: str, value: Any) -> None:
    known = _known(value)
    if known is not None and not np.all(known > 0):
        raise ValueError(f"{name}={value!r}; use a positive number")
