"""From the Hessian of a deviance to the covariance of the estimates, for one model or for many."""

from __future__ import annotations

import numpy as np

# An eigenvalue of the Hessian, scaled to a unit diagonal, that is zero up to rounding.
FLAT = 1e-13


def covariance(hessian: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Twice the inverse of the Hessian over the free parameters, (..., P, P); zero elsewhere.

    A direction in which the deviance is flat to rounding carries no information and is left out.
    NaN where the Hessian is not finite.

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
    values, vectors = np.linalg.eigh(H / (size[..., :, None] * size[..., None, :]))
    kept = values > FLAT * np.maximum(values[..., -1:], 0.0)
    root = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    half = vectors * root[..., None, :] / size[..., :, None]
    found = np.where(pair, 2.0 * half @ np.swapaxes(half, -1, -2), 0.0)
    return np.where(sound[..., None, None], found, np.nan)
