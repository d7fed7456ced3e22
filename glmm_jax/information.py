"""What the likelihood says about its parameters: Hessian, covariance and standard errors, pure.

    H = d^2 deviance / d psi d psi',    Cov = 2 H^-1,    psi = (beta, theta, log phi).

All three are functions of parameters and model that can be differentiated again, so that standard
errors follow the data: d se = (partial se / partial psi) dpsi + (partial se / partial data) ddata,
with dpsi from `estimate`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax import pirls
from glmm_jax.linalg import dense
from glmm_jax.model import Model, Params, check, flatten, unflatten
from glmm_jax.objective import marginal as objective
from glmm_jax.optimize import boundary

# Hessian columns are computed side by side up to this many numbers, one after another beyond.
LARGEST_BATCH = 2_000_000


def side_by_side(function: Any, directions: Any, size: int, lone: bool = False) -> Any:
    """A function of one direction for each of several, side by side while there is room.

    Parameters: directions, arrays with an axis of them in front; size, numbers that each takes;
    lone, whether nothing else is computed beside it. On a CPU the directions then come one after
    another: a third of the memory or less in no more time (beside others an eighth more).
    """
    count = jax.tree.leaves(directions)[0].shape[0]
    apart = lone and jax.default_backend() == "cpu"
    if count * size <= LARGEST_BATCH and not apart:
        return jax.vmap(function)(directions)
    return jax.lax.map(function, directions)


def hessian(params: Params, model: Model, nagq: int = 1, reml: bool = False) -> jax.Array:
    """Hessian of the deviance in (beta, theta, log phi), (P, P), in the order of `model.flatten`.

    Parameters
    ----------
    params, model, nagq, reml : as for `deviance`. Where beta belongs to the mode (nagq = 0, reml)
        the part of theta and log phi is that of the profiled deviance, the part of beta twice
        RX'RX given these, and the cross part zero: what `Estimate.hessian` holds.

    Returns
    -------
    (P, P), differentiable like `deviance`; NaN if the conditional mode was not found.

    Raises
    ------
    ValueError : parameters that do not fit the model, or an nagq that this model does not admit.
    """
    check(params, model)
    objective.check(model, nagq, reml)
    return _hessian(params, model, nagq=nagq, reml=reml)


def vcov(params: Params, model: Model, nagq: int = 1, reml: bool = False) -> jax.Array:
    """Covariance of the estimates (beta, theta, log phi), (P, P): twice the inverse Hessian.

    Parameters that are exactly on the boundary (see `covariance.held`) have rows of zeros: they
    are held. NaN where the Hessian in the others is not positive definite. Arguments and errors as
    for `hessian`.
    """
    check(params, model)
    objective.check(model, nagq, reml)
    H = _hessian(params, model, nagq=nagq, reml=reml)
    return _twice_inverse(H, ~boundary.held(params, model))


def standard_errors(params: Params, model: Model, nagq: int = 1, reml: bool = False) -> Params:
    """Standard errors of the estimates, as Params; zero for a parameter that is held.

    Arguments and errors as for `hessian`; with an Estimate,
    `standard_errors(est.params, model, est.nagq, est.reml)`.
    """
    variance = jnp.diagonal(vcov(params, model, nagq, reml))
    free = ~boundary.held(params, model)
    # The derivative of a square root at zero is not a number, even where it is not used.
    root = jnp.sqrt(jnp.where(free, variance, 1.0))
    return unflatten(jnp.where(free, root, 0.0), model)


@partial(jax.jit, static_argnames=("nagq", "reml"))
def _hessian(params: Params, model: Model, *, nagq: int, reml: bool) -> jax.Array:
    joint = objective.is_joint(nagq, reml)
    start: Any = jnp.zeros(model.q, model.y.dtype)
    still, here = jax.lax.stop_gradient((params, model))
    # Found once: derivatives need to know where the mode is, not how it was found.
    if joint:
        mode: Any = pirls.joint_mode(still, here, (start, params.beta))
        mode = jax.lax.stop_gradient(mode)
    else:
        mode = jax.lax.stop_gradient(pirls.mode_from(still, here, start))
    x = flatten(params)[model.p if joint else 0 :]

    def along(v: jax.Array) -> jax.Array:
        slope = jax.grad(lambda x: objective.profiled(x, model, mode, nagq, reml))
        return jax.jvp(slope, (x,), (v,))[1]

    H = side_by_side(along, jnp.eye(x.shape[0], dtype=x.dtype), model.n)
    H = 0.5 * (H + H.T)
    if not joint:
        return H
    u, beta = pirls.joint_mode(params, model, mode, solved=True)
    there = Params(beta, params.theta, params.dispersion)
    eta = pirls.linear_predictor(there, model, u)
    information = pirls.row_information(there, model, eta, "expected")
    factor = pirls.factorise(there, model, information)
    own = 2.0 * pirls.border(there, model, factor, information).schur
    return jax.scipy.linalg.block_diag(own, H)


@jax.jit
def _twice_inverse(H: jax.Array, free: jax.Array) -> jax.Array:
    pair = free[:, None] & free[None, :]
    H = jnp.where(pair, H, jnp.eye(H.shape[0], dtype=H.dtype))
    # Scaled to a unit diagonal, so that raw age^2 beside an intercept does no harm.
    size = jax.lax.stop_gradient(jax.lax.rsqrt(jnp.diagonal(H)))
    scale = size[:, None] * size[None, :]
    scaled = H * scale
    inverse = dense.inverse(scaled, dense.cholesky(scaled)) * scale
    return jnp.where(pair, 2.0 * inverse, 0.0)
