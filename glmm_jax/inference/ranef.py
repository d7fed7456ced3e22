"""Random effects given the response: conditional modes and their covariances."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from glmm_jax.formula.frame import CONDITIONAL, Frame
from glmm_jax.formula.newdata import NewFrame
from glmm_jax.inference.uncertainty import block_columns, level_covariances, mode_derivatives
from glmm_jax.inference.varcorr import triangles

if TYPE_CHECKING:
    from glmm_jax.results import Fit


class Conditional(NamedTuple):
    """Distribution of one block's random effects given y, to second order about the mode.

    mode (levels, k) : b = Lambda u~. covariance (levels, k, k) : Lambda [H^-1]_level Lambda', the
    parameters held at their estimates; or, joint, with the parameters' uncertainty added.
    """

    mode: np.ndarray
    covariance: np.ndarray


def ranef(
    fit: Fit, joint: bool = False, covariance: bool = False, part: str = CONDITIONAL
) -> dict[str, pd.DataFrame]:
    """Conditional modes of the random effects, one data frame per grouping factor.

    Parameters
    ----------
    joint : False, standard deviations with the parameters held at their estimates (lme4's condVar):
        the diagonal of Lambda H^-1 Lambda'. True, with the uncertainty of beta, theta and the
        dispersion added (as glmmTMB gives them): that of Lambda H^-1 Lambda' + J V J', where J is
        the derivative of the modes in the parameters and V = `fit.vcov_all`. Parameters that V
        holds fixed (a zero column of Lambda; at nagq = 0 beta's dependence on theta) stay so here.
    covariance : whether to give, beside the standard deviations, the covariances of the random
        effects of a level, those of separate terms included.
    part : "conditional", the random effects of eta; "zero_inflation", those of the logit of an
        excess zero.

    Returns
    -------
    A dictionary from the name of the factor to a data frame with a row per level, in lme4's order;
    with relationship=, per level of the matrix, those without rows in the data included.
    For each column of its terms, "Intercept" say, there is a column of that name with the
    conditional mode and, after all modes, a column "Intercept (sd)" with its standard deviation;
    with `covariance`, then a column "Intercept, x (cov)" for each pair.

    Raises
    ------
    ValueError : a part in which the model has no random effects.
    """
    check_part(fit, part)
    found = modes(fit)
    covariances = _covariances(fit, joint)
    tables: dict[str, pd.DataFrame] = {}
    blocks = fit.frame.blocks
    for group in dict.fromkeys(block.grouping for block in blocks if block.part == part):
        members = [
            i for i, block in enumerate(blocks) if (block.grouping, block.part) == (group, part)
        ]
        first = fit.frame.blocks[members[0]]
        names = [name for i in members for name in fit.frame.blocks[i].names]
        # The columns of a factor's terms lie side by side in the model.
        at = np.concatenate([np.r_[block_columns(fit, i)] for i in members])
        C = covariances[fit.placement.factor[members[0]]][:, at[:, None], at]
        columns = dict(
            zip(names, np.concatenate([found[i] for i in members], axis=1).T, strict=True)
        )
        for j, name in enumerate(names):
            columns[f"{name} (sd)"] = np.sqrt(C[:, j, j])
        if covariance:
            for j, k in combinations(range(len(names)), 2):
                columns[f"{names[j]}, {names[k]} (cov)"] = C[:, j, k]
        tables[group] = pd.DataFrame(columns, first.levels.rename(group))
    return tables


def check_part(fit: Fit, part: str) -> None:
    """Raise a ValueError unless the model has random effects in this part."""
    if part not in fit.frame.parts:
        listed = ", ".join(map(repr, fit.frame.parts))
        raise ValueError(f"part={part!r}; the model has random effects in {listed}")


def random_part(fit: Fit, rows: Frame | NewFrame, part: str, fixed: np.ndarray) -> np.ndarray:
    """fixed + Z b of one part of the model, (rows,); b = 0 for levels that are not in the fit."""
    total = fixed.copy()
    for block, b in zip(rows.blocks, modes(fit), strict=True):
        if block.part == part:
            seen = block.index >= 0
            total[seen] += np.sum(block.Z[seen] * b[block.index[seen]], axis=1)
    return total


def modes(fit: Fit) -> tuple[np.ndarray, ...]:
    """b = Lambda u~ of each block of the frame, (levels, k)."""
    structure = fit.numbers.structure
    starts = np.cumsum([0, *structure.sizes])
    out = []
    for i, Lambda in enumerate(triangles(fit.frame, fit.theta)):
        f = fit.placement.factor[i]
        flat = np.asarray(fit.estimate.u)[starts[f] : starts[f + 1]]
        u = flat.reshape(structure.levels[f], structure.columns[f])
        if str(f) in structure.roots:  # related levels
            u = np.asarray(structure.roots[str(f)]) @ u
        u = u[: fit.placement.levels[f], block_columns(fit, i)]
        out.append(u @ Lambda.T)
    return tuple(out)


def conditional(fit: Fit, joint: bool = False) -> tuple[Conditional, ...]:
    """Modes and covariances of the random effects given y, one `Conditional` per block.

    With `joint` the covariances carry the uncertainty of the parameters too; see `ranef`.
    """
    covariances = _covariances(fit, joint)
    out = []
    for i, mode in enumerate(modes(fit)):
        columns = block_columns(fit, i)
        out.append(Conditional(mode, covariances[fit.placement.factor[i]][:, columns, columns]))
    return tuple(out)


def _covariances(fit: Fit, joint: bool) -> tuple[np.ndarray, ...]:
    """Covariance of the random effects of each level, (levels, k, k) per factor of the model."""
    given = level_covariances(fit)
    if not joint:
        return given
    V = fit.vcov_all.to_numpy()
    derivatives = mode_derivatives(fit)
    added = (J @ V @ np.swapaxes(J, 1, 2) for J in derivatives)
    return tuple(C + extra for C, extra in zip(given, added, strict=True))
