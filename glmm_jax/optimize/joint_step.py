"""A step of the starting values in u and all fixed effects, those of further parameters included.

With D the columns of X and of the models of parameters with random effects, in the layout of the
pseudo-rows (see `predictors`), W the weights of these and s the score in u,

    H du + Lambda' Z' W D dfixed = s,        D' W Z Lambda du + D' W D dfixed = D' score.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax import pirls, predictors
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, lambdas


def joint_step(
    params: Params, model: Model, eta: jax.Array, u: jax.Array, information: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A step in (u, beta, gamma), with gamma the coefficients of parameters with random effects,
    and its squared decrement; without such parameters gamma is empty.

    Together, for an effect of a level's covariate in gamma and its random effects take from one
    another what is the same in the linear predictor.
    """
    if not model.random_parameters:
        du, dbeta, decrement = pirls.step(params, model, eta, u, information, True)
        return du, dbeta, jnp.zeros(0, u.dtype), decrement
    columns = [model.X, *(parameter_columns(model, i)[0] for i in model.random_parameters)]
    D = jnp.concatenate([predictors.stacked(model, x, s) for s, x in enumerate(columns)], axis=1)
    structure, Lambda = model.structure, lambdas(params.theta, model)
    rows = predictors.row_score(params, model, eta)
    s = base.multiply_transposed(structure, model.Z, Lambda, rows) - u
    factor = pirls.factorise(params, model, information)
    weighted = information[:, None] * D
    cross = base.multiply_transposed(structure, model.Z, Lambda, weighted)
    both = base.solve(structure, factor, jnp.concatenate([s[:, None], cross], axis=1))
    right = D.T @ rows
    fixed = jnp.linalg.solve(D.T @ weighted - cross.T @ both[:, 1:], right - cross.T @ both[:, 0])
    du = both[:, 0] - both[:, 1:] @ fixed
    return du, fixed[: model.p], fixed[model.p :], s @ du + right @ fixed


def with_gamma(model: Model, phi: jax.Array | None, source: Any, change: jax.Array) -> Any:
    """phi, but for coefficients gamma of parameters with random effects: source + change."""
    first = 0
    for position in model.random_parameters:
        place = parameter_columns(model, position)[1]
        width = place.stop - place.start
        assert phi is not None
        phi = phi.at[place].set(source[place] + change[first : first + width])
        first += width
    return phi


def parameter_columns(model: Model, position: int) -> tuple[jax.Array, slice]:
    """Model matrix of one of the family's parameters, (n, d), and its place in the dispersion."""
    matrix = model.dispersion_X[position] if model.dispersion_X else None
    widths = model.dispersion_columns
    first = sum(widths[:position])
    place = slice(first, first + widths[position])
    return jnp.ones((model.n, 1), model.y.dtype) if matrix is None else matrix, place
