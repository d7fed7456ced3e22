"""Rows with several linear predictors: random effects in a family's parameters besides eta.

Each row has eta_1 = eta and, for a parameter with random effects, eta_s = x_s' gamma + z_s' b, the
logit of an excess zero say. Its information about them is a small symmetric matrix w, and

    sum_st w_st z_s z_t' = sum_s (w_ss - sum_(t != s) w_st) z_s z_s'
                         + sum_(s < t) w_st (z_s + z_t)(z_s + z_t)'.

So the linear algebra of one linear predictor serves: `Model.Z` and the structure hold pseudo-rows
(n rows of each z_s, then n of each z_s + z_t), their weights are the differences above, of either
sign, and Z does not depend on the parameters. The functions here make linear predictors (r, n),
scores and information (pseudo-rows,) in that layout; those of `pirls` call them for such models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp

from glmm_jax.families.base import Dispersion, as_dispersion, parameter_values
from glmm_jax.model import Model, Params, pseudo_rows, row_dispersion
from glmm_jax.tails import elementwise_derivative, logistic_density

Parts = tuple[jax.Array, ...]


def count(model: Model) -> int:
    """Number r of linear predictors of a row that random effects act on."""
    return 1 + len(model.random_parameters)


def assembled(params: Params, model: Model, random: jax.Array) -> jax.Array:
    """The linear predictors of each row, (r, n), from Z Lambda u of the pseudo-rows."""
    random = random[: count(model) * model.n].reshape(count(model), model.n)
    values = parameter_values(model.family, row_dispersion(params, model))
    fixed = [model.X @ params.beta + model.offset]
    fixed += [jnp.broadcast_to(values[i], (model.n,)) for i in model.random_parameters]
    return jnp.stack(fixed) + random


def row_arguments(params: Params, model: Model, eta: jax.Array) -> tuple[jax.Array, Dispersion]:
    """What a family takes: eta, and its other parameters, those with random effects included.

    Parameters: eta, (n,) or (r, n) as from `pirls.linear_predictor`, or with further axes.
    """
    phi = row_dispersion(params, model)
    if not model.random_parameters:
        return eta, phi
    values = list(parameter_values(model.family, phi))
    for s, position in enumerate(model.random_parameters, 1):
        values[position] = eta[s]
    return eta[0], as_dispersion(values)


def stacked(model: Model, columns: jax.Array, s: int) -> jax.Array:
    """Columns (n, d) of linear predictor s in the layout of the pseudo-rows: zero where it is not
    held."""
    held = pseudo_rows(count(model))[:, s].tolist()
    return jnp.concatenate([columns * on for on in held])


def fixed_columns(model: Model) -> jax.Array:
    """X in the layout of the pseudo-rows."""
    return stacked(model, model.X, 0) if model.random_parameters else model.X


def row_columns(model: Model) -> tuple[jax.Array, ...]:
    """Z of the rows themselves, one (n, k) array per grouping factor: each column where it acts."""
    if not model.random_parameters:
        return model.Z
    r, n = count(model), model.n
    return tuple(jnp.sum(z[: r * n].reshape(r, n, -1), axis=0) for z in model.Z)


def without_random(model: Model) -> Model:
    """The model whose rows have one linear predictor again: at random effects of zero the same.

    Its Z is of no use, only what its family says of rows.
    """
    return replace(model, random_parameters=())


def row_score(params: Params, model: Model, eta: jax.Array) -> jax.Array:
    """w_i dlogp_i/deta_s, (pseudo-rows,): zero in those of pairs."""
    density, parts = _density(params, model), tuple(eta)
    own = [model.weights * _derivative(density, parts, s) for s in range(len(parts))]
    pairs = len(pseudo_rows(len(parts))) - len(parts)
    return jnp.concatenate([*own, jnp.zeros(pairs * model.n, eta.dtype)])


def row_information(params: Params, model: Model, eta: jax.Array, curvature: str) -> jax.Array:
    """Weights of the pseudo-rows, (pseudo-rows,), that give the information about (eta_1, ...).

    "observed" is -d^2 log p / deta_s deta_t. "expected" is that of data that tell which zeros are
    in excess, given the parameters: block-diagonal and never negative, for steps that must descend.
    """
    parts = tuple(eta)
    r = range(len(parts))
    if curvature != "observed":
        first, phi = row_arguments(params, model, eta)
        # logit(zero) is the only parameter that `build` gives random effects: pi (1 - pi).
        own = [model.family.positive_information(model.y, first, phi, model.size)]
        own += [logistic_density(part) for part in parts[1:]]
        mixed = {pair: jnp.zeros_like(parts[0]) for pair in combinations(r, 2)}
    else:
        density = _density(params, model)

        def slope(s: int) -> Callable[[Parts], jax.Array]:
            return lambda at: _derivative(density, at, s)

        own = [-_derivative(slope(s), parts, s) for s in r]
        mixed = {(s, t): -_derivative(slope(s), parts, t) for s, t in combinations(r, 2)}
    single = [
        w - sum((m for pair, m in mixed.items() if s in pair), jnp.zeros_like(w))
        for s, w in enumerate(own)
    ]
    return jnp.concatenate([model.weights * w for w in (*single, *mixed.values())])


def _density(params: Params, model: Model) -> Callable[[Parts], jax.Array]:
    """log p(y_i | eta_1, eta_2, ...) of each row, (n,), elementwise in its arguments."""

    def density(parts: Parts) -> jax.Array:
        eta, phi = row_arguments(params, model, parts)  # type: ignore[arg-type]
        return model.family.log_prob(model.y, eta, phi, model.size)

    return density


def _derivative(function: Callable[[Parts], jax.Array], at: Parts, s: int) -> jax.Array:
    """Derivative of an elementwise function in its argument s, (n,)."""
    return elementwise_derivative(lambda own: function((*at[:s], own, *at[s + 1 :])), at[s])
