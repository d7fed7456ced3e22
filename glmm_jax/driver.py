"""The driver of a batch: blocks of lanes on cores and devices, and what the first pass leaves over.

A lane is one model of many that share a design. A first pass gives every lane a few outer steps.
The lanes that are not finished by then (a few in a hundred) are gathered from all blocks, packed
together and taken on from where they stand, with as many steps as one fit alone may take; those
that failed start again from cautious values. So no lane waits for the slowest. What a lane's result
is depends on its own numbers and its own position alone: nothing is shared between lanes, and the
second pass takes them one after another (on a CPU) by a program that does not know how many others
there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from glmm_jax import packing
from glmm_jax.batch import AXIS, Lanes, lanes_program
from glmm_jax.build import bucket
from glmm_jax.estimate import Estimate
from glmm_jax.model import Model, Params, unflatten
from glmm_jax.optimize import start as starting
from glmm_jax.runtime import engine, run
from glmm_jax.sharding import listed, mesh_of
from glmm_jax.status import Status

FIRST_STEPS = 24  # evaluations of the gradient in the first pass; the usual fit takes 5 to 18
BLOCK = 512  # lanes in a call of the program on a CPU
ACCELERATOR_BLOCK = 16_384
ACCELERATOR_REST = 1_024  # lanes in a call for those that the first pass leaves over
ACCELERATOR_STEPS = 12  # all lanes of a block wait for the slowest: fewer in the first pass
TOGETHER = 32  # lanes side by side on a CPU: enough to amortise an operation, few to wait for
# Searches in a dispersion take very unequal numbers of steps: fewer wait for one another.
TOGETHER_DISPERSED = 8
# Numbers in all the lanes from which on the compiler may work hard: that costs some 4 s of CPU time
# once, and saves 0.36 microseconds a row of every lane (measured: 108 for 188 us, 224 rows).
MANY = 1 << 21
LARGEST_BLOCK = 1 << 26  # numbers in the arrays of a block
LARGEST_SLAB = 1 << 16  # numbers in one array of the lanes side by side, on a CPU: a cache's worth

DTYPES = ("float64", "float32")

BROKEN = (Status.NOT_FINITE, Status.MODE_FAILED)
UNFINISHED = (Status.STEP_LIMIT,)
FAILED = (Status.SADDLE, Status.STALLED, Status.NOT_FINITE, Status.MODE_FAILED)


@dataclass(frozen=True)
class Plan:
    """How a batch runs: lanes in a block and side by side, threads, whether programs are compiled
    in a hurry, steps of the first pass, devices (None: the default)."""

    block: int
    together: int
    threads: int
    quick: bool
    steps: int = FIRST_STEPS
    mesh: Mesh | None = None

    @property
    def devices(self) -> int:
        """Number of devices over which a block is spread."""
        return 1 if self.mesh is None else self.mesh.size


def plan(model: Model, lanes: Lanes, devices: Any = None) -> Plan:
    """The plan for lanes of a model.

    devices : "all" or None for all that JAX sees (those of every process, with several processes),
        or a sequence of `jax.Device`s.

    Raises:
        ValueError: devices that are none.
    """
    chosen = listed(devices)
    numbers = sum(leaf[0].size for leaf in jax.tree.leaves(lanes)) + model.n
    quick = numbers * len(jax.tree.leaves(lanes)[0]) <= MANY
    room = max(1, LARGEST_BLOCK // max(numbers, 1))
    cpu = chosen[0].platform == "cpu"
    if cpu:
        most = TOGETHER_DISPERSED if model.d else TOGETHER
        together = _power_below(min(most, max(1, LARGEST_SLAB // max(model.n, 1))))
        block = max(together, _power_below(min(BLOCK, room)))
    else:
        block = together = _power_below(min(ACCELERATOR_BLOCK, room))
    steps = FIRST_STEPS if cpu else ACCELERATOR_STEPS
    if len(chosen) == 1:
        # Two for an accelerator: one block is copied there while another is computed.
        threads = _cores() if cpu else 2
        mesh = None if chosen[0] == jax.local_devices()[0] else mesh_of(chosen, AXIS)
        return Plan(block, together, threads, quick, steps, mesh)
    return Plan(block * len(chosen), together, 1, quick, steps, mesh_of(chosen, AXIS))


def _for_the_rest(how: Plan) -> Plan:
    """The plan for lanes that the first pass leaves over: few, and one after another on a CPU."""
    if how.together <= TOGETHER:
        return replace(how, together=1, quick=True)
    share = min(ACCELERATOR_REST, how.together)
    return replace(how, block=share * how.devices, together=share)


def lanes_at_once(devices: Any = None) -> int:
    """How many lanes of a small model the devices take at once.

    Raises:
        ValueError: devices that are none.
    """
    chosen = listed(devices)
    return len(chosen) * (BLOCK if chosen[0].platform == "cpu" else ACCELERATOR_BLOCK)


def _power_below(size: int) -> int:
    return 1 << (max(size, 1).bit_length() - 1)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def estimate_lanes(
    model: Model,
    lanes: Lanes,
    settings: dict[str, Any],
    start: Params | None = None,
    devices: Any = None,
    told: Callable[[int, int], object] | None = None,
    dtype: str = "float64",
) -> Estimate:
    """Estimates of all lanes of a model, in NumPy arrays with a leading axis (B,); u is empty.

    Parameters
    ----------
    model : what the lanes share.
    lanes : fields of the model in which they differ, NumPy arrays (B, ...).
    settings : from `estimate.checked`.
    start : parameters that every search starts from; None for starting values of each lane.
    devices : see `plan`.
    told : called with how many lanes a block has done, and at the end with how many failed.
    dtype : "float32" for a search in single precision, from the end of which one in double
        precision goes on to its own certificate; a lane that is not finite in single precision
        begins anew, in double precision from cautious values.
    """
    B = jax.tree.leaves(lanes)[0].shape[0]
    with engine():
        model, lanes = _packed(model, lanes)
        how = plan(model, lanes, devices)
        given = None if start is None else _repeated(start, B)
        if dtype == "float32":
            given = _rough(model, lanes, given, settings, how)
        found = _passes(model, lanes, given, settings, how, told)
    if told is not None:
        told(0, int(np.sum(np.isin(found.status, (*UNFINISHED, *FAILED)))))
    return found


def _packed(model: Model, lanes: Lanes) -> tuple[Model, Lanes]:
    """Model and lanes with their rows in rectangles, see `packing`, where that pays."""
    if not set(lanes) <= {"y", "offset", "weights", "size"}:
        return model, lanes  # each lane has rows and levels of its own
    used = np.asarray(model.weights) > 0
    if "weights" in lanes:
        used = used | np.any(lanes["weights"] > 0, axis=0)
    found = packing.packed(model, used, bucket)
    if found is None:
        return model, lanes
    model, position = found
    taken = {name: np.take(a, np.maximum(position, 0), axis=1) for name, a in lanes.items()}
    if "weights" in taken:
        taken["weights"][:, position < 0] = 0.0
    return model, taken


def _cast(tree: Any, dtype: Any) -> Any:
    """The same arrays with their floats of another precision."""

    def one(a: Any) -> np.ndarray:
        array = np.asarray(a)
        # Too large a number is infinite in single precision: its lane fails, and begins anew.
        with np.errstate(over="ignore"):
            return array.astype(dtype) if array.dtype.kind == "f" else array

    return jax.tree.map(one, tree)


def _rough(
    model: Model, lanes: Lanes, given: Params | None, settings: dict[str, Any], how: Plan
) -> Params:
    """Where a first pass in single precision ends, and cautious values for lanes it fails.

    There is no second pass: what is not finished is finished in double precision.
    """
    B = jax.tree.leaves(lanes)[0].shape[0]
    small = [_cast(tree, np.float32) for tree in (model, lanes, given)]
    first = {**settings, "max_steps": min(how.steps, settings["max_steps"])}
    found = _run(small[0], small[1], small[2], np.arange(B), how, first)
    params = _cast(found.params, np.float64)
    finite = [np.isfinite(a).reshape(B, -1).all(axis=1) for a in jax.tree.leaves(params)]
    broken = ~np.all(finite, axis=0) | np.isin(found.status, BROKEN)
    left = np.flatnonzero(broken)
    if left.size:
        begin = _cautious(model, lanes, left)
        jax.tree.map(lambda a, b: a.__setitem__(left, b), params, begin)
    return params


def _passes(
    model: Model,
    lanes: Lanes,
    given: Params | None,
    settings: dict[str, Any],
    how: Plan,
    told: Callable[[int, int], object] | None = None,
) -> Estimate:
    """A first pass over all lanes, and what it leaves over."""
    B = jax.tree.leaves(lanes)[0].shape[0]
    first = {**settings, "max_steps": min(how.steps, settings["max_steps"])}
    found = _run(model, lanes, given, np.arange(B), how, first, told)
    second = _for_the_rest(how)
    if settings["max_steps"] > how.steps:
        left = np.flatnonzero(np.isin(found.status, UNFINISHED))
        if left.size:
            begin = jax.tree.map(lambda a: a[left], found.params)
            _put(found, left, _run(model, lanes, begin, left, second, settings))
    left = np.flatnonzero(np.isin(found.status, FAILED))
    if left.size:
        begin = _cautious(model, lanes, left)
        again = _run(model, lanes, begin, left, second, settings)
        better = ~np.isin(again.status, (*UNFINISHED, *FAILED))
        _put(found, left[better], jax.tree.map(lambda a: a[better], again))
    return found


def _put(found: Estimate, at: np.ndarray, part: Estimate) -> None:
    """Write the results of some lanes over those of the first pass, counts of work added."""
    counts = ("evaluations", "hessians")
    before = {name: getattr(found, name)[at].copy() for name in counts}
    jax.tree.map(lambda a, b: a.__setitem__(at, b), found, part)
    for name in counts:
        getattr(found, name)[at] += before[name]


def _repeated(params: Params, B: int) -> Params:
    return jax.tree.map(lambda a: np.broadcast_to(np.asarray(a), (B, *np.shape(a))), params)


def _cautious(model: Model, lanes: Lanes, at: np.ndarray) -> Params:
    """Least squares on the link scale, small variances: where a search that failed begins anew."""
    flats = []
    for i in at:
        here = replace(model, **jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), lanes))
        used = np.asarray(here.weights) > 0
        X = np.asarray(here.X)[used]
        eta = np.asarray(here.family.link.link(here.family.start_mean(here.y, here.size)))
        eta = np.where(np.isfinite(eta), eta, 0.0)[used] - np.asarray(here.offset)[used]
        beta = np.linalg.lstsq(X, eta, rcond=None)[0]
        scale = np.asarray(starting.scales(here))[here.p : here.p + here.m]
        eyes = tuple(jnp.eye(k) for k in here.structure.columns)
        theta = 0.1 * scale * np.asarray(starting.thetas(eyes, here))
        flats.append(np.concatenate([beta, theta, np.zeros(here.d)]))
    stacked = jnp.asarray(np.stack(flats), model.y.dtype)
    return jax.vmap(lambda x: unflatten(x, model))(stacked)


def _run(
    model: Model,
    lanes: Lanes,
    given: Params | None,
    at: np.ndarray,
    how: Plan,
    settings: dict[str, Any],
    told: Callable[[int, int], object] | None = None,
) -> Estimate:
    """One pass over the lanes `at`; `given` has a row for each of them."""
    blocks = [at[first : first + how.block] for first in range(0, len(at), how.block)]

    def one(b: int) -> Estimate:
        rows = blocks[b]
        place = slice(b * how.block, b * how.block + len(rows))
        # Neighbours, as all are in a first pass, need no copy.
        together = rows[-1] - rows[0] == len(rows) - 1
        cut = slice(rows[0], rows[-1] + 1) if together else rows
        block = jax.tree.map(lambda a: _padded(a[cut], how.block), lanes)
        begin = jax.tree.map(lambda a: _padded(np.asarray(a[place]), how.block), given)
        with engine():  # the choice of float64 belongs to a thread
            return _call(model, block, begin, len(rows), how, settings)

    parts: list[Estimate | None] = [None] * len(blocks)
    for b, part in _in_threads(one, len(blocks), how.threads):
        parts[b] = part
        if told is not None:
            told(len(part.status), 0)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _call(
    model: Model,
    block: Lanes,
    begin: Params | None,
    count: int,
    how: Plan,
    settings: dict[str, Any],
) -> Estimate:
    """The program on one block, its results cut to the lanes wanted."""
    if how.mesh is None:
        found = run(
            lanes_program, model, block, begin, jnp.asarray(count), quick=how.quick,
            beside=True, together=how.together, **settings,
        )  # fmt: skip
        return jax.tree.map(lambda a: np.array(a)[:count], found)
    share = how.block // how.devices
    counts = np.clip(count - share * np.arange(how.devices), 0, share)
    spread = NamedSharding(how.mesh, PartitionSpec(AXIS))
    whole = NamedSharding(how.mesh, PartitionSpec())
    placed = [
        jax.tree.map(lambda a, s=sharding: _on_mesh(a, s), tree)
        for tree, sharding in ((model, whole), (block, spread), (begin, spread), (counts, spread))
    ]
    found = run(
        lanes_program, *placed, quick=how.quick, together=how.together, mesh=how.mesh, **settings
    )
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(found, tiled=True)
    return jax.tree.map(lambda a: np.array(a)[:count], found)


def _on_mesh(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds, as one that is spread over the mesh."""
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """Rows followed by copies of the last, up to size."""
    if len(values) == size:
        return values
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])


def _in_threads(one: Callable[[int], Any], count: int, threads: int) -> Iterator[tuple[int, Any]]:
    """Results of one(0), ..., one(count - 1) with their numbers, in the order they are ready."""
    if min(threads, count) <= 1:
        for b in range(count):
            yield b, one(b)
        return
    pool = ThreadPoolExecutor(min(threads, count))
    try:
        waiting = {pool.submit(one, b): b for b in range(count)}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        # After an interruption what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)
