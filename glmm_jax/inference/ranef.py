"""Random effects given the response: conditional modes and their covariances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import pirls
from glmm_jax.inference.varcorr import triangles
from glmm_jax.linalg.variances import level_covariances
from glmm_jax.model import Model, Params, lambdas
from glmm_jax.runtime import engine

if TYPE_CHECKING:
    from glmm_jax.results import Fit


class Conditional(NamedTuple):
    """Distribution of one block's random effects given y, to second order about the mode.

    mode (levels, k) : b = Lambda u~. covariance (levels, k, k) : Lambda [H^-1]_level Lambda', the
    parameters held at their estimates.
    """

    mode: np.ndarray
    covariance: np.ndarray


def ranef(fit: Fit) -> dict[str, pd.DataFrame]:
    """Conditional modes of the random effects, one data frame per grouping factor.

    Returns
    -------
    A dictionary from the name of the factor to a data frame with a row per level, in lme4's order.
    For each column of its terms, "Intercept" say, there is a column of that name with the
    conditional mode and, after all modes, a column "Intercept (sd)" with the conditional standard
    deviation, the parameters held at their estimates (lme4's condVar).
    """
    modes: dict[str, list[pd.DataFrame]] = {}
    deviations: dict[str, list[pd.DataFrame]] = {}
    for block, found in zip(fit.frame.blocks, conditional(fit), strict=True):
        sd = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
        marked = [f"{name} (sd)" for name in block.names]
        index = block.levels.rename(block.grouping)
        modes.setdefault(block.grouping, []).append(
            pd.DataFrame(found.mode, index, list(block.names))
        )
        deviations.setdefault(block.grouping, []).append(pd.DataFrame(sd, index, marked))
    return {group: pd.concat([*modes[group], *deviations[group]], axis=1) for group in modes}


def modes(fit: Fit) -> tuple[np.ndarray, ...]:
    """b = Lambda u~ of each block of the frame, (levels, k)."""
    structure = fit.model.structure
    starts = np.cumsum([0, *structure.sizes])
    out = []
    for i, Lambda in enumerate(triangles(fit.frame, fit.theta)):
        f = fit.placement.factor[i]
        flat = np.asarray(fit.estimate.u)[starts[f] : starts[f + 1]]
        u = flat.reshape(structure.levels[f], structure.columns[f])
        u = u[: fit.placement.levels[f], _columns(fit, i)]
        out.append(u @ Lambda.T)
    return tuple(out)


def conditional(fit: Fit) -> tuple[Conditional, ...]:
    """Modes and covariances of the random effects given y, one `Conditional` per block."""
    with engine():
        covariances = _covariances(fit.estimate.params, fit.model, fit.estimate.u)
    out = []
    for i, mode in enumerate(modes(fit)):
        f, columns = fit.placement.factor[i], _columns(fit, i)
        whole = np.asarray(covariances[f])[: fit.placement.levels[f]]
        out.append(Conditional(mode, whole[:, columns, columns]))
    return tuple(out)


def _columns(fit: Fit, i: int) -> slice:
    """Columns of block i among those of its grouping factor."""
    first = fit.placement.column[i]
    return slice(first, first + len(fit.frame.blocks[i].names))


@jax.jit
def _covariances(params: Params, model: Model, u: jax.Array) -> tuple[jax.Array, ...]:
    """Lambda [H^-1] Lambda' of each level, one (levels, k, k) array per factor of the model."""
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, model.curvature)
    Lambda = lambdas(params.theta, model)
    blocks = level_covariances(model.structure, model.Z, Lambda, information)
    return tuple(jnp.einsum("ij,ljk,mk->lim", L, V, L) for L, V in zip(Lambda, blocks, strict=True))
