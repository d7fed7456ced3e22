"""How far the Laplace approximation is from the integral that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax.model import Model, Params, flatten, unflatten
from glmm_jax.objective import importance, quadrature
from glmm_jax.objective.marginal import at_mode
from glmm_jax.pirls import mode_from, with_fixed_part
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Numbers of nodes that are tried in turn, until the log-likelihood moves by less than SETTLED.
NODES = (3, 7, 15, 31, 61, 101)
SETTLED = 1e-4
# A shift of an estimate, in standard errors, that is worth the time of a quadrature.
MATTERS = 0.1
# The same without gradients: an error in the log-likelihood that may come with such a shift.
DOUBTFUL = 0.1
# Fewer effective pairs than this say nothing about the error of their own mean.
FEW = 50


@dataclass(frozen=True, eq=False)
class LaplaceError:
    """What `laplace_error` returns.

    laplace : log-likelihood by the Laplace approximation at the estimate. integral : the same by
    the better method, its standard_error (0 for quadrature) and whether it is `settled`: more nodes
    change nothing, or the draws are enough. method : "quadrature" or "importance sampling".
    effort : nodes in each dimension, or pairs of draws. effective : effective number of pairs.
    shift : by quadrature, about how far the error moves each estimate, in its standard errors, with
    the names of `Fit.vcov_all`; None by importance sampling, and NaN where there is no standard
    error.
    """

    laplace: float
    integral: float
    standard_error: float
    method: str
    effort: int
    effective: float | None
    settled: bool
    shift: pd.Series | None = None

    @property
    def matters(self) -> bool:
        """Whether the error is worth correcting, as far as this method can tell."""
        if not self.settled:
            return True
        if self.shift is None:
            return abs(self.error) > DOUBTFUL + 2 * self.standard_error
        return bool(np.nanmax(np.abs(self.shift), initial=0.0) > MATTERS)

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
        if self.shift is None:
            if self.matters:
                return (
                    f"{first} The difference is large enough for estimates, above all of the "
                    "variances, to be off by a noticeable part of their standard errors; by how "
                    "much cannot be told without gradients of the integral."
                )
            return (
                f"{first} The difference is small, so that the estimates are unlikely to be off "
                "by a noticeable part of their standard errors."
            )
        if self.shift.isna().all():
            return f"{first} How far it moves the estimates is not known: no standard errors."
        largest = str(self.shift.abs().idxmax())
        moved = (
            f"It moves the estimates by up to {abs(self.shift[largest]):.2g} standard errors "
            f"({largest})"
        )
        if self.matters:
            return f"{first} {moved}, which matters. Refit with nagq={self.effort}."
        return f"{first} {moved}: the approximation is good enough here."

    def __str__(self) -> str:
        return self.message


def laplace_error(fit: Fit, *, pairs: int = 2000, seed: int = 0) -> LaplaceError:
    """The error of the Laplace approximation to the log-likelihood, at the estimate.

    For one grouping factor, or nested ones, against adaptive Gauss-Hermite quadrature with as many
    nodes as it takes to settle, with the shift of the estimates that the difference makes: with its
    exact gradient g in the parameters and V = `fit.vcov_all`, to first order V g / 2. For crossed
    factors, or too many dimensions, against importance sampling about the conditional mode, whose
    own error is reported.

    Parameters
    ----------
    pairs : of antithetic draws, for importance sampling. seed : of the draws.

    Returns
    -------
    LaplaceError; print it for a sentence.

    Raises
    ------
    ValueError : pairs is no integer above 1, or seed no integer; or a fit without a mode.

    Source: see `objective.quadrature` and `objective.importance`. One Newton step of the estimates
    is exact where the deviance is quadratic over the shift, so that a large one is a warning only.
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
        if found is not None:
            value, effort, settled = found
            gradient = np.asarray(run(_difference_gradient, *arguments, nagq=effort))
            shift = _shift(fit, gradient)
        else:
            sample = run(importance_program, *arguments, jax.random.key(seed), pairs=pairs)
            value, error, effective = (float(part) for part in sample)
            method, settled, effort = "importance sampling", effective >= FEW, pairs
            return LaplaceError(laplace, value, error, method, effort, effective, settled)
    return LaplaceError(laplace, value, 0.0, "quadrature", effort, None, settled, shift)


def _shift(fit: Fit, gradient: np.ndarray) -> pd.Series:
    """-V g / 2 in standard errors: how the estimates move when g joins the gradient, (P,)."""
    V = fit.vcov_all
    error = np.sqrt(np.diag(V.to_numpy()))
    move = -0.5 * V.to_numpy() @ np.where(error > 0, gradient, 0.0)
    shift = np.divide(move, error, out=np.full(len(move), np.nan), where=error > 0)
    return pd.Series(shift, V.index, name="shift")


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


@partial(jax.jit, static_argnames=("nagq",))
def _difference_gradient(params: Params, model: Model, u: jax.Array, *, nagq: int) -> jax.Array:
    """Gradient, (P,), of the deviance by quadrature less that by Laplace; the mode moves along."""
    plain = replace(model, priors=())

    def difference(flat: jax.Array) -> jax.Array:
        there = with_fixed_part(unflatten(flat, plain), plain)
        mode = mode_from(*there, u, True)
        return at_mode(*there, mode, nagq) - at_mode(*there, mode, 1)

    return jax.grad(difference)(flatten(params))


@partial(jax.jit, static_argnames=("pairs",))
def importance_program(
    params: Params, model: Model, u: jax.Array, key: jax.Array, *, pairs: int
) -> importance.Sampled:
    """`importance.sampled`, compiled."""
    return importance.sampled(params, model, u, key, pairs)
