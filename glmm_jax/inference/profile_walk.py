"""Along one profile: which values are tried, from the estimate outward, and where it ends.

zeta(w) = sign(w - w_hat) sqrt(d(w) - d_hat), with d(w) the lowest deviance where the parameter is
held at w. Each point comes with the exact slope of d, so that the next value is aimed at by its
tangent, intervals between points are cubics that have the right slopes, and limits of intervals are
found by a few points more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import scipy

STEP = 0.6  # of zeta between points
EXACT = 1e-4  # of zeta at the limits of the intervals asked for
REACHED = 0.98  # of the cutoff
MOST_POINTS = 30  # on one side
LITTLE = 0.02  # of zeta in a step: where `MOST_LITTLE` steps in turn gain no more, it is flat
MOST_LITTLE = 5
HIGHER = 1e-4  # in the deviance: another minimum, not rounding
MOST_SHORTENED = 8  # times that one step is halved
GROWTH = 2.0  # of a step in w over the one before it
ROUNDING = 1e-12  # nearer to the boundary than this is on it
NEAR_ZERO = 1e-3  # of zeta: nearer to the estimate its slope is that of the estimate

# How a side ends.
CUTOFF, BOUNDARY, FLAT, FAILED = "cutoff", "boundary", "flat", "failed"


class Solution(NamedTuple):
    """What the engine found at one value; arrays as in `constrained.Point`."""

    flat: np.ndarray
    x: np.ndarray
    u: np.ndarray
    deviance: float
    slope: float
    B: np.ndarray
    evaluations: int
    converged: bool


class Node(NamedTuple):
    """A point of a profile: zeta and its derivative in w, and what was found there."""

    w: float
    zeta: float
    slope: float
    found: Solution


class Origin(NamedTuple):
    """The estimate: w, its standard error, dx/dw (P,), and what is known there."""

    w: float
    error: float
    tangent: np.ndarray
    found: Solution


Solve = Callable[[float, np.ndarray, np.ndarray, np.ndarray], Solution]  # of w, x, u, B


@dataclass
class Walk:
    """One profile while it is made: its nodes so far, in order of w, and how its sides ended.

    bounds : lowest and highest w. others : points known from elsewhere whose deviance the profile
    does not exceed at any w. ends : of the lower and the upper side. failed : nodes at which
    no minimum was found; they are in no interpolation.
    """

    solve: Solve
    origin: Origin
    bounds: tuple[float, float]
    nodes: list[Node] = field(default_factory=list)
    failed: list[Node] = field(default_factory=list)
    others: list[Solution] = field(default_factory=list)
    ends: list[str] = field(default_factory=lambda: [BOUNDARY, BOUNDARY])

    def __post_init__(self) -> None:
        centre = Node(self.origin.w, 0.0, 1.0 / self.origin.error, self.origin.found)
        self.nodes.append(centre)

    def run(self, cutoff: float, limits: Sequence[float]) -> None:
        """Both sides out to |zeta| = cutoff, then the points at |zeta| in `limits`, exactly."""
        for side in (1, -1):
            self.ends[side > 0] = self._side(side, cutoff)
        for limit in limits:
            for side in (1, -1):
                self._refine(side * limit)

    def _side(self, side: int, cutoff: float) -> str:
        """Steps from the estimate to one side until the cutoff or an end; how it ended."""
        bound = self.bounds[side > 0]
        last = next(node for node in self.nodes if node.w == self.origin.w)
        longest = STEP * self.origin.error
        steps, idle = max(1, round(cutoff / STEP)), 0
        for _ in range(MOST_POINTS):
            if abs(bound - last.w) <= ROUNDING:
                return BOUNDARY
            if abs(last.zeta) >= REACHED * cutoff:
                return CUTOFF
            aim = min(cutoff / steps, cutoff - abs(last.zeta))
            length = aim / last.slope if last.slope > 0 else np.inf
            length = min(length, longest)
            node = self._step(last, side, length, bound)
            if node is None:
                return FAILED
            longest = GROWTH * abs(node.w - last.w)
            idle = idle + 1 if abs(node.zeta - last.zeta) < LITTLE else 0
            if idle == MOST_LITTLE:
                # Short steps up to where no minimum is found are no sign of a flat likelihood.
                blocked = any(side * (other.w - node.w) > 0 for other in self.failed)
                return FAILED if blocked else FLAT
            last = node
        return FLAT

    def _step(self, last: Node, side: int, length: float, bound: float) -> Node | None:
        """The next node on a side, the step halved while none is found or it is much too far."""
        nearest = None
        for _ in range(MOST_SHORTENED):
            w = last.w + side * length
            # What is left before the boundary is not worth a point of its own.
            if side * (bound - w) < 0.2 * length:
                w = bound
            node = self._try(w)
            if node is not None and abs(node.zeta) - abs(last.zeta) <= 3.0 * STEP:
                return node
            nearest = node or nearest
            length *= 0.5
        return nearest

    def _refine(self, zeta: float) -> None:
        """Add points until one is within `EXACT` of zeta, if the profile gets there at all."""
        side = 1 if zeta > 0 else -1
        bound = self.bounds[side > 0]
        for _ in range(MOST_SHORTENED):
            chain = self.side(side)
            if any(abs(node.zeta - zeta) <= EXACT for node in chain):
                return
            beyond = next((i for i, n in enumerate(chain) if abs(n.zeta) >= abs(zeta)), None)
            if beyond is None:
                last = chain[-1]
                if self.ends[side > 0] == CUTOFF and last.w == bound:
                    # Within `REACHED` of the cutoff, but the boundary comes first.
                    self.ends[side > 0] = BOUNDARY
                if self.ends[side > 0] != CUTOFF or last.slope <= 0:
                    return
                w = last.w + (zeta - last.zeta) / last.slope
                w = bound if side * (bound - w) <= ROUNDING else w
            elif beyond == 0:
                return
            else:
                w = crossing(chain[beyond - 1], chain[beyond], zeta)
            if self._try(w) is None:
                return

    def side(self, side: int) -> list[Node]:
        """The nodes on one side, the estimate first, outward."""
        chain = [node for node in self.nodes if side * (node.w - self.origin.w) >= 0]
        return chain[::side]

    def _try(self, w: float) -> Node | None:
        """A new node at w, or None after noting that no minimum was found there."""
        nearest = min(self.nodes, key=lambda node: abs(node.w - w))
        x, u = self._predicted(w)
        found = self.solve(w, x, u, nearest.found.B)
        if not found.converged:
            # Once more without the prediction, which may have left the path.
            again = self.solve(w, nearest.found.x, nearest.found.u, self.origin.found.B)
            found = again if again.converged else found
        for other in self.others:
            if not found.deviance <= other.deviance + HIGHER:
                again = self.solve(w, other.flat, other.u, self.origin.found.B)
                found = again if again.converged else found
        node = self._node(w, found)
        if not found.converged:
            self.failed.append(node)
            return None
        self.nodes.append(node)
        self.nodes.sort(key=lambda node: node.w)
        return node

    def _node(self, w: float, found: Solution) -> Node:
        above = found.deviance - self.origin.found.deviance
        side = 1.0 if w >= self.origin.w else -1.0
        # Adding zero makes a minus zero a plain one.
        zeta = side * np.sqrt(max(above, 0.0)) + 0.0 if np.isfinite(above) else np.nan
        near = not abs(zeta) > NEAR_ZERO
        slope = 1.0 / self.origin.error if near else 0.5 * found.slope / zeta
        return Node(w, float(zeta), float(slope), found)

    def _predicted(self, w: float) -> tuple[np.ndarray, np.ndarray]:
        """x and u at w from the three nearest nodes by a quadratic; by the tangent at first."""
        near = sorted(self.nodes, key=lambda node: abs(node.w - w))[:3]
        origin, t = self.origin, w - self.origin.w
        if len(near) < 3:
            x = origin.found.x + t * origin.tangent
            if len(near) == 1:
                return x, origin.found.u
            other = next(node for node in near if node.w != origin.w)
            s = other.w - origin.w
            bend = (other.found.x - origin.found.x - s * origin.tangent) / s**2
            u = origin.found.u + t / s * (other.found.u - origin.found.u)
            return x + t**2 * bend, u
        weights = []
        for i, a in enumerate(near):
            others = [b.w for j, b in enumerate(near) if j != i]
            weights.append(np.prod([(w - b) / (a.w - b) for b in others]))
        x = sum(c * node.found.x for c, node in zip(weights, near, strict=True))
        u = sum(c * node.found.u for c, node in zip(weights, near, strict=True))
        return np.asarray(x), np.asarray(u)


def crossing(inner: Node, outer: Node, zeta: float) -> float:
    """Where the cubic with the values and slopes of two nodes equals zeta, between them."""
    a, b = (inner, outer) if inner.w < outer.w else (outer, inner)
    cubic = scipy.interpolate.CubicHermiteSpline([a.w, b.w], [a.zeta, b.zeta], [a.slope, b.slope])
    roots = np.real(cubic.solve(zeta, extrapolate=False))
    if len(roots):
        return float(roots[0])
    part = (zeta - a.zeta) / (b.zeta - a.zeta)
    return a.w + part * (b.w - a.w)
