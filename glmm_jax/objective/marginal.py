"""The deviance, whichever way its integral is approximated: one entry for engine and users."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax import pirls, priors
from glmm_jax.model import Model, Params, unflatten
from glmm_jax.model import check as check_params
from glmm_jax.objective import laplace, quadrature


def is_joint(nagq: int, reml: bool) -> bool:
    """Whether beta is found together with u given the other parameters."""
    return nagq == 0 or reml


def marginal(
    params: Params, model: Model, guess: Any, nagq: int, reml: bool = False, solved: bool = False
) -> tuple[jax.Array, Any]:
    """The deviance, (), and the mode it rests on: u (q,), or (u, beta) where they are joint.

    `guess` is such a mode; `solved` as in `pirls.conditional_mode`. NaN if there is no mode.
    """
    if is_joint(nagq, reml):
        value, mode = laplace.laplace_joint(params, model, guess, solved, reml)
        # No prior is of beta (see `check`): the mode is the same without.
        return _penalised(value, params, model), mode
    inner = pirls.with_fixed_part(params, model)
    u = pirls.mode_from(*inner, guess, solved)
    return _penalised(_at_mode(*inner, u, nagq), params, model), u


def params_at(x: jax.Array, mode: Any, model: Model) -> Params:
    """Parameters from the free ones, x: all of them, (P,), or without beta where that belongs to
    the mode (u, beta)."""
    return unflatten(jnp.concatenate([mode[1], x]) if isinstance(mode, tuple) else x, model)


def profiled(x: jax.Array, model: Model, mode: Any, nagq: int, reml: bool = False) -> jax.Array:
    """The deviance at free parameters x, as in `params_at`, whose mode is known, ()."""
    return marginal(params_at(x, mode, model), model, mode, nagq, reml, solved=True)[0]


def at_mode(params: Params, model: Model, u: jax.Array, nagq: int) -> jax.Array:
    """The deviance of nagq >= 1 as a function of the conditional mode as well, ()."""
    return _penalised(_at_mode(params, model, u, nagq), params, model)


def _at_mode(params: Params, model: Model, u: jax.Array, nagq: int) -> jax.Array:
    if nagq == 1:
        return laplace.deviance_at_mode(params, model, u)
    return quadrature.deviance_at_mode(params, model, u, nagq)


def _penalised(value: jax.Array, params: Params, model: Model) -> jax.Array:
    return value + priors.penalty(params, model) if model.priors else value


def check(model: Model, nagq: Any, reml: Any = False) -> None:
    """Raise a ValueError unless nagq and reml are values that this model admits."""
    if isinstance(nagq, bool) or not isinstance(nagq, int) or nagq < 0:
        raise ValueError(
            f"nagq={nagq!r}; use 1 (Laplace), the number of quadrature nodes in each dimension, 0 "
            "(joint mode of u and beta), or in glmer 'auto'"
        )
    if not isinstance(reml, bool):
        raise ValueError(f"reml={reml!r}; use True or False")
    if reml and nagq != 1:
        raise ValueError(
            f"reml=True with nagq={nagq}: the integral over beta is a Laplace approximation; use "
            "nagq=1"
        )
    beta_free = all(priors.leaves_beta(prior, model.p) for prior in model.priors)
    if is_joint(nagq, reml) and not beta_free:
        raise ValueError(
            f"priors on coefficients, or of a function, are given with nagq={nagq}, reml={reml}: "
            "beta is then found without them; use nagq=1 (or more) and reml=False, or "
            "priors.Wishart() on the covariances alone"
        )
    if nagq > 1:
        quadrature.check(model, nagq)


def deviance(params: Params, model: Model, nagq: int = 1, reml: bool = False) -> jax.Array:
    """-2 log marginal likelihood of the parameters, (), with all constants of the density, plus the
    penalties of the model if it has any.

    Differentiable to any order, forward and reverse, in the parameters and in every float array
    of the model; works under `jit` and `vmap`.

    Parameters
    ----------
    params : beta (p,), theta (m,), dispersion () or None.
    model : from `build_model`.
    nagq : 1, the Laplace approximation; k > 1, adaptive Gauss-Hermite quadrature with k nodes in
        each dimension, for one grouping factor or nested ones; 0, Laplace at the joint mode of u
        and beta given theta (params.beta is then only a starting value).
    reml : integrate beta out as well, by Laplace's method with a flat prior: for a Gaussian
        response lme4's REML criterion, exactly. params.beta is then only a starting value.

    Returns
    -------
    The deviance; NaN if the conditional mode was not found.

    Raises
    ------
    ValueError : parameters that do not fit the model, or an nagq that this model does not admit.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5; for nested factors
    Rabe-Hesketh, Skrondal and Pickles (2005), Journal of Econometrics 128, 301-323.
    """
    check_params(params, model)
    check(model, nagq, reml)
    return _compiled(params, model, nagq=nagq, reml=reml)


# Called outside a program, its loops would be compiled anew each time.
@partial(jax.jit, static_argnames=("nagq", "reml"))
def _compiled(params: Params, model: Model, *, nagq: int, reml: bool) -> jax.Array:
    guess = jnp.zeros(model.q, model.y.dtype)
    if is_joint(nagq, reml):
        guess = guess, params.beta
    return marginal(params, model, guess, nagq, reml)[0]
