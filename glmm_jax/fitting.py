"""A frame and settings in, an estimate out: what fitting, refitting and updating share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax.build import Placement, place
from glmm_jax.estimate import MAX_STEPS, Estimate, checked, program
from glmm_jax.families.base import Family
from glmm_jax.formula.frame import Frame
from glmm_jax.model import Model, Params
from glmm_jax.progress import clock
from glmm_jax.runtime import engine, run


@dataclass(frozen=True, eq=False)
class Call:
    """What `glmer` was asked for beside formula and family, so that it can be asked again.

    data : the data frame, unchanged by anything done to the caller's afterwards; None for a fit
    that was loaded from a file. refitted : whether the response is another than that of the data.
    The others are the arguments of `glmer`; arrays among them are copies.
    """

    data: pd.DataFrame | None
    weights: Any = None
    offset: Any = None
    trials: Any = None
    na_action: str = "drop"
    nagq: int = 1
    curvature: str = "expected"
    optimizer: Any = "quasi-newton"
    max_steps: int = MAX_STEPS
    refitted: bool = False

    def __post_init__(self) -> None:
        for name in ("weights", "offset", "trials"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                copied = value.copy() if isinstance(value, pd.Series) else np.array(value)
                object.__setattr__(self, name, copied)


class Fitted(NamedTuple):
    """The (padded) model of a frame, where the frame's terms lie in it, and its estimate."""

    model: Model
    placement: Placement
    estimate: Estimate


def fit_frame(
    frame: Frame,
    family: Family,
    call: Call,
    start: Params | None = None,
    progress: bool | None = None,
) -> Fitted:
    """Maximum likelihood for a frame, in float64; the estimate in NumPy arrays.

    Raises:
        ValueError: settings in the call, `start`, `progress` or a response that do not suit.
    """
    with engine(), clock("glmer", progress) as stage:
        model, placement = place(frame, family, call.curvature, padded=True)
        settings = checked(model, call.nagq, start, call.optimizer, call.max_steps)
        if start is not None:
            start = jax.tree.map(lambda a: jnp.asarray(a, float), start)
        found = run(program, model, start, stage=stage, **settings)
        # Waits for the program, which runs on while `run` has returned.
        found = jax.tree.map(np.asarray, found)
    return Fitted(model, placement, found)
