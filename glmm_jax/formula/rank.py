"""Which columns of a model matrix depend linearly on those to their left."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-7


def independent_columns(X: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Mask (p,) of the columns to keep, from left to right, as lme4 and R's `lm` choose them.

    A column goes when the norm of what is left of it after projection on the columns kept so far
    is below `tolerance` times its own norm: the rule of LINPACK's `dqrdc2`, which R's `qr` uses.

    Args:
        X: (n, p), finite.
    """
    n, p = X.shape
    gram = X.T @ X
    norms = np.sqrt(np.diagonal(gram))
    keep = norms > 0.0
    if p <= n and keep.all() and _clearly_independent(gram, norms):
        return keep
    basis = np.empty((n, 0))
    for j in np.flatnonzero(keep):
        rest = X[:, j] / norms[j]
        # Twice is enough (Kahan, Parlett): one projection leaves rounding of the size in question.
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        size = np.sqrt(rest @ rest)
        keep[j] = size >= tolerance
        if keep[j]:
            basis = np.column_stack([basis, rest / size])
    return keep


def _clearly_independent(gram: np.ndarray, norms: np.ndarray) -> bool:
    """Quick yes from the Cholesky factor of the correlation-like matrix X'X of the columns.

    Its diagonal holds the residual norms in question, with errors of about 1e-8; far above
    that they need no second look.
    """
    try:
        factor = np.linalg.cholesky(gram / np.outer(norms, norms))
    except np.linalg.LinAlgError:
        return False
    return bool(np.diagonal(factor).min(initial=1.0) > 1e-4)
