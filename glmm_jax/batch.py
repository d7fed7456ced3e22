"""Many models by one compiled program, pure: lanes of one design, or a stack of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from glmm_jax.estimate import MAX_STEPS, PRECISE, Estimate, checked, differentiable, program
from glmm_jax.lanes import first
from glmm_jax.model import Model, Params
from glmm_jax.optimize.first_order import FirstOrder

AXIS = "models"  # of a mesh of devices

Lanes = dict[str, Any]  # name of a field of Model -> its arrays with a leading axis of lanes


def estimate_many(
    models: Model | Sequence[Model],
    nagq: int = 1,
    start: Params | None = None,
    optimizer: Any = "quasi-newton",
    max_steps: int = MAX_STEPS,
    *,
    reml: bool = False,
    batch_size: int | None = None,
) -> Estimate:
    """Maximum-likelihood estimates of B models of one shape.

    Parameters
    ----------
    models : B models whose structures are alike (same static parts, arrays of the same shapes), or
        one Model whose every array has a leading axis B, as `jax.vmap` would make it.
    start : Params with a leading axis B to start from; default: starting values of each model.
    nagq, optimizer, max_steps, reml : as for `estimate`.
    batch_size : how many fits go side by side; None, one after another.

    Returns
    -------
    Estimate, every array with a leading axis B. One model without an estimate has a status and
    harms no other. Differentiable where `estimate` is.

    Raises
    ------
    ValueError : models that do not stack (the first that differs is named), or arguments that
        `estimate` does not accept.
    """
    stack = models if isinstance(models, Model) else stacked(models)
    settings = checked(_first(stack), nagq, _first(start), optimizer, max_steps, reml)
    _check_batch_size(batch_size)
    return _estimated(None, stack, start, batch_size, settings)


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
    batch_size : how many fits go side by side; None, one after another. A few (16) amortise the
        price of an operation, and too many wait for the slowest; an accelerator needs many.

    Returns
    -------
    Estimate, every array with a leading axis B. One response without an estimate has a status and
    harms no other. Differentiable where `estimate` is.

    Raises
    ------
    ValueError : responses that are no array of floats (B, n), a batch_size that is no positive
        integer, or what `estimate` does not accept.
    """
    settings = checked(model, nagq, start, optimizer, max_steps, reml)
    _check_responses(model, responses)
    _check_batch_size(batch_size)

    count = responses.shape[0]
    starts = jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *jnp.shape(a))), start)
    return _estimated(model, responses, starts, batch_size, settings)


def _estimated(
    model: Model | None, lanes: Any, starts: Params | None, batch_size: int | None, settings: Any
) -> Estimate:
    """Estimates of models that lie side by side, or of one model with each of several responses."""
    still = jax.lax.stop_gradient((model, lanes, starts))
    with PRECISE():
        found = _searched(*still, batch_size=batch_size, **settings)
        return _differentiable(jax.lax.stop_gradient(found), model, lanes, batch_size=batch_size)


# Called outside a program, a map would be compiled anew each time; and a derivative needs no search
# of its own.
@partial(jax.jit, static_argnames=("nagq", "method", "max_steps", "reml", "batch_size"))
def _searched(
    model: Model | None,
    lanes: Any,
    starts: Params | None,
    *,
    batch_size: int | None,
    **settings: Any,
) -> Estimate:
    def one(lane: tuple[Any, Params | None]) -> Estimate:
        here = _lane(model, lane[0])
        return program(here, lane[1], lone=batch_size is None, **settings)

    return jax.lax.map(one, (lanes, starts), batch_size=batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _differentiable(
    found: Estimate, model: Model | None, lanes: Any, *, batch_size: int | None
) -> Estimate:
    def one(lane: tuple[Estimate, Any]) -> Estimate:
        return differentiable(lane[0], _lane(model, lane[1]))

    return jax.lax.map(one, (found, lanes), batch_size=batch_size)


def _lane(model: Model | None, lane: Any) -> Model:
    return lane if model is None else replace(model, y=lane)


@partial(jax.jit, static_argnames=("nagq", "method", "max_steps", "reml", "together", "mesh"))
def lanes_program(
    model: Model,
    lanes: Lanes,
    given: Params | None,
    count: jax.Array,
    *,
    nagq: int,
    method: FirstOrder,
    max_steps: int,
    reml: bool = False,
    together: int = 1,
    mesh: Mesh | None = None,
) -> Estimate:
    """Estimates of the first lanes of a block, without derivatives and without their modes.

    Parameters
    ----------
    model : what the lanes share.
    lanes : the fields in which they differ, each array with a leading axis (block,), a multiple of
        `together` (times the number of devices of a mesh).
    given : parameters to start from, (block,) of each; None for starting values.
    count : (), how many lanes are wanted; per device, (devices,), with a mesh: one program serves
        every number (see `lanes.first`).
    together : how many lanes go side by side.
    mesh : devices over which the lanes are spread along `AXIS`.
    """

    def share(model: Model, block: tuple[Lanes, Params | None], count: jax.Array) -> Estimate:
        def one(lane: tuple[Lanes, Params | None]) -> Estimate:
            here = replace(model, **lane[0])
            with PRECISE():
                found = program(
                    here, lane[1], nagq=nagq, method=method, max_steps=max_steps, reml=reml,
                    lone=together == 1,
                )  # fmt: skip
            return replace(found, u=jnp.zeros(0, found.u.dtype))

        return first(one, block, count.reshape(()), together)

    if mesh is None:
        return share(model, (lanes, given), count)
    spread = PartitionSpec(AXIS)
    return jax.shard_map(
        share, mesh=mesh, in_specs=(PartitionSpec(), spread, spread), out_specs=spread,
        check_vma=False,
    )(model, (lanes, given), count)  # fmt: skip


def stacked(models: Sequence[Model]) -> Model:
    """One Model whose arrays have a leading axis, from models of one shape.

    Raises:
        ValueError: no models, or one whose shape differs from that of the first.
    """
    if not len(models):
        raise ValueError("models is empty; give at least one")
    tree = jax.tree.structure(models[0])
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(models[0])]
    for i, model in enumerate(models):
        if not isinstance(model, Model):
            raise ValueError(f"models[{i}] is a {type(model).__name__}; give Models")
        if jax.tree.structure(model) != tree:
            raise ValueError(
                f"models[{i}] has another family, other terms or another structure than models[0]; "
                "models that go together must be alike but for their numbers"
            )
        if [jnp.shape(leaf) for leaf in jax.tree.leaves(model)] != shapes:
            raise ValueError(
                f"models[{i}] has arrays of other shapes than models[0]; build them with the same "
                "numbers of rows and levels, or use glmer_many, which pads them"
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def _first(tree: Any) -> Any:
    """The first lane of stacked arrays, as shapes."""
    return jax.tree.map(lambda a: jnp.asarray(a)[0], tree)


def _check_responses(model: Model, responses: Any) -> None:
    """Raise a ValueError unless these are responses of the model."""
    if not hasattr(responses, "dtype") or not jnp.issubdtype(responses.dtype, jnp.floating):
        got = getattr(responses, "dtype", type(responses).__name__)
        raise ValueError(f"responses is {got}; give an array of floats, shape (B, {model.n})")
    if responses.ndim != 2 or responses.shape[0] < 1 or responses.shape[1] != model.n:
        raise ValueError(
            f"responses has shape {responses.shape}; give one response a row, (B, {model.n})"
        )


def _check_batch_size(batch_size: Any) -> None:
    if batch_size is not None and (
        isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
    ):
        raise ValueError(f"batch_size={batch_size!r}; use a positive integer, or None")
