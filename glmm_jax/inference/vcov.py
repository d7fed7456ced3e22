"""From the Hessian of a deviance to the covariance of the estimates, for one model or for many.

For tables: a flat direction is left out, so that what is determined keeps its standard errors. The
pure `information.vcov`, which has derivatives, answers NaN there.
"""

from __future__ import annotations

import numpy as np

# An eigenvalue of the Hessian, scaled to a unit diagonal, that is zero up to rounding.
FLAT = 1e-13
# The part that a parameter has in such a direction; less of it is rounding.
LOADING = 1e-3

# Up to this many parameters, matrices whose determinant is above this are inverted all at once: a
# third of the time of one eigendecomposition after another.
FEW = 8
REGULAR = 1e-6


def covariance(hessian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Twice the inverse of the Hessian over the free parameters, (..., P, P); zero elsewhere.

    A direction in which the deviance is flat to rounding carries no information and is left out
    (see `flat_directions`). NaN where the Hessian is not finite.

    Parameters: hessian (..., P, P); free (..., P) booleans.
    """
    if not hessian.shape[-1]:
        return np.zeros_like(hessian)
    pair = free[..., :, None] & free[..., None, :]
    sound = np.all(np.isfinite(hessian) | ~pair, axis=(-2, -1))
    eye = np.eye(hessian.shape[-1])
    H = np.where(pair & sound[..., None, None], hessian, eye)
    # Scaled to a unit diagonal, so that raw age^2 beside an intercept does no harm.
    diagonal = np.diagonal(H, axis1=-2, axis2=-1)
    size = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scale = size[..., :, None] * size[..., None, :]
    found, regular = _inverses(H / scale)
    if not regular.all():
        left = ~regular
        values, vectors = np.linalg.eigh(H[left] / scale[left])
        kept = values > FLAT * np.maximum(values[..., -1:], 0.0)
        root = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
        half = vectors * root[..., None, :]
        found[left] = half @ np.swapaxes(half, -1, -2)
    found = np.where(pair, 2.0 * found / scale, 0.0)
    return np.where(sound[..., None, None], found, np.nan)


def flat_directions(hessian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Directions in which the deviance is flat to rounding, (P, k), zero where not free.

    What moves along one of them has no standard error, though `covariance` leaves it out. None
    where the Hessian is not finite.

    Parameters: hessian (P, P); free (P,) booleans.
    """
    at = np.flatnonzero(free)
    H = hessian[np.ix_(at, at)]
    if not H.size or not np.all(np.isfinite(H)):
        return np.zeros((len(free), 0))
    size = np.sqrt(np.where(np.diag(H) > 0, np.diag(H), 1.0))
    values, vectors = np.linalg.eigh(H / np.outer(size, size))
    found = vectors[:, values <= FLAT * max(values[-1], 0.0)]
    out = np.zeros((len(free), found.shape[1]))
    out[at] = np.where(np.abs(found) > LOADING, found, 0.0) / size[:, None]
    return out


def moves(gradient: np.ndarray, directions: np.ndarray) -> bool:
    """Whether a function with this gradient, (P,), changes along one of the directions, (P, k)."""
    parts = gradient[:, None] * directions
    return bool(np.any(np.abs(parts.sum(axis=0)) > LOADING * np.abs(parts).sum(axis=0)))


def _inverses(H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverses of symmetric matrices (..., P, P) by elimination, and which of them are regular.

    Those that are not are left to be found by other means. With a diagonal of ones the eigenvalues
    sum to P, so that all but the smallest have a product below e, and the smallest is above |H| / e
    where every pivot is positive: what is regular has a condition number below P e / REGULAR.
    """
    P = H.shape[-1]
    if P > FEW:
        return np.empty_like(H), np.zeros(H.shape[:-2], bool)
    A = np.ascontiguousarray(np.moveaxis(H, (-2, -1), (0, 1)))  # the matrices side by side
    determinant, positive = np.ones(A.shape[2:]), np.ones(A.shape[2:], bool)
    for k in range(P):
        positive &= A[k, k] > 0
        pivot = np.where(positive, A[k, k], 1.0)
        determinant = determinant * pivot
        row, column = A[k] / pivot, A[:, k].copy()
        A -= column[:, None] * row[None]
        A[k], A[:, k], A[k, k] = row, -column / pivot, 1.0 / pivot
    return np.moveaxis(A, (0, 1), (-2, -1)), positive & (determinant > REGULAR)
