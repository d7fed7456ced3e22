"""Derivatives of estimates, influence and what follows from it, against refits and other code."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import glmm_jax as gj
from glmm_jax.build import bucket
from glmm_jax.estimate import checked, program
from glmm_jax.formula import build_frame
from glmm_jax.inference import derivatives, measurement_error, parameter_names, robust
from glmm_jax.inference.influence_table import Influence
from glmm_jax.model import flatten
from glmm_jax.packing import in_runs
from glmm_jax.runtime import engine, run


@pytest.fixture(scope="module")
def sleep() -> gj.Fit:
    data = gj.datasets.load("sleepstudy").assign(half=lambda d: d["Days"].isin([0, 1, 2]))
    return gj.glmer("Reaction ~ Days + (Days | Subject)", data)


def refitted(fit: gj.Fit, **changed: np.ndarray) -> np.ndarray:
    """Parameters (P,) of a refit with arrays of its model changed, by the program of the fit."""
    with engine():
        model = in_runs(fit.model.replace(**changed), fit.nobs, bucket)
        settings = checked(model, 1, None, fit.call.optimizer, fit.call.max_steps)
        found = run(program, model, None, **settings)
        assert int(found.status) == gj.Status.CONVERGED
        return np.asarray(flatten(found.params))


def moves_without(fit: gj.Fit, codes: np.ndarray) -> np.ndarray:
    """How far the parameters move without each group 0, 1, ... of rows, by refits, (k, P)."""
    weights = np.asarray(fit.model.weights)
    out = derivatives.member(fit, codes)
    each = [refitted(fit, weights=np.where(out == g, 0.0, weights)) for g in range(max(codes) + 1)]
    return np.stack(each) - parameter_names.flat(fit)


def distance(moves: np.ndarray, fit: gj.Fit) -> np.ndarray:
    """Length of moves of the parameters, (k,), in standard errors of the estimate."""
    return np.sqrt(np.einsum("ka,ab,kb->k", moves, 0.5 * fit.hessian.to_numpy(), moves))


STEPS = {"weights": 3e-3, "y": 1.0, "offset": 1.0, "X": 3e-3}


@pytest.fixture(scope="module")
def differenced(sleep: gj.Fit) -> dict[str, np.ndarray]:
    """Central differences of refits in numbers of row 37."""
    at = np.eye(sleep.model.n)[37]
    found = {}
    for name, h in STEPS.items():
        held = np.asarray(getattr(sleep.model, name))
        step = h * (np.outer(at, [0.0, 1.0]) if name == "X" else at)
        ends = [refitted(sleep, **{name: held + sign * step}) for sign in (1.0, -1.0)]
        found[name] = (ends[0] - ends[1]) / (2 * h)
    return found


@pytest.mark.parametrize("wrt", ["weights", "y", "offset", "X:Days"])
def test_derivatives_of_estimates_are_those_of_refits(sleep, differenced, wrt) -> None:
    table = sleep.sensitivity("all", wrt)
    assert list(table.columns) == list(sleep.vcov_all.index)
    assert table.index.equals(sleep.frame.index)
    scale = np.sqrt(np.diag(sleep.vcov_all))
    largest = np.max(np.abs(table.to_numpy() / scale))
    # Steps h have an error of h^2.
    expected = differenced["X" if wrt == "X:Days" else wrt] / scale
    np.testing.assert_allclose(table.iloc[37] / scale, expected, atol=2e-5 * largest)


def test_derivatives_of_standard_errors(sleep) -> None:
    """Against refits whose Hessians are computed anew, at their estimates to rounding."""
    found = sleep.sensitivity("bse", "y")
    errors = []
    for h in (1.0, -1.0):
        moved = sleep.refit(sleep.frame.y + h * np.eye(sleep.nobs)[37])
        inverse = derivatives.inverse_hessian(moved, derivatives.local(moved).hessian)
        errors.append(np.sqrt(2 * np.diag(inverse)[:2]))
    expected = (errors[0] - errors[1]) / 2
    np.testing.assert_allclose(
        found.iloc[37], expected, atol=1e-5 * np.max(np.abs(found.to_numpy()))
    )
    # Standard errors have the units of y.
    np.testing.assert_allclose(sleep.frame.y @ found.to_numpy(), sleep.bse, rtol=1e-4)


def test_what_else_has_derivatives(sleep) -> None:
    # Of an offset: y - offset is what a Gaussian model sees.
    by_y, by_offset = sleep.sensitivity("fitted", "y"), sleep.sensitivity("fitted", "offset")
    np.testing.assert_allclose(by_offset, np.eye(sleep.nobs) - by_y, atol=1e-9)
    # The likelihood falls as a row is moved away from its prediction given all others.
    moved = [sleep.refit(sleep.frame.y + s * np.eye(sleep.nobs)[5]).llf for s in (1.0, -1.0)]
    slope = (moved[0] - moved[1]) / 2
    assert sleep.sensitivity("llf", "y").iloc[5, 0] == pytest.approx(slope, rel=1e-4)
    # Standard deviations move as theta does: sd of a row of Lambda.
    theta, sd = sleep.sensitivity("theta"), sleep.sensitivity("varcorr")
    first = sleep.theta.iloc[0]
    assert first > 0
    np.testing.assert_allclose(sd["sd(Intercept | Subject)"], theta.iloc[:, 0])
    half = sleep.sensitivity("dispersion")["log(phi)"]
    np.testing.assert_allclose(sd["sigma"], 0.5 * sleep.sigma * half)


def test_a_column_of_the_data_moves_all_that_it_enters(sleep) -> None:
    """Days is in X and in Z: moved for every row by the same, the slopes stay."""
    table = sleep.sensitivity("all", "Days")
    together = table.sum()
    # y = a + b (x - t) + u + v (x - t): the intercept falls by b t, Lambda's first row changes.
    assert together["Days"] == pytest.approx(0.0, abs=1e-7)
    assert together["Intercept"] == pytest.approx(-sleep.params["Days"], rel=1e-7)
    assert together["log(phi)"] == pytest.approx(0.0, abs=1e-8)
    assert not np.allclose(table, sleep.sensitivity("all", "X:Days"))


@pytest.fixture(scope="module")
def moves(sleep) -> np.ndarray:
    """How far the parameters move without each subject, by refits."""
    return moves_without(sleep, sleep.frame.blocks[0].index)


@pytest.fixture(scope="module")
def without(sleep) -> dict[str, Influence]:
    return {
        method: sleep.influence("Subject", method=method)
        for method in ("first-order", "second-order")
    }


def test_groups_left_out_are_those_of_refits(sleep, without, moves) -> None:
    found = without["second-order"]
    assert found.rows.eq(10).all()
    assert list(found.without.index) == list(sleep.frame.blocks[0].levels)
    off = {
        name: distance(-found.dfbeta.to_numpy() - moves, sleep) / distance(moves, sleep)
        for name, found in without.items()
    }
    # 18 subjects, one of them far off: a group holds a good part of the curvature.
    assert np.median(off["first-order"]) < 0.2
    assert np.median(off["second-order"]) < 0.05
    assert (off["second-order"] < off["first-order"]).mean() > 0.9
    # First order is exact in the gradient, so its error is told without the refit.
    np.testing.assert_allclose(found.nonlinearity, off["first-order"], atol=0.1)


def test_what_follows_from_the_moves(sleep, without) -> None:
    found = without["second-order"]
    # Cook's distance and the table follow from the estimates alone.
    p = len(sleep.params)
    D, V = found.dfbeta.iloc[3].to_numpy(), sleep.vcov_all.to_numpy()
    cook = found.cooks_distance.iloc[3]
    # The Hessian is computed anew, at an estimate known to some 1e-6 standard errors.
    coefficients = D[:p] @ np.linalg.solve(V[:p, :p], D[:p]) / p
    assert cook["coefficients"] == pytest.approx(coefficients, rel=1e-4)
    assert cook["all"] == pytest.approx(D @ np.linalg.solve(V, D) / len(D), rel=1e-3)
    table = found.to_frame()
    assert len(table) == 18 and f"dfbetas({sleep.theta.index[0]})" in table
    np.testing.assert_allclose(
        table["dfbetas(Days)"], found.dfbeta["Days"] / sleep.bse["Days"], rtol=1e-4
    )
    sigma = np.exp(0.5 * found.without["log(phi)"])
    np.testing.assert_allclose(found.parameters["sigma"], sigma)
    # A subject without its own rows is predicted as one of the population.
    label = found.without.index[3]
    rows = (sleep.frame.blocks[0].index == 3).nonzero()[0]
    new = sleep.frame.X[rows] @ found.without.loc[label].to_numpy()[:p]
    fall = sleep.linear_predictor.to_numpy()[rows] - new
    assert found.own.loc[label] == pytest.approx(fall.mean(), abs=1e-7)
    assert (
        "second-order" in str(found) and found.top(3)["cooks_distance_all"].is_monotonic_decreasing
    )


def assert_rows_are_those_of_refits(fit: gj.Fit, limits: tuple[float, float]) -> None:
    chosen = np.linspace(0, fit.nobs - 1, 12).astype(int)
    codes = np.full(fit.nobs, -1)
    codes[chosen] = np.arange(12)
    moves = moves_without(fit, codes)
    for method, limit in zip(("first-order", "second-order"), limits, strict=True):
        found = fit.influence(method=method)
        off = distance(-found.dfbeta.to_numpy()[chosen] - moves, fit) / distance(moves, fit)
        assert np.max(off) < limit, method
        assert found.without.index.equals(fit.frame.index)


def test_single_rows_left_out_are_those_of_refits(sleep) -> None:
    assert_rows_are_those_of_refits(sleep, (0.2, 0.05))


def test_row_densities_and_predictions(sleep) -> None:
    """Of a Gaussian model in closed form: y of a row given the others of its subject."""
    found = sleep.influence()
    for row in (3, 57, 120):
        beta, V = marginal(sleep, found.without.iloc[row].to_numpy(), row // 10)
        own = slice(10 * (row // 10), 10 * (row // 10) + 10)
        e = sleep.frame.y[own] - sleep.frame.X[own] @ beta
        K, i = np.linalg.inv(V), row % 10
        away = (K @ e)[i] / K[i, i]
        density = -0.5 * (np.log(2 * np.pi / K[i, i]) + K[i, i] * away**2)
        assert found.log_density.iloc[row] == pytest.approx(density, abs=2e-3)


def marginal(fit: gj.Fit, psi: np.ndarray, subject: int) -> tuple[np.ndarray, np.ndarray]:
    """beta and the marginal covariance of the ten rows of a subject of sleepstudy, in NumPy."""
    L = np.array([[psi[2], 0.0], [psi[3], psi[4]]])
    Z = fit.frame.X[10 * subject : 10 * subject + 10]
    return psi[:2], Z @ L @ L.T @ Z.T + np.exp(psi[5]) * np.eye(10)


def log_likelihoods(fit: gj.Fit, psi: np.ndarray) -> np.ndarray:
    """log p(y_s) of each subject, (18,), in NumPy."""
    out = []
    for s in range(18):
        beta, V = marginal(fit, psi, s)
        own = slice(10 * s, 10 * s + 10)
        e = fit.frame.y[own] - fit.frame.X[own] @ beta
        # In NumPy's own small matrices: SciPy's go through threads, slow where cores are busy.
        logdet = np.linalg.slogdet(2 * np.pi * V)[1]
        out.append(-0.5 * (logdet + e @ np.linalg.solve(V, e)))
    return np.array(out)


def test_robust_covariance_is_an_independent_sandwich(sleep) -> None:
    psi = parameter_names.flat(sleep)
    h = 1e-4 * np.sqrt(np.diag(sleep.vcov_all))
    scores = np.stack(
        [
            (log_likelihoods(sleep, psi + s) - log_likelihoods(sleep, psi - s)) / (2 * h[a])
            for a, s in enumerate(np.diag(h))
        ],
        axis=1,
    )
    bread = np.linalg.inv(0.5 * sleep.hessian.to_numpy())
    V = bread @ scores.T @ scores @ bread
    found = sleep.cov_robust("Subject", correct=False)
    scale = np.sqrt(np.diag(V))
    np.testing.assert_allclose(
        found / np.outer(scale, scale), V / np.outer(scale, scale), atol=1e-4
    )
    pd.testing.assert_frame_equal(sleep.cov_robust(), found * 18 / 17)
    with pytest.raises(ValueError, match="by='half': levels of 'Subject' are shared"):
        sleep.cov_robust("half")


def test_cross_validation_is_that_of_refits(sleep, without, moves) -> None:
    found = without["second-order"]
    expected = [log_likelihoods(sleep, found.without.iloc[s].to_numpy())[s] for s in range(18)]
    np.testing.assert_allclose(found.log_density, expected, atol=1e-6)
    exact = parameter_names.flat(sleep) + moves
    elpd = sum(log_likelihoods(sleep, psi)[s] for s, psi in enumerate(exact))
    fast = sleep.cross_validate("Subject")
    assert fast.elpd == pytest.approx(elpd, abs=0.05 * (sleep.llf - elpd))
    assert fast.standard_error == pytest.approx(
        np.sqrt(18 * np.var(fast.frame["log_density"], ddof=1))
    )
    gain, error = fast.compare(fast)
    assert gain == 0 and error == 0
    assert "18 groups by Subject" in str(fast)


def test_measurement_error_is_what_more_of_it_does(sleep) -> None:
    """b is the slope at zero of the mean estimate in the error variance: by averages of refits with
    errors +e and -e, the odd orders gone."""
    sd = 0.1
    found = sleep.measurement_error("Days", sd)
    rng = np.random.default_rng(1)
    data = sleep.call.data
    moves = []
    for _ in range(12):
        e = sd * rng.choice([-1.0, 1.0], sleep.nobs)
        both = [
            parameter_names.flat(sleep.update(data=data.assign(Days=data["Days"] + s * e)))
            for s in (1, -1)
        ]
        moves.append(np.mean(both, axis=0) - parameter_names.flat(sleep))
    mean, error = np.mean(moves, axis=0), np.std(moves, axis=0, ddof=1) / np.sqrt(12)
    change = found["change"].to_numpy()
    assert np.all(np.abs(mean - change) < 3.5 * error + 0.02 * np.abs(change))
    # The slope is pulled towards zero, and the correction undoes it.
    assert change[1] < 0 < found.loc["Days", "corrected"] - found.loc["Days", "estimate"]
    sure = [0, 1, 5]  # intercept, slope, residual variance: others move too little to tell
    assert np.max(error[sure] / np.abs(change[sure])) < 0.05
    # The residuals take up the errors: about sd^2 (beta^2 + Var of the slopes).
    slopes = sleep.params["Days"] ** 2 + sleep.theta.iloc[1:] @ sleep.theta.iloc[1:]
    assert change[5] == pytest.approx(sd**2 * slopes / sleep.dispersion, rel=0.2)


def test_measurement_errors_that_levels_share(sleep) -> None:
    """One error for all subjects of a day: no factor keeps two of them apart, as if crossed. The
    second derivatives in the ten errors are differences of refits."""
    sd, h, data = 0.1, 0.2, sleep.call.data
    change = sleep.measurement_error("Days", sd, by="Days")["change"].to_numpy()
    bends = np.zeros(sleep.df)
    for day in range(10):
        for step, weight in ((h, 16.0), (-h, 16.0), (2 * h, -1.0), (-2 * h, -1.0)):
            moved = data.assign(Days=data["Days"] + step * (data["Days"] == day))
            move = parameter_names.flat(sleep.update(data=moved)) - parameter_names.flat(sleep)
            bends += weight * move / (12 * h**2)
    scale = np.sqrt(np.diag(sleep.vcov_all))
    expected = 0.5 * sd**2 * bends / scale
    np.testing.assert_allclose(change / scale, expected, atol=2e-3 * np.abs(expected).max())
    # Far from what one error a row does.
    apart = sleep.measurement_error("Days", sd)["change"].to_numpy() / scale
    assert np.max(np.abs(apart / expected - 1.0)) > 0.5


@pytest.mark.parametrize(
    "terms, related, apart",
    [
        ("(1 | g)", False, True),
        ("(1 | g / s)", False, True),
        ("(1 | s) + (x | g)", False, True),
        ("(1 | g) + (1 | h)", False, False),
        ("(1 | g / s) + (1 | h)", False, False),
        ("(1 | g)", True, False),
    ],
)
def test_errors_are_apart_where_no_random_effect_ties_their_rows(
    monkeypatch, terms: str, related: bool, apart: bool
) -> None:
    """Against the marginal covariance, as a matrix: rows meet that a chain of its entries ties."""
    n = 24
    row = np.arange(n)
    data = pd.DataFrame({"g": row % 4, "s": row % 8, "h": row % 3, "pair": row // 2})
    data["x"], data["y"] = np.cos(row), np.sin(row)
    kinship = {"g": (np.full((4, 4), 0.25) + 0.75 * np.eye(4), range(4))} if related else None
    frame = build_frame(f"y ~ x + {terms}", data, relationship=kinship)
    covariance = np.eye(n)
    for block in frame.blocks:
        one = np.eye(len(block.levels))[block.index]
        between = kinship["g"][0] if kinship else np.eye(one.shape[1])
        covariance += one @ between @ one.T
    tied, steps = covariance > 0, n.bit_length()
    for _ in range(steps):
        tied = tied @ tied
    fit: Any = SimpleNamespace(frame=frame, numbers=SimpleNamespace(n=n), nobs=n)
    groups = measurement_error._apart(fit, None, row)
    assert not np.any(tied & (groups[:, None] != groups[None, :]))
    assert len(np.unique(groups)) == (len(np.unique(tied, axis=0)) if apart else 1)
    # An error that two groups share ties them.
    shared = measurement_error._apart(fit, "pair", data["pair"].to_numpy())
    assert np.all(shared == 0)
    # Groups are independent where nothing ties one to another.
    for name in ("g", "s", "h", "pair"):
        codes = data[name].to_numpy()
        independent = not np.any(tied & (codes[:, None] != codes[None, :]))
        assert (robust.tying(fit, codes) is None) == independent
    crosses = {block.grouping for block in frame.blocks} >= {"g", "h"}
    assert robust.crossed(fit) == crosses
    if crosses:
        with pytest.raises(ValueError, match=r"by=None: the grouping factors .* crossed"):
            robust.coarsest(fit)
    else:
        assert robust.coarsest(fit) == "g"
    # The size of the table matters where all errors may meet.
    monkeypatch.setattr(measurement_error, "LARGEST", n * n - 1)
    if apart:
        np.testing.assert_array_equal(measurement_error._apart(fit, None, row), groups)
    else:
        with pytest.raises(ValueError, match=f"by=None: {n} errors move together"):
            measurement_error._apart(fit, None, row)


def test_pictures(sleep, without) -> None:
    found = without["second-order"]
    left, right = gj.plots.influence(found, n=5)
    top = found.top(5)
    widths = [bar.get_width() for bar in left.patches]
    np.testing.assert_allclose(widths, top["cooks_distance_all"])
    np.testing.assert_allclose(right.lines[1].get_xdata(), top["dfbetas(Days)"])
    crossed = sleep.cross_validate("Subject")
    points = np.asarray(gj.plots.held_out(crossed).collections[0].get_offsets())
    each = crossed.frame["log_density"] / crossed.frame["rows"]
    np.testing.assert_allclose(points[:, 0], np.sort(each))
    table = sleep.sensitivity("params")
    ax = gj.plots.sensitivity(table, "Days", sleep.frame.X[:, 1])
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), table["Days"])
    with pytest.raises(ValueError, match="term='ages'; use one of 'Intercept'"):
        gj.plots.sensitivity(table, "ages", sleep.frame.y)
    plt.close("all")


@pytest.fixture(scope="module")
def births() -> gj.Fit:
    """0/1 data of 20 districts of unequal size."""
    data = gj.datasets.load("contraception")
    few = data.loc[data["district"].astype(int) <= 20, :].reset_index(drop=True)
    return gj.glmer("use ~ age + urban + (1 | district)", few, "bernoulli")


def test_single_answers_left_out_are_those_of_refits(births) -> None:
    assert_rows_are_those_of_refits(births, (0.05, 0.01))


def test_flipped_answers_are_those_of_refits(births) -> None:
    n, rate = births.nobs, 0.02
    found = births.misclassification(rate)
    flips = found.flips.to_numpy()

    def moves(flipped: np.ndarray) -> np.ndarray:
        y = np.asarray(births.model.y).copy()
        y[:n] = np.where(flipped, 1.0 - y[:n], y[:n])
        return refitted(births, y=y) - parameter_names.flat(births)

    chosen = np.linspace(0, n - 1, 12).astype(int)
    exact = np.stack([moves(np.arange(n) == i) for i in chosen])
    assert np.max(distance(flips[chosen] - exact, births) / distance(exact, births)) < 0.03
    # The mean over what may be flipped, in the rows that flips move one by one as control variates.
    rng = np.random.default_rng(1)
    draws = rng.random((150, n)) < rate
    left = np.stack([moves(flipped) for flipped in draws]) - (draws - rate) @ flips
    mean, error = np.mean(left, axis=0), np.std(left, axis=0, ddof=1) / np.sqrt(150)
    change, se = found.frame["change"].to_numpy(), found.frame["std_error"].to_numpy()
    # First order in the rate: flips that meet leave a share of about two rates.
    assert np.all(np.abs(mean - change) < 3.5 * error + 2 * rate * np.abs(change))
    assert np.all(3.5 * error + 2 * rate * np.abs(change) < 0.15 * np.abs(change))
    # Errors dilute every difference, and that between districts: theta falls.
    assert np.all(change * found.frame["estimate"] < 0)
    np.testing.assert_allclose(found.frame["sd"], np.std(draws @ flips, axis=0), rtol=0.25)
    np.testing.assert_allclose(found.frame["change_in_se"], change / se)
    assert found.worst("age", 3).abs().iloc[0] == np.abs(flips[:, 1]).max()
    assert "2 % of the answers" in str(found)
    ax = gj.plots.shifts(found)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_xdata()), change / se)
    plt.close("all")


def test_bad_input_is_named(sleep, births) -> None:
    for call, message in [
        (
            lambda: births.sensitivity(wrt="y"),
            "bernoulli response holds counts",
        ),
        (
            lambda: births.sensitivity(wrt="X:urban"),
            "no column 'urban'; its columns are 'Intercept'",
        ),
        (lambda: births.sensitivity(wrt="urban"), "wrt='urban' is not numeric"),
        (lambda: births.sensitivity(wrt="wealth"), "wrt='wealth' is no column"),
        (lambda: births.sensitivity(wrt="livch"), "wrt='livch' is not numeric"),
        (lambda: sleep.sensitivity("beta"), "of='beta'; use one of 'params'"),
        (lambda: births.influence("village"), "by='village' is no column .* 'district'"),
        (lambda: births.influence(method="exact"), "method='exact'; use one of"),
        (lambda: sleep.cross_validate(None), "by=None; name the column"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    stopped = replace(births, estimate=replace(births.estimate, status=np.array(3)))
    joint = replace(births, estimate=replace(births.estimate, nagq=0))
    for fit, message in [(stopped, "has not converged"), (joint, "nagq=0 is no maximum")]:
        with pytest.raises(ValueError, match=message):
            fit.influence("district")


def test_errors_of_data_that_do_not_fit_are_named(sleep, births, monkeypatch) -> None:
    monkeypatch.setattr(measurement_error, "LARGEST", 1000)
    for call, message in [
        (lambda: births.measurement_error("age", 0.0), "sd=0.0; use the standard deviation"),
        (lambda: births.measurement_error("urban", 1.0), "column='urban' is not numeric"),
        (lambda: births.measurement_error("ch2", 1.0), "column='ch2' is no column"),
        (lambda: sleep.measurement_error("Days", 1.0, by="Days"), "10 errors move together"),
        (lambda: sleep.misclassification(), "a gaussian response is not of two levels"),
        (lambda: births.misclassification(0.7), "rate=0.7; use a probability"),
        (lambda: births.misclassification().worst("ages"), "parameter='ages'; use one of 'Inter"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
