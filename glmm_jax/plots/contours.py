"""Contours of a likelihood in two parameters, interpolated from its profiles.

On the scale of zeta a profile trace of parameter i gives g_ij(z): where zeta_j stands when zeta_i
is held at z and the likelihood is largest. The contour {deviance = L^2} touches its bounding box
zeta_i = +-L at zeta_j = g_ij(+-L), and zeta_j = +-L at zeta_i = g_ji(+-L). Written as

    zeta_i = L cos(a + d/2),    zeta_j = L cos(a - d/2),

each of the four points has a mean phase a and a difference d; for a quadratic likelihood with
correlation cos(d) of the traces d is constant and the contour an ellipse. A periodic cubic spline
of d over a through the four points gives the contour. It is exact where it touches the box;
between, for a likelihood far from quadratic, its deviance can be a tenth off L^2.

Source: Bates & Watts (1988), Nonlinear regression analysis and its applications, appendix A.6.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator

Curve = Callable[[np.ndarray], np.ndarray]

POINTS = 201
SMALLEST_PHASE = 1e-4


def interpolated(x: np.ndarray, y: np.ndarray) -> Curve:
    """A monotone cubic through the points where they are monotone, and straight lines beyond."""
    order = np.argsort(x)
    x, y = x[order], y[order]
    kept = np.concatenate([[True], np.diff(x) > 0])
    x, y = x[kept], y[kept]
    if len(x) == 1:
        return lambda at: np.full(np.shape(at), y[0])
    inner = PchipInterpolator(x, y)
    ends, slopes = (x[0], x[-1]), ((y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2]))

    def curve(at: np.ndarray) -> np.ndarray:
        at = np.asarray(at, float)
        inside = np.clip(at, *ends)
        below, above = np.minimum(at - ends[0], 0.0), np.maximum(at - ends[1], 0.0)
        return inner(inside) + slopes[0] * below + slopes[1] * above

    return curve


def contour(trace_ij: Curve, trace_ji: Curve, size: float) -> np.ndarray | None:
    """The contour at |zeta| = size, (POINTS, 2) in (zeta_i, zeta_j); None where there is none.

    Args:
        trace_ij: zeta_j along the profile of i, as a function of zeta_i.
        trace_ji: zeta_i along the profile of j, as a function of zeta_j.
    """
    both = np.array([size, -size])
    on_i = np.arccos(np.clip(trace_ij(both) / size, -1.0, 1.0))
    on_j = np.arccos(np.clip(trace_ji(both) / size, -1.0, 1.0))
    phases = np.array([(0.0, on_i[0]), (np.pi, on_i[1]), (on_j[0], 0.0), (on_j[1], np.pi)])
    a, d = phases.mean(axis=1), phases[:, 0] - phases[:, 1]
    # (a, d) and (-a, -d) are the same point.
    a = np.where(d < 0, -a, a)
    d = np.abs(d)
    order = np.argsort(a)
    a, d = a[order], d[order]
    if np.any(np.diff(a) < SMALLEST_PHASE) or a[-1] - a[0] > 2 * np.pi - SMALLEST_PHASE:
        return None
    spline = CubicSpline(np.append(a, a[0] + 2 * np.pi), np.append(d, d[0]), bc_type="periodic")
    around = np.linspace(-np.pi, np.pi, POINTS)
    half = 0.5 * spline(around)
    return size * np.column_stack([np.cos(around + half), np.cos(around - half)])


def encloses(outer: np.ndarray, inner: np.ndarray | None) -> bool:
    """Whether a contour goes once around the origin, and around another one (None for none)."""
    radius = _radius(outer)
    if radius is None or inner is None:
        return radius is not None
    within = _radius(inner)
    assert within is not None  # it was drawn itself
    return bool(np.all(radius > within))


def _radius(around: np.ndarray) -> np.ndarray | None:
    """Distance from the origin in a ring of directions; None if a direction is met twice."""
    angle = np.unwrap(np.arctan2(around[:, 1], around[:, 0]))
    if angle[-1] < angle[0]:
        angle, around = angle[::-1], around[::-1]
    if np.any(np.diff(angle) <= 0) or not np.isclose(angle[-1] - angle[0], 2 * np.pi):
        return None
    size = np.hypot(around[:, 0], around[:, 1])
    return np.interp(np.linspace(0, 2 * np.pi, POINTS), angle, size, period=2 * np.pi)
