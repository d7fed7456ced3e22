"""The Laplace approximation to the deviance, and its variants with beta at the joint mode.

    d(theta, beta) = -2 sum_i w_i log p(y_i | eta_i(u~)) + |u~|^2 + log|L|^2

with L L' = Lambda' Z' M W M Z Lambda + I at the conditional mode u~ (Bates 2011). All constants of
the density are kept: -d/2 is the log-likelihood on the scale of lme4's and glmmTMB's `logLik`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from glmm_jax import pirls
from glmm_jax.linalg import base, dense
from glmm_jax.model import Model, Params


def deviance_at_mode(params: Params, model: Model, u: jax.Array) -> jax.Array:
    """The Laplace deviance as a function of the mode as well, ()."""
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, model.curvature)
    factor = pirls.factorise(params, model, information)
    return -2.0 * pirls.log_density(params, model, eta) + u @ u + base.logdet(factor)


def laplace_joint(
    params: Params,
    model: Model,
    guess: tuple[jax.Array, jax.Array],
    solved: bool = False,
    reml: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Laplace deviance at the joint mode of (u, beta) given the other parameters, and that mode.

    With `reml` beta is integrated out too, under a flat prior: log|X'WX - ...| of the bordered
    system and -p log(2 pi) are added.
    """
    u, beta = pirls.joint_mode(params, model, guess, solved)
    here = Params(beta, params.theta, params.dispersion)
    if not reml:
        return deviance_at_mode(here, model, u), (u, beta)
    eta = pirls.linear_predictor(here, model, u)
    information = pirls.row_information(here, model, eta, model.curvature)
    factor = pirls.factorise(here, model, information)
    schur = pirls.border(here, model, factor, information).schur
    logdet = dense.logdet(schur, dense.cholesky(schur)) - model.p * jnp.log(2.0 * jnp.pi)
    value = -2.0 * pirls.log_density(here, model, eta) + u @ u + base.logdet(factor)
    return value + logdet, (u, beta)
