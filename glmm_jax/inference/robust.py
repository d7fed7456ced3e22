"""Standard errors that trust groups, not the model within them: the infinitesimal jackknife."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.formula.frame import RandomBlock
from glmm_jax.inference import derivatives
from glmm_jax.inference.influence import removed

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def cov_robust(fit: Fit, by: str | None = None, *, correct: bool = True) -> pd.DataFrame:
    """Cluster-robust covariance of (beta, theta, dispersion), the infinitesimal jackknife.

        V = c H^-1 (sum_g G_g G_g') H^-1,       c = k / (k - 1) for k groups, or 1,

    with G_g the gradient that group g contributes to the deviance (that of -2 log of the marginal
    likelihood of its rows) and H the Hessian: the sum of the squared first-order influences. It
    holds if groups are independent, also where the model of the variation within them is wrong;
    with few groups (say 30) it is too small.

    Parameters
    ----------
    by : a grouping factor or a column of the data whose groups are independent: nothing in the
        model may be shared by rows of two of them. Default: the grouping factor, if that is one, or
        the one in which all others are nested.
    correct : whether c is k / (k - 1).

    Returns
    -------
    A data frame (P, P) named as `Fit.vcov_all`; rows of a variance at zero are zero.

    Raises
    ------
    ValueError : by is no column; groups share levels of a grouping factor (crossed factors); or a
        fit that has not converged or is no maximum in all parameters.

    Source: Liang and Zeger (1986), Biometrika 73, 13-22; White (1982), Econometrica 50, 1-25;
    Efron (1982), The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6.
    """
    derivatives.check_maximum(fit, "cov_robust")
    chosen = coarsest(fit) if by is None else by
    codes, labels = derivatives.groups(fit, chosen, "cov_robust")
    _check_independent(fit, chosen, codes)
    inverse = derivatives.inverse_hessian(fit, derivatives.local(fit).hessian)
    moves = removed(fit, inverse, codes, len(labels)).first
    k = len(labels)
    V = moves.T @ moves * (k / (k - 1) if correct else 1.0)
    return pd.DataFrame(V, fit.vcov_all.index, fit.vcov_all.columns)


def coarsest(fit: Fit) -> str:
    """The grouping factor in which all others are nested.

    Raises:
        ValueError: there is none.
    """
    blocks = {block.grouping: block for block in fit.frame.blocks}
    if crossed(fit):
        raise ValueError(
            f"by=None: the grouping factors {', '.join(map(repr, blocks))} are crossed, so that "
            "the levels of none of them are independent; give by= a column of independent groups"
        )
    return fewest(fit).grouping


def crossed(fit: Fit) -> bool:
    """Whether no grouping factor has all others nested in it."""
    outer = np.asarray(fewest(fit).index)
    return any(shares(outer, np.asarray(block.index)) for block in fit.frame.blocks)


def fewest(fit: Fit) -> RandomBlock:
    """The term with the fewest levels, in which others may be nested."""
    return min(fit.frame.blocks, key=lambda block: len(block.levels))


def tying(fit: Fit, groups: np.ndarray) -> RandomBlock | None:
    """A term whose levels are related, or shared between groups (nobs,), which are then not
    independent; None if they are."""
    for block in fit.frame.blocks:
        if block.relationship is not None or shares(groups, np.asarray(block.index)):
            return block
    return None


def _check_independent(fit: Fit, by: str, codes: np.ndarray) -> None:
    block = tying(fit, codes)
    if block is not None:
        raise ValueError(
            f"by={by!r}: levels of {block.grouping!r} are shared (or related) between groups, "
            "which are then not independent; use a column that no grouping factor crosses"
        )


def shares(groups: np.ndarray, levels: np.ndarray) -> bool:
    """Whether some level occurs in two groups."""
    pairs = np.unique(np.stack([levels, groups]), axis=1)
    return bool(np.any(np.diff(pairs[0]) == 0))
