"""The Monte-Carlo error of a fit whose log-determinant is estimated (solver="iterative").

The deviance holds a mean over sign vectors, each an estimate of log|H|. With d_k the deviance from
the k-th part of them alone, and g_k its gradient at the estimate x of all K parts,

    x_k - x = -H^-1 g_k  to first order,    Var(x) = H^-1 Cov(g_k) H^-1 / K,

so that the parts tell how far the estimates would move with other sign vectors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from glmm_jax.inference import vcov
from glmm_jax.model import Model, flatten, unflatten
from glmm_jax.objective import marginal
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

PARTS = 12


class MonteCarlo(NamedTuple):
    """Monte-Carlo standard errors: of the log-likelihood, and of each parameter (Series)."""

    llf: float
    params: pd.Series


def monte_carlo(fit: Fit) -> MonteCarlo:
    """Monte-Carlo standard errors of the log-likelihood and of all parameters, zero where the
    solver is exact.

    They say how far other sign vectors would take the results; `bse` says how far other data would.
    Differences between fits of the same random effects have a smaller error, for the sign vectors
    are the same.
    """
    names = fit.vcov_all.index
    if fit.numbers.structure.solver != "iterative":
        return MonteCarlo(0.0, pd.Series(0.0, names))
    found = fit.estimate
    mode = (found.u, found.params.beta) if marginal.is_joint(fit.nagq, fit.reml) else found.u
    with engine():
        both = run(_parts, found.params, fit.numbers, mode, nagq=fit.nagq, reml=fit.reml)
        values, gradients = (np.asarray(part) for part in both)
    H = np.array(found.hessian)
    free = np.diag(fit.vcov_all) > 0
    inverse = 0.5 * vcov.covariance(H, free)
    moves = gradients @ inverse
    errors = np.std(moves, axis=0, ddof=1) / np.sqrt(PARTS)
    deviance = float(np.std(values, ddof=1) / np.sqrt(PARTS))
    return MonteCarlo(0.5 * deviance, pd.Series(errors, names))


@partial(jax.jit, static_argnames=("nagq", "reml"))
def _parts(
    params: Any, model: Model, mode: Any, *, nagq: int, reml: bool
) -> tuple[jax.Array, jax.Array]:
    """The deviance from each part of the sign vectors, (K,), and its gradient, (K, P)."""
    flat = flatten(params)

    def of(seeds: jax.Array) -> tuple[jax.Array, jax.Array]:
        part = replace(model, structure=replace(model.structure, seeds=seeds))

        def value(x: jax.Array) -> jax.Array:
            return marginal.marginal(unflatten(x, part), part, mode, nagq, reml, solved=True)[0]

        return jax.value_and_grad(value)(flat)

    seeds = model.structure.seeds
    assert seeds is not None
    return jax.lax.map(of, seeds.reshape(PARTS, -1))


def sentence(fit: Fit) -> list[str]:
    """What a summary says of it."""
    if fit.numbers.structure.solver != "iterative":
        return []
    found = fit.monte_carlo()
    errors = np.sqrt(np.diag(fit.vcov_all))
    used = errors > 0
    seeds = fit.numbers.structure.seeds
    assert seeds is not None
    share = np.max(found.params.to_numpy()[used] / errors[used], initial=0.0)
    structure = fit.numbers.structure
    size = sum(structure.sizes[g] for g in structure.rest)
    return [
        f"Iterative solver: the {size:,} random effects that remain after elimination are solved "
        f"for by conjugate gradients, and the log-determinant is estimated from "
        f"{seeds.shape[0]} sign vectors. Monte-Carlo standard error of the "
        f"log-likelihood {found.llf:.2g}, of the estimates at most {share:.2g} of their standard "
        "errors."
    ]
