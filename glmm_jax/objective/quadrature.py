"""Adaptive Gauss-Hermite quadrature of the random effects of one factor, or of nested factors.

With the mode u~ and the factor L of the system matrix H = L L' (finest factor first), put
u = u~ + L^-T z. The marginal likelihood is

    |L|^-1 integral exp(g(z)) phi(z) dz,
    g(z) = sum_i w_i log p(y_i | eta_i(u)) - |u|^2 / 2 + |z|^2 / 2,

and g is constant where the conditional density of u is Gaussian. The levels of a single factor are
independent given the parameters, so their integrals are products of sums over a grid of k
dimensions each. Nested factors factorise along the tree (Rabe-Hesketh, Skrondal and Pickles 2005):
L^-T couples a level to the levels that contain it only, so at each node of an outer level the inner
level is integrated with its nodes recentred at the mode that goes with that outer node, to first
order. Nothing but the number of nodes separates the result from the exact integral; with one node
it is the Laplace approximation.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from glmm_jax import pirls, predictors
from glmm_jax.families.base import Family
from glmm_jax.linalg import base, block_diagonal, schur
from glmm_jax.linalg.segments import take, total
from glmm_jax.links import Custom, Inverse, Sqrt
from glmm_jax.model import Model, Params, lambdas

MOST_NODES = 101  # in one dimension
MOST_POINTS = 200_000  # of all grids of a row together
# Rows times nodes that are held at once; beyond, outer nodes are taken a few at a time.
LARGEST_BLOCK = 2_000_000
# Grids of more than three dimensions lose the nodes that together hold less weight than this.
NEGLIGIBLE = 1e-10
NOTHING = -1e30  # log of no density; finite, so that sums of nothing else have derivatives


def check(model: Model, nagq: int) -> None:
    """Raise a ValueError unless the integral of this model can be had with so many nodes."""
    structure = model.structure
    if structure.roots:
        raise ValueError(
            f"nagq={nagq}: adaptive quadrature integrates over one level at a time, and the levels "
            "of a factor with relationship= are not independent. Use nagq=1 (Laplace); "
            "laplace_error() measures what it costs"
        )
    if structure.eliminated < len(structure.levels):
        raise ValueError(
            f"nagq={nagq}: adaptive quadrature needs one grouping factor, or factors nested in one "
            "another, and those of this model are crossed: the integral over their random effects "
            "has as many dimensions as the smaller has levels. Use nagq=1 (Laplace); "
            "laplace_error() measures what it costs"
        )
    if nagq > MOST_NODES:
        raise ValueError(f"nagq={nagq}; use at most {MOST_NODES} nodes in each dimension")
    points = 1
    for k in structure.columns:
        if float(nagq) ** k <= 10 * MOST_POINTS:
            points *= len(grid(nagq, k)[1])
        else:
            points = np.inf
    if points > MOST_POINTS:
        dimensions = sum(structure.columns)
        raise ValueError(
            f"nagq={nagq} in {dimensions} dimensions makes {points:.3g} nodes for each row, more "
            f"than {MOST_POINTS}; use fewer nodes or a simpler random-effects structure"
        )


@cache
def grid(nagq: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (J, k) and log weights (J,) of the k-dimensional standard normal distribution."""
    nodes, weights = scipy.special.roots_hermitenorm(nagq)
    nodes = 0.5 * (nodes - nodes[::-1])  # symmetric to the last bit
    log_weights = np.log(weights / weights.sum())
    points = np.stack(np.meshgrid(*[nodes] * k, indexing="ij"), -1).reshape(-1, k)
    sums = np.stack(np.meshgrid(*[log_weights] * k, indexing="ij"), -1).reshape(-1, k).sum(1)
    if k > 3:
        order = np.argsort(sums)
        kept = np.sort(order[np.cumsum(np.exp(sums[order])) > NEGLIGIBLE])
        points, sums = points[kept], sums[kept]
    return points, sums


def deviance_at_mode(params: Params, model: Model, u: jax.Array, nagq: int) -> jax.Array:
    """The deviance as a function of the mode as well, ()."""
    structure = model.structure
    count = len(structure.levels)
    outer = count - 1
    eta = pirls.linear_predictor(params, model, u)
    information = pirls.row_information(params, model, eta, model.curvature)
    Lambda = lambdas(params.theta, model)
    system = schur.assemble(structure, model.Z, Lambda, information)
    factor = schur.factorise(structure, system)
    grids = [grid(nagq, k) for k in structure.columns]
    parts = base.split(structure, u)
    parents = {
        (f, g): jnp.zeros(structure.levels[f], jnp.int32)
        .at[structure.index[f]]
        .max(structure.index[g])
        for f in range(count)
        for g in range(f + 1, count)
    }
    couplings = {
        (f, g): total(
            factor.scaled[f"{f},{g}"], structure.edge_left[f"{f},{g}"], structure.levels[f]
        )
        for f, g in parents
    }

    def outer_values(z: jax.Array) -> jax.Array:
        """log of the integrand at some nodes of the outer factor, (levels, nodes): z (nodes, k)."""
        # Moves of factor f away from its mode: (levels of f, outer nodes, ..., nodes of f, k).
        moves: dict[int, jax.Array] = {}
        squares: dict[int, jax.Array] = {}
        for f in reversed(range(count)):
            own = z if f == outer else jnp.asarray(grids[f][0], z.dtype)
            levels, k = structure.levels[f], structure.columns[f]
            own = own.reshape(1, *(1,) * (outer - f), *own.shape)
            right = own
            for g in range(f + 1, count):
                moved = take(moves[g], parents[f, g])
                product = jnp.einsum("lij,l...j->l...i", couplings[f, g], moved)
                # Nodes of the factors between g and f, and of f itself, come after those of g.
                product = product.reshape(*product.shape[:-1], *(1,) * (g - f), k)
                right = right - product
            right = jnp.broadcast_to(right, (levels, *right.shape[1:]))
            flat = jnp.swapaxes(right.reshape(levels, -1, k), 1, 2)
            solved = jnp.swapaxes(block_diagonal.solve_upper(factor.lower[f], flat), 1, 2)
            moves[f] = solved.reshape(right.shape)
            there = parts[f].reshape(levels, *(1,) * (outer - f + 1), k) + moves[f]
            squares[f] = 0.5 * (jnp.sum(own**2, -1) - jnp.sum(there**2, -1))
        # One after another the linear predictors of all rows: of the pseudo-rows the first.
        rows = eta.reshape(-1, *(1,) * count)
        for f in range(count):
            place = structure.index[f][: len(rows)], structure.layout(f)
            change = take(moves[f] @ Lambda[f].T, *place)
            z_rows = model.Z[f][: len(rows)].reshape(len(rows), *(1,) * (outer - f + 1), -1)
            shift = jnp.sum(z_rows * change, -1)
            rows = rows + shift.reshape(*shift.shape, *(1,) * f)
        log_prob = _log_prob(params, model, rows.reshape(*eta.shape, *rows.shape[1:]), eta)
        place = structure.index[0][: model.n], structure.levels[0], structure.layout(0)
        value = total(log_prob, *place)
        for f in range(count):
            value = value + squares[f]
            if f < outer:
                value = _sum_over_nodes(value, grids[f][1])
                half = _half_logdet(factor.lower[f])
                value = value - half.reshape(-1, *(1,) * (value.ndim - 1))
                value = total(value, parents[f, f + 1], structure.levels[f + 1])
        return value

    nodes, log_weights = grids[outer]
    nodes = jnp.asarray(nodes, eta.dtype)
    at_once = max(1, LARGEST_BLOCK // (model.n * int(np.prod([len(g[1]) for g in grids[:-1]]))))
    if len(nodes) <= at_once:
        values = outer_values(nodes)
    else:
        # Recomputed in the backward pass: what a node leaves behind is as large as all its rows.
        chunks = -(-len(nodes) // at_once)
        padded = (
            jnp.zeros((chunks * at_once, nodes.shape[1]), eta.dtype).at[: len(nodes)].set(nodes)
        )
        step = jax.checkpoint(outer_values)
        stacked = jax.lax.map(step, padded.reshape(chunks, at_once, -1))
        values = jnp.moveaxis(stacked, 0, 1).reshape(stacked.shape[1], -1)[:, : len(nodes)]
    by_level = _sum_over_nodes(values, log_weights) - _half_logdet(factor.lower[outer])
    return -2.0 * jnp.sum(by_level)


def _sum_over_nodes(values: jax.Array, log_weights: np.ndarray) -> jax.Array:
    """log of the weighted sum of exp(values) over the nodes, the last axis."""
    weights = jnp.asarray(log_weights, values.dtype)
    return jax.nn.logsumexp(values + weights.reshape(*(1,) * (values.ndim - 1), -1), axis=-1)


def leaves_range(family: Family) -> bool:
    """Whether some linear predictors have no mean that the family can have."""
    low, high = family.mean_range
    lowest, highest = family.link.mean_range
    inside = low <= lowest and highest <= high
    return isinstance(family.link, Sqrt | Inverse | Custom) or not inside


def _log_prob(params: Params, model: Model, eta: jax.Array, mode: jax.Array) -> jax.Array:
    """w_i log p(y_i | eta_i) for eta (n, nodes, ...), given that at the mode, (n,); both with the
    linear predictors of a row in front where it has several, (r, n, ...)."""
    eta, phi = predictors.row_arguments(params, model, eta)
    mode, _ = predictors.row_arguments(params, model, mode)
    shape = (model.n,) + (1,) * (eta.ndim - 1)
    size = None if model.size is None else model.size.reshape(shape)
    phi = jax.tree.map(lambda part: part.reshape(shape) if part.ndim == 1 else part, phi)
    y = model.y.reshape(shape)
    if leaves_range(model.family):
        # A node without a mean has no density. It is taken to the mode, where there is one, so that
        # no derivative is 0 times NaN.
        still = jax.lax.stop_gradient((eta, phi))
        valid = jnp.isfinite(model.family.log_prob(y, *still, size))
        inside = jnp.where(valid, eta, mode.reshape(shape))
        log_prob = jnp.where(valid, model.family.log_prob(y, inside, phi, size), NOTHING)
    else:
        log_prob = model.family.log_prob(y, eta, phi, size)
    if not model.normalised:
        log_prob = log_prob - model.family.log_base(y, size)
    weights = model.weights.reshape(shape)
    # A padded row (weight zero) is never at fault: 0 times minus infinity would be NaN.
    return jnp.where(weights > 0, weights * log_prob, 0.0)


def _half_logdet(lower: jax.Array) -> jax.Array:
    """log|L| of each level, (levels,)."""
    return jnp.sum(jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)), axis=-1)
