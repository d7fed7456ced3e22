"""Known relationship matrices: the engine against dense algebra, and the analysts' layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats

import glmm_jax as gj
from glmm_jax import structure
from glmm_jax.formula.frame import build_frame
from glmm_jax.inference.nesting import Verdict, nesting
from glmm_jax.inference.uncertainty import level_covariances, linear_predictor_variance
from glmm_jax.model import flatten, unflatten

LEVELS, ROWS = 20, 150
UNSEEN = ["a18", "a19"]
FORMULA = "count ~ x + (x | animal) + (1 | herd)"


def kinship() -> pd.DataFrame:
    """A pedigree: four founders, then animals of two earlier ones each, in shuffled order."""
    rng = np.random.default_rng(2)
    A = np.zeros((LEVELS, LEVELS))
    for i in range(LEVELS):
        A[i, i] = 1.0
        if i >= 4:
            sire, dam = rng.choice(i, size=2, replace=False)
            A[i, :i] = A[:i, i] = 0.5 * (A[sire, :i] + A[dam, :i])
            A[i, i] += 0.5 * A[sire, dam]
    labels = [f"a{i:02d}" for i in range(LEVELS)]
    order = rng.permutation(LEVELS)
    return pd.DataFrame(A, labels, labels).iloc[order, order]


@pytest.fixture(scope="module")
def K() -> pd.DataFrame:
    return kinship()


@pytest.fixture(scope="module")
def data(K: pd.DataFrame) -> pd.DataFrame:
    """Two animals of the matrix have no rows."""
    rng = np.random.default_rng(6)
    b = pd.Series(np.linalg.cholesky(K.to_numpy()) @ rng.normal(size=LEVELS), K.index)
    seen = [label for label in K.index if label not in UNSEEN]
    table = pd.DataFrame({"animal": rng.choice(seen, ROWS), "x": rng.normal(size=ROWS).round(3)})
    table["herd"] = rng.integers(0, 30, ROWS)
    herd = 0.4 * rng.normal(size=30)
    eta = 0.4 + 0.3 * table["x"] + 0.8 * b[table["animal"]].to_numpy() + herd[table["herd"]]
    table["count"] = rng.poisson(np.exp(eta))
    table["y"] = (eta + 0.5 * rng.normal(size=ROWS)).round(3)
    return table


@pytest.fixture(scope="module")
def fit(data: pd.DataFrame, K: pd.DataFrame) -> gj.Fit:
    return gj.glmer(FORMULA, data, "poisson", relationship={"animal": K})


def dense_covariance(data: pd.DataFrame, K: pd.DataFrame, Lambda: np.ndarray) -> np.ndarray:
    """Z (K kron Lambda Lambda') Z' of (x | animal), by its elements."""
    Z = np.column_stack([np.ones(len(data)), data["x"]])
    own = K.loc[data["animal"], data["animal"]].to_numpy()
    return own * (Z @ Lambda @ Lambda.T @ Z.T)


# --- the engine -------------------------------------------------------------------------------


def test_gaussian_is_the_normal_density(data: pd.DataFrame, K: pd.DataFrame) -> None:
    model = gj.build_model("y ~ x + (x | animal)", data, relationship={"animal": K})
    params = gj.Params(
        jnp.asarray([0.3, 0.4]), jnp.asarray([0.7, 0.2, 0.3]), jnp.asarray(np.log(0.3))
    )
    Lambda = np.array([[0.7, 0.0], [0.2, 0.3]])
    V = dense_covariance(data, K, Lambda) + 0.3 * np.eye(ROWS)
    wanted = -2 * scipy.stats.multivariate_normal.logpdf(data["y"], 0.3 + 0.4 * data["x"], V)
    np.testing.assert_allclose(jax.jit(gj.deviance)(params, model), wanted, rtol=1e-11)


def test_poisson_is_the_laplace_approximation(data: pd.DataFrame, K: pd.DataFrame) -> None:
    """By Newton's method on b itself with its precision, which no factor of K enters."""
    formula = "count ~ x + (x | animal)"
    model = gj.build_model(formula, data, "poisson", relationship={"animal": K})
    beta, Lambda = np.array([0.3, 0.4]), np.array([[0.7, 0.0], [0.2, 0.3]])
    prior = np.kron(K.to_numpy(), Lambda @ Lambda.T)
    place = K.index.get_indexer(data["animal"])
    Z = np.zeros((ROWS, 2 * LEVELS))
    Z[np.arange(ROWS), 2 * place], Z[np.arange(ROWS), 2 * place + 1] = 1.0, data["x"]
    b, precision = np.zeros(2 * LEVELS), np.linalg.inv(prior)
    y, fixed = data["count"].to_numpy(), beta[0] + beta[1] * data["x"].to_numpy()
    for _ in range(50):
        mu = np.exp(fixed + Z @ b)
        b = b + np.linalg.solve(Z.T @ (mu[:, None] * Z) + precision, Z.T @ (y - mu) - precision @ b)
    mu = np.exp(fixed + Z @ b)
    H = Z.T @ (mu[:, None] * Z) + precision
    density = scipy.stats.poisson.logpmf(y, mu).sum()
    logdet = np.linalg.slogdet(H)[1] + np.linalg.slogdet(prior)[1]
    wanted = -2 * density + b @ precision @ b + logdet
    params = gj.Params(jnp.asarray(beta), jnp.asarray([0.7, 0.2, 0.3]))
    np.testing.assert_allclose(jax.jit(gj.deviance)(params, model), wanted, rtol=1e-11)


@pytest.mark.parametrize("terms", ["(x | animal)", "(x | animal) + (1 | herd) + (1 | f)"])
def test_value_gradient_and_hessian_against_the_dense_twin(
    terms: str, data: pd.DataFrame, K: pd.DataFrame
) -> None:
    """With no other factor, one that is eliminated and one that stays beside it."""
    table = data.assign(f=np.array(list("abc"))[np.arange(ROWS) % 3])
    model = gj.build_model(f"count ~ x + {terms}", table, "poisson", relationship={"animal": K})
    assert model.structure.eliminated == (0 if terms == "(x | animal)" else 1)
    twin = model.replace(structure=structure.dense(model.structure))
    rng = np.random.default_rng(4)
    x = jnp.concatenate([jnp.asarray([0.3, 0.2]), jnp.asarray(rng.uniform(0.3, 0.8, model.m))])
    v = jnp.asarray(rng.normal(size=x.size))

    @jax.jit
    def both(x: jax.Array, model: gj.Model) -> Any:
        gradient = jax.value_and_grad(lambda x: gj.deviance(unflatten(x, model), model))
        return jax.jvp(gradient, (x,), (v,))

    (here, along), (dense, dense_along) = both(x, model), both(x, twin)
    np.testing.assert_allclose(here[0], dense[0], rtol=1e-12)
    np.testing.assert_allclose(here[1], dense[1], atol=1e-9)
    np.testing.assert_allclose(along[1], dense_along[1], atol=1e-8)
    step = 1e-5
    high, low = (both(x + s * v, model)[0] for s in (step, -step))
    np.testing.assert_allclose(here[1] @ v, (high[0] - low[0]) / (2 * step), atol=1e-5)
    np.testing.assert_allclose(along[1], (high[1] - low[1]) / (2 * step), atol=1e-5)


def test_a_diagonal_matrix_is_the_plain_model(data: pd.DataFrame) -> None:
    """K = I by another path of the linear algebra; 4 I with half the deviations."""
    labels = sorted(set(data["animal"]))
    eye = pd.DataFrame(np.eye(len(labels)), labels, labels)
    formula = "count ~ x + (x | animal) + (1 | herd)"
    value = jax.jit(jax.value_and_grad(gj.deviance))
    found = []
    for relation, scale in ((None, 1.0), ({"animal": eye}, 1.0), ({"animal": 4 * eye}, 0.5)):
        model = gj.build_model(formula, data, "poisson", relationship=relation)
        theta = jnp.asarray([0.3, 0.7, 0.2, 0.4]) * jnp.asarray([1.0, scale, scale, scale])
        d, g = value(gj.Params(jnp.asarray([0.3, 0.4]), theta), model)
        found.append((d, g.beta, g.theta * jnp.asarray([1.0, scale, scale, scale])))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


def test_the_maximum_of_a_gaussian_model(data: pd.DataFrame, K: pd.DataFrame) -> None:
    fit = gj.glmer("y ~ x + (1 | animal)", data, relationship={"animal": K})
    assert fit.converged and fit.nobs == ROWS
    own = K.loc[data["animal"], data["animal"]].to_numpy()
    X, y = np.column_stack([np.ones(ROWS), data["x"]]), data["y"].to_numpy()

    def deviance(z: np.ndarray) -> float:
        L = np.linalg.cholesky(z[0] ** 2 * own + np.exp(2 * z[1]) * np.eye(ROWS))
        white = np.linalg.solve(L, np.column_stack([X, y]))
        beta = np.linalg.lstsq(white[:, :2], white[:, 2])[0]
        rest = white[:, 2] - white[:, :2] @ beta
        return ROWS * np.log(2 * np.pi) + 2 * np.log(np.diag(L)).sum() + rest @ rest

    best = scipy.optimize.minimize(deviance, [0.5, -0.5], method="Nelder-Mead", tol=1e-9)
    np.testing.assert_allclose(fit.deviance, best.fun, atol=1e-6)
    np.testing.assert_allclose(fit.theta.iloc[0], abs(best.x[0]), rtol=1e-4)
    # Modes are best linear predictors, of the animals without rows from their relatives.
    between = K.loc[K.index, data["animal"]].to_numpy() * fit.theta.iloc[0] ** 2
    V = own * fit.theta.iloc[0] ** 2 + fit.sigma**2 * np.eye(ROWS)
    rest = y - X @ fit.params.to_numpy()
    table = fit.ranef()["animal"]
    assert list(table.index) == list(K.index) and table.index.name == "animal"
    np.testing.assert_allclose(table["Intercept"], between @ np.linalg.solve(V, rest), atol=1e-9)
    given = np.diag(K) * fit.theta.iloc[0] ** 2
    given = given - np.sum(between * np.linalg.solve(V, between.T).T, axis=1)
    np.testing.assert_allclose(table["Intercept (sd)"] ** 2, given, rtol=1e-8)
    share = fit.icc()["adjusted"]
    mean = np.mean(np.diag(own)) * fit.theta.iloc[0] ** 2
    np.testing.assert_allclose(share["animal"], mean / (mean + fit.sigma**2), rtol=1e-10)


def test_conditional_covariances_against_dense_algebra(fit: gj.Fit) -> None:
    """Of each level, and of rows, in which two factors meet."""
    model, u = fit.model, fit.estimate.u
    n, blocks = fit.nobs, fit.frame.blocks
    eta = np.asarray(fit.linear_predictor)
    full, starts = [], []
    prior = []
    from_theta = {b.grouping: L for b, L in zip(blocks, _triangles(fit), strict=True)}
    for block in blocks:
        L, k = from_theta[block.grouping], block.Z.shape[1]
        levels = len(block.levels)
        Z = np.zeros((n, levels, k))
        Z[np.arange(n), block.index] = block.Z
        full.append(Z.reshape(n, -1))
        R = np.eye(levels) if block.relationship is None else block.relationship.matrix
        starts.append(sum(len(p) for p in prior))
        prior.append(np.kron(R, L @ L.T))
    Z, P = np.concatenate(full, axis=1), _block_diagonal(prior)
    W = np.exp(eta)
    inner = P - P @ Z.T @ np.linalg.solve(np.diag(1 / W) + Z @ P @ Z.T, Z @ P)
    for i, block in enumerate(blocks):
        found = level_covariances(fit)[fit.placement.factor[i]]
        k = block.Z.shape[1]
        for level in (0, 7, len(block.levels) - 1):
            at = slice(starts[i] + k * level, starts[i] + k * level + k)
            np.testing.assert_allclose(found[level], inner[at, at], atol=1e-10)
    # Without the parameters' part the variance of eta is z' inner z.
    with_all = linear_predictor_variance(fit, fit.frame.X, blocks)
    gradient = np.zeros((n, fit.df))
    gradient[:, :2] = fit.frame.X
    step = 1e-5
    psi = np.asarray(flatten(jax.tree.map(jnp.asarray, fit.estimate.params)))
    effects = jax.jit(_effects)
    for j in range(fit.df):
        move = step * np.eye(fit.df)[j]
        high, low = (np.asarray(effects(jnp.asarray(psi + s), model, u)) for s in (move, -move))
        gradient[:, j] += (high - low)[:n] / (2 * step)
    V = fit.vcov_all.to_numpy()
    wanted = np.sum(Z @ inner * Z, axis=1) + np.sum(gradient @ V * gradient, axis=1)
    np.testing.assert_allclose(with_all, wanted, rtol=1e-6)


def _triangles(fit: gj.Fit) -> list[np.ndarray]:
    theta = fit.theta
    out = []
    for block in fit.frame.blocks:
        own = theta[theta.index.str.startswith(f"{block.grouping}.")].to_numpy()
        k = block.Z.shape[1]
        L = np.zeros((k, k))
        L.T[np.triu_indices(k)] = own
        out.append(L)
    return out


def _block_diagonal(parts: list[np.ndarray]) -> np.ndarray:
    out = np.zeros((sum(map(len, parts)),) * 2)
    at = 0
    for part in parts:
        out[at : at + len(part), at : at + len(part)] = part
        at += len(part)
    return out


def _effects(psi: jax.Array, model: gj.Model, u: jax.Array) -> jax.Array:
    """Z b at the conditional mode of the parameters."""
    params = unflatten(psi, model)
    mode = gj.conditional_mode(params, model, u)
    here = gj.Params(jnp.zeros_like(params.beta), params.theta, params.dispersion)
    return gj.pirls.linear_predictor(here, model, mode) - model.offset


# --- analysts' layer ----------------------------------------------------------------------------


def test_fit_and_predictions(fit: gj.Fit, data: pd.DataFrame, K: pd.DataFrame) -> None:
    assert fit.converged
    b = fit.ranef()["animal"]
    assert list(b.index) == list(K.index) and np.all(b.loc[UNSEEN, "Intercept"] != 0)
    new = pd.DataFrame({"animal": ["a18", "a00"], "x": [0.5, -1.0], "herd": [0, 3]})
    herd = fit.ranef()["herd"]["Intercept"]
    wanted = (
        fit.params["Intercept"]
        + fit.params["x"] * new["x"]
        + b.loc[new["animal"], "Intercept"].to_numpy()
        + b.loc[new["animal"], "x"].to_numpy() * new["x"]
        + herd[["0", "3"]].to_numpy()
    )
    np.testing.assert_allclose(fit.predict(new, kind="link"), wanted)
    stranger = new.assign(animal="nobody")
    with pytest.raises(ValueError, match="'nobody'"):
        fit.predict(stranger)
    alone = fit.predict(stranger, kind="link", allow_new_levels=True)
    wanted = fit.params["Intercept"] + fit.params["x"] * new["x"] + herd[["0", "3"]].to_numpy()
    np.testing.assert_allclose(alone, wanted)


def test_simulated_effects_are_related(fit: gj.Fit, data: pd.DataFrame, K: pd.DataFrame) -> None:
    """Log means of many draws: the covariance between animals is K's."""
    draws = fit.simulate(2000, seed=1)
    assert draws.shape == (ROWS, 2000)
    mean = draws.mean(axis=1)
    theta = dict(zip(fit.frame.blocks, _triangles(fit), strict=True))
    variance = np.zeros(ROWS)
    for block, L in theta.items():
        own = np.sum((block.Z @ L) ** 2, axis=1)
        if block.relationship is not None:
            own = own * np.diag(block.relationship.matrix)[block.index]
        variance += own
    wanted = np.exp(fit.frame.X @ fit.params.to_numpy() + 0.5 * variance)
    # The mean of a lognormal; its own standard error is some 3 %.
    np.testing.assert_allclose(np.log(mean / wanted).mean(), 0.0, atol=0.05)


def test_saved_refitted_and_updated(
    fit: gj.Fit, data: pd.DataFrame, K: pd.DataFrame, tmp_path: Path
) -> None:
    fit.save(tmp_path / "fit")
    again = gj.load(tmp_path / "fit")
    assert again.llf == fit.llf and str(again.summary()) == str(fit.summary())
    known = f"Levels of animal are related by a known matrix of {len(K)} levels"
    assert known in str(fit.summary()) and known in fit.summary()._repr_html_()
    pd.testing.assert_frame_equal(again.ranef()["animal"], fit.ranef()["animal"])
    same = again.update(data=data)  # the matrix comes from the file
    assert abs(same.llf - fit.llf) < 1e-9
    other = fit.update(relationship={"animal": (2 * K.to_numpy(), K.index)})
    np.testing.assert_allclose(other.llf, fit.llf, atol=1e-7)
    np.testing.assert_allclose(other.theta.iloc[1] * np.sqrt(2), fit.theta.iloc[1], rtol=1e-4)
    moved = fit.refit(np.roll(data["count"].to_numpy(), 1))
    assert moved.converged and moved.llf != fit.llf


def test_quadrature_is_refused(fit: gj.Fit) -> None:
    with pytest.raises(ValueError, match=r"nagq=5.*not independent.*laplace_error"):
        fit.update(nagq=5)
    with pytest.raises(ValueError, match="not independent"):
        fit.update(nagq="auto")


def test_nesting_needs_the_same_matrix(data: pd.DataFrame, K: pd.DataFrame) -> None:
    def frame(term: str, relation: Any) -> Any:
        return build_frame(f"y ~ x + {term}", data, relationship=relation)

    small, large = frame("(1 | animal)", {"animal": K}), frame("(x | animal)", {"animal": K.copy()})
    found = nesting(small, large)
    assert (found.random, found.zero) == (Verdict.INSIDE, 1)
    for other in (frame("(x | animal)", None), frame("(x | animal)", {"animal": 2 * K})):
        assert nesting(small, other).random is Verdict.UNDECIDED
    assert nesting(frame("(1 | animal)", None), large).random is Verdict.UNDECIDED


def test_one_row_per_animal_is_enough(K: pd.DataFrame) -> None:
    """Not so with independent levels, whose variance is that of the residuals."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"animal": K.index, "y": rng.normal(size=LEVELS)})
    model = gj.build_model("y ~ 1 + (1 | animal)", table, relationship={"animal": K})
    assert model.structure.levels == (LEVELS,)
    for relation in (None, {"animal": pd.DataFrame(np.eye(LEVELS), K.index, K.index)}):
        with pytest.raises(ValueError, match="cannot both be estimated"):
            gj.build_model("y ~ 1 + (1 | animal)", table, relationship=relation)


def test_two_hundred_levels() -> None:
    """A phylogeny-like chain, against the normal density."""
    q, n = 200, 400
    K = 0.9 ** np.abs(np.subtract.outer(np.arange(q), np.arange(q)))
    rng = np.random.default_rng(3)
    at = rng.integers(0, q, n)
    y = (np.linalg.cholesky(K) @ rng.normal(size=q))[at] + 0.5 * rng.normal(size=n)
    labels = [f"s{i}" for i in range(q)]
    table = pd.DataFrame({"y": y, "species": [labels[i] for i in at]})
    model = gj.build_model("y ~ 1 + (1 | species)", table, relationship={"species": (K, labels)})
    params = gj.Params(jnp.asarray([0.1]), jnp.asarray([0.9]), jnp.asarray(np.log(0.3)))
    V = 0.81 * K[np.ix_(at, at)] + 0.3 * np.eye(n)
    wanted = -2 * scipy.stats.multivariate_normal.logpdf(y, np.full(n, 0.1), V)
    np.testing.assert_allclose(jax.jit(gj.deviance)(params, model), wanted, rtol=1e-11)


# --- what is refused ---------------------------------------------------------------------------


def changed(K: pd.DataFrame, i: int, j: int, value: float) -> pd.DataFrame:
    out = K.copy()
    out.iloc[i, j] = value
    return out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda K: K, r"relationship: a DataFrame was given; use a dictionary"),
        (lambda K: {"animal": K.to_numpy()}, r"\['animal'\] is a ndarray; give a DataFrame"),
        (lambda K: {"animal": K.iloc[:-1]}, r"1 labels are in the index or the columns alone"),
        (lambda K: {"animal": (K.to_numpy()[:-1], K.index)}, r"shape \(19, 20\).*20 labels"),
        (lambda K: {"animal": changed(K, 2, 5, 9.0)}, r"not symmetric: 9 for"),
        (lambda K: {"animal": K - np.eye(LEVELS)}, r"not positive definite.*smallest eigenvalue"),
        (lambda K: {"animal": K * 0 + 1.0}, r"not positive definite.*identical levels"),
        (lambda K: {"animal": changed(K, 2, 5, np.nan)}, r"1 values are missing or infinite"),
        (lambda K: {"animal": K.astype(str) + "z"}, "no numbers"),
        (lambda K: {"animal": K.rename({"a01": "a02"})}, r"label 'a02' occurs more than once"),
        (lambda K: {"animal": K.drop(index="a03", columns="a03")}, r"1 levels.*'a03'"),
        (lambda K: {"horse": K}, r"'horse' is no grouping factor.*'animal'"),
    ],
)
def test_a_matrix_that_cannot_be_used(
    make: Any, message: str, data: pd.DataFrame, K: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match=message):
        gj.glmer("count ~ x + (1 | animal)", data, "poisson", relationship=make(K))


def test_columns_in_another_order_are_the_same_matrix(data: pd.DataFrame, K: pd.DataFrame) -> None:
    turned = K[list(reversed(K.columns))]
    for relation in ({"animal": K}, {"animal": turned}):
        (block,) = build_frame("y ~ x + (1 | animal)", data, relationship=relation).blocks
        assert block.relationship is not None
        np.testing.assert_array_equal(block.relationship.matrix, K.to_numpy())
        assert [block.levels[i] for i in block.index[:5]] == list(data["animal"][:5])
