"""The Laplace approximation to the deviance, and the nAGQ = 0 variant of it.

    d(theta, beta) = -2 sum_i w_i log p(y_i | eta_i(u~)) + |u~|^2 + log|L|^2

with L L' = Lambda' Z' M W M Z Lambda + I at the conditional mode u~ (Bates 2011). All constants of
the density are kept: -d/2 is the log-likelihood on the scale of lme4's and glmmTMB's `logLik`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from glmm_jax import pirls
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, check


def deviance_at_mode(params: Params, model: Model, u: jax.Array) -> jax.Array:
    """The Laplace deviance as a function of the mode as well, ()."""
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, model.curvature)
    factor = pirls.factorise(params, model, information)
    return -2.0 * pirls.log_density(params, model, eta) + u @ u + base.logdet(factor)


def laplace(
    params: Params, model: Model, guess: jax.Array | None = None, solved: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Laplace deviance, (), and the conditional mode, (q,); NaN if the mode was not found.

    `guess` and `solved` as in `pirls.conditional_mode`.
    """
    u = pirls.conditional_mode(params, model, guess, solved)
    return deviance_at_mode(params, model, u), u


def laplace_joint(
    params: Params, model: Model, guess: tuple[jax.Array, jax.Array], solved: bool = False
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Laplace deviance at the joint mode of (u, beta) given theta (nAGQ = 0), and that mode."""
    u, beta = pirls.joint_mode(params, model, guess, solved)
    here = Params(beta, params.theta, params.dispersion)
    return deviance_at_mode(here, model, u), (u, beta)


def deviance(params: Params, model: Model, nagq: int = 1) -> jax.Array:
    """-2 log marginal likelihood of the parameters, (), by the Laplace approximation.

    Differentiable to any order, forward and reverse, in the parameters and in every float array
    of the model; works under `jit` and `vmap`.

    Parameters
    ----------
    params : beta (p,), theta (m,), dispersion () or None.
    model : from `build_model`.
    nagq : 1, the Laplace approximation; 0, the same at the joint mode of u and beta given theta
        (params.beta is then only a starting value).

    Returns
    -------
    The deviance with all constants of the density; NaN if the conditional mode was not found.

    Raises
    ------
    ValueError : parameters that do not fit the model, or nagq is neither 0 nor 1.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5.
    """
    check(params, model)
    if nagq == 1:
        return laplace(params, model)[0]
    if nagq == 0:
        guess = jnp.zeros(model.q, model.y.dtype), params.beta
        return laplace_joint(params, model, guess)[0]
    raise ValueError(f"nagq={nagq!r}; use 1 (Laplace) or 0 (joint mode of u and beta)")
