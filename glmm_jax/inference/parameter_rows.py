"""The family's parameters besides eta for each row: of the fit, or of new data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from glmm_jax.build import PARAMETER_OF
from glmm_jax.families.base import Family, as_dispersion
from glmm_jax.formula.frame import CONDITIONAL, Frame
from glmm_jax.formula.newdata import NewFrame
from glmm_jax.inference.ranef import random_part

if TYPE_CHECKING:
    from glmm_jax.results import Fit

ZERO = "logit(zero)"
ZERO_PART = "zero_inflation"


def mean_depends(family: Family) -> bool:
    """Whether the mean of the response is not the inverse link of eta alone."""
    return type(family).mean is not Family.mean


def matrices(fit: Fit, rows: Frame | NewFrame) -> dict[str, np.ndarray]:
    """For each of the family's parameters the matrix (rows, d) whose product with its coefficients
    is the parameter; a column of ones for a constant."""
    models = {PARAMETER_OF[model.argument]: model.X for model in rows.parameter_models}
    ones = np.ones((len(rows.X), 1))
    return {name: models.get(name, ones) for name in fit.family.parameters}


def columns(fit: Fit) -> dict[str, slice]:
    """Where the coefficients of each parameter lie in the flat parameters (beta, theta, ...)."""
    start = fit.numbers.p + fit.numbers.m
    out = {}
    for name, width in zip(fit.family.parameters, fit.numbers.dispersion_columns, strict=True):
        out[name] = slice(start, start + width)
        start += width
    return out


def row_parameters(
    fit: Fit, rows: Frame | NewFrame, conditional: bool = True
) -> dict[str, np.ndarray]:
    """Values of each of the family's parameters in rows, (rows,), on the scale without bounds.

    With the conditional modes of the random effects that a parameter may have, unless told not to.
    """
    coefficients = fit.dispersion_params.to_numpy()
    first = fit.numbers.p + fit.numbers.m
    places = columns(fit)
    values = {
        name: matrix @ coefficients[places[name].start - first : places[name].stop - first]
        for name, matrix in matrices(fit, rows).items()
    }
    for part in fit.frame.parts:
        if conditional and part != CONDITIONAL:
            name = PARAMETER_OF[part]
            values[name] = random_part(fit, rows, part, values[name])
    return values


def dispersion(values: dict[str, np.ndarray]) -> Any:
    """What the family calls `dispersion`: None, an array or a tuple of arrays."""
    return as_dispersion(list(values.values()))  # type: ignore[arg-type]
