"""Figures: the right numbers stand where they should, on the axes given, with labels."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

import glmm_jax as gj
from glmm_jax import plots
from glmm_jax.plots import contours, predictions, smoother
from glmm_jax.plots.covariates import used_rows
from glmm_jax.plots.selection import find_group
from glmm_jax.plots.unpooled import unpooled

Z95 = 1.959963984540054


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Whatever a test draws is drawn out (as saving would) and closed."""
    before = dict(matplotlib.rcParams)
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return gj.datasets.load("contraception")


@pytest.fixture(scope="module")
def scalar(data: pd.DataFrame) -> gj.Fit:
    return gj.glmer("use ~ age * ch + I(age^2) + urban + (1 | district)", data, "bernoulli")


@pytest.fixture(scope="module")
def vector(data: pd.DataFrame) -> gj.Fit:
    return gj.glmer("use ~ age * ch + I(age^2) + urban + (urban | district)", data, "bernoulli")


@pytest.fixture(scope="module")
def sleep() -> gj.Fit:
    return gj.glmer("Reaction ~ Days + (Days | Subject)", gj.datasets.load("sleepstudy"))


@pytest.fixture(scope="module")
def crossed() -> gj.Fit:
    """Counts with an offset, two grouping factors and a row with a missing value."""
    rng = np.random.default_rng(3)
    n = 120
    table = pd.DataFrame(
        {
            "y": rng.poisson(3.0, n),
            "x": rng.normal(size=n),
            "flag": rng.random(n) < 0.3,
            "exposure": rng.uniform(1, 2, n),
            "a": [f"a{i % 6}" for i in range(n)],
            "b": [f"b{i % 10}" for i in range(n)],
        }
    )
    table.loc[4, "x"] = np.nan
    return gj.glmer("y ~ x + flag + offset(np.log(exposure)) + (1 | a) + (1 | b)", table, "poisson")


def lines(ax: Axes, gid: str) -> list[Line2D]:
    return [line for line in ax.get_lines() if line.get_gid() == gid]


def points(ax: Axes, gid: str) -> np.ndarray:
    """Points of all lines of that name, sorted by x then y, (n, 2)."""
    xy = np.concatenate([line.get_xydata() for line in lines(ax, gid)])
    return xy[np.lexsort(xy.T[::-1])]


def sorted_rows(x: Any, y: Any) -> np.ndarray:
    xy = np.column_stack([x, y]).astype(float)
    return xy[np.lexsort(xy.T[::-1])]


def texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


# --- the package ------------------------------------------------------------------------------


def test_matplotlib_is_imported_only_when_plots_are_wanted() -> None:
    code = """
import sys
import glmm_jax as gj
assert "matplotlib" not in sys.modules
assert "plots" in dir(gj)
sys.modules["matplotlib"] = None  # as if it were not installed
try:
    gj.plots
except ImportError as error:
    assert 'pip install "glmm-jax[plot]"' in str(error), error
else:
    raise SystemExit("no error without matplotlib")
del sys.modules["matplotlib"]
gj.plots.caterpillar
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'plot'"):
        gj.plot  # type: ignore[attr-defined]  # noqa: B018


# --- links ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logit", "probit", "cloglog", "loglog", "cauchit"])
def test_link_and_inverse_link_are_the_same_curve(name: str) -> None:
    (curve,) = lines(plots.link(name), "link")
    (inverse,) = lines(plots.inverse_link(name), "link")
    mu, eta = np.asarray(curve.get_xydata()).T
    known = {
        "logit": scipy.special.expit,
        "probit": scipy.special.ndtr,
        "cloglog": lambda e: 1 - np.exp(-np.exp(e)),
        "loglog": lambda e: np.exp(-np.exp(-e)),
        "cauchit": lambda e: 0.5 + np.arctan(e) / np.pi,
    }[name]
    np.testing.assert_allclose(mu, known(eta), atol=1e-12)
    np.testing.assert_allclose(np.asarray(inverse.get_xydata()), np.column_stack([eta, mu]))
    assert eta.min() == -5 and eta.max() == 5


@pytest.mark.parametrize(
    ("name", "inverse"),
    [("log", np.exp), ("identity", lambda e: e), ("sqrt", np.square), ("inverse", lambda e: 1 / e)],
)
def test_links_of_other_means(name: str, inverse: Any) -> None:
    (curve,) = lines(plots.link(name), "link")
    mu, eta = np.asarray(curve.get_xydata()).T
    np.testing.assert_allclose(mu, inverse(eta), rtol=1e-12)


def test_a_family_names_the_mean_and_its_scale(scalar: gj.Fit) -> None:
    for given in ("bernoulli", gj.families.Bernoulli(), scalar):
        ax = plots.link(given)
        assert ax.get_xlabel() == "mean μ of a Bernoulli response"
        assert ax.get_ylabel() == "linear predictor η (log odds)"
    assert "Poisson" in plots.inverse_link("poisson").get_ylabel()


def test_links_share_axes() -> None:
    _, ax = plt.subplots()
    for name in ("logit", "probit"):
        assert plots.inverse_link(name, ax) is ax
    first, second = lines(ax, "link")
    assert first.get_color() != second.get_color()
    assert [first.get_label(), second.get_label()] == ["logit", "probit"]
    assert ax.get_xlabel() == "linear predictor η"


@pytest.mark.parametrize("given", ["logitt", 3])
def test_an_unknown_link_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="family_or_link="):
        plots.link(given)


# --- smoothers --------------------------------------------------------------------------------

X = np.array([0.3, 1.1, 1.9, 2.2, 3.7, 4.1, 4.1, 5.5, 6.2, 7.9, 8.3, 9.6])
Y = np.array([0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1.0])
AT = (0.3, 2.2, 4.1, 6.2, 9.6)
# R 4.2: predict(loess(y ~ x, span = 0.7, degree = d, control = loess.control(surface = "direct")))
LOESS = {
    1: (0.03054894699, 0.40703762486, 0.69690387174, 0.78179833338, 0.67748039597),
    2: (-0.0592851981, 0.5100427550, 0.6753097512, 1.0289381991, 0.8792712354),
}


@pytest.mark.parametrize("degree", [1, 2])
def test_local_fits_are_those_of_loess(degree: int) -> None:
    found = [smoother._local(X, Y, at, 0.7, degree)[0] for at in AT]
    np.testing.assert_allclose(found, LOESS[degree], rtol=1e-6)
    # The ends are vertices.
    ends = smoother.loess(X, Y, np.array([0.3, 9.6]), 0.7, degree)
    np.testing.assert_allclose(ends, np.take(LOESS[degree], [0, 4]), rtol=1e-6)


@pytest.mark.parametrize("degree", [1, 2])
def test_a_polynomial_is_its_own_smooth(degree: int) -> None:
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=80), 1)  # with ties
    at = np.linspace(x.min(), x.max(), 31)
    y = 2 + 3 * x - (degree - 1) * x**2
    for span in (0.4, 1.5):
        found = smoother.loess(x, y, at, span, degree)
        np.testing.assert_allclose(found, 2 + 3 * at - (degree - 1) * at**2, atol=1e-9)


def test_a_value_that_fills_the_neighbourhood_is_no_division_by_zero() -> None:
    x = np.array([0.0] * 20 + [1.0, 2.0])
    y = np.array([1.0] * 20 + [3.0, 5.0])
    assert np.isfinite(smoother.loess(x, y, np.array([0.0, 1.0]), 0.5)).all()


@pytest.mark.parametrize("setting", [{"span": 0.0}, {"degree": 0}])
def test_the_smoother_checks_its_settings(data: pd.DataFrame, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        plots.smooth(data, "use", "age", **setting)


def test_smooth_has_a_curve_per_group_in_each_panel(data: pd.DataFrame) -> None:
    axes = plots.smooth(data, "use", "age", by="livch", panel="urban")
    assert len(axes) == 2
    assert [ax.get_title(loc="left") for ax in axes] == ["urban = N", "urban = Y"]
    for ax, urban in zip(axes, "NY", strict=True):
        for line, livch in zip(lines(ax, "smooth"), ("0", "1", "2", "3+"), strict=True):
            part = data[(data["urban"] == urban) & (data["livch"] == livch)]
            x = part["age"].to_numpy()
            y = (part["use"] == "Y").to_numpy(float)
            at = line.get_xdata()
            np.testing.assert_allclose([at[0], at[-1]], [x.min(), x.max()])
            np.testing.assert_allclose(line.get_ydata(), smoother.loess(x, y, at))
    assert axes[0].get_xlabel() == "age"
    assert axes[0].get_ylabel() == "proportion with use = Y"
    assert texts(axes[1]) == ["0", "1", "2", "3+"]
    colours = {line.get_color() for line in lines(axes[0], "smooth")}
    assert len(colours) == 4


def test_smooth_of_counts_says_what_it_left_out() -> None:
    table = {"y": [1, 2, 3, 4, 5, np.nan], "x": [1.0, 2, 3, 4, 5, 6], "g": list("aaaabb")}
    ax = plots.smooth(table, "y", "x", by="g")
    assert isinstance(ax, Axes)
    assert ax.get_ylabel() == "mean of y"
    assert "1 rows left out" in ax.get_xlabel()
    assert texts(ax) == ["a", "b (too few: 1)"]
    assert len(lines(ax, "smooth")) == 1


def test_smooth_refuses_what_is_not_there(data: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="by: the data have no column 'liv'"):
        plots.smooth(data, "use", "age", by="liv")
    with pytest.raises(ValueError, match=r"x='livch'.*no numbers"):
        plots.smooth(data, "use", "livch")
    with pytest.raises(ValueError, match="ax= has 1 axes, but there are 2 panels"):
        plots.smooth(data, "use", "age", panel="urban", ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="ax=str"):
        plots.smooth(data, "use", "age", ax="here")


# --- caterpillar ------------------------------------------------------------------------------


def test_caterpillar_shows_modes_and_intervals_in_order(scalar: gj.Fit) -> None:
    _, ax = plt.subplots(figsize=(4, 10))
    assert plots.caterpillar(scalar, ax=ax) is ax
    table = scalar.ranef()["district"].sort_values("Intercept")
    np.testing.assert_allclose(
        points(ax, "modes"), sorted_rows(table["Intercept"], np.arange(60)), atol=1e-12
    )
    segments = np.concatenate([c.get_segments() for c in ax.collections])
    segments = segments[np.argsort(segments[:, 0, 1])]
    half = Z95 * table["Intercept (sd)"].to_numpy()
    np.testing.assert_allclose(segments[:, 0, 0], table["Intercept"] - half)
    np.testing.assert_allclose(segments[:, 1, 0], table["Intercept"] + half)
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == [str(label) for label in table.index]
    assert "log odds" in ax.get_xlabel() and "95 %" in ax.get_xlabel()


def test_caterpillar_marks_intervals_without_zero(scalar: gj.Fit) -> None:
    ax = plots.caterpillar(scalar, level=0.5)
    table = scalar.ranef()["district"]
    z = scipy.stats.norm.ppf(0.75)
    away = np.abs(table["Intercept"]) > z * table["Intercept (sd)"]
    marked = [line for line in lines(ax, "modes") if line.get_markerfacecolor() != "white"]
    assert sum(len(line.get_xdata()) for line in marked) == away.sum()


def test_caterpillar_has_a_panel_per_column_sorted_together(vector: gj.Fit) -> None:
    axes = plots.caterpillar(vector)
    table = vector.ranef()["district"].sort_values("Intercept")
    assert [ax.get_title(loc="left") for ax in axes] == ["Intercept", "urban[T.Y]"]
    expected = sorted_rows(table["urban[T.Y]"], np.arange(60))
    np.testing.assert_allclose(points(axes[1], "modes"), expected)
    kept = plots.caterpillar(vector, term="urban[T.Y]", sort=False)
    unsorted = vector.ranef()["district"]["urban[T.Y]"]
    np.testing.assert_allclose(points(kept, "modes"), sorted_rows(unsorted, np.arange(60)))


def test_caterpillar_of_joint_uncertainty_is_wider(scalar: gj.Fit) -> None:
    ax = plots.caterpillar(scalar, joint=True, sort=False)
    table = scalar.ranef(joint=True)["district"]
    segments = np.concatenate([c.get_segments() for c in ax.collections])
    segments = segments[np.argsort(segments[:, 0, 1])]
    width = segments[:, 1, 0] - segments[:, 0, 0]
    np.testing.assert_allclose(width, 2 * Z95 * table["Intercept (sd)"], rtol=1e-9)


def test_names_of_many_levels_are_thinned_on_small_axes(scalar: gj.Fit) -> None:
    _, ax = plt.subplots(figsize=(4, 3))
    plots.caterpillar(scalar, ax=ax)
    labels = [label for label in ax.get_yticklabels() if label.get_text()]
    assert 15 <= len(labels) <= 40
    assert "named" in ax.get_ylabel()
    ax.get_figure().canvas.draw()
    boxes = [label.get_window_extent() for label in labels]
    # Digits leave the lower fifth of a line of text empty.
    gaps = [upper.y0 - lower.y1 for lower, upper in itertools.pairwise(boxes)]
    assert min(gaps) > -0.3 * boxes[0].height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "town"}, "group='town'; the grouping factors of the model are 'district'"),
        ({"term": "age"}, "term='age'; the random effects by 'district' are 'Intercept'"),
        ({"sort": "age"}, "sort='age'"),
        ({"level": 95}, "level=95"),
    ],
)
def test_caterpillar_refuses(vector: gj.Fit, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.caterpillar(vector, **arguments)


def test_one_of_several_groups_has_to_be_named(crossed: gj.Fit) -> None:
    with pytest.raises(ValueError, match="several grouping factors, name one of 'b', 'a'"):
        plots.caterpillar(crossed)
    ax = plots.caterpillar(crossed, "a")
    assert ax.get_ylabel() == "a"
    assert "log scale" in ax.get_xlabel()


# --- scatter and shrinkage --------------------------------------------------------------------


def test_scatter_has_every_mode_and_the_lines_they_must_lie_on(
    vector: gj.Fit, data: pd.DataFrame
) -> None:
    ax = plots.random_effects_scatter(vector, label=3)
    table = vector.ranef()["district"]
    expected = sorted_rows(table["Intercept"], table["urban[T.Y]"])
    np.testing.assert_allclose(points(ax, "modes"), expected)
    kinds = data.groupby("district", observed=True)["urban"].agg(lambda s: "".join(sorted(set(s))))
    assert texts(ax)[1:] == [
        f"rows of several kinds ({(kinds == 'NY').sum()})",
        f"only urban[T.Y] = 0 ({(kinds == 'N').sum()})",
        f"only urban[T.Y] = 1 ({(kinds == 'Y').sum()})",
    ]
    # Sigma (1, 0)' and Sigma (1, 1)', from the table of variances.
    v = vector.varcorr()["vcov"].to_numpy()
    for line, direction in zip(
        lines(ax, "modes")[1:], ((v[0], v[2]), (v[0] + v[2], v[2] + v[1])), strict=True
    ):
        x, y = np.asarray(line.get_xydata()).T
        np.testing.assert_allclose(y * direction[0], x * direction[1], atol=1e-7)
    assert len(ax.texts) == 3


def test_ellipses_are_those_of_the_estimated_covariance(sleep: gj.Fit) -> None:
    ax = plots.random_effects_scatter(sleep, ellipses=(1.0,))
    (shape,) = (patch for patch in ax.patches if isinstance(patch, Ellipse))
    around = shape.get_transform().transform(shape.get_path().vertices[::3])
    around = ax.transData.inverted().transform(around)
    v = sleep.varcorr()["vcov"].to_numpy()
    V = np.array([[v[0], v[2]], [v[2], v[1]]])
    distance = np.einsum("ki,ij,kj->k", around, np.linalg.inv(V), around)
    np.testing.assert_allclose(distance, 1.0, rtol=1e-6)
    assert ax.get_xlabel() == "Intercept (units of Reaction)"
    assert ax.get_ylabel() == "Days (units of Reaction per unit)"


def test_scatter_refuses_a_single_column(scalar: gj.Fit, vector: gj.Fit) -> None:
    with pytest.raises(ValueError, match="two different columns are needed"):
        plots.random_effects_scatter(scalar)
    with pytest.raises(ValueError, match="terms='age'"):
        plots.random_effects_scatter(vector, terms="age")


def test_own_estimates_of_a_gaussian_response_are_least_squares(sleep: gj.Fit) -> None:
    found = unpooled(sleep, find_group(sleep, None))
    table = gj.datasets.load("sleepstudy")
    for subject, b in zip(sleep.ranef()["Subject"].index, found, strict=True):
        part = table[table["Subject"].astype(str) == str(subject)]
        slope, intercept = np.polyfit(part["Days"], part["Reaction"], 1)
        fixed = sleep.params.to_numpy()
        np.testing.assert_allclose(b + fixed, [intercept, slope], rtol=1e-8)


def test_own_estimates_solve_the_score_and_separated_levels_have_none(
    scalar: gj.Fit, data: pd.DataFrame
) -> None:
    found = find_group(scalar, "district")
    own = unpooled(scalar, found)[:, 0]
    y = scalar.frame.y
    eta = scalar.frame.X @ scalar.params.to_numpy()
    for level, b in enumerate(own):
        rows = found.index == level
        if y[rows].min() == y[rows].max():
            assert np.isnan(b)
            continue

        def score(b: float, rows: np.ndarray = rows) -> float:
            return float(np.sum(y[rows] - scipy.special.expit(eta[rows] + b)))

        assert b == pytest.approx(scipy.optimize.brentq(score, -20, 20, xtol=1e-12), abs=1e-8)


def test_shrinkage_of_two_columns(vector: gj.Fit, data: pd.DataFrame) -> None:
    ax = plots.shrinkage(vector)
    group = find_group(vector, None)
    own = unpooled(vector, group)
    known = np.isfinite(own[:, 0])
    both = data.groupby("district", observed=True)["urban"].nunique() == 2
    assert not known[~both.to_numpy()].any()
    np.testing.assert_allclose(points(ax, "own"), sorted_rows(*own[known].T))
    np.testing.assert_allclose(points(ax, "modes"), sorted_rows(*group.mode[known].T))
    np.testing.assert_allclose(points(ax, "without"), sorted_rows(*group.mode[~known].T))
    (segments,) = (c.get_segments() for c in ax.collections if c.get_gid() == "shrinkage")
    np.testing.assert_allclose(segments, np.stack([own[known], group.mode[known]], axis=1))
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    assert np.all((x0 < group.mode[:, 0]) & (group.mode[:, 0] < x1))
    outside = ~((x0 <= own[known, 0]) & (own[known, 0] <= x1))
    outside |= ~((y0 <= own[known, 1]) & (own[known, 1] <= y1))
    assert any(f"{outside.sum()} outside the frame" in text for text in texts(ax))
    assert any(f"no finite own estimate ({(~known).sum()})" in text for text in texts(ax))


def test_shrinkage_of_one_column(scalar: gj.Fit) -> None:
    ax = plots.shrinkage(scalar)
    group = find_group(scalar, None)
    own = unpooled(scalar, group)[:, 0]
    known = np.isfinite(own)
    (dots,) = (c for c in ax.collections if isinstance(c, PathCollection))
    np.testing.assert_allclose(
        np.asarray(dots.get_offsets()), np.column_stack([own, group.mode[:, 0]])[known]
    )
    # Modes are nearer zero than the levels' own estimates.
    assert np.all(np.abs(group.mode[known, 0]) <= np.abs(own[known]) + 1e-12)
    assert "no pooling" in ax.get_xlabel()


# --- profiles ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Synthetic:
    """A profile with the interface of the real one, made from arrays."""

    frame: pd.DataFrame
    estimates: pd.Series
    level: float = 0.99
    joint: bool = True

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.estimates.index)

    def _own(self, name: str) -> pd.DataFrame:
        return self.frame[self.frame["parameter"] == name].sort_values("value")

    def zeta(self, name: str, value: Any) -> np.ndarray:
        own = self._own(name)
        return np.interp(value, own["value"], own["zeta"], np.nan, np.nan)

    def value(self, name: str, zeta: Any) -> np.ndarray:
        own = self._own(name)
        return np.interp(zeta, own["zeta"], own["value"], np.nan, np.nan)


def gaussian_profile(V: np.ndarray, joint: bool = True, lowest: float = -np.inf) -> Synthetic:
    """Exact profiles of the deviance (x - m)' V^-1 (x - m); `lowest` bounds the first parameter."""
    names = [f"p{i}" for i in range(len(V))]
    estimates = np.arange(1.0, len(V) + 1)
    sd = np.sqrt(np.diag(V))
    reach = np.sqrt(-2 * np.log(0.01)) if joint else scipy.stats.norm.ppf(0.995)
    rows = []
    for i, name in enumerate(names):
        for z in np.linspace(-reach, reach, 15):
            x = estimates + V[:, i] / sd[i] * z
            if i == 0 and x[0] < lowest:
                continue
            rows.append(
                {"parameter": name, "value": x[i], "zeta": z, **dict(zip(names, x, strict=True))}
            )
    return Synthetic(pd.DataFrame(rows), pd.Series(estimates, names), 0.99, joint)


V3 = np.array([[1.0, 0.6, -0.2], [0.6, 2.0, 0.3], [-0.2, 0.3, 0.5]])


def test_zeta_is_drawn_with_the_ends_of_the_intervals() -> None:
    profile = gaussian_profile(V3)
    axes = plots.profile_zeta(profile, levels=(0.5, 0.95))
    assert [ax.get_title(loc="left") for ax in axes] == ["p0", "p1", "p2"]
    for i, ax in enumerate(axes):
        sd = np.sqrt(V3[i, i])
        x, zeta = np.asarray(lines(ax, "zeta")[0].get_xydata()).T
        np.testing.assert_allclose(zeta, (x - (i + 1)) / sd, atol=1e-9)
        segments = np.concatenate([c.get_segments() for c in ax.collections])
        quantiles = scipy.stats.norm.ppf([0.25, 0.75, 0.025, 0.975])
        np.testing.assert_allclose(segments[:, 0, 0], i + 1 + sd * quantiles)
        np.testing.assert_allclose(segments[:, 1, 1], quantiles)
        assert np.all(segments[:, 0, 1] == 0)
    assert "ζ" in axes[0].get_ylabel()
    absolute = plots.profile_zeta(profile, "p1", absolute=True)
    assert np.all(lines(absolute, "zeta")[0].get_ydata() >= 0)


def test_a_bounded_profile_has_the_interval_ends_that_exist() -> None:
    profile = gaussian_profile(V3, lowest=0.0)  # zeta only down to -0.87
    ax = plots.profile_zeta(profile, "p0", levels=(0.5, 0.95))
    segments = np.concatenate([c.get_segments() for c in ax.collections])
    np.testing.assert_allclose(
        np.sort(segments[:, 1, 1]), scipy.stats.norm.ppf([0.25, 0.75, 0.975])
    )


@pytest.mark.parametrize("scale", ["value", "zeta"])
def test_contours_of_a_quadratic_deviance_are_its_ellipses(scale: str) -> None:
    grid = plots.profile_pairs(gaussian_profile(V3), levels=(0.5, 0.99), scale=scale)
    assert grid.shape == (3, 3)
    sd = np.sqrt(np.diag(V3))
    for i in range(3):
        for j in range(3):
            assert grid[i, j].get_visible() == (j <= i)
            if j >= i:
                continue
            drawn = lines(grid[i, j], "contour")
            assert len(drawn) == 2
            W = V3[np.ix_([j, i], [j, i])]
            for line, level in zip(drawn, (0.5, 0.99), strict=True):
                x = np.asarray(line.get_xydata())
                if scale == "zeta":
                    x = x * sd[[j, i]]
                else:
                    x = x - np.array([j + 1, i + 1])
                deviance = np.einsum("ki,ij,kj->k", x, np.linalg.inv(W), x)
                np.testing.assert_allclose(deviance, scipy.stats.chi2.ppf(level, 2), rtol=1e-6)
    assert grid[2, 0].get_xlabel().endswith("p0") and grid[2, 0].get_ylabel().endswith("p2")


def test_traces_meet_the_contour_where_its_tangent_is_vertical_or_horizontal() -> None:
    ax = plots.profile_pairs(gaussian_profile(V3), ["p0", "p1"], levels=(0.99,))[1, 0]
    contour = np.asarray(lines(ax, "contour")[0].get_xydata())
    held_x, held_y = (np.asarray(line.get_xydata()) for line in lines(ax, "trace"))
    rightmost, topmost = contour[np.argmax(contour[:, 0])], contour[np.argmax(contour[:, 1])]
    np.testing.assert_allclose(held_x[-1], rightmost, atol=0.05)
    np.testing.assert_allclose(held_y[-1], topmost, atol=0.05)


def test_contours_beyond_the_profiles_are_left_out_and_named() -> None:
    grid = plots.profile_pairs(gaussian_profile(V3, joint=False), levels=(0.5, 0.99))
    assert len(lines(grid[1, 0], "contour")) == 1
    assert any("99 % left out" in text for text in texts(grid[0, 0]))


def test_contours_end_at_a_bound() -> None:
    grid = plots.profile_pairs(gaussian_profile(V3, lowest=0.0), levels=(0.5, 0.99))
    x = np.asarray(lines(grid[1, 0], "contour")[1].get_xdata(), float)
    assert np.isnan(x).any()
    assert np.nanmin(x) >= 0.0 - 0.15  # the last profile point above the bound is at 0.13


def test_contours_of_a_likelihood_that_is_not_quadratic() -> None:
    """Poisson regression on six counts, much skewed: exact where a contour touches its box."""
    x = np.array([-1.5, -1.0, 0.0, 0.4, 1.0, 2.0])
    y = np.array([0.0, 1.0, 1.0, 2.0, 1.0, 6.0])

    def deviance(a: float, b: float) -> float:
        return float(2 * np.sum(np.exp(a + b * x) - y * (a + b * x)))

    best = scipy.optimize.minimize(lambda p: deviance(*p), [0.0, 0.8], tol=1e-12)
    a0, b0 = best.x

    def best_b(a: float) -> float:
        bracket = (b0 - 1, b0 + 1)
        return float(scipy.optimize.minimize_scalar(lambda b: deviance(a, b), bracket).x)

    def best_a(b: float) -> float:
        return float(np.log(y.sum() / np.exp(b * x).sum()))

    rows = [("a", a, a, best_b(a)) for a in np.linspace(a0 - 3, a0 + 1.6, 60)]
    rows += [("b", b, best_a(b), b) for b in np.linspace(b0 - 1.3, b0 + 1.5, 60)]
    frame = pd.DataFrame(rows, columns=["parameter", "value", "a", "b"])
    rise = [deviance(a, b) - best.fun for a, b in zip(frame["a"], frame["b"], strict=True)]
    centre = frame["parameter"].map({"a": a0, "b": b0})
    frame["zeta"] = np.sign(frame["value"] - centre) * np.sqrt(np.maximum(rise, 0))
    profile = Synthetic(frame, pd.Series({"a": a0, "b": b0}), 0.9)
    ax = plots.profile_pairs(profile, levels=(0.5, 0.8, 0.9))[1, 0]
    for line, level in zip(lines(ax, "contour"), (0.5, 0.8, 0.9), strict=True):
        points_on_it = np.asarray(line.get_xydata())
        found = np.array([deviance(a, b) - best.fun for a, b in points_on_it])
        wanted = scipy.stats.chi2.ppf(level, 2)
        touching = [*points_on_it.argmax(axis=0), *points_on_it.argmin(axis=0)]
        np.testing.assert_allclose(found[touching], wanted, rtol=1e-3)
        # Between those points the method interpolates; the error is one of shape.
        np.testing.assert_allclose(found, wanted, rtol=0.12)


def test_crossing_contours_are_noticed() -> None:
    angle = np.linspace(-np.pi, np.pi, contours.POINTS)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    assert contours.encloses(2 * ring, ring)
    assert contours.encloses(2 * ring[::-1], ring)
    assert not contours.encloses(ring * [2.0, 0.9], ring)
    assert not contours.encloses(ring + np.array([3.0, 0.0]), None)


def test_the_real_profile_has_the_interface_drawn_here(scalar: gj.Fit) -> None:
    profile = scalar.profile(["urban[T.Y]", "sd(Intercept | district)"], progress=False)
    axes = plots.profile_zeta(profile, levels=(0.95,))
    limits = profile.conf_int(0.95).to_numpy()
    for ax, ends in zip(axes, limits, strict=True):
        segments = np.concatenate([c.get_segments() for c in ax.collections])
        np.testing.assert_allclose(segments[:, 0, 0], ends, rtol=1e-6)
    grid = plots.profile_pairs(profile)
    assert len(lines(grid[1, 0], "contour")) == 5


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda p: plots.profile_zeta(p, "p9"), "'p9' was not profiled; profiled are 'p0'"),
        (lambda p: plots.profile_zeta(3), "profile=int"),
        (lambda p: plots.profile_zeta(p, levels=(95,)), "levels=95"),
        (lambda p: plots.profile_pairs(p, "p0"), "pairs need two parameters"),
        (lambda p: plots.profile_pairs(p, scale="log"), "scale='log'"),
        (lambda p: plots.profile_pairs(p, axes=plt.subplots(2, 2)[1]), r"array of \(3, 3\)"),
    ],
)
def test_profiles_refuse(draw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(gaussian_profile(V3))


# --- residuals --------------------------------------------------------------------------------


def test_residuals_stand_against_what_was_asked(scalar: gj.Fit, data: pd.DataFrame) -> None:
    quantile = scalar.resid("quantile", n=50, seed=1)
    population = scalar.frame.X @ scalar.params.to_numpy()
    ax = plots.residuals(scalar, n=50, seed=1)
    np.testing.assert_allclose(points(ax, "residuals"), sorted_rows(population, quantile))
    assert "without random effects" in ax.get_xlabel()
    ax = plots.residuals(scalar, "pearson", ax=plt.subplots()[1])
    pearson = scalar.resid("pearson")
    expected = sorted_rows(scalar.fittedvalues, pearson)
    np.testing.assert_allclose(points(ax, "residuals"), expected)
    ax = plots.residuals(scalar, "deviance", against="age")
    expected = sorted_rows(data["age"], scalar.resid("deviance"))
    np.testing.assert_allclose(points(ax, "residuals"), expected)
    assert len(lines(ax, "smooth")) == 1
    assert ax.get_xlabel() == "age" and ax.get_ylabel() == "deviance residual"
    ax = plots.residuals(scalar, "pearson", against="linear")
    assert "log odds" in ax.get_xlabel()


def test_residuals_against_a_category_are_boxes(scalar: gj.Fit, data: pd.DataFrame) -> None:
    ax = plots.residuals(scalar, "pearson", against="livch")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "3+"]
    value = scalar.resid("pearson").to_numpy()
    medians = [
        np.median(value[(data["livch"] == level).to_numpy()]) for level in "0 1 2 3+".split()
    ]
    drawn = [
        line.get_ydata()[0]
        for line in ax.get_lines()
        if line.get_linewidth() == 2 and len(line.get_xdata()) == 2
    ]
    np.testing.assert_allclose(drawn, medians)
    many = plots.residuals(scalar, "pearson", against="district")
    assert len(many.get_xticks()) <= 40


def test_residuals_of_rows_used_when_some_are_missing(crossed: gj.Fit) -> None:
    ax = plots.residuals(crossed, "pearson", against="x")
    x = crossed.call.data["x"].dropna()
    np.testing.assert_allclose(
        points(ax, "residuals"), sorted_rows(x, crossed.resid("pearson").to_numpy())
    )


def test_residuals_refuse(scalar: gj.Fit) -> None:
    with pytest.raises(ValueError, match="against='ages'; use 'fitted', 'linear', 'population'"):
        plots.residuals(scalar, "pearson", against="ages")
    with pytest.raises(ValueError, match="kind='z'"):
        plots.residuals(scalar, "z")
    loaded = replace(scalar, call=replace(scalar.call, data=None))
    with pytest.raises(ValueError, match="data=None"):
        plots.residuals(loaded, "pearson", against="age")
    assert plots.residuals(loaded, "pearson", against="age", data=scalar.call.data)


def test_rows_used_cannot_be_found_without_unique_labels(crossed: gj.Fit) -> None:
    doubled = pd.concat([crossed.call.data] * 2)
    with pytest.raises(ValueError, match="do not identify the 119 rows used"):
        used_rows(crossed, doubled)


# --- Q-Q --------------------------------------------------------------------------------------


def test_qq_has_ordered_residuals_and_the_band_of_order_statistics(crossed: gj.Fit) -> None:
    ax = plots.qq(crossed, n=50, seed=2, level=0.9)
    value = np.sort(crossed.resid("quantile", n=50, seed=2))
    n = len(value)
    drawn = points(ax, "qq")
    np.testing.assert_allclose(drawn[:, 1], value)
    middle = scipy.stats.norm.ppf(scipy.stats.beta.median(np.arange(1, n + 1), np.arange(n, 0, -1)))
    np.testing.assert_allclose(drawn[:, 0], middle, atol=1e-9)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    lowest = scipy.stats.norm.ppf(scipy.stats.beta.ppf(0.05, 1, n))
    highest = scipy.stats.norm.ppf(scipy.stats.beta.ppf(0.95, n, 1))
    np.testing.assert_allclose([corners[:, 1].min(), corners[:, 1].max()], [lowest, highest])
    assert texts(ax) == ["90 % band, point by point"]


def test_qq_of_other_residuals_is_standardised(scalar: gj.Fit) -> None:
    ax = plots.qq(scalar, "pearson")
    assert np.std(points(ax, "qq")[:, 1]) == pytest.approx(1.0)
    assert ax.get_ylabel() == "pearson residuals / their sd"


def test_modes_of_a_gaussian_model_are_divided_by_their_exact_deviations(sleep: gj.Fit) -> None:
    """b~ = Sigma Z' (Z Sigma Z' + sigma^2 I)^-1 (y - X beta) has a covariance known exactly."""
    v = sleep.varcorr()["vcov"].to_numpy()
    Sigma = np.array([[v[0], v[2]], [v[2], v[1]]])
    Z = np.column_stack([np.ones(10), np.arange(10)])  # of every subject
    inner = np.linalg.inv(Z @ Sigma @ Z.T + v[3] * np.eye(10))
    sd = np.sqrt(np.diag(Sigma @ Z.T @ inner @ Z @ Sigma))
    axes = plots.qq_ranef(sleep)
    for ax, name, scale in zip(axes, ("Intercept", "Days"), sd, strict=True):
        expected = np.sort(sleep.ranef()["Subject"][name] / scale)
        np.testing.assert_allclose(points(ax, "qq")[:, 1], expected, rtol=1e-6)


def test_qq_ranef_has_a_panel_per_column(vector: gj.Fit) -> None:
    axes = plots.qq_ranef(vector)
    table = vector.ranef()["district"]
    v = vector.varcorr()["vcov"].to_numpy()
    for ax, name, variance in zip(axes, ("Intercept", "urban[T.Y]"), v[:2], strict=True):
        z = table[name] / np.sqrt(variance - table[f"{name} (sd)"] ** 2)
        np.testing.assert_allclose(points(ax, "qq")[:, 1], np.sort(z))
        assert ax.get_title(loc="left") == name
    with pytest.raises(ValueError, match="level=2"):
        plots.qq_ranef(vector, level=2)


# --- predictions ------------------------------------------------------------------------------


def test_curves_and_bands_are_those_of_predict(vector: gj.Fit, data: pd.DataFrame) -> None:
    ax = plots.prediction(vector, "age", by="urban", level=0.9)
    curves = lines(ax, "prediction")
    bands = [c for c in ax.collections if c.get_gid() == "band"]
    age = np.linspace(data["age"].min(), data["age"].max(), predictions.POINTS)
    for curve, band, urban in zip(curves, bands, "NY", strict=True):
        new = pd.DataFrame({"age": age, "urban": urban, "ch": "Y"})  # the most frequent ch
        found = vector.predict(new, random="population", se=True, level=0.9)
        np.testing.assert_allclose(np.asarray(curve.get_xydata()), np.c_[age, found["fit"]])
        corners = band.get_paths()[0].vertices
        for side in ("lower", "upper"):
            for a, limit in zip(age[::20], found[side].iloc[::20], strict=True):
                at = corners[np.isclose(corners[:, 0], a), 1]
                assert np.min(np.abs(at - limit)) < 1e-12
    assert texts(ax) == ["N", "Y"]
    assert ax.get_title(loc="right") == "at ch = Y"
    assert ax.get_xlabel() == "age"
    assert "probability of use = Y" in ax.get_ylabel() and "90 % band" in ax.get_ylabel()


def test_predictions_at_values_and_conditional_on_levels(vector: gj.Fit) -> None:
    at = {"district": "14", "urban": "Y", "ch": "N", "age": [-5.0, 0.0, 5.0]}
    ax = plots.prediction(vector, "age", at=at, random="conditional", kind="link", level=None)
    new = pd.DataFrame({"age": at["age"], "district": "14", "urban": "Y", "ch": "N"})
    expected = vector.predict(new, kind="link")
    (curve,) = lines(ax, "prediction")
    np.testing.assert_allclose(np.asarray(curve.get_xydata()), np.c_[at["age"], expected])
    assert "log odds" in ax.get_ylabel()
    assert not ax.collections


def test_a_category_along_the_axis_has_points_and_bars(vector: gj.Fit, data: pd.DataFrame) -> None:
    ax = plots.prediction(vector, "ch", by="age")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["N", "Y"]
    quartiles = np.quantile(data["age"], (0.25, 0.5, 0.75), method="inverted_cdf")
    bars = [c.get_segments() for c in ax.collections if c.get_gid() == "band"]
    for line, bar, age in zip(lines(ax, "prediction"), bars, quartiles, strict=True):
        new = pd.DataFrame({"ch": ["N", "Y"], "age": age, "urban": "N"})
        found = vector.predict(new, random="population", se=True, level=0.95)
        np.testing.assert_allclose(line.get_ydata(), found["fit"])
        np.testing.assert_allclose(np.asarray(bar)[:, :, 1], found[["lower", "upper"]])


def test_means_offsets_and_truth_values_are_held(crossed: gj.Fit) -> None:
    ax = plots.prediction(crossed, "x")
    table = crossed.call.data.dropna()
    assert lines(ax, "prediction")[0].get_xdata()[0] == pytest.approx(table["x"].min())
    new = pd.DataFrame({"x": [table["x"].min()], "flag": False})
    new["exposure"] = table["exposure"].mean()
    expected = crossed.predict(new, random="population")
    assert lines(ax, "prediction")[0].get_ydata()[0] == pytest.approx(expected.iloc[0])
    assert ax.get_title(loc="right") == f"at flag = False, exposure = {new['exposure'].iloc[0]:.3g}"
    assert "mean of y" in ax.get_ylabel()
    flags = plots.prediction(crossed, "flag")
    assert [label.get_text() for label in flags.get_xticklabels()] == ["False", "True"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": "livch"}, "x: 'livch' is no column that these predictions depend on"),
        ({"x": "age", "by": "district"}, "by: 'district' is no column"),
        ({"x": "age", "at": {"citya": 1}}, "at: 'citya'"),
        ({"x": "age", "at": {"ch": "maybe"}}, "at: 'ch' has no level 'maybe'; levels are N, Y"),
        ({"x": "age", "by": "age"}, "by='age' is x"),
        ({"x": "age", "random": "conditional"}, "needs a level of 'district'"),
        ({"x": "age", "random": "both"}, "random='both'"),
        ({"x": "age", "level": 0}, "level=0"),
        ({"x": "urban", "at": {"age": "old"}}, "at: 'age' is a number, not 'old'"),
    ],
)
def test_predictions_refuse(vector: gj.Fit, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.prediction(vector, **arguments)


# --- conditional density ----------------------------------------------------------------------


def test_conditional_density_is_that_of_the_rows_of_the_level(scalar: gj.Fit) -> None:
    levels = ["1", "3", "11"]
    axes = plots.conditional_density(scalar, levels=levels)
    sd = scalar.varcorr()["sdcor"].iloc[0]
    eta = scalar.linear_predictor.to_numpy()
    block = scalar.frame.blocks[0]
    table = scalar.ranef()["district"]
    for ax, level in zip(axes, levels, strict=True):
        at = list(map(str, block.levels)).index(level)
        rows = np.asarray(block.index) == at
        u, drawn = np.asarray(lines(ax, "density")[0].get_xydata()).T
        mode = table["Intercept"].iloc[at] / sd
        linear = eta[rows][:, None] + sd * (u - mode)
        log_density = np.sum(
            scipy.stats.bernoulli.logpmf(
                scalar.frame.y[rows][:, None], scipy.special.expit(linear)
            ),
            axis=0,
        ) + scipy.stats.norm.logpdf(u)
        np.testing.assert_allclose(drawn, np.exp(log_density - log_density.max()), atol=1e-6)
        assert drawn.max() == pytest.approx(1.0, abs=1e-9)
        x, normal = np.asarray(lines(ax, "normal")[0].get_xydata()).T
        width = table["Intercept (sd)"].iloc[at] / sd
        np.testing.assert_allclose(normal, np.exp(-0.5 * ((x - mode) / width) ** 2), atol=1e-6)
    assert axes[1].get_title(loc="left") == "district 3 (2 rows)"


def test_conditional_density_of_a_gaussian_response_is_normal(sleep: gj.Fit) -> None:
    ax = plots.conditional_density(sleep, term="Days", levels="308", ax=plt.subplots()[1])
    density, normal = (lines(ax, name)[0].get_ydata() for name in ("density", "normal"))
    np.testing.assert_allclose(density, normal, atol=1e-9)


def test_conditional_density_refuses(sleep: gj.Fit) -> None:
    with pytest.raises(ValueError, match="name one of the columns by 'Subject'"):
        plots.conditional_density(sleep)
    with pytest.raises(ValueError, match="group='g'"):
        plots.conditional_density(sleep, group="g")
    with pytest.raises(ValueError, match="levels: '1' is no level"):
        plots.conditional_density(sleep, term="Days", levels="1")
