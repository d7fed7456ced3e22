"""What `profile` returns: the points of every profile, curves through them, and intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike

from glmm_jax.inference import digits
from glmm_jax.inference.layout import html_table
from glmm_jax.inference.levels import check_level, percent
from glmm_jax.inference.notes import notes_html, notes_text
from glmm_jax.inference.profile_scales import scale
from glmm_jax.inference.profile_walk import BOUNDARY, CUTOFF, EXACT


@dataclass(frozen=True, eq=False)
class Curve:
    """The profile of one parameter: zeta and dzeta/dw at the values w, in increasing order.

    kind : one of `parameter_names.KINDS`, which says what w is. centre : w of the estimate. ends :
    how the lower and the upper side end: "cutoff" (as far as was asked), "boundary" (a standard
    deviation of zero, a correlation of -1 or 1), "flat" or "failed".
    """

    kind: str
    w: np.ndarray
    zeta: np.ndarray
    slope: np.ndarray
    centre: float
    ends: tuple[str, str]

    def zeta_at(self, value: ArrayLike) -> np.ndarray:
        """zeta at values of the parameter, by a cubic with exact slopes; NaN outside the points."""
        with np.errstate(invalid="ignore", divide="ignore"):
            w = scale(self.kind).to_w(np.asarray(value, float))
        if len(self.w) == 1:
            return np.where(w == self.w[0], 0.0, np.nan)
        return self._cubic(w)

    def value_at(self, zeta: ArrayLike) -> np.ndarray:
        """The parameter where zeta is first reached, going outward; NaN where it never is."""
        wanted = np.atleast_1d(np.asarray(zeta, float))
        out = np.full(wanted.shape, np.nan)
        for side in (1, -1):
            chosen = side * wanted > 0
            if chosen.any():
                out[chosen] = self._outward(side, side * wanted[chosen])
        out[wanted == 0] = self.centre
        return scale(self.kind).from_w(out).reshape(np.shape(zeta))

    @property
    def _cubic(self) -> scipy.interpolate.CubicHermiteSpline:
        return scipy.interpolate.CubicHermiteSpline(
            self.w, self.zeta, self.slope, extrapolate=False
        )

    def _outward(self, side: int, size: np.ndarray) -> np.ndarray:
        """w on one side where |zeta| has a size, (k,): bisection of the cubic between points."""
        kept = side * (self.w - self.centre) >= 0
        w, height = self.w[kept][::side], (side * self.zeta[kept])[::side]
        slope = self.slope[kept][::side]
        # A point may be as far from the limit that it was meant to hit as `EXACT` says.
        past = (size > height[-1]) & (size <= height[-1] + 2 * EXACT) & (slope[-1] > 0)
        top = np.maximum.accumulate(height)
        found = np.searchsorted(top, size)
        inside = (found > 0) & (found < len(w))
        out = np.full(size.shape, np.nan)
        if past.any():
            out[past] = w[-1] + side * (size[past] - height[-1]) / slope[-1]
        if inside.any():
            near, far = w[found[inside] - 1], w[found[inside]]
            cubic = self._cubic
            for _ in range(60):
                middle = 0.5 * (near + far)
                above = side * cubic(middle) >= size[inside]
                near, far = np.where(above, near, middle), np.where(above, middle, far)
            out[inside] = 0.5 * (near + far)
        return out


@dataclass(frozen=True, eq=False)
class Profile:
    """Profile likelihood of some parameters of a fit.

    frame : one row per point, sorted by parameter and value: parameter; value; zeta, the signed
    root of the rise of the deviance (NaN where no constrained maximum was found); deviance;
    converged; and a column for every parameter of the model with its value there, the one profiled
    included.
    parameters : those profiled. estimates : of all parameters. level : to which confidence the
    profiles reach: jointly for two parameters if `joint`, else for one. notes : what is unusual,
    each a sentence. curves : by parameter.
    """

    frame: pd.DataFrame
    parameters: tuple[str, ...]
    estimates: pd.Series
    level: float
    joint: bool
    notes: tuple[str, ...]
    curves: dict[str, Curve]

    def zeta(self, parameter: str, value: ArrayLike) -> np.ndarray:
        """zeta at values of a parameter, in the shape of `value`; NaN outside the points computed.

        Raises:
            ValueError: a parameter that was not profiled.
        """
        return self._curve(parameter).zeta_at(value)

    def value(self, parameter: str, zeta: ArrayLike) -> np.ndarray:
        """Values of a parameter at which zeta is reached, in the shape of `zeta`; NaN where never.

        Raises:
            ValueError: a parameter that was not profiled.
        """
        return self._curve(parameter).value_at(zeta)

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Profile-likelihood intervals: where |zeta| is the normal quantile of the level.

        A profile that ends at a boundary before that has its limit there: 0 for a standard
        deviation, -1 or 1 for a correlation. Where it is flat or could not be followed, the limit
        is NaN; `notes` say which.

        Returns
        -------
        One row per parameter; columns "2.5 %" and "97.5 %" at level 0.95.

        Raises
        ------
        ValueError : a level outside (0, 1), or beyond what was computed.
        """
        check_level(level)
        tail = (1.0 - level) / 2.0
        size = -scipy.special.ndtri(tail)
        rows = [
            [self._limit(name, side, size, level) for side in (-1, 1)] for name in self.parameters
        ]
        columns = [percent(tail), percent(1.0 - tail)]
        shape = (len(rows), 2)
        return pd.DataFrame(np.reshape(rows, shape), list(self.parameters), columns, dtype=float)

    def _limit(self, name: str, side: int, size: float, level: float) -> float:
        curve = self.curves[name]
        limit = float(curve.value_at(side * size))
        end = curve.ends[side > 0]
        if np.isfinite(limit) or end not in (CUTOFF, BOUNDARY):
            return limit
        if end == BOUNDARY:
            return scale(curve.kind).bounds[side > 0]
        raise ValueError(
            f"level={level!r}: the profile of {name!r} was computed for {self.level:g} only; use "
            f"profile(level={level!r})"
        )

    def _curve(self, parameter: str) -> Curve:
        if parameter not in self.curves:
            known = ", ".join(map(repr, self.parameters))
            raise ValueError(f"parameter={parameter!r} was not profiled; use one of {known}")
        return self.curves[parameter]

    def __str__(self) -> str:
        lines = [f"Profile likelihood of {len(self.parameters)} parameters", ""]
        lines += digits.aligned(self._cells())
        return "\n".join([*lines, *notes_text(self.notes)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells(), "Profile likelihood") + notes_html(self.notes)

    def _cells(self) -> list[list[str]]:
        """Estimates and intervals, at 0.95 or at the profiles' own level if that is less."""
        limits = self.conf_int(min(0.95, self.level))
        table = np.column_stack([self.estimates[list(self.parameters)], limits])
        header = ["", "Estimate", *limits.columns]
        cells = digits.estimates(table)
        return [header, *([name, *row] for name, row in zip(limits.index, cells, strict=True))]
