"""Model -> Estimate: the maximum of the likelihood, as one pure function. The seam of the package.

Below this module nothing knows a column name; `jit`, `vmap` and sharding act on `estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from glmm_jax import implicit, pirls
from glmm_jax.information import side_by_side
from glmm_jax.model import Model, Params, check, flatten, unflatten
from glmm_jax.objective import marginal as objective
from glmm_jax.optimize import boundary
from glmm_jax.optimize import start as starting
from glmm_jax.optimize.first_order import FirstOrder, descend
from glmm_jax.optimize.quasi_newton import NEGATIVE, Minimum, minimise
from glmm_jax.status import Status

MAX_STEPS = 500
# Step in scaled parameters for differences of the gradient, about a tenth of a standard error where
# the iterative solver is for: the error is below 1e-5 of the Hessian.
DIFFERENCE = 1e-3
# Steps after which a search asks for the Hessian, or as many as there are parameters if these are
# more: it costs about one gradient for each, and tells more than what so many steps have shown.
SHORTEST_ROUND = 6
# A GPU rounds what products of float32 matrices are made of to 11 bits, unless told otherwise: with
# a gradient of three digits no search meets its tolerance, and each goes on to its last step.
PRECISE = partial(jax.default_matmul_precision, "highest")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "params", "u", "deviance", "gradient", "hessian", "status", "decrement",
        "smallest_eigenvalue", "singular", "separated", "evaluations", "hessians",
    ],
    meta_fields=["nagq", "reml"],
)  # fmt: skip
@dataclass(frozen=True)
class Estimate:
    """A maximum-likelihood estimate and its certificate.

    params : estimates. u (q,) : conditional mode there. deviance () : -2 log-likelihood.
    gradient (P,), hessian (P, P) : of the deviance in (beta, theta, log phi), see `model.flatten`;
        at nagq = 0 and with reml the beta part of the Hessian is twice RX'RX given theta and the
        cross part zero.
    status () : a `Status` code. decrement () : half of g' H^-1 g in scaled coordinates, what the
    deviance could still lose. smallest_eigenvalue () : of the Hessian in scaled coordinates.
    singular (m,) : elements of theta exactly on the boundary: diagonal elements of Lambda that are
    zero, a correlation of 1 or -1 that is a parameter. separated (p + d,) : coefficients without a
    finite estimate, of beta and of the models of the family's other parameters. evaluations,
    hessians () : how often each was computed.
    """

    params: Params
    u: jax.Array
    deviance: jax.Array
    gradient: jax.Array
    hessian: jax.Array
    status: jax.Array
    decrement: jax.Array
    smallest_eigenvalue: jax.Array
    singular: jax.Array
    separated: jax.Array
    evaluations: jax.Array
    hessians: jax.Array
    nagq: int = 1
    reml: bool = False


def estimate(
    model: Model,
    nagq: int = 1,
    start: Params | None = None,
    optimizer: Any = "quasi-newton",
    max_steps: int = MAX_STEPS,
    reml: bool = False,
) -> Estimate:
    """Maximum-likelihood estimate of a model.

    Parameters
    ----------
    model : from `build_model`.
    nagq : 1, Laplace approximation; k > 1, adaptive Gauss-Hermite quadrature with k nodes in each
        dimension (one grouping factor, or nested ones); 0, theta by Laplace with beta at the joint
        penalised mode.
    start : parameters to start from; default: generalized linear model, then penalised
        quasi-likelihood.
    optimizer : "quasi-newton" (default), "newton" (exact Hessian at every step), "lbfgs", or an
        optax gradient transformation; every one is followed by the same certificate.
    max_steps : limit on the evaluations of the gradient (a line search inside an optax
        transformation is not counted).
    reml : restricted likelihood, beta integrated out (see `deviance`); the estimate of beta is then
        its mode given the other parameters.

    Returns
    -------
    Estimate, never an exception for numerical reasons: look at its `status`. Its params, u and
    deviance are differentiable to any order, forward and reverse, in every float array of the
    model, by the implicit function theorem at the optimum: nothing is differentiated through the
    search. Its other numbers carry no derivative.

    On the boundary the derivative is that of the constrained optimum: a column of Lambda that is
    zero (`singular`) stays zero, and the rest follow the data. By symmetry the deviance has no
    cross derivatives there, so this is the derivative of the estimate itself as long as the
    deviance rises from the boundary. Where the status is not `CONVERGED` the numbers are those of
    the theorem where the search ended, which need not be a derivative of anything.

    Raises
    ------
    ValueError : nagq, optimizer, max_steps or the shapes of `start` are not as above.
    """
    settings = checked(model, nagq, start, optimizer, max_steps, reml)
    still = jax.lax.stop_gradient((model, start))
    with PRECISE():
        found = jax.lax.stop_gradient(program(*still, **settings))
        return differentiable(found, model)


@jax.jit
def differentiable(found: Estimate, model: Model) -> Estimate:
    """The estimate as an implicit function of the arrays of its model.

    At the optimum the gradient r of the deviance in the free parameters x is zero, which defines
    them: H dx = -dr, H the Hessian. The mode follows as that of these parameters, the deviance as
    its value; the rest carries no derivative. Where beta belongs to the mode, x = (theta, log phi)
    and the deviance is that of the joint mode.
    """
    nagq, reml = found.nagq, found.reml
    joint = objective.is_joint(nagq, reml)
    p = model.p if joint else 0
    mode: Any = (found.u, found.params.beta) if joint else found.u
    held = boundary.held(found.params, model)[p:]
    arguments = model, (mode, found.hessian[p:, p:], held)
    x = implicit.root(
        _given, partial(_slope, nagq, reml), partial(_newton, nagq, reml), arguments,
        flatten(found.params)[p:],
    )  # fmt: skip
    params = objective.params_at(x, mode, model)
    if joint:
        u, beta = pirls.joint_mode(params, model, mode, solved=True)
        params = replace(params, beta=beta)
    else:
        u = pirls.mode_from(params, model, mode, solved=True)
    deviance = _known_deviance(nagq, reml, found.deviance, x, model, mode)
    return replace(found, params=params, u=u, deviance=deviance)


def _given(arguments: Any, guess: jax.Array) -> jax.Array:
    del arguments
    return guess


def _slope(nagq: int, reml: bool, x: jax.Array, arguments: Any) -> jax.Array:
    """Gradient of the deviance in the free parameters; zero in those that are held."""
    model, (mode, _, held) = arguments
    gradient = jax.grad(objective.profiled)(x, model, mode, nagq, reml)
    return jnp.where(held, 0.0, gradient)


def _newton(nagq: int, reml: bool, x: jax.Array, arguments: Any, right: jax.Array) -> jax.Array:
    """-H^-1 right, with the Hessian H at x; held parameters stay.

    H is at hand from the search, at x or so near that it differs by 1e-5 of itself at most: solved
    with that factor and corrected once with a product by H itself, the error is the square of this.
    As a linear solve with its own rule the derivatives of higher order need products by H only.
    """
    _, (_, near, held) = arguments
    one = jnp.eye(x.shape[0], dtype=x.dtype)
    near = jnp.where(held[:, None] | held[None, :], one, near)
    # Scaled to a unit diagonal, so that raw age^2 beside an intercept does no harm.
    diagonal = jnp.abs(jnp.diagonal(near))
    size = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    factor = jax.scipy.linalg.lu_factor(near * jnp.outer(size, size))

    def product(v: jax.Array) -> jax.Array:
        free = jnp.where(held, 0.0, v)
        along = jax.jvp(lambda x: _slope(nagq, reml, x, arguments), (x,), (free,))[1]
        return jnp.where(held, v, along)

    def solve(matvec: Any, b: jax.Array) -> jax.Array:
        def roughly(b: jax.Array) -> jax.Array:
            return size * jax.scipy.linalg.lu_solve(factor, size * b)

        first = roughly(b)
        return first + roughly(b - matvec(first))

    return -jax.lax.custom_linear_solve(product, right, solve, symmetric=True)


def _known_deviance(
    nagq: int, reml: bool, value: jax.Array, x: jax.Array, model: Model, mode: Any
) -> jax.Array:
    """The deviance at the optimum x, whose value is known: only its derivatives are computed."""

    def change(value: jax.Array, arguments: Any, direction: Any) -> jax.Array:
        # That in x is zero at every optimum, and so is all that follows from it: x moves in the
        # derivatives of what is left.
        x, model, mode = arguments
        moved = direction[1 : 1 + len(jax.tree.leaves(model))]
        return implicit.along(lambda m: objective.profiled(x, m, mode, nagq, reml), model, moved)

    return implicit.known(lambda _, value: value, change, (x, model, mode), value)


def checked(
    model: Model,
    nagq: int,
    start: Params | None,
    optimizer: Any,
    max_steps: int,
    reml: bool = False,
) -> dict[str, Any]:
    """Static arguments of `program`; a ValueError for what `estimate` does not accept."""
    objective.check(model, nagq, reml)
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps={max_steps!r}; use a positive integer")
    if start is not None:
        check(start, model)
    method = FirstOrder.of(optimizer)
    return {"nagq": nagq, "method": method, "max_steps": max_steps, "reml": reml}


@partial(jax.jit, static_argnames=("nagq", "method", "max_steps", "reml", "lone"))
def program(
    model: Model,
    given: Params | None,
    *,
    nagq: int,
    method: FirstOrder,
    max_steps: int,
    reml: bool = False,
    lone: bool = True,
) -> Estimate:
    """What `estimate` compiles: start, search, certificate, as one program; lone, whether no other
    model is fitted beside this one (see `side_by_side`)."""
    constant = -2.0 * pirls.base_measure(model)
    model = replace(model, normalised=False)
    scale = starting.scales(model)
    begin = starting.start(model, scale, given)
    p, m = model.p, model.m
    joint = objective.is_joint(nagq, reml)  # beta belongs to the mode
    free = slice(p, None) if joint else slice(None)
    size = scale[free]

    def params_at(x: jax.Array, aux: Any) -> Params:
        flat = x * size
        if joint:
            flat = jnp.concatenate([aux[1], flat])
        return unflatten(flat, model)

    def value(x: jax.Array, aux: Any, solved: bool = False) -> tuple[jax.Array, Any]:
        guess = jax.lax.stop_gradient(aux)
        return objective.marginal(params_at(x, guess), model, guess, nagq, reml, solved)

    def hessian(x: jax.Array, aux: Any) -> jax.Array:
        # The mode at x is known: the program needs no second copy of the loop that finds it.
        gradient = jax.grad(lambda x: value(x, aux, solved=True)[0])

        def column(v: jax.Array) -> jax.Array:
            return jax.jvp(gradient, (x,), (v,))[1]

        eye = jnp.eye(x.shape[0], dtype=x.dtype)
        if model.structure.solver == "iterative":
            # The estimate of log|H| has one derivative; its differences are as smooth as itself.
            steps = DIFFERENCE * jnp.concatenate([eye, -eye])
            ahead, behind = jnp.split(jax.lax.map(lambda h: evaluate(x + h, aux)[1], steps), 2)
            H = (ahead - behind) / (2.0 * DIFFERENCE)
            return 0.5 * (H + H.T)
        H = side_by_side(column, eye, model.n, lone)
        return 0.5 * (H + H.T)

    def canonical(x: jax.Array) -> jax.Array:
        theta = slice(0, m) if joint else slice(p, p + m)
        size_theta = size[theta]
        turned = boundary.canonical(x[theta] * size_theta, model, size_theta) / size_theta
        # Dividing back may lose a bit: an element that was not turned stays as it was.
        kept = jnp.where(turned * size_theta == x[theta] * size_theta, x[theta], turned)
        return x.at[theta].set(kept)

    evaluate = jax.value_and_grad(value, has_aux=True)
    x = flatten(begin.params)[free] / size
    aux = (begin.u, begin.params.beta) if joint else begin.u
    metric = begin.metric[free, free] * jnp.outer(size, size)
    used = jnp.zeros((), int)
    if method.transformation is not None:
        x, aux, used = descend(method, evaluate, x, aux, max_steps)
    longest = _longest_round(model, method, x.shape[0], max_steps)
    found = minimise(evaluate, hessian, canonical, x, aux, metric, max_steps - used, longest)
    params = params_at(found.x, found.aux)
    u = found.aux[0] if joint else found.aux
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, "expected")
    separated = boundary.separated(params, model, information)
    unbounded = boundary.unbounded(model, found.hessian)
    gradient, H = found.gradient / size, found.hessian / jnp.outer(size, size)
    if joint:
        gradient = jnp.concatenate([jnp.zeros(p, gradient.dtype), gradient])
        factor = pirls.factorise(params, model, information)
        beta = 2.0 * pirls.border(params, model, factor, information).schur
        H = jax.scipy.linalg.block_diag(beta, H)
    return Estimate(
        params=params,
        u=u,
        deviance=found.value + constant,
        gradient=gradient,
        hessian=H,
        status=_status(found, separated, unbounded),
        decrement=found.decrement,
        smallest_eigenvalue=found.smallest,
        singular=boundary.singular(params.theta, model),
        separated=jnp.concatenate([separated, unbounded]),
        evaluations=found.evaluations + used,
        hessians=found.hessians,
        nagq=nagq,
        reml=reml,
    )


def _longest_round(model: Model, method: FirstOrder, P: int, max_steps: int) -> int:
    """Steps from one Hessian to the next in a search over P parameters."""
    if method.name == "newton":
        return 1
    if model.structure.solver == "iterative":
        return max_steps  # a Hessian takes 2 P gradients there
    return max(SHORTEST_ROUND, P)


def _status(found: Minimum, separated: jax.Array, unbounded: jax.Array) -> jax.Array:
    """The code of the outcome; the first that applies."""
    conditions = [
        (~jnp.isfinite(found.value), Status.MODE_FAILED),
        (~jnp.all(jnp.isfinite(found.gradient)), Status.NOT_FINITE),
        (~jnp.all(jnp.isfinite(found.hessian)), Status.NOT_FINITE),
        (jnp.any(separated), Status.SEPARATION),
        (found.certified & jnp.any(unbounded), Status.SEPARATION),
        (found.certified, Status.CONVERGED),
        (~found.gave_up, Status.STEP_LIMIT),
        ((found.smallest < NEGATIVE) & (found.decrement <= 1e-3), Status.SADDLE),
    ]
    code = jnp.asarray(int(Status.STALLED))
    for condition, status in reversed(conditions):
        code = jnp.where(condition, int(status), code)
    return code
