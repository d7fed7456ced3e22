"""One model, many responses: the estimates of all of them by one compiled program, pure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax.estimate import MAX_STEPS, Estimate, checked, estimate, program
from glmm_jax.model import Model, Params
from glmm_jax.optimize.first_order import FirstOrder


def estimate_responses(
    model: Model,
    responses: jax.Array,
    nagq: int = 1,
    start: Params | None = None,
    optimizer: Any = "quasi-newton",
    max_steps: int = MAX_STEPS,
    *,
    reml: bool = False,
    batch_size: int | None = None,
) -> Estimate:
    """Maximum-likelihood estimates of a model for each of B responses.

    Parameters
    ----------
    model : from `build_model`; its own response is not used.
    responses : (B, n).
    nagq, optimizer, max_steps, reml : as for `estimate`.
    start : parameters that every search starts from; default: starting values of each response.
    batch_size : how many fits go side by side; None, one after another. On a CPU that is fastest:
        fits side by side end together, with the slowest. An accelerator needs many.

    Returns
    -------
    Estimate, every array with a leading axis B. One response without an estimate has a status and
    harms no other. Differentiable where `estimate` is.

    Raises
    ------
    ValueError : responses that are no array of floats (B, n), a batch_size that is no positive
        integer, or what `estimate` does not accept.
    """
    checked(model, nagq, start, optimizer, max_steps, reml)
    _check(model, responses, batch_size)

    def one(y: jax.Array) -> Estimate:
        return estimate(replace(model, y=y), nagq, start, optimizer, max_steps, reml)

    return jax.lax.map(one, responses, batch_size=batch_size)


@partial(jax.jit, static_argnames=("nagq", "method", "max_steps", "reml", "batch_size"))
def responses_program(
    model: Model,
    responses: jax.Array,
    given: Params | None,
    *,
    nagq: int,
    method: FirstOrder,
    max_steps: int,
    reml: bool = False,
    batch_size: int | None = None,
) -> Estimate:
    """What `estimate_responses` computes, without derivatives: `estimate.program` for each row."""

    def one(y: jax.Array) -> Estimate:
        here = replace(model, y=y)
        return program(here, given, nagq=nagq, method=method, max_steps=max_steps, reml=reml)

    return jax.lax.map(one, responses, batch_size=batch_size)


def _check(model: Model, responses: Any, batch_size: Any) -> None:
    """Raise a ValueError unless these are arguments of `estimate_responses`."""
    if not hasattr(responses, "dtype") or not jnp.issubdtype(responses.dtype, jnp.floating):
        got = getattr(responses, "dtype", type(responses).__name__)
        raise ValueError(f"responses is {got}; give an array of floats, shape (B, {model.n})")
    if responses.ndim != 2 or responses.shape[0] < 1 or responses.shape[1] != model.n:
        raise ValueError(
            f"responses has shape {responses.shape}; give one response a row, (B, {model.n})"
        )
    if batch_size is not None and (
        isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
    ):
        raise ValueError(f"batch_size={batch_size!r}; use a positive integer, or None")
