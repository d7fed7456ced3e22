"""Starting values: one weighted least-squares fit, then penalised quasi-likelihood.

The fixed effects come from one step of iteratively reweighted least squares from means near the
data, as a generalized linear model starts. Then each trip takes one joint PIRLS step in (u, beta)
and one scoring step in Lambda. With V the conditional covariance of a level's u, the derivatives of
the penalised quasi-likelihood deviance with respect to M in Lambda <- Lambda (I + M) are

    gradient  -2 sum_levels (u u' + V - I),
    expected Hessian  4 sum r_i^2 for M_ii and 2 sum r_i r_j for M_ij, i > j,    r = 1 - diag V,

so a few trips, at the price of a factorisation each, come close to the nAGQ = 0 estimates. V is
taken from the diagonal blocks of H alone, which is exact for one factor and near for several: these
are starting values. The same expressions, and the Schur complement of H bordered by X, give the
first metric of the quasi-Newton search.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import covariance, pirls, predictors
from glmm_jax.linalg import base, block_diagonal, dense, related, schur
from glmm_jax.linalg.segments import total
from glmm_jax.links import Custom, Identity, Inverse, Sqrt
from glmm_jax.model import Model, Params, in_order, lambdas, natural, pivots, thetas
from glmm_jax.optimize.joint_step import joint_step, parameter_columns, with_gamma

TRIPS = 12
LARGEST_CHANGE = 0.7  # of log Lambda_ii in one trip
LARGEST_MOVE = 5.0  # of eta in one trip, in units of the link
# Trips end when the next would change log Lambda_ii and the deviance by little of what then is left
# to the search: the step that shows it is taken, and the one after is some thirty times smaller.
CLOSE = 0.1
NEAR = 10.0
SMALLEST_PIVOT = 1e-2  # of Lambda, in units of `theta_scale`: below it the metric is that of this


class Start(NamedTuple):
    """Where the search starts: parameters, mode, and curvature of the deviance (P, P)."""

    params: Params
    u: jax.Array
    metric: jax.Array


def scales(model: Model) -> jax.Array:
    """A natural size of each parameter, (P,): what changes the linear predictor by about one unit.

    For beta_j 1 / rms(X_j), for a row of Lambda 1 / rms(Z column), times the scale of the link
    (see `_link_scale`); for log(phi) one.
    """
    unit = _link_scale(model)
    both = zip(_column_units(model, unit), predictors.row_columns(model), strict=True)
    theta = natural(tuple(own / _rms(model, z) for own, z in both), model)
    parts = [unit / _rms(model, model.X), theta]
    matrices = model.dispersion_X or (None,) * len(model.family.parameters)
    one = jnp.ones(1, theta.dtype)
    parts += [one if matrix is None else 1.0 / _rms(model, matrix) for matrix in matrices]
    return jnp.concatenate(parts)


def _column_units(model: Model, unit: jax.Array) -> list[jax.Array]:
    """Of each factor the unit of the linear predictor of its columns: that of the link for eta."""
    if not model.random_parameters:
        return [unit] * len(model.Z)
    return [
        jnp.concatenate(
            [jnp.full(t.covariance.columns, 1.0 if t.predictor else unit) for t in terms]
        )
        for terms in model.terms
    ]


def _rms(model: Model, columns: jax.Array) -> jax.Array:
    used = (model.weights > 0).astype(columns.dtype)
    mean = jnp.sum(used[:, None] * columns**2, axis=0) / jnp.sum(used)
    return jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)), 1.0)


def _link_scale(model: Model) -> jax.Array:
    """Size of one unit of eta: one for logarithmic links and probabilities, spread of g(y) else.

    Of a link of the caller's own nothing is known but what it does to the data.
    """
    if not isinstance(model.family.link, Identity | Sqrt | Inverse | Custom):
        return jnp.ones((), model.y.dtype)
    used = (model.weights > 0).astype(model.y.dtype)
    eta = model.family.link.link(model.family.start_mean(model.y, model.size)) - model.offset
    mean = jnp.sum(used * eta) / jnp.sum(used)
    variance = jnp.sum(used * (eta - mean) ** 2) / jnp.sum(used)
    # Numbers that are all alike differ from their mean by its rounding.
    spread = variance > (1e3 * jnp.finfo(eta.dtype).eps * mean) ** 2
    return jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1.0)), 1.0)


def _blocks(
    params: Params, model: Model, information: jax.Array
) -> list[tuple[jax.Array, jax.Array]]:
    """Per factor: approximate conditional covariance of a level's u, (levels, k, k); which levels
    have observations, (levels,)."""
    structure, out = model.structure, []
    used = (model.weights > 0).astype(model.y.dtype)
    used = jnp.tile(used, structure.index[0].shape[0] // model.n)  # of each pseudo-row
    for f, Lambda in enumerate(lambdas(params.theta, model)):
        D = schur.level_blocks(structure, model.Z[f], Lambda, information, f)
        lower = block_diagonal.cholesky(D)
        eye = jnp.broadcast_to(jnp.eye(D.shape[-1], dtype=D.dtype), D.shape)
        half = block_diagonal.solve_lower(lower, eye)
        levels = structure.levels[f]
        seen = total(used, structure.index[f], levels, structure.layout(f)) > 0
        if related.is_related(structure, f):
            seen = structure.roots[str(f)].T ** 2 @ seen.astype(D.dtype) > 0
        out.append((jnp.swapaxes(half, -1, -2) @ half, seen.astype(D.dtype)))
    return out


def _pattern(model: Model) -> list[np.ndarray]:
    """Per factor the (k, k) elements of Lambda that are parameters."""
    out = []
    for terms, k in zip(model.terms, model.structure.columns, strict=True):
        mask, row = np.zeros((k, k), bool), 0
        for term in terms:
            k_own = term.covariance.columns
            if isinstance(term.covariance, covariance.Structured):
                i, j = np.tril_indices(k_own)  # the step is taken to the kind afterwards
            else:
                i, j = term.covariance.entries()
            mask[row + i, row + j] = True
            row += k_own
        out.append(mask)
    return out


def _theta_step(
    params: Params, model: Model, u: jax.Array, information: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One scoring step: new theta, largest change of log Lambda_ii, degrees of freedom of u."""
    factors, change, freedom = [], jnp.zeros((), u.dtype), jnp.zeros((), u.dtype)
    parts = base.split(model.structure, u)
    blocks = _blocks(params, model, information)
    Lambdas = lambdas(params.theta, model)
    for part, (V, seen), Lambda, mask in zip(parts, blocks, Lambdas, _pattern(model), strict=True):
        k = part.shape[1]
        gradient = part.T @ part + jnp.sum(
            seen[:, None, None] * (V - jnp.eye(k, dtype=u.dtype)[None]), axis=0
        )
        r = seen[:, None] * (1.0 - jnp.diagonal(V, axis1=-2, axis2=-1))
        hessian = r.T @ r * (1.0 + jnp.eye(k, dtype=u.dtype))
        M = jnp.where(mask & (hessian > 0), gradient / jnp.where(hessian > 0, hessian, 1.0), 0.0)
        M = jnp.clip(M, -LARGEST_CHANGE, LARGEST_CHANGE)  # a trust region, not a bound
        factors.append(Lambda + jnp.where(mask, Lambda @ M, 0.0))
        change = jnp.maximum(change, jnp.max(jnp.abs(jnp.diagonal(M))))
        freedom = freedom + jnp.sum(r)
    return thetas(tuple(factors), model), change, freedom


def start(model: Model, scale: jax.Array, given: Params | None = None) -> Start:
    """Starting values and metric.

    Parameters
    ----------
    model : the data.
    scale : (P,), from `scales`.
    given : parameters to start from instead; only the mode and the metric are then computed.
    """
    p, m = model.p, model.m
    if given is not None:
        mode = pirls.find_mode(given, model, jnp.zeros(model.q, model.y.dtype))
        u = jnp.where(mode.converged, mode.u, 0.0)
        return Start(given, u, _metric(given, model, u, scale[p : p + m]))
    unit = _link_scale(model)
    begin = _first(model, unit, scale[p : p + m])

    def body(state):
        params, u, _, trips = state
        eta = pirls.linear_predictor(params, model, u)
        information = pirls.row_information(params, model, eta, "expected")
        du, dbeta, dgamma, decrement = joint_step(params, model, eta, u, information)
        here = params.dispersion
        moved_phi = with_gamma(model, here, here, dgamma)
        there = Params(params.beta + dbeta, params.theta, moved_phi)
        moved = pirls.linear_predictor(there, model, u + du) - eta
        # Not a line search: a start need not descend, it must not run away.
        fraction = jnp.minimum(1.0, LARGEST_MOVE * unit / jnp.max(jnp.abs(moved)))
        fraction = jnp.where(fraction > 0, fraction, 0.0)
        u = u + fraction * du
        theta, change, freedom = _theta_step(params, model, u, information)
        means = predictors.row_arguments(params, model, eta + fraction * moved)[0]
        phi = dispersion(model, means, freedom)
        phi = with_gamma(model, phi, here, fraction * dgamma)
        params = Params(params.beta + fraction * dbeta, theta, phi)
        go_on = ~((change < CLOSE) & (decrement < NEAR)) & jnp.isfinite(decrement)
        return params, u, go_on, trips + 1

    zero = jnp.zeros(model.q, model.y.dtype)
    state = begin, zero, jnp.asarray(True), jnp.asarray(0)
    found, u, _, _ = jax.lax.while_loop(lambda s: s[2] & (s[3] < TRIPS), body, state)
    eta = pirls.linear_predictor(found, model, u)
    sound = jnp.isfinite(pirls.log_density(found, model, eta) + u @ u)
    params = jax.tree.map(lambda a, b: jnp.where(sound, a, b), found, begin)
    u = jnp.where(sound, u, 0.0)
    return Start(params, u, _metric(params, model, u, scale[p : p + m]))


def _first(model: Model, unit: jax.Array, scale: jax.Array) -> Params:
    """One step of weighted least squares for beta; a diagonal Lambda whose effect on eta has the
    standard deviation of the working residuals, at most one unit of the link."""
    family, whole = model.family, model
    model = predictors.without_random(model)
    nothing = jnp.zeros(0, model.y.dtype)
    used = (model.weights > 0).astype(model.y.dtype)
    mean = family.start_mean(model.y, model.size)
    eta = family.link.link(mean)
    # The scale of the dispersion does not matter for beta.
    shape = model.dispersion_shape
    phi = None if shape is None else jnp.zeros(shape, model.y.dtype)
    here = Params(nothing, nothing, phi)
    information = pirls.row_information(here, model, eta, "expected")
    working = (
        eta
        - model.offset
        + pirls.row_score(here, model, eta) / jnp.where(information > 0, information, 1.0)
    )
    beta = _least_squares(model.X, information, working)
    # Second choice, where the first step leaves the range of a link or goes far astray (a covariate
    # with a code for missing values): a constant mean. Its matrix is one for many responses.
    constant = family.link.link(jnp.sum(used * mean) / jnp.sum(used)) - model.offset
    second = _least_squares(model.X, used, constant)
    values = [pirls.log_density(here, model, model.X @ b + model.offset) for b in (beta, second)]
    beta = jnp.where(jnp.isfinite(values[0]) & ~(values[1] > values[0]), beta, second)
    eta = model.X @ beta + model.offset
    phi = dispersion(model, eta, 0.0)
    here = Params(beta, nothing, phi)
    information = pirls.row_information(here, model, eta, "expected")
    residual = pirls.row_score(here, model, eta) ** 2 / jnp.where(information > 0, information, 1.0)
    spread = jnp.sqrt(jnp.sum(residual) / jnp.sum(information))
    spread = jnp.where(jnp.isfinite(spread), jnp.minimum(spread, unit), unit)
    eyes = tuple(jnp.eye(k, dtype=eta.dtype) for k in model.structure.columns)
    theta = thetas(eyes, whole) * scale * (spread / unit)
    for term in in_order(whole):
        if isinstance(term.covariance, covariance.Structured):
            part = slice(term.start, term.stop)
            own = covariance.independent(term.covariance, scale[part], spread / unit)
            theta = theta.at[part].set(own)
    return Params(beta, theta, phi)


def _least_squares(X: jax.Array, weights: jax.Array, response: jax.Array) -> jax.Array:
    gram = X.T @ (weights[:, None] * X)
    return dense.solve(gram, dense.cholesky(gram), ((weights * response) @ X)[:, None])[:, 0]


def dispersion(model: Model, eta: jax.Array, lost: jax.Array | float) -> jax.Array | None:
    """`Params.dispersion` from the means of a fit that takes `lost` degrees of freedom."""
    shape = model.dispersion_shape
    if shape is None:
        return None
    mu = model.family.link.inverse(eta)
    values = model.family.start_parameters(model.y, mu, model.weights, model.size, lost)
    used = (model.weights > 0).astype(eta.dtype)
    parts = []
    for value, matrix in zip(values, model.dispersion_X or (None,) * len(values), strict=True):
        if matrix is None:
            parts.append(jnp.reshape(value, (1,)))
            continue
        gram = matrix.T @ (used[:, None] * matrix)
        parts.append(jnp.linalg.solve(gram, matrix.T @ used) * value)
    return jnp.concatenate(parts).reshape(shape)


def _metric(params: Params, model: Model, u: jax.Array, scale: jax.Array) -> jax.Array:
    """Approximate Hessian of the deviance, (P, P), block-diagonal in beta, theta, log(phi)."""
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, "expected")
    factor = pirls.factorise(params, model, information)
    beta = 2.0 * pirls.border(params, model, factor, information).schur
    theta = _theta_metric(params, model, information, scale)
    blocks = [beta, theta]
    total = jnp.sum(model.weights).reshape(1, 1)
    for i, matrix in enumerate(model.dispersion_X or (None,) * len(model.family.parameters)):
        if i in model.random_parameters:
            s, own = 1 + model.random_parameters.index(i), parameter_columns(model, i)[0]
            rows = information[s * model.n : (s + 1) * model.n]
            blocks.append(2.0 * own.T @ (rows[:, None] * own))
            continue
        weighted = total if matrix is None else matrix.T @ (model.weights[:, None] * matrix)
        blocks.append(weighted)
    return jax.scipy.linalg.block_diag(*blocks)


def _theta_metric(
    params: Params, model: Model, information: jax.Array, scale: jax.Array
) -> jax.Array:
    """Curvature in theta: the expected Hessian in M (module docstring), M = Lambda^-1 dLambda."""
    dtype = params.theta.dtype
    # A variance of zero has no logarithm: measure from a small pivot instead.
    low = pivots(model) & (jnp.abs(params.theta) < SMALLEST_PIVOT * scale)
    theta = jnp.where(low, SMALLEST_PIVOT * scale, params.theta)
    for term in in_order(model):
        if isinstance(term.covariance, covariance.Structured):
            part = slice(term.start, term.stop)
            own = covariance.inward(term.covariance, theta[part], scale[part], SMALLEST_PIVOT)
            theta = theta.at[part].set(own)
    Lambdas = lambdas(theta, model)

    def rates(direction: jax.Array) -> list[jax.Array]:
        change = jax.jvp(lambda theta: lambdas(theta, model), (theta,), (direction,))[1]
        return [block_diagonal.solve_lower(L, d) for L, d in zip(Lambdas, change, strict=True)]

    basis = jax.vmap(rates)(jnp.eye(model.m, dtype=dtype))
    # Where the data say nothing about a variance the metric must still be definite.
    metric = jnp.diag(1.0 / scale**2)
    blocks = _blocks(Params(params.beta, theta, params.dispersion), model, information)
    for M, (V, seen) in zip(basis, blocks, strict=True):
        r = seen[:, None] * (1.0 - jnp.diagonal(V, axis1=-2, axis2=-1))
        hessian = 2.0 * (r.T @ r) * (1.0 + jnp.eye(r.shape[1], dtype=dtype))
        metric = metric + jnp.einsum("aij,ij,bij->ab", M, hessian, M)
    return metric
