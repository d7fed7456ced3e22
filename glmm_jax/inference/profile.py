"""Profile likelihood of every parameter: beta, standard deviations, correlations, dispersion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
import pandas as pd
import scipy

from glmm_jax.constrained import point
from glmm_jax.inference import parameter_names
from glmm_jax.inference.levels import check_level
from glmm_jax.inference.profile_scales import scale
from glmm_jax.inference.profile_table import Curve, Profile
from glmm_jax.inference.profile_walk import BOUNDARY, FAILED, FLAT, Origin, Solution, Solve, Walk
from glmm_jax.optimize import coordinates
from glmm_jax.progress import tracker
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

MAX_STEPS = 200  # gradients at one point
LOWER = 1e-6  # a deviance lower than the fit's by more than this is no rounding
FALL = 1e-3  # of zeta on the way outward: more is a maximum of its own
COLUMNS = ("parameter", "value", "zeta", "deviance", "converged")


def profile(
    fit: Fit,
    parameters: str | Sequence[str] | None = None,
    level: float = 0.99,
    *,
    joint: bool = True,
    progress: bool | None = None,
) -> Profile:
    """Profile likelihood: signed-root deviances of beta, standard deviations and correlations.

        zeta(v) = sign(v - estimate) sqrt(d(v) - d(estimate)),

    d(v) the lowest deviance (by the fit's nagq, its penalties included) of all models whose
    parameter is v. Where the parameter is v,
    zeta is approximately standard normal: an interval is the values with |zeta| below a normal
    quantile. A straight line means that Wald intervals will do.

    Parameters
    ----------
    parameters : names, as in `profile.estimates` of a fit ("age", "sd(Intercept | district)",
        "cor(Intercept, age | district)", "sigma", "log(phi)"); one name; "fixed" for all of beta;
        None for all.
    level : how far the profiles reach, as the level of a confidence region.
    joint : a region of two parameters, as pair plots need (chi-squared with 2 degrees of freedom);
        False: an interval of one, which takes less time.
    progress : show a bar; None where someone may be watching.

    Returns
    -------
    Profile, with `conf_int(level)`, interpolation both ways, and a frame of all points. The limits
    at `level` and at 0.95 are exact (to 1e-4 of zeta); others are interpolated between points.

    Raises
    ------
    ValueError : unknown parameters, a level outside (0, 1), a fit at nagq=0 or by REML, or one
        without finite estimates.

    Source: Bates and Watts (1988), Nonlinear regression analysis, chapter 6; Bates (2011), Part 5.
    """
    check_level(level)
    _check_fit(fit)
    names = parameter_names.names(fit)
    where = parameter_names.layout(fit)
    chosen = _chosen(parameters, names, where)
    quantile = -scipy.special.ndtri(0.5 * (1.0 - level))
    cutoff = float(np.sqrt(-2.0 * np.log1p(-level))) if joint else float(quantile)
    usual = -scipy.special.ndtri(0.025)
    limits = sorted({float(q) for q in (quantile, usual) if q <= cutoff})
    flat = parameter_names.flat(fit)
    estimates = pd.Series(parameter_names.values(fit, flat), names)
    undefined = [name for name in chosen if not np.isfinite(estimates[name])]
    wanted = [names.index(name) for name in chosen if name not in undefined]
    members = where.members
    # A correlation's profile needs those of its standard deviations.
    needed = sorted({*wanted, *(sd for index in wanted for sd in members.get(index, ()))})
    done: dict[int, Walk] = {}
    with engine(), tracker(len(needed), "profile", progress) as bar:
        profiles = _Profiles(fit, flat)
        for index in needed:
            walk = profiles.walk(index, where.kinds[index])
            for sd in members.get(index, ()):
                walk.others += _at_zero(done[sd])
            walk.run(cutoff, limits)
            done[index] = walk
            bar.update(1)
    walks = {names[index]: done[index] for index in wanted}
    kinds = dict(zip(names, where.kinds, strict=True))
    curves = {name: _curve(walk, kinds[name]) for name, walk in walks.items()}
    frame = _frame(fit, names, kinds, walks)
    notes = _notes(fit, kinds, walks, undefined)
    return Profile(frame, tuple(walks), estimates, level, joint, notes, curves)


def _at_zero(walk: Walk) -> list[Solution]:
    """The end of the profile of a standard deviation, if it is at zero.

    There a correlation may have any value: that deviance is never exceeded on its profile, which
    can have two minima, one with each of the standard deviations near zero.
    """
    return [walk.nodes[0].found] if walk.nodes[0].w == 0 else []


class _Profiles:
    """What all profiles of a fit share: its model, and every profile's start at the estimate."""

    def __init__(self, fit: Fit, flat: np.ndarray) -> None:
        self._model = fit.model
        self._u = np.asarray(fit.estimate.u)
        self._nagq = fit.nagq
        self._flat, self._deviance = flat, float(fit.estimate.deviance)
        self._hessian = np.asarray(fit.estimate.hessian)
        self._targets = coordinates.targets(fit.model)
        found = run(coordinates.charts, fit.model, flat, self._targets)
        self._chart = jax.tree.map(np.asarray, found)

    def walk(self, index: int, kind: str) -> Walk:
        """The profile of one parameter, by its position, not begun."""
        natural, w, x, Jx, Jw = self._chart
        slope, error, B = coordinates.tangent(Jx[index], Jw[index], self._hessian, natural)
        known = Solution(self._flat, x[index], self._u, self._deviance, 0.0, B, 0, True)
        origin = Origin(float(w[index]), error, slope, known)
        return Walk(self._solver(index), origin, scale(kind).w_bounds)

    def _solver(self, index: int) -> Solve:
        targets = self._targets
        target = coordinates.Target(
            targets.element[index], targets.row[index], targets.other[index]
        )

        def solve(w: float, x: np.ndarray, u: np.ndarray, B: np.ndarray) -> Solution:
            found = run(
                point, self._model, target, np.asarray(w), x, u, B, self._chart.natural,
                max_steps=MAX_STEPS, nagq=self._nagq,
            )  # fmt: skip
            got = jax.tree.map(np.asarray, found)
            return Solution(
                got.flat, got.x, got.u, float(got.deviance), float(got.slope), got.B,
                int(got.evaluations), bool(got.converged),
            )  # fmt: skip

        return solve


def _check_fit(fit: Fit) -> None:
    if fit.reml:
        raise ValueError(
            "profile: the fit is by REML, whose criterion integrates the coefficients out and has "
            "no profile in them; refit with update(reml=False)"
        )
    if fit.nagq == 0:
        raise ValueError(
            "profile: the fit is at nagq=0; the profile of the Laplace deviance starts from its "
            "minimum, so refit with nagq=1"
        )
    if not (np.isfinite(fit.deviance) and np.all(np.isfinite(fit.estimate.hessian))):
        raise ValueError(
            f"profile: the fit has no finite deviance or Hessian to start from. {fit.message}"
        )


def _chosen(
    parameters: str | Sequence[str] | None, names: list[str], where: parameter_names.Layout
) -> list[str]:
    """The names asked for, in the order of the fit's."""
    if parameters is None:
        return names
    if isinstance(parameters, str):
        if parameters == "fixed" and "fixed" not in names:
            return names[: where.p]
        parameters = [parameters]
    unknown = [name for name in parameters if name not in names]
    if unknown or not len(parameters):
        raise ValueError(
            f"parameters={list(parameters)!r}; use None for all, 'fixed', or some of "
            + ", ".join(map(repr, names))
        )
    return [name for name in names if name in parameters]


def _curve(walk: Walk, kind: str) -> Curve:
    parts = np.array([[node.w, node.zeta, node.slope] for node in walk.nodes]).T
    return Curve(kind, *parts, centre=walk.origin.w, ends=(walk.ends[0], walk.ends[1]))


def _frame(
    fit: Fit, names: list[str], kinds: dict[str, str], walks: dict[str, Walk]
) -> pd.DataFrame:
    """All points as one table; see `Profile`."""
    head, flats = [], []
    for name, walk in walks.items():
        for node in sorted([*walk.nodes, *walk.failed], key=lambda node: node.w):
            sound = node.found.converged
            value = float(scale(kinds[name]).from_w(node.w))
            zeta = node.zeta if sound else np.nan
            head.append((name, value, zeta, node.found.deviance, sound))
            flats.append(node.found.flat)
    others = parameter_names.values(fit, np.reshape(flats, (len(flats), len(names))))
    frame = pd.DataFrame(head, columns=list(COLUMNS))
    # A coefficient may have the name of one of the first columns.
    labels = [f"{name} (parameter)" if name in COLUMNS else name for name in names]
    return pd.concat([frame, pd.DataFrame(others, columns=labels)], axis=1)


def _notes(
    fit: Fit, kinds: dict[str, str], walks: dict[str, Walk], undefined: list[str]
) -> tuple[str, ...]:
    """What is unusual about a profile, in sentences."""
    notes = []
    if not fit.converged:
        notes.append(f"The fit is not a certified maximum of the likelihood: {fit.status.sentence}")
    if fit.numbers.priors:
        notes.append("The profile is of the penalised likelihood, priors included.")
    bottom = float(fit.estimate.deviance)
    for name in undefined:
        notes.append(
            f"{name}: not profiled, since it is undefined where a standard deviation is zero."
        )
    lowest = min((n.found.deviance for w in walks.values() for n in w.nodes), default=np.inf)
    if lowest < bottom - LOWER:
        notes.append(
            f"A deviance {bottom - lowest:.3g} below that of the fit was found: the fit is "
            "not at the maximum of the likelihood, and zeta is set to zero where the deviance is "
            "lower. Refit from other starting values, such as the row of the frame with the lowest "
            "deviance."
        )
    for name, walk in walks.items():
        notes += _ends(name, kinds[name], walk, bottom)
        if walk.failed:
            notes.append(
                f"{name}: no constrained maximum was found at {len(walk.failed)} of "
                f"{len(walk.failed) + len(walk.nodes)} points; they have converged=False and no "
                "zeta in the frame, and the profile is interpolated without them."
            )
        zeta = np.array([node.zeta for node in walk.nodes])
        if np.any(np.diff(zeta) < -FALL):
            notes.append(
                f"{name}: zeta does not increase throughout; the likelihood may have several "
                "maxima. Intervals end where zeta first reaches their limit."
            )
    return tuple(notes)


def _ends(name: str, kind: str, walk: Walk, deviance: float) -> list[str]:
    """Where and why a profile ends short of the cutoff."""
    out = []
    outermost = (walk.nodes[0], walk.nodes[-1])
    for side, end, node in zip(("lower", "upper"), walk.ends, outermost, strict=True):
        value = f"{float(scale(kind).from_w(node.w)):.4g}"
        level = 1.0 - 2.0 * scipy.special.ndtr(-abs(node.zeta))
        if end == BOUNDARY and node.zeta == 0:
            out.append(f"{name}: the estimate is at the boundary, {value}; so is the {side} limit.")
        elif end == BOUNDARY:
            out.append(
                f"{name}: zeta is only {node.zeta:.3g} at the boundary, {value}; intervals of more "
                f"than {100 * level:.4g} % confidence have their {side} limit there."
            )
        elif end == FLAT and node.found.deviance < deviance - LOWER:
            out.append(
                f"{name}: the profile was left at {value}, where the likelihood is higher than at "
                f"the fit. There is no {side} limit (NaN)."
            )
        elif end == FLAT:
            out.append(
                f"{name}: the likelihood is nearly flat; zeta is only {node.zeta:.3g} at {value}, "
                f"where the profile was left. Beyond that there is no {side} limit (NaN)."
            )
        elif end == FAILED:
            out.append(
                f"{name}: the profile could not be followed beyond {value}, zeta {node.zeta:.3g}; "
                f"{side} limits beyond that are NaN."
            )
    return out
