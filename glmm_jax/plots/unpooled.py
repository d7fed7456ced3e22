"""Estimates of a level from its own rows alone, to compare with its conditional mode."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array

from glmm_jax.build import padded
from glmm_jax.families.base import Dispersion, Family
from glmm_jax.inference.residuals import family_arguments, linear_predictor
from glmm_jax.plots.scatter import ranks
from glmm_jax.plots.selection import Group
from glmm_jax.runtime import engine

if TYPE_CHECKING:
    from glmm_jax.results import Fit

STEPS = 60
TOLERANCE = 1e-8  # of a step in the linear predictor
VANISHED = 1e-10


def unpooled(fit: Fit, found: Group) -> np.ndarray:
    """Maximum-likelihood random effects of each level without their prior, (levels, k).

    For each level l, argmax_b sum_i w_i log p(y_i | o_i + z_i' b) over its rows, the fixed effects
    and the random effects of other grouping factors held at their estimates in the offset o: what
    the level would say without the others. Fisher scoring from the conditional modes, all levels at
    once, steps halved where the likelihood falls.

    NaN where there is no such estimate: the level's rows of Z have not full rank, or the estimate
    is infinite (all responses 0, say). There the likelihood levels off along some direction while
    the steps go on: convergence is judged by the steps in the linear predictor, and a level whose
    information falls to `VANISHED` of that at its mode in some direction is given up.
    """
    levels, k = found.mode.shape
    offset = linear_predictor(fit) - np.sum(found.Z * found.mode[found.index], axis=1)
    size = np.sqrt(np.mean(found.Z**2, axis=0))
    size = np.where(size > 0, size, 1.0)
    Z = found.Z / size
    b = found.mode * size
    live = ranks(found) == k
    done = np.zeros(levels, bool)
    value, score, information = _derivatives(fit, Z, found.index, offset, b)
    at_mode = np.where(live[:, None, None], information, np.eye(k))
    for _ in range(STEPS):
        scale = np.sqrt(np.maximum(np.einsum("lii->li", information), 1e-300))
        H = information / (scale[:, :, None] * scale[:, None, :])
        live &= np.all(np.isfinite(H), axis=(1, 2)) & np.all(np.isfinite(score), axis=1)
        H[~live] = np.eye(k)
        live &= np.linalg.eigvalsh(H)[:, 0] > 1e-12
        live &= _smallest_ratio(information, at_mode, live) > VANISHED
        H[~live] = np.eye(k)
        step = np.linalg.solve(H, (score / scale)[:, :, None])[:, :, 0] / scale
        step[~live | done] = 0.0
        largest = np.zeros(levels)
        np.maximum.at(largest, found.index, np.abs(np.sum(Z * step[found.index], axis=1)))
        fraction = np.ones(levels)
        for _ in range(30):
            new = _derivatives(fit, Z, found.index, offset, b + fraction[:, None] * step)
            worse = live & ~done & ~(new[0] >= value - 1e-12 * np.abs(value))
            if not worse.any():
                break
            fraction[worse] /= 2
        b = b + fraction[:, None] * step
        value, score, information = new
        done |= live & (largest < TOLERANCE)
        if np.all(done | ~live):
            break
    b[~(done & live)] = np.nan
    return b / size


def _smallest_ratio(A: np.ndarray, B: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Smallest x'Ax / x'Bx of each live level, (levels,); 1 for the others. B is definite."""
    ratio = np.ones(len(A))
    inverse = np.linalg.inv(np.linalg.cholesky(B[live]))
    ratio[live] = np.linalg.eigvalsh(inverse @ A[live] @ inverse.transpose(0, 2, 1))[:, 0]
    return ratio


def _derivatives(
    fit: Fit, Z: np.ndarray, index: np.ndarray, offset: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihood of each level, its gradient and expected information in b."""
    model, n = fit.model, fit.nobs
    eta = offset + np.sum(Z * b[index], axis=1)
    with engine():
        phi = family_arguments(fit)[1]
        found = _rows(fit.family, model.y, padded(eta, model.n), phi, model.size)
    weights = np.asarray(model.weights)[:n]
    value, score, information = (weights * np.asarray(part)[:n] for part in found)
    levels, k = b.shape
    gradient, hessian = np.zeros((levels, k)), np.zeros((levels, k, k))
    np.add.at(gradient, index, score[:, None] * Z)
    np.add.at(hessian, index, information[:, None, None] * Z[:, :, None] * Z[:, None, :])
    return np.bincount(index, value, levels), gradient, hessian


@partial(jax.jit, static_argnums=0)
def _rows(
    family: Family, y: Array, eta: Array, dispersion: Dispersion, size: Array | None
) -> tuple[Array, Array, Array]:
    """Log density, score and information that is not negative of each row, (n,)."""
    return (
        family.log_prob(y, eta, dispersion, size),
        family.score(y, eta, dispersion, size),
        family.positive_information(y, eta, dispersion, size),
    )
