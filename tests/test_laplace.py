"""The Laplace deviance: its value against references, its derivatives against everything else.

Tolerances. PIRLS ends at rounding, so values of two paths agree to 1e-10 relative. A central
difference of step h in double precision has an error of h^2 |f'''| / 6 from truncation and
eps |f| / h from rounding: with h = 1e-5 and deviances of about 200, 1e-9 from each, so gradients
are compared to 1e-6 and so are Hessians, which are differences of the gradient.
"""

from __future__ import annotations

from functools import partial

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from designs import BY_STRUCTURE, DESIGNS, Design
from reference_cases import Case, cases

import glmm_jax as gj
from glmm_jax import families, structure
from glmm_jax.build import place
from glmm_jax.formula.frame import build_frame
from glmm_jax.model import Model, Params, flatten, unflatten

STEP = 1e-5
NEWTON_STEPS = 14


def value(x: jax.Array, model: Model) -> jax.Array:
    return gj.deviance(unflatten(x, model), model)


@jax.jit
def derivatives(x: jax.Array, model: Model) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value, gradient, and Hessian forward over reverse, of the implicit rule."""

    def with_value(x):
        d, g = jax.value_and_grad(value)(x, model)
        return g, (d, g)

    H, (d, g) = jax.jacfwd(with_value, has_aux=True)(x)
    return d, g, H


def unrolled(x: jax.Array, design: Design) -> jax.Array:
    """The deviance with plain matrices and a fixed number of Newton steps from zero.

    Nothing of the engine but the density of a row: derivatives go through the loop.
    """
    rows, family = designs.plain(design), design.distribution
    p = rows.X.shape[1]
    m = x.shape[0] - p - family.has_dispersion
    beta, theta = x[:p], x[p : p + m]
    phi = x[p + m] if family.has_dispersion else None
    ZLambda = rows.Z @ rows.Lambda(theta, jnp)
    fixed = rows.X @ beta + rows.offset

    def row(y, eta, size):
        return family.log_prob(y, eta, phi, size)

    sizes = None if rows.size is None else 0
    over_rows = partial(jax.vmap, in_axes=(0, 0, sizes))
    score = over_rows(jax.grad(row, 1))
    curvature = over_rows(jax.grad(jax.grad(row, 1), 1))
    eye = jnp.eye(ZLambda.shape[1])

    def step(u, _):
        eta = fixed + ZLambda @ u
        s = ZLambda.T @ (rows.weights * score(rows.y, eta, rows.size)) - u
        h = -rows.weights * curvature(rows.y, eta, rows.size)
        return u + jnp.linalg.solve(ZLambda.T @ (h[:, None] * ZLambda) + eye, s), None

    u, _ = jax.lax.scan(step, jnp.zeros(ZLambda.shape[1]), length=NEWTON_STEPS)
    eta = fixed + ZLambda @ u
    information = (
        family.fisher(eta, phi, rows.size)
        if design.curvature == "expected"
        else -curvature(rows.y, eta, rows.size)
    )
    H = ZLambda.T @ ((rows.weights * information)[:, None] * ZLambda) + eye
    log_prob = over_rows(row)(rows.y, eta, rows.size)
    return -2.0 * jnp.sum(rows.weights * log_prob) + u @ u + jnp.linalg.slogdet(H)[1]


def unrolled_derivatives(x: jax.Array, design: Design):
    def with_value(x):
        d, g = jax.value_and_grad(unrolled)(x, design)
        return g, (d, g)

    H, (d, g) = jax.jit(jax.jacfwd(with_value, has_aux=True))(x)
    return d, g, H


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_implicit_is_unrolled_is_differences_is_dense(design: Design) -> None:
    model = designs.model(design)
    x = flatten(designs.params(design))
    d, g, H = derivatives(x, model)
    assert np.isfinite(d)
    np.testing.assert_allclose(H, H.T, rtol=1e-9, atol=1e-9 * np.max(np.abs(H)))

    # A structured path and the dense twin are the same function.
    twin = model.replace(structure=structure.dense(model.structure))
    for found, expected in zip((d, g, H), derivatives(x, twin), strict=True):
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * scale)

    # The loop differentiated step by step; its matrices are built outside the engine.
    for found, expected in zip((d, g, H), unrolled_derivatives(x, design), strict=True):
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)

    slopes, columns = [], []
    for e in np.eye(len(x)):
        up, down = derivatives(x + STEP * e, model), derivatives(x - STEP * e, model)
        slopes.append((up[0] - down[0]) / (2 * STEP))
        columns.append((up[1] - down[1]) / (2 * STEP))
    np.testing.assert_allclose(g, slopes, rtol=1e-6, atol=1e-6 * np.max(np.abs(g)))
    np.testing.assert_allclose(H, columns, rtol=1e-6, atol=1e-6 * np.max(np.abs(H)))
