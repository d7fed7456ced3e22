"""How far the Laplace approximation is from the integral that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax.model import Model, Params
from glmm_jax.objective import importance, quadrature
from glmm_jax.objective.marginal import at_mode
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Numbers of nodes that are tried in turn, until the log-likelihood moves by less than SETTLED.
NODES = (3, 7, 15, 31, 61, 101)
SETTLED = 1e-4
# A log-likelihood this far off moves estimates by a noticeable part of a standard error.
MATTERS = 0.1
# Fewer effective pairs than this say nothing about the error of their own mean.
FEW = 50


@dataclass(frozen=True)
class LaplaceError:
    """What `laplace_error` returns.

    laplace : log-likelihood by the Laplace approximation at the estimate. integral : the same by
    the better method, its standard_error (0 for quadrature) and whether it is `settled`: more nodes
    change nothing, or the draws are enough. method : "quadrature" or "importance sampling".
    effort : nodes in each dimension, or pairs of draws. effective : effective number of pairs.
    """

    laplace: float
    integral: float
    standard_error: float
    method: str
    effort: int
    effective: float | None
    settled: bool

    @property
    def error(self) -> float:
        """log-likelihood by Laplace less the integral's."""
        return self.laplace - self.integral

    @property
    def message(self) -> str:
        """What it means, in sentences."""
        by = (
            f"{self.effort} nodes in each dimension"
            if self.method == "quadrature"
            else f"{self.effort} pairs of draws ({self.effective:.0f} effective)"
        )
        first = (
            f"Log-likelihood at the estimate: {self.laplace:.4f} by the Laplace approximation, "
            f"{self.integral:.4f}"
        )
        if self.standard_error > 0:
            first += f" (standard error {self.standard_error:.2g})"
        first += f" by {self.method} with {by}."
        if not self.settled and self.method == "quadrature":
            return (
                f"{first} The quadrature has not settled, so the integrand is far from normal: the "
                "Laplace approximation, and its estimates, are not to be trusted here."
            )
        if not self.settled:
            return f"{first} Too few draws are effective for a sure answer; raise pairs=."
        if abs(self.error) > MATTERS + 2 * self.standard_error:
            remedy = (
                f"Refit with nagq={self.effort}."
                if self.method == "quadrature"
                else "Estimates of the variances are off by a part of their standard errors."
            )
            return f"{first} The difference matters. {remedy}"
        return f"{first} The approximation is good enough here."

    def __str__(self) -> str:
        return self.message


def laplace_error(fit: Fit, *, pairs: int = 2000, seed: int = 0) -> LaplaceError:
    """The error of the Laplace approximation to the log-likelihood, at the estimate.

    For one grouping factor, or nested ones, against adaptive Gauss-Hermite quadrature with as many
    nodes as it takes to settle; for crossed factors, or too many dimensions, against importance
    sampling about the conditional mode, whose own error is reported.

    Parameters
    ----------
    pairs : of antithetic draws, for importance sampling. seed : of the draws.

    Returns
    -------
    LaplaceError; print it for a sentence.

    Raises
    ------
    ValueError : pairs is no integer above 1, or seed no integer; or a fit without a mode.

    Source: see `objective.quadrature` and `objective.importance`.
    """
    if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 2:
        raise ValueError(f"pairs={pairs!r}; use an integer above 1, such as 2000")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed={seed!r}; use an integer")
    if not np.all(np.isfinite(fit.estimate.u)):
        raise ValueError(f"laplace_error: the fit has no conditional mode. {fit.message}")
    with engine():
        arguments = fit.estimate.params, fit.model, jnp.asarray(fit.estimate.u)
        laplace = -0.5 * float(run(_deviance, *arguments, nagq=1))
        found = _by_quadrature(arguments)
        if found is None:
            sample = run(importance_program, *arguments, jax.random.key(seed), pairs=pairs)
            value, error, effective = (float(part) for part in sample)
            method, settled, effort = "importance sampling", effective >= FEW, pairs
            return LaplaceError(laplace, value, error, method, effort, effective, settled)
    value, effort, settled = found
    return LaplaceError(laplace, value, 0.0, "quadrature", effort, None, settled)


def _by_quadrature(arguments: tuple[Params, Model, jax.Array]) -> tuple[float, int, bool] | None:
    """Log-likelihood, nodes, and whether more would change it; None where there is no grid."""
    last: tuple[float, int] | None = None
    for nodes in NODES:
        try:
            quadrature.check(arguments[1], nodes)
        except ValueError:
            break
        value = -0.5 * float(run(_deviance, *arguments, nagq=nodes))
        if last is not None and abs(value - last[0]) < SETTLED:
            return value, last[1], True
        last = value, nodes
    return None if last is None else (*last, False)


@partial(jax.jit, static_argnames=("nagq",))
def _deviance(params: Params, model: Model, u: jax.Array, *, nagq: int) -> jax.Array:
    # Without penalties: the likelihood alone is an integral.
    return at_mode(params, replace(model, priors=()), u, nagq)


@partial(jax.jit, static_argnames=("pairs",))
def importance_program(
    params: Params, model: Model, u: jax.Array, key: jax.Array, *, pairs: int
) -> importance.Sampled:
    """`importance.sampled`, compiled."""
    return importance.sampled(params, model, u, key, pairs)
