"""How the model matrices change with a numeric column of the data, through every term it enters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import sensitivity
from glmm_jax.build import PARAMETER_OF
from glmm_jax.formula.frame import CONDITIONAL
from glmm_jax.formula.newdata import NewFrame, new_frame
from glmm_jax.inference import derivatives
from glmm_jax.inference.uncertainty import block_columns
from glmm_jax.sensitivity import Rates

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Step of the differences, in standard deviations of the column, and their weights at -2 .. 2: exact
# for polynomials to the fourth degree, else with an error of the fourth power of the step.
STEP = 1e-2
FIRST = np.array([1.0, -8.0, 0.0, 8.0, -1.0]) / 12.0
SECOND = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12.0


def column_rates(fit: Fit, column: str, argument: str) -> tuple[Rates, Rates]:
    """First and second derivatives of a model's arrays in a numeric column of the data.

    X, Z, the offset and the models of other parameters are made again from the data with the column
    moved by a few steps, transforms as in the fit (a centre or scale estimated from the data stays
    where it was), and differenced. To be called in `engine()`.

    Raises:
        ValueError: no such column, one that is not numeric or does not enter the model, or values
            beside which a term is not finite.
    """
    data = derivatives.used_data(fit)
    if data is None:
        raise ValueError(
            f"{argument}={column!r}: the fit was loaded from a file and holds no data; use 'X:name'"
        )
    if not isinstance(column, str) or column not in data.columns:
        raise ValueError(
            f"{argument}={column!r} is no column of the data; use one of "
            f"{', '.join(map(repr, data.columns))}"
        )
    values = data[column]
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        raise ValueError(f"{argument}={column!r} is not numeric, so nothing can be derived in it")
    numbers = values.to_numpy(float)
    step = STEP * (float(np.std(numbers)) or 1.0)
    # An offset given as an array does not depend on a column.
    fixed = np.zeros(fit.nobs) if fit.frame.design.offset_argument == "" else None
    made = [
        new_frame(fit.frame, data.assign(**{column: numbers + k * step}), offset=fixed,
                  parameters=True)
        for k in range(-2, 3)
    ]  # fmt: skip
    rates, bends = (
        _differenced(fit, made, weights / step**order)
        for order, weights in ((1, FIRST), (2, SECOND))
    )
    arrays = (rates.X, rates.offset, *rates.Z, *(a for a in rates.dispersion_X if a is not None))
    if not all(bool(jnp.all(jnp.isfinite(a))) for a in arrays):
        raise ValueError(
            f"{argument}={column!r}: a term of the formula is not finite beside some of its values"
        )
    if not any(bool(jnp.any(a != 0)) for a in arrays):
        raise ValueError(
            f"{argument}={column!r} does not enter the model {fit.frame.formula}; use a column "
            "that does"
        )
    return rates, bends


def _differenced(fit: Fit, made: list[NewFrame], weights: np.ndarray) -> Rates:
    """The arrays of the model, padded with zeros, as weighted sums of five frames'."""
    model = fit.model

    def summed(parts: list[np.ndarray]) -> np.ndarray:
        # Less the middle one: what does not depend on the column differs by nothing, not by
        # rounding.
        out = sum(w * (part - parts[2]) for w, part in zip(weights, parts, strict=True))
        return _padded(np.asarray(out), model.n)

    X = summed([frame.X for frame in made])
    offset = summed([frame.offset for frame in made])
    Z = [np.zeros(z.shape) for z in model.Z]
    for i, block in enumerate(fit.frame.blocks):
        own = summed([frame.blocks[i].Z for frame in made])
        # Z of the pseudo-rows: of eta, of the other predictor, and of both.
        held = Z[fit.placement.factor[i]].reshape(-1, model.n, Z[fit.placement.factor[i]].shape[1])
        first = 0 if block.part == CONDITIONAL else 1
        for at in {first, len(held) - 1}:
            held[at, :, block_columns(fit, i)] = own
    others: list[jax.Array | None] = []
    models = {PARAMETER_OF[one.argument]: j for j, one in enumerate(fit.frame.parameter_models)}
    for name, matrix in zip(fit.family.parameters, model.dispersion_X, strict=False):
        if matrix is None:
            others.append(None)
        else:
            at = models[name]
            others.append(jnp.asarray(summed([frame.parameter_models[at].X for frame in made])))
    return replace(
        sensitivity.no_rates(model),
        X=jnp.asarray(X),
        offset=jnp.asarray(offset),
        Z=tuple(map(jnp.asarray, Z)),
        dispersion_X=tuple(others),
    )


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, *values.shape[1:]))
    out[: len(values)] = values
    return out
