"""Parameters that are the same model, and models on the boundary: signs, rotations, zeros."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import covariance
from glmm_jax.linalg.symmetric import spectrum
from glmm_jax.model import Model, Params, in_order, row_dispersion
from glmm_jax.optimize.needed import needed

# Rows of Lambda shorter than this, in natural units of eta, are no variance at all: the deviance
# is even in them, so it changes by the fourth power of this, far below its rounding error.
ZERO = 3e-4

LITTLE = 1e-4  # information that counts as none


def canonical(theta: jax.Array, model: Model, scale: jax.Array) -> jax.Array:
    """The theta with the same Lambda Lambda', diagonal >= 0 and exact zeros where singular.

    Parameters: theta (m,); scale (m,), natural size of each element (see `start.scales`).
    """
    return jnp.concatenate(
        [
            covariance.canonical_parameters(
                t.covariance, theta[t.start : t.stop], scale[t.start : t.stop], ZERO
            )
            for t in in_order(model)
        ]
    )


def singular(theta: jax.Array, model: Model) -> jax.Array:
    """Elements of theta exactly on the boundary, (m,) booleans; see `covariance.boundary`."""
    return jnp.concatenate(
        [covariance.boundary(t.covariance, theta[t.start : t.stop]) for t in in_order(model)]
    )


def held(params: Params, model: Model) -> jax.Array:
    """Which of the flat parameters, (P,) booleans, are on the boundary; see `covariance.held`."""
    parts = [
        covariance.held(t.covariance, params.theta[t.start : t.stop], jnp) for t in in_order(model)
    ]
    return jnp.concatenate([jnp.zeros(model.p, bool), *parts, jnp.zeros(model.d, bool)])


def separated(params: Params, model: Model, information: jax.Array) -> jax.Array:
    """Which coefficients a perfect prediction drives to infinity, (p,) booleans.

    The likelihood has no maximum if it rises along some direction X v for ever, while each row that
    X v moves comes ever nearer to the end of its range (complete or quasi-complete separation;
    Albert and Anderson 1984). The candidates are the eigenvectors of the information about beta;
    one counts if hardly any information is left along it, and none of the rows it moves holds any,
    measured by what a row at the mean response holds.

    Parameters: information (n,), of each row about its eta, at the estimate.
    """
    if model.p == 0:
        return jnp.zeros(0, bool)
    information = information[: model.n]  # of several linear predictors, that about eta
    used = model.weights > 0
    rms = jnp.sqrt(jnp.sum(jnp.where(used[:, None], model.X**2, 0.0), axis=0) / jnp.sum(used))
    size = jnp.where(rms > 0, rms, 1.0)
    X = model.X / size[None]
    gram = X.T @ (information[:, None] * X)
    sound = jnp.all(jnp.isfinite(gram))
    held, V = spectrum(jnp.where(sound, gram, jnp.eye(model.p, dtype=X.dtype)))

    def judged() -> jax.Array:
        moved = jnp.where(used[:, None], jnp.abs(X @ V), 0.0)
        large = moved > 1e-3 * jnp.max(moved, axis=0)[None]
        family = model.family
        mean = jnp.sum(used * family.start_mean(model.y, model.size)) / jnp.sum(used)
        eta = family.link.link(mean) * jnp.ones_like(model.y)
        fresh = family.positive_information(model.y, eta, row_dispersion(params, model), model.size)
        spent = information <= LITTLE * model.weights * jnp.minimum(fresh, 1.0)
        # Many rare events together hold information that none of their rows does.
        endless = jnp.all(spent[:, None] | ~large, axis=0) & (held <= LITTLE)
        return jnp.any(endless[None] & (jnp.abs(V) > 1e-3), axis=1)

    suspect = sound & (jnp.min(held) <= LITTLE)
    return needed(suspect, judged, jnp.zeros(model.p, bool))


def unbounded(model: Model, hessian: jax.Array) -> jax.Array:
    """Which coefficients of the family's other parameters run to infinity, (d,) booleans.

    In the model of logit(zero), say, where the rows of some level of a covariate have no zeros in
    excess. Along such a direction the deviance levels off: an eigenvector of its Hessian in these
    coefficients with an eigenvalue of nothing, which makes a standard error above a hundred units
    of the logit. A constant parameter is not judged: its limit is a family of its own.

    Parameters: hessian (P, P), of the deviance in the natural scale of the parameters, at its end.
    """
    widths = model.dispersion_columns
    matrices = model.dispersion_X or (None,) * len(widths)
    modelled = np.repeat([matrix is not None for matrix in matrices], widths)
    at = np.flatnonzero(modelled)
    if not at.size:
        return jnp.zeros(model.d, bool)
    place = hessian.shape[0] - model.d + at
    H = hessian[place[:, None], place]
    sound = jnp.all(jnp.isfinite(H))
    held, V = spectrum(jnp.where(sound, H, jnp.eye(at.size, dtype=H.dtype)))
    flags = jnp.any((held <= LITTLE)[None] & (jnp.abs(V) > 1e-3), axis=1)
    return jnp.zeros(model.d, bool).at[at].set(flags)
