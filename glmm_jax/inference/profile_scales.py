"""From the scale on which a profile is computed to the parameter that it is of, and back."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from glmm_jax import covariance


class Scale(NamedTuple):
    """The parameter from w and w from the parameter, elementwise; the ranges of both.

    w is what `optimize.coordinates` holds.
    """

    from_w: Callable[[Any], Any]
    to_w: Callable[[Any], Any]
    bounds: tuple[float, float]
    w_bounds: tuple[float, float]


LINE, HALF = (-np.inf, np.inf), (0.0, np.inf)
ANGLES = (-covariance.RIGHT_ANGLE, covariance.RIGHT_ANGLE)
_SCALES = {
    "beta": Scale(np.asarray, np.asarray, LINE, LINE),
    "parameter": Scale(np.asarray, np.asarray, LINE, LINE),
    "sd": Scale(np.asarray, np.asarray, HALF, HALF),
    "cor": Scale(np.sin, np.arcsin, (-1.0, 1.0), ANGLES),
    "sigma": Scale(lambda w: np.exp(0.5 * w), lambda v: 2.0 * np.log(v), HALF, LINE),
    "root": Scale(np.square, np.sqrt, HALF, HALF),
}


@cache
def scale(kind: str) -> Scale:
    """The scale of a parameter of one of `parameter_names.KINDS`."""
    if kind in _SCALES:
        return _SCALES[kind]
    common = covariance.CompoundSymmetry(int(kind.removeprefix("cor")))

    def to_w(rho: Any) -> Any:
        inside = (rho <= 1.0) & (rho >= -1.0 / (common.columns - 1))
        return np.where(inside, covariance.angle_of(common, rho), np.nan)

    lowest = -1.0 / (common.columns - 1)
    return Scale(lambda w: covariance.correlation(common, w), to_w, (lowest, 1.0), ANGLES)
