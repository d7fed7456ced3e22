"""What each single row adds to the Laplace deviance: all rows at once, without searching.

Let d be the deviance with all rows and d_i that without row i, both at the same parameters. With
a_i = Lambda' z_i, the score s_i and information w_i of the row (prior weight included, the latter
observed) and h_i = a_i' H^-1 a_i, one Newton step finds the mode without the row, and

    d - d_i = -2 log p(y_i | eta_i) + s_i^2 h_i / (1 - w_i h_i) - log(1 - v_i k_i)
              + s_i r_i / (1 - w_i h_i),

where v_i is the information inside the log-determinant (expected or observed), k_i the h_i of the
matrix made of it, and the last term the change of the other rows' v as the mode moves,

    r_i = sum_(j != i) a_i' H^-1 a_j  k_j dv_j/deta_j.

Exact for a Gaussian response with identity link, else to first order in the step of the mode. It is
-2 log p(y_i | all other rows). All h_i are one derivative of the log-determinant, so that its
derivatives in the parameters cost about as much as those of the deviance.

Source: Vehtari, Mononen, Tolvanen, Sivula and Winther (2016), Bayesian leave-one-out
cross-validation approximations for Gaussian latent variable models, JMLR 17, for removing a row
from a Laplace approximation at fixed parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import expansion, pirls
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, flatten, lambdas, unflatten
from glmm_jax.tails import elementwise_derivative


class Rows(NamedTuple):
    """Of each row: log_density (n,), log p(y_i | all other rows); gradient (n, P), that of d - d_i
    in the parameters; own (n,), how much its linear predictor falls without it, the parameters
    held."""

    log_density: Any
    gradient: Any
    own: Any


@jax.jit
def rows(params: Params, model: Model, u: jax.Array) -> Rows:
    """What each row adds to the deviance, with its derivatives; the mode moves along.

    For models with one linear predictor a row (see `predictors`), by the Laplace approximation.
    """
    psi, added = flatten(params), _added(model, u)

    def column(v: jax.Array) -> jax.Array:
        return jax.jvp(added, (psi,), (v,))[1][0]

    # One direction after another: side by side they leave the processor's cache.
    gradient = jax.lax.map(column, jnp.eye(psi.size, dtype=psi.dtype))
    value, own = added(psi)
    return Rows(-0.5 * value, gradient.T, own)


class Bent(NamedTuple):
    """rows : as `rows` gives them. first (n, P), H^-1 times the gradient of each; along (n, P), the
    Hessian of d - d_i of each times that."""

    rows: Rows
    first: Any
    along: Any


@jax.jit
def bent_rows(params: Params, model: Model, u: jax.Array, inverse: jax.Array) -> Bent:
    """What each row adds to the deviance, to second order where it moves the maximum to.

    Parameters: inverse, (P, P), H^-1; zero for parameters that are held. Others as for `rows`.
    Memory: a number for each pair of parameters in each row and two in each random effect.
    """
    psi = flatten(params)
    solve = pirls.solver(params, model, u)
    U = expansion.line(params, model, u, solve)
    U2 = expansion.bow(params, model, u, solve, U)

    def added(x: jax.Array) -> jax.Array:
        mode = u + U @ x + 0.5 * (U2 @ x) @ x
        return contributions(unflatten(psi + x, model), model, mode)[0]

    every = np.arange(psi.size)
    slopes, bends = expansion.twice(added, jnp.zeros_like(psi), every, model.n)
    place = expansion.placed(every, psi.size)
    moves = inverse @ slopes
    along = jnp.stack([jnp.sum(bends[place[a]] * moves, axis=0) for a in range(psi.size)], axis=1)
    value, own = contributions(params, model, u)
    return Bent(Rows(-0.5 * value, slopes.T, own), moves.T, along)


def _added(model: Model, u: jax.Array) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """`contributions` as a function of the flat parameters, at the mode."""

    def added(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        there = unflatten(x, model)
        return contributions(there, model, pirls.mode_from(there, model, u, solved=True))

    return added


def contributions(params: Params, model: Model, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """d - d_i of each row, (n,), and the change of its own linear predictor, (n,)."""
    structure, Z, Lambda = model.structure, model.Z, lambdas(params.theta, model)
    eta = pirls.linear_predictor(params, model, u)
    s = pirls.row_score(params, model, eta)

    def information(eta: jax.Array, curvature: str) -> jax.Array:
        return pirls.row_information(params, model, eta, curvature)

    def logdet(weights: jax.Array) -> tuple[jax.Array, base.Factor]:
        factor = base.factorise(structure, Z, Lambda, weights)
        return base.logdet(factor), factor

    w, v = information(eta, "observed"), information(eta, model.curvature)
    h, factor = jax.grad(logdet, has_aux=True)(w)
    k = h
    if model.curvature != "observed" and not model.family.is_canonical:
        k, _ = jax.grad(logdet, has_aux=True)(v)
    slope = k * elementwise_derivative(partial(information, curvature=model.curvature), eta)
    right = base.multiply_transposed(structure, Z, Lambda, slope)
    r = base.multiply(structure, Z, Lambda, base.solve(structure, factor, right)) - h * slope
    step = s / (1.0 - w * h)
    density = model.weights * _log_prob(params, model, eta)
    value = -2.0 * density + s * h * step - jnp.log1p(-v * k) + step * r
    return value, h * step


def _log_prob(params: Params, model: Model, eta: jax.Array) -> jax.Array:
    eta, phi = pirls.predictors.row_arguments(params, model, eta)
    return model.family.log_prob(model.y, eta, phi, model.size)
