"""A scatterplot smoother: local polynomials with tricube weights."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicHermiteSpline


def loess(
    x: np.ndarray, y: np.ndarray, at: np.ndarray, span: float = 2 / 3, degree: int = 1
) -> np.ndarray:
    """Smoothed values of y at the points `at` between the smallest and the largest x, (m,).

    At a vertex v a polynomial in x is fitted by least squares with weights

        w_i = (1 - (|x_i - v| / h)^3)^3,    h the distance to the span * n-th nearest x.

    The vertices are the ends and quantiles of x, five and more to a neighbourhood; between them the
    values and slopes there are joined by cubics, so that the curve is smooth although h is not.
    There is no robustness iteration: it would treat the rarer outcome of a 0/1 response as
    outliers.

    Args:
        x, y: (n,) observations without missing values, at least two different x.
        at: (m,).
        span: share of the observations in each neighbourhood; above 1, h grows in proportion.
        degree: of the polynomial, 1 or 2.

    Raises:
        ValueError: span or degree is not as above.

    Source: Cleveland (1979), Robust locally weighted regression and smoothing scatterplots, Journal
    of the American Statistical Association 74, 829-836; Cleveland & Grosse (1991), Computational
    methods for local regression, Statistics and Computing 1, 47-62, for the vertices.
    """
    if not span > 0:
        raise ValueError(f"span={span!r}; use a positive share of the data, such as 0.75")
    if degree not in (1, 2):
        raise ValueError(f"degree={degree!r}; use 1 or 2")
    cells = int(np.ceil(5 / min(span, 1.0)))
    vertices = np.unique(np.quantile(x, np.linspace(0.0, 1.0, cells + 1)))
    fits = np.array([_local(x, y, v, span, degree) for v in vertices])
    return CubicHermiteSpline(vertices, fits[:, 0], fits[:, 1])(at)


def _local(
    x: np.ndarray, y: np.ndarray, point: float, span: float, degree: int
) -> tuple[float, float]:
    """Value and slope of the local polynomial at a point."""
    n = len(x)
    near = min(max(int(min(span, 1.0) * n + 1e-5), degree + 1), n)
    distance = np.abs(x - point)
    h = np.partition(distance, near - 1)[near - 1] * max(span, 1.0)
    if h == 0.0:  # so many ties that one value fills the neighbourhood: up to the next one
        h = np.min(distance[distance > 0])
    # A little wider, so that the farthest neighbour has some weight.
    h *= 1 + 1e-9
    inside = distance < h
    root = np.sqrt((1 - (distance[inside] / h) ** 3) ** 3)
    powers = np.vander((x[inside] - point) / h, degree + 1, increasing=True)
    # Minimum norm where too few distinct x are near: the mean, or the line, of what there is.
    coefficients = np.linalg.lstsq(powers * root[:, None], y[inside] * root, rcond=1e-9)[0]
    return float(coefficients[0]), float(coefficients[1] / h)
