"""The maximum beside a reference's optimum, found without a search: few programs for many models.

A reference that is the maximum of our deviance needs no search to be checked. From its optimum
Newton steps lead to ours,

    x <- x - H^-1 g,    H by central differences of the gradient g,

and all that a fit holds follows: estimates, standard errors, modes. Padding makes one program of a
family, a link and a structure serve every data set: rows and levels to a few sizes, and columns of
zeros beside the fixed effects, which change no value.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.linalg
from reference_cases import Case, Point

from glmm_jax import families, fitted, pirls
from glmm_jax.build import Placement, arrange
from glmm_jax.estimate import Estimate
from glmm_jax.fitting import Call, prepared
from glmm_jax.formula.frame import Frame
from glmm_jax.inference import ranef, uncertainty
from glmm_jax.model import Model, unflatten
from glmm_jax.objective.marginal import is_joint, marginal, params_at
from glmm_jax.optimize import boundary
from glmm_jax.results import Fit
from glmm_jax.status import Status

SIZES = (64, 2048, 8192)  # of rows and of levels; one factor has none of the first
COLUMNS = 16  # of X
STEP = 1e-3  # of the differences, in standard errors: their error is 1e-6 of H


def coarse(size: int, least: int = SIZES[0]) -> int:
    """The padded size of an array."""
    return next(padded for padded in SIZES if max(size, least) <= padded)


def widened(model: Model) -> Model:
    """The model with columns of zeros in X."""
    return replace(model, X=np.pad(model.X, ((0, 0), (0, COLUMNS - model.p))))


@partial(jax.jit, static_argnames=("nagq", "reml"))
def slope(
    x: jax.Array, model: Model, mode: Any, *, nagq: int, reml: bool
) -> tuple[jax.Array, jax.Array, Any]:
    """Deviance, its gradient and the mode at the free parameters x, found from another mode.

    These are (beta, theta, others), (P,); without beta where that belongs to the mode.
    """

    def value(x: jax.Array) -> tuple[jax.Array, Any]:
        return marginal(params_at(x, mode, model), model, mode, nagq, reml)

    (deviance, mode), gradient = jax.value_and_grad(value, has_aux=True)(x)
    return deviance, gradient, mode


@jax.jit
def conditional(x: jax.Array, model: Model, u: jax.Array) -> tuple[jax.Array, Any]:
    """Fitted values, (n,), and the covariances of the random effects of each level."""
    params = unflatten(x, model)
    return fitted.fitted_values(params, model, u), uncertainty._level_covariances(params, model, u)


@jax.jit
def given_theta(x: jax.Array, model: Model, u: jax.Array) -> jax.Array:
    """Hessian of the deviance in beta at the joint mode, (p, p): twice RX'RX."""
    params = unflatten(x, model)
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, "expected")
    factor = pirls.factorise(params, model, information)
    return 2.0 * pirls.border(params, model, factor, information).schur


class Maximum:
    """Our maximum beside the optimum of a reference.

    fit : a `Fit` with it as estimate. fittedvalues (n,). effects : as `Fit.ranef()`.
    """

    def __init__(self, one: Case, arguments: dict[str, Any]) -> None:
        arguments = dict(arguments)
        family = families.get(arguments.pop("family"), arguments.pop("link", None))
        frame, family, call = prepared(arguments.pop("formula"), family, Call(**arguments))
        single = len({block.grouping for block in frame.blocks}) == 1
        pad = partial(coarse, least=SIZES[single])
        model, placement = arrange(frame, family, call.curvature, padding=True, pad=pad)
        joint = is_joint(call.nagq, call.reml)
        # Columns of zeros would leave the joint mode undetermined.
        wide = jax.tree.map(jnp.asarray, model if joint else widened(model))
        x, size = _start(one, frame, wide)
        free = np.arange(wide.p if joint else 0, len(x))
        real = np.r_[: model.p, wide.p : len(x)]
        mode: Any = jnp.zeros(wide.q)
        if joint:
            mode = mode, x[: wide.p]
        settings = {"nagq": call.nagq, "reml": call.reml}
        moved = np.intersect1d(free, real) - free[0]
        theta = np.arange(wide.p, wide.p + model.m)
        held = theta[x[theta] == 0.0]
        x[free], found, H = _newton(x[free], size[free], wide, mode, moved, **settings)
        x[held] = 0.0  # by symmetry its gradient is rounding alone
        deviance, gradient, u = found
        self._one, self._names, self._free = one, frame.X_names, free
        self._at = wide, mode, settings
        if joint:
            u, x[: wide.p] = u
            H = scipy.linalg.block_diag(given_theta(x, wide, u), H)
            gradient = np.concatenate([np.zeros(wide.p), gradient])
        estimate = Estimate(
            params=unflatten(x[real], model),
            u=u,
            deviance=deviance,
            gradient=np.asarray(gradient)[real],
            hessian=H,
            status=np.array(Status.CONVERGED),
            decrement=np.zeros(()),
            smallest_eigenvalue=np.ones(()),
            singular=x[theta] == 0.0,
            separated=np.zeros(model.p + model.d, bool),
            evaluations=np.zeros((), int),
            hessians=np.ones((), int),
            **settings,
        )
        self.fit = Fit(frame, family, model, placement, jax.tree.map(np.asarray, estimate), call)
        values, covariances = conditional(x, wide, u)
        self.fittedvalues = np.asarray(values)[: one.n]
        self.effects = _effects(self.fit, placement, covariances)

    def deviance(self, point: Point) -> float:
        """Our deviance at a point of the reference."""
        model, mode, settings = self._at
        beta = np.zeros(model.p)
        if point.beta is not None:
            order = [self._one.names().index(name) for name in self._names]
            beta[: len(order)] = point.beta[order]
        x = np.concatenate([beta, point.theta, point.others])
        # Arguments by place, as in the search: by name they would make another program.
        return float(slope(x[self._free], model, mode, **settings)[0])


def _start(one: Case, frame: Frame, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The reference's optimum as flat parameters, and the scale of each, (P,)."""
    order = [one.names().index(name) for name in frame.X_names]
    if one.points:
        others = one.points[0].others
    else:
        assert one.family == "gaussian" and one.sigma is not None
        others = np.array([2.0 * np.log(one.sigma)])
    beta, error = np.zeros((2, model.p))
    beta[: len(order)], error[: len(order)] = one.beta[order], one.se[order]
    # glmmTMB stops near a variance of zero: at zero the gradient is none, and H says what it is.
    theta = np.where(np.abs(one.theta) < boundary.ZERO, 0.0, one.theta)
    scale = np.concatenate([error, np.maximum(np.abs(theta), 0.01), np.ones(model.d)])
    return np.concatenate([beta, theta, others]), scale


def _newton(
    x: np.ndarray, scale: np.ndarray, model: Model, mode: Any, moved: np.ndarray, **settings: Any
) -> tuple[np.ndarray, Any, np.ndarray]:
    """The maximum, what `slope` says there, and the Hessian in the parameters that are moved."""
    mode = slope(x, model, mode, **settings)[2]

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.asarray(slope(x, model, mode, **settings)[1])[moved]

    steps = STEP * np.diag(scale)[moved]
    columns = [(gradient(x + s) - gradient(x - s)) / (2.0 * s.sum()) for s in steps]
    H = 0.5 * (np.array(columns) + np.array(columns).T)
    size = 1.0 / np.sqrt(np.diagonal(H))
    assert np.linalg.eigvalsh(H * np.outer(size, size))[0] > 1e-8  # a maximum of the likelihood
    x = x.copy()
    for _ in range(3):
        x[moved] -= np.linalg.solve(H, gradient(x))
    left = gradient(x)
    assert left @ np.linalg.solve(H, left) < 1e-12
    return x, slope(x, model, mode, **settings), H


def _effects(fit: Fit, placement: Placement, covariances: Any) -> dict[str, pd.DataFrame]:
    """Modes and standard deviations of the random effects, a frame per grouping factor."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    index: dict[str, pd.Index] = {}
    for i, (block, mode) in enumerate(zip(fit.frame.blocks, ranef.modes(fit), strict=True)):
        C = np.asarray(covariances[placement.factor[i]])[: len(mode)]
        sd = np.sqrt(np.diagonal(C, axis1=1, axis2=2))[:, uncertainty.block_columns(fit, i)]
        index[block.grouping] = block.levels
        own = columns.setdefault(block.grouping, {})
        own |= dict(zip(block.names, mode.T, strict=True))
        own |= {f"{name} (sd)": s for name, s in zip(block.names, sd.T, strict=True)}
    return {group: pd.DataFrame(own, index[group]) for group, own in columns.items()}
