"""Compound symmetry, AR(1) and diagonal covariances: factors, fits, what analysts see."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from scipy.stats import multivariate_normal

import glmm_jax as gj
from glmm_jax import covariance, structure
from glmm_jax.covariance import AR1, CompoundSymmetry, Full
from glmm_jax.formula.frame import build_frame
from glmm_jax.formula.parser import parse
from glmm_jax.inference.nesting import Verdict, nesting
from glmm_jax.model import flatten, unflatten

REFERENCE = json.loads(
    (Path(__file__).parent / "reference" / "covariance_structures.json").read_text()
)
CS, AR = "y ~ x + cs(0 + f | g)", "count ~ x + ar1(0 + factor(t) | g)"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pd.DataFrame(REFERENCE["data"])


@pytest.fixture(scope="module")
def cs(data: pd.DataFrame) -> gj.Fit:
    return gj.glmer(CS, data)


@pytest.fixture(scope="module")
def ar1(data: pd.DataFrame) -> gj.Fit:
    return gj.glmer(AR, data, "poisson")


# --- factors ---------------------------------------------------------------------------------


def matrix(kind: covariance.Structured, sd: Any, rho: float) -> np.ndarray:
    """The covariance matrix from its definition."""
    apart = np.abs(np.subtract.outer(np.arange(kind.columns), np.arange(kind.columns)))
    R = rho**apart if isinstance(kind, AR1) else np.where(apart == 0, 1.0, rho)
    sd = np.broadcast_to(sd, kind.columns)
    return R * np.outer(sd, sd)


def theta_of(kind: covariance.Structured, sd: Any, rho: float) -> np.ndarray:
    first = np.atleast_1d(sd) if isinstance(kind, AR1) else np.sqrt(sd)
    return np.append(first, covariance.angle_of(kind, rho))


@pytest.mark.parametrize("kind", [CompoundSymmetry(2), CompoundSymmetry(5), AR1(2), AR1(5)])
def test_the_factor_is_that_of_the_definition_and_smooth_at_the_ends(kind: Any) -> None:
    k = kind.columns
    lowest = -1.0 if isinstance(kind, AR1) else -1.0 / (k - 1)
    sd = 1.3 if isinstance(kind, AR1) else np.linspace(0.4, 1.6, k)

    @jax.jit
    def at(theta: jax.Array, L: jax.Array) -> tuple[jax.Array, ...]:
        """The factor, its derivatives, and the parameters of a factor."""
        factor = partial(covariance.factor, kind)
        return factor(theta), jax.jacfwd(factor)(theta), covariance.parameters(kind, L)

    for rho in (lowest, 0.7 * lowest, 0.0, 0.4, 1.0):
        theta = theta_of(kind, sd, rho)
        L = covariance.structured_factor(kind, theta)
        np.testing.assert_allclose(L @ L.T, matrix(kind, sd, rho), atol=1e-13)
        np.testing.assert_array_equal(np.tril(L), L)
        factor, slope, back = map(np.asarray, at(theta, L))
        np.testing.assert_allclose(factor, L, atol=1e-15)
        np.testing.assert_allclose(back, theta, atol=3e-8)  # an arc sine at its end
        for e in range(len(theta)):
            step = 1e-6 * np.eye(len(theta))[e]
            high, low = (covariance.structured_factor(kind, theta + s) for s in (step, -step))
            np.testing.assert_allclose(slope[..., e], (high - low) / 2e-6, atol=1e-8)


def test_equivalent_parameters_become_canonical() -> None:
    """Signs, angles beyond an end, deviations of (nearly) zero; the covariance stays."""
    for kind, theta in [
        (AR1(4), [-0.8, 2.0]),
        (AR1(4), [0.8, -9.0]),
        (CompoundSymmetry(3), [-0.7, 0.9, 1.1, 4.0]),
        (CompoundSymmetry(3), [0.7, 1e-5, 1.1, 0.3]),
        (AR1(4), [0.8, np.pi / 2 - 1e-5]),
    ]:
        given = jnp.asarray(theta)
        found = covariance.canonical_parameters(kind, given, jnp.ones(kind.size), 3e-4)
        again = covariance.canonical_parameters(kind, found, jnp.ones(kind.size), 3e-4)
        np.testing.assert_array_equal(again, found)
        assert np.all(found[:-1] >= 0) and abs(found[-1]) <= np.pi / 2
        L, C = covariance.factor(kind, given), covariance.factor(kind, found)
        np.testing.assert_allclose(L @ L.T, C @ C.T, atol=1e-9)
    assert covariance.boundary(AR1(4), found).tolist() == [False, True]
    zero = covariance.canonical_parameters(AR1(4), jnp.asarray([1e-5, 1.0]), jnp.ones(2), 3e-4)
    np.testing.assert_array_equal(zero, 0.0)
    # One deviation left: the correlation is shown on the other side of zero, once.
    kind, theta = CompoundSymmetry(3), jnp.asarray([0.0, 0.0, 1.0, 1.2])
    first = covariance.canonical_parameters(kind, theta, jnp.ones(4), 3e-4)
    assert covariance.correlation(kind, first[-1]) < 0 < covariance.correlation(kind, theta[-1])
    np.testing.assert_array_equal(
        covariance.canonical_parameters(kind, first, jnp.ones(4), 3e-4), first
    )


# --- fits against glmmTMB ----------------------------------------------------------------------


def reported(fit: gj.Fit) -> tuple[np.ndarray, float]:
    table = fit.varcorr().query("group != 'Residual'")
    is_sd = table["name2"].isna()
    return table.loc[is_sd, "sdcor"].to_numpy(), float(table.loc[~is_sd, "sdcor"].iloc[0])


@pytest.mark.parametrize("name", ["cs_gaussian", "ar1_poisson"])
def test_fits_agree_with_glmmtmb(name: str, request: pytest.FixtureRequest) -> None:
    fit, record = request.getfixturevalue(name.split("_")[0]), REFERENCE["fits"][name]
    assert fit.converged and not fit.warnings
    assert abs(fit.llf - record["logLik"]) < 1e-7
    se = np.array(record["se"])
    assert np.all(np.abs(fit.params - record["beta"]) < 1e-6 * se)
    np.testing.assert_allclose(fit.bse, se, rtol=1e-5)
    sd, rho = reported(fit)
    np.testing.assert_allclose(sd, record["terms"][0]["sd"], rtol=1e-6)
    np.testing.assert_allclose(rho, record["terms"][0]["cor"], rtol=1e-6)
    # Standard errors: glmmTMB's are of log(sd) and of its own correlation parameter t.
    table = fit.varcorr().iloc[: len(sd) + 1]
    t, errors = record["theta"][-1], np.array(record["theta_se"])
    if name.startswith("ar1"):
        slope = (1 + t * t) ** -1.5
    else:
        p = 1 / (1 + np.exp(-t))
        slope = p * (1 - p) * (1 + 1 / 3)
    wanted = np.append(sd * errors[:-1], slope * errors[-1])
    np.testing.assert_allclose(table["se"], wanted, rtol=1e-4)


def own_theta(kind: Any, term: dict[str, Any]) -> np.ndarray:
    if not isinstance(kind, covariance.Structured):
        return np.array(term["sd"])
    return theta_of(kind, np.array(term["sd"]), term["cor"])


@pytest.mark.parametrize("name", ["cs_bernoulli", "diag_poisson"])
def test_the_optimum_of_glmmtmb_is_an_optimum(name: str, data: pd.DataFrame) -> None:
    record = REFERENCE["fits"][name]
    model = gj.build_model(record["formula"], data, record["family"])
    theta = own_theta(model.terms[0][0].covariance, record["terms"][0])
    phi = 2.0 * np.array(record["betad"]) if record["betad"] else None
    dispersion = None if phi is None else jnp.asarray(0.5 * phi[0])  # betad is log(sigma^2)
    params = gj.Params(jnp.asarray(record["beta"]), jnp.asarray(theta), dispersion)
    value, slope = jax.jit(jax.value_and_grad(gj.deviance))(params, model)
    np.testing.assert_allclose(-0.5 * value, record["logLik"], atol=1e-7)
    # Twelve digits of the estimates leave this much; a unit of beta changes it by hundreds.
    assert np.all(np.abs(flatten(slope)) < 1e-6)


# --- derivatives -------------------------------------------------------------------------------


def test_value_and_gradient_against_the_dense_twin_and_hessian_against_differences(
    data: pd.DataFrame,
) -> None:
    """Two structures, crossed; and the structured path against differences."""
    formula = "count ~ x + cs(0 + f | g) + ar1(0 + factor(t) | f)"
    model = gj.build_model(formula, data.iloc[::4], "poisson")
    twin = model.replace(structure=structure.dense(model.structure))
    rng = np.random.default_rng(4)
    params = gj.Params(jnp.asarray([0.3, 0.2]), jnp.asarray(rng.uniform(0.4, 0.8, model.m)))
    x = flatten(params)

    def value(x: jax.Array, model: gj.Model) -> jax.Array:
        return gj.deviance(unflatten(x, model), model)

    gradient = jax.value_and_grad(value)
    dense = jax.jit(gradient)(x, twin)
    v = jnp.asarray(rng.normal(size=x.size))

    @jax.jit
    def both(x: jax.Array, model: gj.Model) -> Any:
        """Value, gradient, and the Hessian times v."""
        return jax.jvp(lambda x: gradient(x, model), (x,), (v,))

    here, along = both(x, model)
    np.testing.assert_allclose(here[0], dense[0], rtol=1e-12)
    np.testing.assert_allclose(here[1], dense[1], atol=1e-9)
    step = 1e-5
    for j in range(x.size):
        high, low = (both(x.at[j].add(s), model)[0][0] for s in (step, -step))
        np.testing.assert_allclose(here[1][j], (high - low) / (2 * step), atol=1e-5)
    high, low = (both(x + s * v, model)[0][1] for s in (step, -step))
    np.testing.assert_allclose(along[1], (high - low) / (2 * step), atol=1e-5)


# --- the boundary ----------------------------------------------------------------------------


class Marginal:
    """The Gaussian model `CS` by dense algebra, group after group: -2 log-likelihood."""

    def __init__(self, data: pd.DataFrame) -> None:
        self.f = data["f"].map("abcd".index).to_numpy().reshape(24, 18)  # sorted by g
        self.X = np.stack([np.ones((24, 18)), data["x"].to_numpy().reshape(24, 18)], axis=-1)
        self.y = data["y"].to_numpy().reshape(24, 18, 1)

    def __call__(self, sd: np.ndarray, rho: float, sigma: float) -> float:
        """Beta profiled out."""
        V = matrix(CompoundSymmetry(4), sd, rho)[self.f[:, :, None], self.f[:, None, :]]
        L = np.linalg.cholesky(V + sigma**2 * np.eye(18))
        white = np.linalg.solve(L, np.concatenate([self.X, self.y], axis=-1)).reshape(-1, 3)
        rest = white[:, 2] - white[:, :2] @ np.linalg.lstsq(white[:, :2], white[:, 2])[0]
        logdet = 2 * np.log(np.diagonal(L, axis1=1, axis2=2)).sum()
        return float(len(rest) * np.log(2 * np.pi) + logdet + rest @ rest)

    def lowest(self, start: np.ndarray, rho: float | None = None) -> float:
        """The minimum, the correlation held if it is given."""

        def value(z: np.ndarray) -> float:
            r = (2 + 4 * np.sin(z[4])) / 6 if rho is None else rho
            return self(z[:4] ** 2, r, float(np.exp(z[5])))

        found = scipy.optimize.minimize(
            value, start, method="BFGS", options={"gtol": 1e-4, "maxiter": 200}
        )
        return float(found.fun)


def test_a_profile_of_the_correlation(cs: gj.Fit, data: pd.DataFrame) -> None:
    name = "cor(f, common | g)"
    found = cs.profile([name, "sd(f[a] | g)"], joint=False)
    assert not found.notes
    oracle = Marginal(data)
    start = np.append(cs.theta, np.log(cs.sigma))
    limits = found.conf_int(0.95)
    assert np.all((limits.to_numpy()[0] > -1 / 3) & (limits.to_numpy()[0] < 1))
    rho = float(limits.loc[name].iloc[0])
    rise = oracle.lowest(start, rho) - cs.deviance
    np.testing.assert_allclose(rise, 1.959964**2, atol=2e-3)
    np.testing.assert_allclose(found.zeta(name, rho), -1.959964, atol=2e-4)
    assert np.isnan(found.zeta(name, -0.5))


def test_no_variance_at_all_is_no_trap(data: pd.DataFrame) -> None:
    """Where three deviations are zero the deviance may still fall with the other sign of the
    correlation; such a point is no answer. The program is that of the fit above."""
    rng = np.random.default_rng(5)
    flat = data.assign(y=np.round(1 + 0.3 * data["x"] + 0.5 * rng.normal(size=len(data)), 3))
    fit = gj.glmer(CS, flat)
    oracle = Marginal(flat)
    starts = [np.append(rng.uniform(0.2, 0.6, 4), [t, np.log(0.5)]) for t in (-1.2, 0.8)]
    best = min(oracle.lowest(start) for start in starts)
    assert fit.converged
    assert fit.deviance < best + 1e-5


@pytest.mark.parametrize("truth", ["one zero", "lowest correlation"])
def test_singular_fits_say_so(truth: str, data: pd.DataFrame) -> None:
    rng = np.random.default_rng(8)
    g, f = data["g"].astype("category").cat.codes.to_numpy(), data["f"].map("abcd".index)
    z = rng.normal(size=(24, 4))
    if truth == "one zero":
        # The third column goes against what the others share, which one correlation, here
        # positive, does not allow.
        b = 0.8 * z[:, :1] + 0.6 * z
        b[:, 2] = -0.15 * z[:, 0]
    else:
        b = 1.5 * (z - z.mean(axis=1, keepdims=True))
    y = 1 + 0.3 * data["x"] + b[g, f] + 0.5 * rng.normal(size=len(data))
    fit = gj.glmer(CS, data.assign(y=y))
    assert fit.converged
    table = fit.varcorr()
    if truth == "one zero":
        assert fit.is_singular and table.loc[2, "sdcor"] == 0.0 and np.isnan(table.loc[2, "se"])
        assert "the variance of f[c] in cs(f | g) is estimated as zero" in fit.message
    else:
        rho = table.loc[4, "sdcor"]
        assert -1 / 3 <= rho < -0.3
        if fit.is_singular:
            assert "an end of its range" in fit.message


# --- analysts' layer -----------------------------------------------------------------------------


def test_the_summary_shows_one_correlation(cs: gj.Fit, ar1: gj.Fit) -> None:
    text = str(ar1.summary())
    (line,) = [line for line in text.splitlines() if "(ar1)" in line]
    assert line.split() == ["g", "factor(t)", "0.7602", "0.8719", "0.75", "(ar1)"]
    lines = str(cs.summary()).splitlines()
    (at,) = [i for i, line in enumerate(lines) if "(cs)" in line]
    assert lines[at].split()[:2] == ["g", "f[a]"] and lines[at].endswith("0.48 (cs)")
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["f[b]", "f[c]", "f[d]"]


def test_names_and_intervals(cs: gj.Fit, ar1: gj.Fit) -> None:
    assert list(ar1.theta.index) == ["g.sd(factor(t))", "g.angle(factor(t))"]
    table = ar1.conf_int(parameters="all")
    assert list(table.index) == [
        "Intercept", "x", "sd(factor(t) | g)", "cor(factor(t), lag 1 | g)",
    ]  # fmt: skip
    assert list(cs.conf_int(parameters="all").index)[2:] == [
        *(f"sd(f[{c}] | g)" for c in "abcd"), "cor(f, common | g)", "sigma",
    ]  # fmt: skip
    sd, rho = reported(cs)
    limits = cs.conf_int(parameters="all").to_numpy()
    assert np.all(limits[2:6, 0] < sd) and np.all(sd < limits[2:6, 1])
    # Symmetric in Fisher's z of an intraclass correlation among four.
    low, z, high = (np.log((1 + 3 * r) / (1 - r)) / 4 for r in (limits[6, 0], rho, limits[6, 1]))
    np.testing.assert_allclose(high - z, z - low)
    assert len(ar1.tidy()) == 4


def test_effects_and_predictions(ar1: gj.Fit, data: pd.DataFrame) -> None:
    b = ar1.ranef()["g"]
    assert b.shape == (24, 12)
    rows = data.iloc[:7]
    wanted = np.exp(
        ar1.params["Intercept"]
        + ar1.params["x"] * rows["x"]
        + [b.loc[g, f"factor(t)[{t}]"] for g, t in zip(rows["g"], rows["t"], strict=True)]
    )
    np.testing.assert_allclose(ar1.predict(rows), wanted)
    np.testing.assert_allclose(ar1.fittedvalues[:7], wanted)


def test_saved_and_refitted(cs: gj.Fit, tmp_path: Path) -> None:
    cs.save(tmp_path / "fit")
    again = gj.load(tmp_path / "fit")
    assert str(again.summary()) == str(cs.summary())
    other = cs.refit(cs.simulate(1, seed=3)["sim_1"])
    assert other.converged and other.theta.index.equals(cs.theta.index)
    assert abs(reported(other)[1] - reported(cs)[1]) < 4 * cs.varcorr().loc[4, "se"]


def test_nesting(data: pd.DataFrame) -> None:
    def verdict(small: str, large: str) -> tuple[Verdict, int | None]:
        frames = (build_frame(f"y ~ x + {term}", data) for term in (small, large))
        found = nesting(*frames)
        return found.random, found.zero

    assert verdict("cs(0 + f | g)", "(0 + f | g)") == (Verdict.INSIDE, 0)
    assert verdict("ar1(0 + factor(t) | g)", "(0 + factor(t) | g)") == (Verdict.INSIDE, 0)
    assert verdict("diag(x | g)", "(x | g)") == (Verdict.INSIDE, 0)
    assert verdict("(1 | g)", "diag(x | g)") == (Verdict.INSIDE, 1)
    assert verdict("diag(x | g)", "(x || g)") == (Verdict.INSIDE, 0)
    assert verdict("cs(0 + f | g)", "cs(0 + f | g)") == (Verdict.INSIDE, 0)
    assert verdict("(0 + f | g)", "cs(0 + f | g)")[0] is not Verdict.INSIDE
    assert verdict("(x | g)", "cs(0 + f | g)")[0] is Verdict.OUTSIDE
    assert verdict("cs(0 + f | g)", "(1 | g)")[0] is Verdict.OUTSIDE


# --- formulas ------------------------------------------------------------------------------


def test_us_is_the_plain_term(data: pd.DataFrame) -> None:
    plain, named = (build_frame(f"y ~ x + {t}", data) for t in ("(x | g)", "us(x | g)"))
    assert named.blocks[0].structure == "us"
    np.testing.assert_array_equal(plain.blocks[0].Z, named.blocks[0].Z)
    assert [t.structure for t in parse("y ~ diag(1 | a/b) + (1 | c)").random] == [
        "diag", "diag", "us",
    ]  # fmt: skip


def test_times_without_rows_keep_their_place(data: pd.DataFrame) -> None:
    gap = data[data["t"] != 3]
    with pytest.raises(ValueError, match=r"1, 2, 4, 5, 6, which are not equal steps"):
        build_frame("y ~ x + ar1(0 + factor(t) | g)", gap)
    declared = gap.assign(t=pd.Categorical(gap["t"], categories=range(1, 7)))
    (block,) = build_frame("y ~ x + ar1(0 + t | g)", declared).blocks
    assert block.names[2] == "t[3]" and not block.Z[:, 2].any() and block.Z.shape[1] == 6
    model = gj.build_model("y ~ x + ar1(0 + t | g)", declared)
    assert model.terms[0][0].covariance == AR1(6)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("toep(0 + f | g)", r"unknown covariance structure 'toep'.*us.*diag.*cs.*ar1"),
        ("cs(x || g)", "takes one bar"),
        ("cs(1 | g)", "one column, Intercept, and so no correlation"),
        ("ar1(factor(t) | g)", "needs one factor.*no intercept"),
        ("ar1(0 + t | g)", "needs one factor"),
        ("ar1(0 + f:factor(t) | g)", "needs one factor"),
        ("x * cs(0 + f | g)", r"only be added to the others with '\+'"),
    ],
)
def test_what_a_formula_cannot_say(term: str, message: str, data: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=message):
        build_frame(f"y ~ x + {term}", data)


def test_a_full_covariance_is_as_before() -> None:
    """Every kind has pivots; those of a full one are its diagonal."""
    assert covariance.pivots(Full(3)).tolist() == [True, False, False, True, False, True]
    assert covariance.pivots(AR1(3)).tolist() == [True, False]


def test_one_row_for_each_time_of_a_gaussian_panel() -> None:
    """The correlation tells the variance of the process from that of the residuals."""
    groups, times = 200, 8
    rng = np.random.default_rng(1)
    gap = np.abs(np.subtract.outer(np.arange(times), np.arange(times)))
    process = rng.normal(size=(groups, times)) @ np.linalg.cholesky(0.8**gap).T
    data = pd.DataFrame(
        {
            "g": np.repeat(np.arange(groups), times),
            "t": np.tile(np.arange(times), groups),
            "y": (process + 0.5 * rng.normal(size=process.shape)).ravel(),
        }
    )
    fit = gj.glmer("y ~ 1 + ar1(0 + factor(t) | g)", data)
    table = fit.varcorr()  # sd, rho, sigma
    V = table["sdcor"].to_numpy()
    assert fit.converged
    np.testing.assert_array_less(np.abs(V - [1.0, 0.8, 0.5]), 3 * table["se"].to_numpy())
    # The same density written out.
    covariance = V[0] ** 2 * V[1] ** gap + V[2] ** 2 * np.eye(times)
    y = data["y"].to_numpy().reshape(groups, times) - fit.params.iloc[0]
    expected = multivariate_normal(np.zeros(times), covariance).logpdf(y).sum()
    assert fit.llf == pytest.approx(expected, abs=1e-6)
