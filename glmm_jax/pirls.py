"""Penalised iteratively reweighted least squares: the conditional mode of the random effects.

u~ minimises f(u) = -2 sum_i w_i log p(y_i | eta_i) + |u|^2 with eta = X beta + Z Lambda u + offset.
With the score s(u) = Lambda' Z' (w dlogp/deta) - u, a step solves

    H delta = s,     H = Lambda' Z' diag(w h) Z Lambda + I,

where h is the observed information -d2logp/deta2 of each row (Newton: quadratic convergence) and,
where that does not make H positive definite, the expected information (Fisher scoring). For a
canonical link the two are one. A step is halved until f does not increase; the loop stops on the
Newton decrement s' delta, one quadratic step after which the mode is exact to rounding. Where
factorising H costs more than a pass over the rows, a factor serves as long as steps with it shrink
the decrement fast: they converge linearly, at a rate that two decrements show.

`joint=True` moves beta along with u (nAGQ = 0): the system gains the unpenalised columns X.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from glmm_jax import implicit, predictors
from glmm_jax.linalg import base, dense, schur
from glmm_jax.model import Model, Params, check, lambdas

MAX_TRIPS = 500
SMALLEST_STEP = 1e-10
# Random effects in the dense remainder from which on a factor is kept (under `jax.vmap` it is made
# at every step all the same), and how far the decrement has to fall from one step to the next.
KEPT_FROM = 128
KEPT_FALL = 1e-4


def linear_predictor(params: Params, model: Model, u: jax.Array) -> jax.Array:
    """eta = X beta + Z Lambda u + offset, (n,); (r, n) with further ones, see `predictors`.

    What comes out goes into the functions below whole.
    """
    random = base.multiply(model.structure, model.Z, lambdas(params.theta, model), u)
    if model.random_parameters:
        return predictors.assembled(params, model, random)
    if not model.p:
        return random + model.offset
    return model.X @ params.beta + random + model.offset


def with_fixed_part(params: Params, model: Model) -> tuple[Params, Model]:
    """The same rows with X beta in the offset and no columns left.

    What is a function of eta takes X beta then once, and so does its derivative: in reverse mode
    all cotangents of eta meet before X' is applied.
    """
    if model.random_parameters or not model.p:
        return params, model
    fixed = model.X @ params.beta + model.offset
    return replace(params, beta=params.beta[:0]), replace(model, X=model.X[:, :0], offset=fixed)


def log_density(params: Params, model: Model, eta: jax.Array) -> jax.Array:
    """sum_i w_i log p(y_i | eta_i), ()."""
    value = kernel(params, model, eta)
    if model.family.parameters:
        phi = predictors.row_arguments(params, model, eta)[1]
        scale = model.family.log_scale(model.y, phi, model.size)
        value = value + jnp.sum(model.weights * scale)
    return value + base_measure(model) if model.normalised else value


def kernel(params: Params, model: Model, eta: jax.Array) -> jax.Array:
    """The part of `log_density` that eta is in, ()."""
    eta, phi = predictors.row_arguments(params, model, eta)
    return jnp.sum(model.weights * model.family.log_kernel(model.y, eta, phi, model.size))


def base_measure(model: Model) -> jax.Array:
    """The part of `log_density` that no parameter is in, ()."""
    return jnp.sum(model.weights * model.family.log_base(model.y, model.size))


def row_score(params: Params, model: Model, eta: jax.Array) -> jax.Array:
    """w_i dlogp_i/deta, (n,), or of each pseudo-row."""
    if model.random_parameters:
        return predictors.row_score(params, model, eta)
    eta, phi = predictors.row_arguments(params, model, eta)
    return model.weights * model.family.score(model.y, eta, phi, model.size)


def row_information(params: Params, model: Model, eta: jax.Array, curvature: str) -> jax.Array:
    """w_i times the expected (Fisher) or observed information about eta of each row, (n,), or
    the weight of each pseudo-row."""
    if model.random_parameters:
        return predictors.row_information(params, model, eta, curvature)
    family = model.family
    eta, phi = predictors.row_arguments(params, model, eta)
    if curvature == "observed" and not family.is_canonical:
        information = family.curvature(model.y, eta, phi, model.size)
    else:
        information = family.positive_information(model.y, eta, phi, model.size)
    return model.weights * information


def factorise(params: Params, model: Model, information: jax.Array) -> base.Factor:
    """Factor of H for the given information of each row, (n,)."""
    return base.factorise(model.structure, model.Z, lambdas(params.theta, model), information)


def score(u: jax.Array, params: Params, model: Model) -> jax.Array:
    """s(u) = Lambda' Z' (w dlogp/deta) - u, (q,): zero at the conditional mode."""
    rows = row_score(params, model, linear_predictor(params, model, u))
    Lambda = lambdas(params.theta, model)
    return base.multiply_transposed(model.structure, model.Z, Lambda, rows) - u


class Border(NamedTuple):
    """The system matrix bordered by X: H^-1 Lambda'Z'WX, (q, p), and the p x p Schur complement."""

    columns: jax.Array
    schur: jax.Array


def border(params: Params, model: Model, factor: base.Factor, information: jax.Array) -> Border:
    """Border of H by the fixed effects; `schur` is RX'RX in lme4's words, (p, p)."""
    Lambda = lambdas(params.theta, model)
    X = predictors.fixed_columns(model)
    weighted = information[:, None] * X
    cross = base.multiply_transposed(model.structure, model.Z, Lambda, weighted)
    columns = base.solve(model.structure, factor, cross)
    return Border(columns, X.T @ weighted - cross.T @ columns)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["u", "beta", "converged", "trips", "decrement"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Mode:
    """Result of PIRLS: u (q,), beta (p,) (moved only if joint), and how the loop ended."""

    u: jax.Array
    beta: jax.Array
    converged: jax.Array
    trips: jax.Array
    decrement: jax.Array


class System(NamedTuple):
    """What a step solves: the factor of H, and its border if beta moves along."""

    factor: base.Factor
    edge: Border | None


class _State(NamedTuple):
    u: jax.Array  # last accepted point
    beta: jax.Array
    f: jax.Array
    du: jax.Array  # direction from it, and the fraction of it now tried
    dbeta: jax.Array
    fraction: jax.Array
    observed: jax.Array  # whether the observed information is tried at this point
    decrement: jax.Array
    kept: Any  # numbers of the last system, where that may serve again, and its border
    converged: jax.Array
    failed: jax.Array
    trips: jax.Array


def step(
    params: Params, model: Model, eta: jax.Array, u: jax.Array, information: jax.Array, joint: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One step: du (q,), dbeta (p,), and the squared Newton decrement s' delta."""
    right = _right(params, model, eta, u, joint)
    return _direction(_system(params, model, information, joint), model, right)


def _right(
    params: Params, model: Model, eta: jax.Array, u: jax.Array, joint: bool
) -> tuple[jax.Array, jax.Array]:
    """Scores in u, (q,), and in beta, (p,), zero unless it moves."""
    rows = row_score(params, model, eta)
    Lambda = lambdas(params.theta, model)
    s = base.multiply_transposed(model.structure, model.Z, Lambda, rows) - u
    return s, model.X.T @ rows[: model.n] if joint else jnp.zeros_like(params.beta)


def _system(params: Params, model: Model, information: jax.Array, joint: bool) -> System:
    factor = factorise(params, model, information)
    return System(factor, border(params, model, factor, information) if joint else None)


def _direction(
    system: System, model: Model, right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The step that solves the system, as `step` returns it."""
    s, s_beta = right
    du = base.solve(model.structure, system.factor, s)
    if system.edge is None:
        return du, jnp.zeros_like(s_beta), s @ du
    dbeta = _solve_spd(system.edge.schur, s_beta - system.edge.columns.T @ s)
    du = du - system.edge.columns @ dbeta
    return du, dbeta, s @ du + s_beta @ dbeta


def _keeps(model: Model) -> bool:
    """Whether a factor is worth keeping: see `KEPT_FROM`."""
    structure = model.structure
    rest = sum(structure.sizes[g] for g in structure.rest)
    return structure.solver == "schur" and rest >= KEPT_FROM


def _numbers(system: System) -> Any:
    assert isinstance(system.factor, schur.SchurFactor)
    return schur.bare(system.factor), system.edge


def _restored(numbers: Any, model: Model) -> System:
    return System(schur.still(model.structure, numbers[0]), numbers[1])


def _nothing(params: Params, model: Model, joint: bool) -> Any:
    """Numbers of no system yet: what is solved with them is not finite, and serves nothing."""
    shapes = jax.eval_shape(lambda w: _numbers(_system(params, model, w, joint)), model.weights)
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def find_mode(params: Params, model: Model, guess: jax.Array, joint: bool = False) -> Mode:
    """Run the loop from a guess of u, (q,); not differentiable: see `conditional_mode`."""
    eps = float(jnp.finfo(guess.dtype).eps)
    given, keeps = params.beta, _keeps(model)
    if not joint:  # while beta stays, its part of eta is the same in every trip
        params, model = with_fixed_part(params, model)

    def body(state: _State) -> _State:
        u = state.u + state.fraction * state.du
        beta = state.beta + state.fraction * state.dbeta
        here = Params(beta, params.theta, params.dispersion)
        eta = linear_predictor(here, model, u)
        f = -2.0 * kernel(here, model, eta) + u @ u
        right = _right(here, model, eta, u, joint)

        def anew() -> tuple[Any, tuple[jax.Array, jax.Array, jax.Array]]:
            information = row_information(here, model, eta, "expected")
            if not model.family.is_canonical:
                tried = row_information(here, model, eta, "observed")
                information = jnp.where(state.observed, tried, information)
            system = _system(here, model, information, joint)
            return _numbers(system) if keeps else None, _direction(system, model, right)

        left = 1.0
        if keeps:
            again = _direction(_restored(state.kept, model), model, right)
            fall = again[2] / state.decrement
            # Both decrements are of one factor: not after a step that was rejected.
            one_factor = jnp.isfinite(state.decrement) & (state.fraction == 1)
            serves = one_factor & (again[2] >= 0) & (fall <= KEPT_FALL)
            kept, found = jax.lax.cond(serves, lambda: (state.kept, again), anew)
            left = jnp.where(serves, fall / eps, 1.0)
        else:
            kept, found = anew()
        du, dbeta, decrement = found
        usable = jnp.isfinite(decrement) & (decrement >= 0)
        # Near the mode f may not resolve a step (large counts): the decrement does.
        closer = (state.decrement <= 1.0) & (decrement <= 0.25 * state.decrement)
        descended = (f <= state.f + 100 * eps * jnp.abs(state.f)) | (jnp.isfinite(f) & closer)
        moved = descended & usable
        converged = moved & (left * decrement <= 50 * eps * jnp.maximum(1.0, u @ u))
        # At convergence the last step is taken whole: it is smaller than any test could see.
        final = jnp.where(converged, 1.0, 0.0)
        fraction = jnp.where(descended, state.fraction, 0.5 * state.fraction)
        return _State(
            u=jnp.where(moved, u + jnp.where(converged, du, 0.0), state.u),
            beta=jnp.where(moved, beta + final * dbeta, state.beta),
            f=jnp.where(moved, f, state.f),
            du=jnp.where(moved, du, state.du),
            dbeta=jnp.where(moved, dbeta, state.dbeta),
            fraction=jnp.where(moved, 1.0, fraction),
            # Not definite with the observed information: the same point again with the expected.
            observed=moved | ~descended,
            decrement=jnp.where(moved, decrement, state.decrement),
            kept=kept,
            converged=converged,
            failed=(descended & ~usable & ~state.observed) | (fraction < SMALLEST_STEP),
            trips=state.trips + 1,
        )

    def unfinished(state: _State) -> jax.Array:
        return ~state.converged & ~state.failed & (state.trips < MAX_TRIPS)

    one = jnp.ones((), guess.dtype)
    start = _State(
        u=guess,
        beta=params.beta,
        f=jnp.inf * one,
        du=jnp.zeros_like(guess),
        dbeta=jnp.zeros_like(params.beta),
        fraction=one,
        observed=jnp.asarray(not model.family.is_canonical),
        decrement=jnp.inf * one,
        kept=_nothing(params, model, joint) if keeps else None,
        converged=jnp.asarray(False),
        failed=jnp.asarray(False),
        trips=jnp.asarray(0),
    )
    end = jax.lax.while_loop(unfinished, body, start)
    return Mode(end.u, end.beta if joint else given, end.converged, end.trips, end.decrement)


def conditional_mode(
    params: Params, model: Model, guess: jax.Array | None = None, solved: bool = False
) -> jax.Array:
    """Conditional mode u~ of the spherical random effects given y, differentiable implicitly.

    u~ = argmin_u -2 sum_i w_i log p(y_i | eta_i) + |u|^2; du~ = H^-1 ds with the observed
    information in H, whatever the deviance uses.

    Parameters
    ----------
    params, model : parameters and data.
    guess : (q,), where the loop starts (default zeros); it changes the cost, not the result.
    solved : the guess is the mode already, to rounding: only its derivatives are wanted.

    Returns
    -------
    (q,) array: factor after factor in the order of `model.structure`, level after level, the
    columns of one level side by side; b = Lambda u. NaN where the loop did not converge.

    Raises
    ------
    ValueError : parameters or a guess that do not fit the model.
    """
    check(params, model)
    start = jnp.zeros(model.q, model.y.dtype) if guess is None else guess
    if jnp.shape(start) != (model.q,):
        raise ValueError(f"guess has shape {jnp.shape(start)}; this model needs {(model.q,)}")
    return _compiled_mode(params, model, start, solved=solved)


def mode_from(params: Params, model: Model, guess: jax.Array, solved: bool = False) -> jax.Array:
    """`conditional_mode` for use inside a program: nothing is checked or compiled by itself."""
    find = _given if solved else _find
    return implicit.root(find, _residual, _solve, (params, model), guess)


# A loop outside a program is compiled at every call: one program serves a model and its like.
_compiled_mode = jax.jit(mode_from, static_argnames="solved")


def _given(arguments: tuple[Params, Model], guess: Any) -> Any:
    return guess


def _find(arguments: tuple[Params, Model], guess: jax.Array) -> jax.Array:
    params, model = arguments
    mode = find_mode(params, model, guess)
    return jnp.where(mode.converged, mode.u, jnp.nan)


def _residual(u: jax.Array, arguments: tuple[Params, Model]) -> jax.Array:
    return score(u, *arguments)


def _solve(u: jax.Array, arguments: tuple[Params, Model], right: jax.Array) -> jax.Array:
    return solver(*arguments, u)(right)


def solver(params: Params, model: Model, u: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """right -> H^-1 right at the mode, for (q,) or (q, r), with the observed information in H."""
    eta = linear_predictor(params, model, u)
    factor = factorise(params, model, row_information(params, model, eta, "observed"))
    return lambda right: base.solve(model.structure, factor, right)


def joint_mode(
    params: Params, model: Model, guess: tuple[jax.Array, jax.Array], solved: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Joint mode (u, beta) given theta and the dispersion (nAGQ = 0), differentiable implicitly.

    Parameters: params, whose beta is not used; guess, (u, beta) to start from, or with `solved` the
    mode itself. NaN where the loop did not converge.
    """
    free = Params(jnp.zeros_like(params.beta), params.theta, params.dispersion)
    find = _given if solved else _find_joint
    return implicit.root(find, _residual_joint, _solve_joint, (free, model), guess)


def _find_joint(arguments: tuple[Params, Model], guess):
    params, model = arguments
    start = Params(guess[1], params.theta, params.dispersion)
    mode = find_mode(start, model, guess[0], joint=True)
    return jax.tree.map(lambda x: jnp.where(mode.converged, x, jnp.nan), (mode.u, mode.beta))


def _at(beta: jax.Array, params: Params) -> Params:
    return Params(beta, params.theta, params.dispersion)


def _residual_joint(x: tuple[jax.Array, jax.Array], arguments: tuple[Params, Model]):
    params, model = arguments
    u, beta = x
    here = _at(beta, params)
    rows = row_score(here, model, linear_predictor(here, model, u))
    Lambda = lambdas(params.theta, model)
    s = base.multiply_transposed(model.structure, model.Z, Lambda, rows) - u
    return s, model.X.T @ rows[: model.n]


def _solve_spd(matrix: jax.Array, right: jax.Array) -> jax.Array:
    return dense.solve(matrix, dense.cholesky(matrix), right[:, None])[:, 0]


def _solve_joint(x, arguments: tuple[Params, Model], right):
    params, model = arguments
    here = _at(x[1], params)
    eta = linear_predictor(here, model, x[0])
    information = row_information(here, model, eta, "observed")
    factor = factorise(here, model, information)
    edge = border(here, model, factor, information)
    dbeta = _solve_spd(edge.schur, right[1] - edge.columns.T @ right[0])
    du = base.solve(model.structure, factor, right[0]) - edge.columns @ dbeta
    return du, dbeta
