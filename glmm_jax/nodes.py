"""How many quadrature nodes are enough: what nagq="auto" asks of an estimate.

A fit compiles a program for its number of nodes, which is dear; the deviance and its gradient at
one point are cheap. So an estimate is judged where it stands: with more nodes, how much does the
deviance change, and by how much would one Newton step then move the estimates? A new fit is made
only when they do move, and at once with the number at which the deviance has come to rest.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax.estimate import Estimate
from glmm_jax.model import Model, Params, flatten, unflatten
from glmm_jax.objective import marginal, quadrature
from glmm_jax.runtime import run

# Numbers that are tried in turn; the second row where the grid has several dimensions.
SCALAR = (1, 11, 21, 41, 81, quadrature.MOST_NODES)
VECTOR = (1, 7, 15, 31, 61, quadrature.MOST_NODES)
# Content when no estimate moves by more of its standard error, nor the log-likelihood.
MOVED, GAINED = 1e-3, 1e-4


class ValueAndGradient(NamedTuple):
    """The deviance and its gradient, (P,), at an estimate, with some number of nodes."""

    value: float
    gradient: np.ndarray


def ladder(model: Model) -> tuple[int, ...]:
    """The numbers of nodes that this model admits, from one on.

    Raises:
        ValueError: none but one, for the reason that quadrature has.
    """
    steps = SCALAR if sum(model.structure.columns) == 1 else VECTOR
    marginal.check(model, steps[1])
    return tuple(k for k in steps if _admitted(model, k))


def _admitted(model: Model, nodes: int) -> bool:
    try:
        marginal.check(model, nodes)
    except ValueError:
        return False
    return True


def local(estimate: Estimate, model: Model, nodes: int) -> ValueAndGradient:
    """Deviance and gradient at an estimate with another number of nodes."""
    arguments = estimate.params, model, jnp.asarray(estimate.u)
    value, gradient = run(_value_and_gradient, *arguments, nagq=nodes)
    return ValueAndGradient(float(value), np.asarray(gradient))


@partial(jax.jit, static_argnames=("nagq",))
def _value_and_gradient(params: Params, model: Model, u: jax.Array, *, nagq: int) -> Any:
    def value(flat: jax.Array) -> jax.Array:
        there = unflatten(flat, model)
        return marginal.marginal(there, model, u, nagq, solved=True)[0]

    return jax.value_and_grad(value)(flatten(params))


def same(first: ValueAndGradient, second: ValueAndGradient, hessian: np.ndarray) -> bool:
    """Whether two numbers of nodes agree about the deviance to `GAINED` in the log-likelihood, and
    about the estimates: the Newton step by their difference moves none by `MOVED` standard errors.

    hessian : of the deviance, (P, P); a parameter without curvature (a variance of zero) stays.
    """
    change = second.gradient - first.gradient
    if not (np.isfinite(second.value) and np.all(np.isfinite(change))):
        return False
    used = np.diag(hessian) > 0
    covariance = np.linalg.pinv(0.5 * hessian[np.ix_(used, used)], hermitian=True)
    error = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    close = np.all(np.abs(0.5 * covariance @ change[used]) <= MOVED * error)
    return bool(close and abs(second.value - first.value) <= 2 * GAINED)


def better(estimate: Estimate, model: Model, steps: tuple[int, ...]) -> int:
    """The position in `steps` from which more nodes change nothing at an estimate, which is that of
    steps[0]: 0 if it is settled; the last one if none will do."""
    hessian = np.asarray(estimate.hessian)
    # Where a variance is zero every number of nodes has the same value and, by symmetry, gradient:
    # whether it is the best place the curvature alone tells, which Laplace has wrong.
    least = int(steps[0] == 1 and bool(np.any(estimate.singular)))
    last = ValueAndGradient(float(estimate.deviance), np.asarray(estimate.gradient))
    for i, nodes in enumerate(steps[1:]):
        here = local(estimate, model, nodes)
        if i >= least and same(last, here, hessian):
            return i
        last = here
    return len(steps) - 1
