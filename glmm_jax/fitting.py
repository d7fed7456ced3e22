"""A call in, an estimate out: what fitting, refitting and updating share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import families, nodes
from glmm_jax.build import Placement, absorbs, adapted, arrange, bucket
from glmm_jax.estimate import MAX_STEPS, Estimate, checked, program
from glmm_jax.families.base import Family
from glmm_jax.formula.frame import Frame, build_frame
from glmm_jax.formula.relationship import read_relationships
from glmm_jax.model import Model, Params
from glmm_jax.packing import in_runs
from glmm_jax.priors import listed
from glmm_jax.progress import clock
from glmm_jax.runtime import engine, run


@dataclass(frozen=True, eq=False)
class Call:
    """What `glmer` was asked for beside formula and family, so that it can be asked again.

    data : the data frame, unchanged by anything done to the caller's afterwards; None for a fit
    that was loaded from a file. wrapped : whether zero_inflation= made the family a zero-inflated
    one. settled : whether nagq="auto" found a number of nodes (which stands in nagq) from which
    more change nothing; None where nagq was given. refitted : whether the response is another than
    that of the data. The others are the arguments of `glmer`; arrays among them are copies.
    """

    data: pd.DataFrame | None
    weights: Any = None
    offset: Any = None
    trials: Any = None
    na_action: str = "drop"
    nagq: Any = 1
    curvature: str | None = None
    optimizer: Any = "quasi-newton"
    max_steps: int = MAX_STEPS
    reml: bool = False
    dispersion: Any = None
    zero_inflation: str | None = None
    priors: Any = ()
    relationship: Any = None
    solver: str = "auto"
    wrapped: bool = False
    settled: bool | None = None
    refitted: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.nagq, np.integer):
            object.__setattr__(self, "nagq", int(self.nagq))
        for name in ("weights", "offset", "trials", "dispersion"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                copied = value.copy() if isinstance(value, pd.Series) else np.array(value)
                object.__setattr__(self, name, copied if np.ndim(copied) else copied.item())
        object.__setattr__(self, "relationship", read_relationships(self.relationship) or None)


class Fitted(NamedTuple):
    """The (padded) model of a frame, where the frame's terms lie in it, and its estimate, all in
    NumPy arrays."""

    numbers: Model
    placement: Placement
    estimate: Estimate


def prepared(formula: Any, family: Family, call: Call) -> tuple[Frame, Family, Call]:
    """The frame of a call, its family (with excess zeros if it models them), and the call.

    Raises:
        ValueError: anything wrong with the input.
    """
    wrapped = False
    if call.zero_inflation is not None:
        given, family = family, families.with_zeros(family)
        wrapped = family is not given
    frame = build_frame(
        formula,
        call.data,  # type: ignore[arg-type]
        weights=call.weights,
        offset=call.offset,
        trials=call.trials,
        na_action=call.na_action,
        dispersion=call.dispersion,
        zero_inflation=call.zero_inflation,
        relationship=call.relationship,
        absorbed=absorbs(family),
    )
    return frame, adapted(family, frame), replace(call, wrapped=wrapped, priors=listed(call.priors))


def fit_call(
    frame: Frame,
    family: Family,
    call: Call,
    start: Params | None = None,
    progress: bool | None = None,
) -> tuple[Fitted, Call]:
    """The fit of a call whose nagq may be "auto", and the call with the number of nodes.

    Raises:
        ValueError: as `fit_frame`; nagq="auto" for a model without quadrature, or by REML.
    """
    if not (isinstance(call.nagq, str) and call.nagq == "auto"):
        return fit_frame(frame, family, call, start, progress), call
    if call.reml:
        raise ValueError("nagq='auto' with reml=True: REML is a Laplace approximation; use nagq=1")
    with engine():
        model, _ = arrange(frame, family, call.curvature, True, call.priors, solver=call.solver)
        steps = nodes.ladder(model)
    while True:
        call = replace(call, nagq=steps[0])
        found = fit_frame(frame, family, call, start, progress)
        if len(steps) == 1 or not np.all(np.isfinite(found.estimate.gradient)):
            return found, replace(call, settled=False)
        with engine(), clock("glmer", progress) as stage:
            stage("counting nodes")
            position = nodes.better(found.estimate, found.numbers, steps)
        if position == 0:
            return found, replace(call, settled=True)
        steps, start = steps[position:], found.estimate.params


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
        model, placement = arrange(
            frame, family, call.curvature, True, call.priors, solver=call.solver
        )
        settings = checked(model, call.nagq, start, call.optimizer, call.max_steps, call.reml)
        if start is not None:
            start = jax.tree.map(lambda a: jnp.asarray(a, float), start)
        laid = in_runs(model, placement.n, bucket)
        found = run(program, laid, start, stage=stage, **settings)
        # Waits for the program, which runs on while `run` has returned.
        found = jax.tree.map(np.asarray, found)
    return Fitted(model, placement, found)
