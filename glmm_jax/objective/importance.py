"""The marginal likelihood by importance sampling about the conditional mode, for any structure.

With u = u~ + L^-T z and z standard normal, H = L L' at the mode,

    integral p(y | u) phi(u) du = |L|^-1 E exp(g(z)),
    g(z) = sum_i w_i log p(y_i | eta_i(u)) - |u|^2 / 2 + |z|^2 / 2,

so that a mean of exp(g) estimates it without bias, with an error that is itself estimated. Draws
come in pairs z, -z, whose errors of odd order cancel. Where the conditional density of u is near
normal, as the Laplace approximation assumes, g hardly varies.

Source: Shephard and Pitt (1997), Biometrika 84, 653-667; Skaug (2002), J. Comput. Graph. Stat. 11.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from glmm_jax import pirls
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params

# Random effects times draws that are held at once.
LARGEST_BLOCK = 1_000_000


class Sampled(NamedTuple):
    """log-likelihood, its Monte-Carlo standard error, and effective sample size (of pairs): ()."""

    log_likelihood: jax.Array
    standard_error: jax.Array
    effective_size: jax.Array


def sampled(params: Params, model: Model, u: jax.Array, key: jax.Array, pairs: int) -> Sampled:
    """Log-likelihood from `pairs` antithetic pairs of draws about the mode u, (q,)."""
    structure = model.structure
    eta = pirls.linear_predictor(params, model, u)
    # The observed information is that of the integrand; where it is not definite, the expected.
    information = pirls.row_information(params, model, eta, "observed")
    factor = pirls.factorise(params, model, information)
    usable = jnp.isfinite(base.logdet(factor))
    expected = pirls.row_information(params, model, eta, "expected")
    factor = pirls.factorise(params, model, jnp.where(usable, information, expected))

    def pair(key: jax.Array) -> jax.Array:
        z = jax.random.normal(key, (model.q,), u.dtype)
        move = base.solve_transposed(structure, factor, z[:, None])[:, 0]

        def g(there: jax.Array) -> jax.Array:
            value = pirls.log_density(params, model, pirls.linear_predictor(params, model, there))
            return value - 0.5 * there @ there + 0.5 * z @ z

        # A draw outside the range of the link has no density: weight zero.
        both = jnp.stack([g(u + move), g(u - move)])
        return jax.nn.logsumexp(jnp.where(jnp.isfinite(both), both, -jnp.inf)) - jnp.log(2.0)

    together = max(1, min(pairs, LARGEST_BLOCK // (model.q + model.n)))
    values = jax.lax.map(pair, jax.random.split(key, pairs), batch_size=together)
    total = jax.nn.logsumexp(values)
    weights = jnp.exp(values - total)  # sum to one
    concentration = jnp.sum(weights**2)
    # Var(mean) / mean^2 of the weights.
    variance = jnp.maximum(concentration - 1.0 / pairs, 0.0) * pairs / (pairs - 1)
    value = total - jnp.log(pairs) - 0.5 * base.logdet(factor)
    return Sampled(value, jnp.sqrt(variance), 1.0 / concentration)
