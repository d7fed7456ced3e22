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
from designs import Design

import glmm_jax as gj
from glmm_jax import pirls, structure
from glmm_jax.linalg.block_diagonal import LARGEST_UNROLLED
from glmm_jax.model import Model, Params, flatten, unflatten
from glmm_jax.objective import laplace

STEP = 1e-5
# Scoring first, because the observed information need not be definite far from the mode.
SCORING_STEPS, NEWTON_STEPS = 6, 10


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


@jax.jit
def slopes(x: jax.Array, model: Model) -> tuple[jax.Array, jax.Array]:
    """Value and gradient, of the implicit rule."""
    return jax.value_and_grad(value)(x, model)


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

    def step(u, newton):
        eta = fixed + ZLambda @ u
        s = ZLambda.T @ (rows.weights * score(rows.y, eta, rows.size)) - u
        observed = -curvature(rows.y, eta, rows.size)
        h = rows.weights * jnp.where(newton, observed, family.fisher(eta, phi, rows.size))
        return u + jnp.linalg.solve(ZLambda.T @ (h[:, None] * ZLambda) + eye, s), None

    newton = np.arange(SCORING_STEPS + NEWTON_STEPS) >= SCORING_STEPS
    u, _ = jax.lax.scan(step, jnp.zeros(ZLambda.shape[1]), newton)
    eta = fixed + ZLambda @ u
    information = (
        family.fisher(eta, phi, rows.size)
        if design.curvature == "expected"
        else -curvature(rows.y, eta, rows.size)
    )
    H = ZLambda.T @ ((rows.weights * information)[:, None] * ZLambda) + eye
    log_prob = over_rows(row)(rows.y, eta, rows.size)
    return -2.0 * jnp.sum(rows.weights * log_prob) + u @ u + jnp.linalg.slogdet(H)[1]


# Every structure once, every link once, expected and observed curvature; Hessians of one factor
# with elementwise and with larger blocks, of a dense remainder without and with an eliminated chain
# before it, and of links that are not canonical. Forward mode through the transposed solve with the
# remainder must see that move: a rule that forgot it lost a term of the Hessian in silence.
CLOGLOG = Design("scalar", "bernoulli", "cloglog", offset=True)
CROSSED = Design("crossed", "poisson", "log", offset=True, weights=True)
GAUSSIAN = Design("crossed_slopes", "gaussian", "identity", weights=True)
PROBIT = Design("slope", "bernoulli", "probit")
TWICE = Design("nested_and_crossed_twice", "poisson", "log")
SECOND = [
    CLOGLOG,
    Design("five_columns"),
    CROSSED,
    Design("nested_and_crossed"),
    Design("slope", "gaussian", "log", curvature="observed"),
]
FIRST = [
    Design("slopes"),
    Design("two_terms", "poisson", "log"),
    Design("diagonal_and_full"),
    Design("nested_three"),
    Design("crossed_three", "poisson", "log"),
    TWICE,
    PROBIT,
    Design("nested", "bernoulli", "cloglog", curvature="observed"),
    Design("scalar", "bernoulli", "cauchit", curvature="observed"),
    Design("slope", "binomial", "logit", offset=True, weights=True),
    Design("crossed", "poisson", "sqrt"),
    GAUSSIAN,
    Design("crossed", "gaussian", "log", offset=True),
]


def test_every_structure_is_here() -> None:
    assert {design.structure for design in FIRST + SECOND} == set(designs.STRUCTURES)


def unrolled_derivatives(x: jax.Array, design: Design, second: bool):
    if not second:
        return jax.jit(jax.value_and_grad(partial(unrolled, design=design)))(x)

    def with_value(x):
        d, g = jax.value_and_grad(unrolled)(x, design)
        return g, (d, g)

    H, (d, g) = jax.jit(jax.jacfwd(with_value, has_aux=True))(x)
    return d, g, H


@pytest.mark.parametrize("design", FIRST + SECOND, ids=str)
def test_implicit_is_unrolled_is_differences_is_dense(design: Design) -> None:
    model = designs.model(design)
    x = flatten(designs.params(design))
    second = design in SECOND
    order = derivatives if second else slopes
    ours = order(x, model)
    assert np.isfinite(ours[0])

    # The dense twin knows no structure: that of the most intricate speaks for all.
    if design == TWICE:
        twin = model.replace(structure=structure.dense(model.structure))
        for found, expected in zip(ours, order(x, twin), strict=True):
            scale = np.max(np.abs(expected))
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * scale)

    # The loop differentiated step by step; its matrices are built outside the engine.
    for found, expected in zip(ours, unrolled_derivatives(x, design, second), strict=True):
        scale = np.max(np.abs(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)

    # Each derivative is that of the one before it.
    ends = [(order(x + STEP * e, model), order(x - STEP * e, model)) for e in np.eye(len(x))]
    for i, found in enumerate(ours[1:]):
        slope = np.array([(up[i] - down[i]) / (2 * STEP) for up, down in ends])
        np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-6 * np.max(np.abs(found)))
    if second:
        H = ours[2]
        np.testing.assert_allclose(H, H.T, rtol=1e-9, atol=1e-9 * np.max(np.abs(H)))


def test_value_and_gradient_share_their_factor() -> None:
    """One Cholesky factor of the remainder in the search, and one at the mode: the compiler sees
    that the determinant and the derivative of the mode need the same (on a CPU, by LAPACK's name).
    """
    model = designs.model(CROSSED)
    assert model.structure.sizes[-1] > LARGEST_UNROLLED  # the remainder's is LAPACK's
    program = slopes.lower(flatten(designs.params(CROSSED)), model).compile().as_text()
    assert program.count("lapack_dpotrf_ffi") == 2


COMPOSED = {
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}


@pytest.mark.parametrize(
    ("design", "mode"), list(zip([CLOGLOG, CLOGLOG, CROSSED], COMPOSED, strict=True)), ids=str
)
def test_hessian_by_any_mix_of_modes(design: Design, mode: str) -> None:
    model = designs.model(design)
    x = flatten(designs.params(design))
    H = jax.jit(COMPOSED[mode](value))(x, model)
    expected = derivatives(x, model)[2]
    np.testing.assert_allclose(H, expected, rtol=1e-9, atol=1e-9 * np.max(np.abs(expected)))


def test_third_derivatives_by_two_mixes() -> None:
    model = designs.model(CLOGLOG)
    x = flatten(designs.params(CLOGLOG))
    rng = np.random.default_rng(3)
    v, w = rng.normal(size=(2, len(x)))

    def along(f, direction):
        return lambda x: jax.jvp(f, (x,), (direction,))[1]

    def at(x):
        return value(x, model)

    @jax.jit
    def both(x):
        inside = along(along(jax.grad(at), v), w)(x)
        outside = jax.grad(along(along(at, v), w))(x)
        return inside, outside

    inside, outside = both(x)
    scale = np.max(np.abs(inside))
    np.testing.assert_allclose(inside, outside, rtol=1e-9, atol=1e-9 * scale)
    up, down = derivatives(x + STEP * w, model)[2], derivatives(x - STEP * w, model)[2]
    np.testing.assert_allclose(inside, (up - down) @ v / (2 * STEP), rtol=1e-6, atol=1e-6 * scale)


def test_vmap_over_parameters_and_over_models() -> None:
    model = designs.model(GAUSSIAN)
    x = flatten(designs.params(GAUSSIAN))
    rng = np.random.default_rng(4)
    points = jnp.asarray(np.asarray(x) + 0.1 * rng.normal(size=(3, len(x))))
    models = [
        model.replace(
            y=model.y[rng.permutation(model.n)],
            X=model.X * rng.uniform(0.8, 1.2),
            offset=model.offset + rng.normal(size=model.n) / 4,
            weights=jnp.asarray(rng.uniform(0.5, 2.0, model.n)),
        )
        for _ in range(3)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    for found, expected in [
        (jax.jit(jax.vmap(jax.value_and_grad(value), (0, None)))(points, model),
         [slopes(point, model) for point in points]),
        (jax.jit(jax.vmap(jax.value_and_grad(value)))(points, stacked),
         [slopes(*pair) for pair in zip(points, models, strict=True)]),
    ]:  # fmt: skip
        for lane, (d, g) in enumerate(expected):
            np.testing.assert_allclose(found[0][lane], d, rtol=1e-12)
            np.testing.assert_allclose(found[1][lane], g, rtol=1e-9, atol=1e-9 * np.max(abs(g)))


@pytest.mark.parametrize("design", [PROBIT, GAUSSIAN], ids=str)
def test_gradient_in_every_array_of_the_model(design: Design) -> None:
    model = designs.model(design)
    x = flatten(designs.params(design))
    rng = np.random.default_rng(5)
    names = ["X", "Z", "offset", "weights"]
    if design.family == "gaussian":
        names += ["y", "size"]
    arrays = {name: getattr(model, name) for name in names}

    @jax.jit
    def both(arrays):
        return jax.value_and_grad(lambda arrays: value(x, model.replace(**arrays)))(arrays)

    gradient = both(arrays)[1]
    for name in names:
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), arrays[name])

        def moved(step: float, name: str = name, direction=direction):
            place = jax.tree.map(lambda a, d: a + step * d, arrays[name], direction)
            return both(arrays | {name: place})[0]

        slope = float(moved(STEP) - moved(-STEP)) / (2 * STEP)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient[name], direction)
        assert float(sum(jax.tree.leaves(products))) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_joint_mode_deviance() -> None:
    """nagq = 0: beta is found, not given, and the gradient in theta follows it."""
    model, params = designs.model(CLOGLOG), designs.params(CLOGLOG)

    @jax.jit
    def joint(params, model):
        return jax.value_and_grad(partial(gj.deviance, nagq=0), allow_int=True)(params, model)

    d, g = joint(params, model)
    other = Params(jnp.zeros_like(params.beta), params.theta, params.dispersion)
    assert joint(other, model)[0] == pytest.approx(float(d), rel=1e-12)
    np.testing.assert_array_equal(g.beta, 0.0)

    @jax.jit
    def at_mode(params, model):
        u, beta = pirls.joint_mode(params, model, (jnp.zeros(model.q), params.beta))
        there = Params(beta, params.theta, params.dispersion)
        return beta, laplace.deviance_at_mode(there, model, u)

    beta, there = at_mode(params, model)
    assert float(there) == pytest.approx(float(d), rel=1e-12)
    # The conditional mode given that beta is the same u.
    again = slopes(flatten(Params(beta, params.theta, params.dispersion)), model)[0]
    assert float(again) == pytest.approx(float(d), rel=1e-12)

    for i in range(len(params.theta)):
        up, down = (
            joint(Params(beta, params.theta.at[i].add(step), params.dispersion), model)[0]
            for step in (STEP, -STEP)
        )
        slope = float(up - down) / (2 * STEP)
        assert float(g.theta[i]) == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_single_precision(default_precision: None) -> None:
    """The pure layer uses the types it is given."""
    model, params = designs.model(CROSSED), designs.params(CROSSED)
    assert model.X.dtype == params.beta.dtype == jnp.float32
    d, g = jax.jit(jax.value_and_grad(gj.deviance))(params, model)
    assert d.dtype == jnp.float32 and np.all(np.isfinite(flatten(g)))
    with jax.enable_x64(True):
        exact = derivatives(flatten(designs.params(CROSSED)), designs.model(CROSSED))[0]
    assert float(d) == pytest.approx(float(exact), rel=1e-5)


def test_mode_that_is_not_found_gives_nan() -> None:
    x = flatten(designs.params(FIRST[0])).at[0].set(jnp.nan)
    d, g = slopes(x, designs.model(FIRST[0]))
    assert np.isnan(d) and np.any(np.isnan(g))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": np.zeros(4)}, r"params\.beta has shape \(4,\); this model needs \(3,\)"),
        ({"theta": np.zeros(3)}, r"params\.theta has shape \(3,\); this model needs \(1,\)"),
        ({"dispersion": np.zeros(())}, "the bernoulli family has none"),
    ],
)
def test_parameters_that_do_not_fit(changes: dict, message: str) -> None:
    design = Design("scalar")
    params = designs.params(design)
    fields = {"beta": params.beta, "theta": params.theta, "dispersion": None} | changes
    with pytest.raises(ValueError, match=message):
        gj.deviance(Params(**fields), designs.model(design))


def test_bad_arguments() -> None:
    design = Design("slope", "gaussian", "identity")
    model, params = designs.model(design), designs.params(design)
    with pytest.raises(ValueError, match=r"params\.dispersion=None; the gaussian family needs log"):
        gj.deviance(Params(params.beta, params.theta), model)
    with pytest.raises(ValueError, match=r"nagq=-2; use 1 \(Laplace\)"):
        gj.deviance(params, model, nagq=-2)
