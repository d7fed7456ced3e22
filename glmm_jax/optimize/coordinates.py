"""Coordinates in which one parameter is held: a coefficient, an SD, a correlation, log(phi) ...

What is held has a value w on a scale on which the deviance is smooth up to the boundary: beta_j and
log(phi) themselves, a standard deviation, the arc sine of a correlation. The other coordinates are
x (P,), as many as there are parameters, and `place` makes of (x, w) the flat parameters:

    beta_j, log(phi)   x with that element replaced by w; so too the parameters of a structured
                       covariance, whose last is the arc sine of a correlation (AR1) or near to it;
    sd_i               Lambda_i = w x_i / |x_i|;
    cor_ij, i > j      Lambda_i = |x_i| (sin w e + cos w c),  e = x_j / |x_j|,
                       c the unit vector along x_i - (x_i . e) e,

with Lambda_i, x_i rows of lower triangles. One direction of x is idle in each case (the element,
the length of x_i, its part along e). The deviance does not change along it, so neither does the
gradient point there nor a step of the search: nothing needs to be eliminated, and one compiled
program serves all parameters of a model, which differ only in the arrays of their `Target`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import covariance
from glmm_jax.model import Model, in_order
from glmm_jax.optimize import start as starting
from glmm_jax.optimize.quasi_newton import SMALLEST_CURVATURE

PARALLEL = 1e-14  # a sine below it is rounding
SMALLEST_INFORMATION = 1e-9  # about a parameter, in its natural size: less is none


@partial(jax.tree_util.register_dataclass, data_fields=["element", "row", "other"], meta_fields=[])
@dataclass(frozen=True)
class Target:
    """What is held: `element` (P,), `row` (R,), `other` (R,) booleans, at most one true in each.

    element : of the flat parameters, for beta_j, log(phi) and structured covariances. row : of all
    rows of Lambda of the other terms, term after term in the order of theta, that of a standard
    deviation or i of a correlation. other : j of a correlation.
    """

    element: jax.Array
    row: jax.Array
    other: jax.Array


class Chart(NamedTuple):
    """The estimate as points of T profiles: natural (P,), size of each flat parameter; w (T,) and
    x (T, P); derivatives of the flat parameters in x and w, (T, P, P) and (T, P)."""

    natural: jax.Array
    w: jax.Array
    x: jax.Array
    Jx: jax.Array
    Jw: jax.Array


class Tangent(NamedTuple):
    """A profile near the estimate: dx/dw, (P,); the standard error of w; inverse Hessian of the
    deviance in x, (P, P)."""

    slope: np.ndarray
    error: float
    B: np.ndarray


def targets(model: Model) -> Target:
    """Every parameter as a target, along a leading axis, in NumPy: beta; of each term the standard
    deviations, then the correlations (2,1), (3,1), (3,2), ...; the coefficients of the dispersion.
    """
    terms = in_order(model)
    P = model.p + model.m + model.d
    found: list[tuple[int | None, int | None, int | None]]
    found = [(j, None, None) for j in range(model.p)]
    R = 0
    for term in terms:
        k = term.covariance.columns
        if isinstance(term.covariance, covariance.Structured):
            # Its parameters are coordinates themselves, smooth up to the boundary.
            found += [(model.p + j, None, None) for j in range(term.start, term.stop)]
            continue
        found += [(None, R + i, None) for i in range(k)]
        if isinstance(term.covariance, covariance.Full):
            found += [(None, R + i, R + j) for i in range(k) for j in range(i)]
        R += k
    found += [(j, None, None) for j in range(model.p + model.m, P)]
    arrays = [np.zeros((len(found), size), bool) for size in (P, R, R)]
    for t, positions in enumerate(found):
        for array, position in zip(arrays, positions, strict=True):
            if position is not None:
                array[t, position] = True
    return Target(*arrays)  # type: ignore[arg-type]


def place(x: jax.Array, w: jax.Array, target: Target, model: Model) -> jax.Array:
    """The flat parameters, (P,), of a point of the profile; see the module's first lines."""
    flat = jnp.where(target.element, w, x)
    for where, kind, L, rows in _triangles(x, model):
        row, other = target.row[rows], target.other[rows]
        a, length, e, c = _directions(L, row, other)
        turned = length * (jnp.sin(w) * e + jnp.cos(w) * c)
        new = jnp.where(jnp.any(other), turned, w * _unit(a))
        L = jnp.where(row[:, None], new[None, :], L)
        flat = flat.at[where].set(covariance.parameters(kind, L))
    return flat


def settled(x: jax.Array, target: Target, model: Model, natural: jax.Array) -> jax.Array:
    """The same point with x_i of its natural length, or orthogonal to x_j: its idle part settled.

    Where x_i has no direction of its own, it is given that of its own column of Lambda.
    """
    for (where, kind, L, rows), (_, _, size, _) in zip(
        _triangles(x, model), _triangles(natural, model), strict=True
    ):
        row, other = target.row[rows], target.other[rows]
        a, length, _, c = _directions(L, row, other)
        own = row.astype(x.dtype)  # the diagonal element: e_i
        along = jnp.where(jnp.any(a != 0), _unit(a), own)
        across = jnp.where(jnp.any(c != 0), c, own)
        held = jnp.sum(own * jnp.diagonal(size)) * along
        new = jnp.where(jnp.any(other), length * across, held)
        L = jnp.where(row[:, None], new[None, :], L)
        x = x.at[where].set(covariance.parameters(kind, L))
    return x


def _value(flat: jax.Array, target: Target, model: Model) -> jax.Array:
    """What flat parameters hold as w, ()."""
    w = jnp.sum(jnp.where(target.element, flat, 0.0))
    for _, _, L, rows in _triangles(flat, model):
        row, other = target.row[rows], target.other[rows]
        a, length, e, c = _directions(L, row, other)
        w = w + jnp.where(jnp.any(other), jnp.arctan2(a @ e, jnp.abs(a @ c)), length)
    return w


def _triangles(
    flat: jax.Array, model: Model
) -> Iterator[tuple[slice, covariance.Covariance, jax.Array, slice]]:
    """Of each term that is not structured: its place in the flat parameters, its kind, Lambda
    (k, k), its rows among R."""
    first = 0
    for term in in_order(model):
        if isinstance(term.covariance, covariance.Structured):
            continue
        where = slice(model.p + term.start, model.p + term.stop)
        k = term.covariance.columns
        L = covariance.factor(term.covariance, flat[where])
        yield where, term.covariance, L, slice(first, first + k)
        first += k


def _directions(
    L: jax.Array, row: jax.Array, other: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The row held, (k,), its length, (), and the unit vectors e and c, (k,); zeros if none is."""
    a = jnp.sum(jnp.where(row[:, None], L, 0.0), axis=0)
    e = _unit(jnp.sum(jnp.where(other[:, None], L, 0.0), axis=0))
    length, rest = _length(a), a - (a @ e) * e
    # What rounding leaves of two parallel rows is no direction.
    rest = jnp.where(_length(rest) > PARALLEL * length, rest, 0.0)
    return a, length, e, _unit(rest)


def _length(a: jax.Array) -> jax.Array:
    square = a @ a
    # The derivative of a square root at zero is not a number, even where it is not used.
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _unit(a: jax.Array) -> jax.Array:
    length = _length(a)
    return a / jnp.where(length > 0, length, 1.0)


@jax.jit
def charts(model: Model, flat: jax.Array, targets: Target) -> Chart:
    """The estimate, flat (P,), as a point of the profiles of targets along a leading axis."""
    natural = starting.scales(model)

    def one(target: Target) -> tuple[jax.Array, ...]:
        w = _value(flat, target, model)
        x = settled(flat, target, model, natural)
        return w, x, *jax.jacfwd(place, argnums=(0, 1))(x, w, target, model)

    return Chart(natural, *jax.vmap(one)(targets))


def tangent(Jx: np.ndarray, Jw: np.ndarray, hessian: np.ndarray, natural: np.ndarray) -> Tangent:
    """How a profile leaves the estimate, in NumPy.

    With F = J' hessian J the Hessian of the deviance in (x, w), dx/dw = -F_xx^-1 F_xw, and the
    variance of w is twice the inverse of F_ww + F_wx dx/dw. Directions in which the deviance is
    flat or falls (idle ones, those of a separated coefficient) are as if they curved a little.

    Parameters: Jx (P, P), Jw (P,), from `charts`; hessian (P, P) of the deviance; natural (P,).
    """
    Fxx, Fxw = Jx.T @ hessian @ Jx, Jx.T @ (hessian @ Jw)
    diagonal = np.diag(Fxx)
    known = diagonal * natural**2 > SMALLEST_INFORMATION
    size = np.where(known, 1.0 / np.sqrt(np.where(known, diagonal, 1.0)), natural)
    values, vectors = np.linalg.eigh(Fxx * np.outer(size, size))
    half = size[:, None] * vectors / np.sqrt(np.maximum(np.abs(values), SMALLEST_CURVATURE))
    B = half @ half.T
    slope = -B @ Fxw
    information = 0.5 * (Jw @ hessian @ Jw + Fxw @ slope)
    # One natural size of w is the most that its error can be said to be.
    unit = np.max(natural * np.abs(Jw))
    least = SMALLEST_INFORMATION / unit**2
    error = 1.0 / np.sqrt(information) if information > least else unit
    return Tangent(slope, float(error), B)
