"""Joint uncertainty of parameters and random effects: of b, and of any linear predictor.

Let psi = (beta, theta, log phi), V its covariance `fit.vcov_all`, and b~(psi) = Lambda u~(psi) the
conditional mode as a function of psi. With b = b~(psi) + (b - b~(psi)), and the second part having
covariance Lambda H^-1 Lambda' given psi,

    Var(b)   = Lambda H^-1 Lambda' + J V J',                J = db~/dpsi
    Var(eta) = z' Lambda H^-1 Lambda' z + g' V g,           g = (x, 0, 0) + J' z

J is total: the mode moves with beta as well, which is what makes eta less uncertain than the sum
of its parts. H has the information that the fit's deviance uses (`curvature`), J the observed one.
Everything is to second order about the mode and the estimate: exact for a Gaussian response with
identity link and known variances, a delta method otherwise.

Source: Booth and Hobert (1998), Standard errors of prediction in generalized linear mixed models,
JASA 93; Kackar and Harville (1984), JASA 79, for the linear model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import pirls
from glmm_jax.build import bucket
from glmm_jax.formula.frame import RandomBlock
from glmm_jax.inference.varcorr import triangles
from glmm_jax.linalg import base, related, variances
from glmm_jax.model import Model, Params, flatten, lambdas, unflatten
from glmm_jax.runtime import engine, run
from glmm_jax.structure import Structure

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Numbers in one array of directions or of columns of H^-1 that are worked out side by side.
LARGEST_BATCH = 4_000_000


def block_columns(fit: Fit, i: int) -> slice:
    """Columns of block i among those of its grouping factor."""
    first = fit.placement.column[i]
    return slice(first, first + len(fit.frame.blocks[i].names))


def level_covariances(fit: Fit) -> tuple[np.ndarray, ...]:
    """Lambda [H^-1] Lambda' of each level, one (levels, k, k) array per factor of the model."""
    with engine():
        found = run(_level_covariances, fit.estimate.params, fit.model, fit.estimate.u)
    real = zip(found, fit.placement.levels, strict=True)
    return tuple(np.asarray(part)[:levels] for part, levels in real)


def mode_derivatives(fit: Fit) -> tuple[np.ndarray, ...]:
    """J = db~/dpsi of each level, one (levels, k, P) array per factor of the model."""
    with engine():
        found = run(_mode_derivatives, fit.estimate.params, fit.model, fit.estimate.u)
    real = zip(found, fit.placement.levels, strict=True)
    return tuple(np.asarray(part)[:levels] for part, levels in real)


def linear_predictor_variance(
    fit: Fit,
    X: np.ndarray,
    blocks: Sequence[RandomBlock] = (),
    others: np.ndarray | None = None,
) -> np.ndarray:
    """Var(eta) of rows with the given fixed effects and, if any, random effects, (rows,).

    Without blocks it is x' V x, that of X beta. With them a level that the fit has not seen (index
    -1) adds its prior variance z' Lambda Lambda' z.

    It is the variance of any function of beta, b and the dispersion coefficients, such as the mean,
    to first order, if X, Z of the blocks and `others` are its derivatives in these.

    Parameters: X (rows, p); blocks, one for each of the frame's, with its Z and index; others
    (rows, d), derivative in the dispersion coefficients.
    """
    V = fit.vcov_all.to_numpy()
    gradient = np.zeros((len(X), len(V)))
    gradient[:, : X.shape[1]] = X
    variance = np.zeros(len(X))
    if blocks:
        factors = _factor_rows(fit, blocks)
        own, derivatives = level_covariances(fit), mode_derivatives(fit)
        for rows, C, J in zip(factors, own, derivatives, strict=True):
            seen = rows.index >= 0
            index, Z = rows.index[seen], rows.Z[seen]
            for j in range(Z.shape[1]):
                gradient[seen] += Z[:, j, None] * J[index, j]
            variance[seen] += np.einsum("ni,nij,nj->n", Z, C[index], Z, optimize=True)
            variance[~seen] += np.sum(rows.scaled[~seen] ** 2, axis=1)
        if len(factors) > 1:
            variance += _between_factors(fit, factors)
    if others is not None:
        gradient[:, len(V) - others.shape[1] :] += others
    # Rounding may leave a variance of zero a few units of 1e-17 below it.
    return np.maximum(np.sum((gradient @ V) * gradient, axis=1) + variance, 0.0)


class _FactorRows(NamedTuple):
    """What rows have of one factor of the model."""

    index: np.ndarray  # (rows,) level, -1 for one that the fit has not seen
    Z: np.ndarray  # (rows, k), columns of all its terms
    scaled: np.ndarray  # Lambda' z of each row, (rows, k)


def _factor_rows(fit: Fit, blocks: Sequence[RandomBlock]) -> list[_FactorRows]:
    structure, placement = fit.numbers.structure, fit.placement
    found = []
    for f, k in enumerate(structure.columns):
        members = [i for i, factor in enumerate(placement.factor) if factor == f]
        # A block without a part in what is asked for has no levels.
        index = np.max([blocks[i].index for i in members], axis=0)
        Z, scaled = np.zeros((len(index), k)), np.zeros((len(index), k))
        for i in members:
            Z[:, block_columns(fit, i)] = blocks[i].Z
            scaled[:, block_columns(fit, i)] = blocks[i].Z @ triangles(fit.frame, fit.theta)[i]
        found.append(_FactorRows(index, Z, scaled))
    return found


def _between_factors(fit: Fit, factors: list[_FactorRows]) -> np.ndarray:
    """2 sum over pairs f, g of (Lambda' z)_f' [H^-1]_fg (Lambda' z)_g, (rows,).

    The blocks come from columns of H^-1, a chunk at a time: those of the levels in use, of every
    factor but the one with most of them. For 73,000 ratings by 2,972 students of 1,128 lecturers
    these are 1,128 columns, where one a row would be 73,000.
    """
    structure = fit.numbers.structure
    starts = np.cumsum([0, *structure.sizes])
    used = [np.unique(rows.index[rows.index >= 0]) for rows in factors]
    order = sorted(range(len(factors)), key=lambda f: len(used[f]) * structure.columns[f])
    total = np.zeros(len(factors[0].index))
    for position, g in enumerate(order[:-1]):
        k, own = structure.columns[g], factors[g]
        columns = (starts[g] + used[g][:, None] * k + np.arange(k)).reshape(-1)
        # Column of H^-1, in order of `columns`, that is the first of each row's level.
        place = np.searchsorted(used[g], own.index) * k
        for first, inverse in _inverse_columns(fit, columns):
            for j in range(k):
                here = (own.index >= 0) & (place + j >= first)
                here &= place + j < first + inverse.shape[1]
                for f in order[position + 1 :]:
                    other = factors[f]
                    rows = np.flatnonzero(here & (other.index >= 0))
                    column = place[rows] + j - first
                    for i in range(structure.columns[f]):
                        cell = starts[f] + other.index[rows] * structure.columns[f] + i
                        product = other.scaled[rows, i] * own.scaled[rows, j]
                        total[rows] += 2.0 * product * inverse[cell, column]
    return total


def _inverse_columns(fit: Fit, columns: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Columns of H^-1 (with related levels of T H^-1 T') in chunks: the position of the first in
    `columns`, and a (q, chunk) array."""
    model = fit.model
    if not columns.size:
        return
    width = min(bucket(columns.size), max(8, LARGEST_BATCH // max(model.n, model.q)))
    with engine():
        factor = run(_factor, fit.estimate.params, model, fit.estimate.u)
    for first in range(0, columns.size, width):
        chunk = columns[first : first + width]
        asked = np.full(width, chunk[0])  # one program whatever the number of columns
        asked[: len(chunk)] = chunk
        with engine():
            found = run(_solved, model.structure, factor, asked)
        yield first, np.asarray(found)[:, : len(chunk)]


def _information(params: Params, model: Model, u: jax.Array) -> jax.Array:
    eta = pirls.linear_predictor(params, model, u)
    return pirls.row_information(params, model, eta, model.curvature)


@jax.jit
def _level_covariances(params: Params, model: Model, u: jax.Array) -> tuple[jax.Array, ...]:
    Lambda = lambdas(params.theta, model)
    information = _information(params, model, u)
    blocks = variances.level_covariances(model.structure, model.Z, Lambda, information)
    return tuple(jnp.einsum("ij,ljk,mk->lim", L, V, L) for L, V in zip(Lambda, blocks, strict=True))


@jax.jit
def _mode_derivatives(params: Params, model: Model, u: jax.Array) -> tuple[jax.Array, ...]:
    """(levels, k, P) per factor; a column for each of psi, in the order of `model.flatten`."""

    def effects(psi: jax.Array) -> tuple[jax.Array, ...]:
        there = unflatten(psi, model)
        mode = pirls.mode_from(there, model, u, solved=True)
        return base.effects(model.structure, lambdas(there.theta, model), mode)

    psi = flatten(params)
    eye = jnp.eye(psi.size, dtype=psi.dtype)

    def along(direction: jax.Array) -> tuple[jax.Array, ...]:
        return jax.jvp(effects, (psi,), (direction,))[1]

    together = max(model.n, model.q) * psi.size <= LARGEST_BATCH
    columns = jax.vmap(along)(eye) if together else jax.lax.map(along, eye)
    return tuple(jnp.moveaxis(part, 0, -1) for part in columns)


@jax.jit
def _factor(params: Params, model: Model, u: jax.Array) -> base.Factor:
    return pirls.factorise(params, model, _information(params, model, u))


@jax.jit
def _solved(structure: Structure, factor: base.Factor, columns: jax.Array) -> jax.Array:
    right = jnp.zeros((structure.q, columns.size), jnp.result_type(float))
    right = right.at[columns, jnp.arange(columns.size)].set(1.0)
    if not structure.roots:
        return base.solve(structure, factor, right)
    # T H^-1 T', which is what rows see: each has one level's columns of T u (see `linalg.related`).
    parts = enumerate(base.split(structure, right))
    right = base.join(tuple(related.gathered(structure, f, part) for f, part in parts))
    parts = enumerate(base.split(structure, base.solve(structure, factor, right)))
    return base.join(tuple(related.spread(structure, f, part) for f, part in parts))
