"""One large model over several devices: its rows divided, its levels on each.

Whatever has a row per observation is cut along its rows, over the axis "rows" of a mesh of devices;
what belongs to levels and couplings is on every device. The functions of the package do not change:
the compiler cuts each computation on rows the same way, and a sum over rows, or by level, becomes
a sum on each device and one over the devices.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from glmm_jax.model import Model

AXIS = "rows"


def shard_rows(model: Model, devices: Any = None) -> Model:
    """The same model with its rows over devices, for `deviance`, `estimate` and their like.

    Each device holds n / devices rows of y, X, Z, the weights and the indices, and all that belongs
    to levels; u and the system matrix of the random effects are on each whole. Rows of weight zero
    (copies of the first) are added until the devices have equally many; they change no result, but
    `model.n` counts them.

    Parameters
    ----------
    model : from `build_model`.
    devices : None for all that JAX sees, or a sequence of `jax.Device`s.

    Raises
    ------
    ValueError : devices that are none.
    """
    chosen = listed(devices)
    mesh = mesh_of(chosen)
    n = model.n
    added = -n % len(chosen)
    by_row = NamedSharding(mesh, PartitionSpec(AXIS))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def cut(array: jax.Array, filler: float | None = None) -> jax.Array:
        # Models with several linear predictors have pseudo-rows: blocks of n, one after another.
        blocks = np.asarray(array).reshape(-1, n, *array.shape[1:])
        if added:
            extra = np.repeat(blocks[:, :1], added, axis=1)
            if filler is not None:
                extra = np.full_like(extra, filler)
            blocks = np.concatenate([blocks, extra], axis=1)
        return jax.device_put(blocks.reshape(-1, *array.shape[1:]), by_row)

    structure = replace(
        jax.device_put(model.structure, everywhere),
        index=jax.tree.map(cut, model.structure.index),
        edge_of_row=jax.tree.map(cut, model.structure.edge_of_row),
    )
    by_name = {name: jax.tree.map(cut, getattr(model, name)) for name in _ROWS}
    return replace(model, **by_name, weights=cut(model.weights, 0.0), structure=structure)


# Fields of a model with a row per observation, besides the weights.
_ROWS = ("y", "X", "Z", "offset", "size", "dispersion_X")


def listed(devices: Any) -> tuple[Any, ...]:
    """Devices that were asked for: all of them for None or "all".

    Raises:
        ValueError: anything that is no device.
    """
    if devices is None or (isinstance(devices, str) and devices == "all"):
        return tuple(jax.devices())
    found = tuple(devices) if isinstance(devices, list | tuple | np.ndarray) else (devices,)
    if not found or not all(isinstance(d, jax.Device) for d in found):
        raise ValueError(f"devices={devices!r}; use None (all of them), or a list of jax.devices()")
    return found


@cache
def mesh_of(devices: tuple[Any, ...], axis: str = AXIS) -> Mesh:
    """Devices in a row along one axis."""
    return Mesh(np.array(devices), (axis,))
