"""Frames against R's model frames, the reference fits, and everything a caller can get wrong."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from reference_cases import Case, cases, map_names

from glmm_jax.formula import Frame, build_frame, new_frame
from glmm_jax.formula.grouping import theta_order
from glmm_jax.formula.rank import independent_columns

LME4 = list(
    {
        (one.formula, one.dataset, one.weights): one for one in cases(engine="lme4", plain=None)
    }.values()
)


@dataclass(frozen=True)
class Recorded:
    """What lme4 1.1-31 (R 4.2.2, `lFormula`) makes of a formula on `made_data`.

    With w_i = sin(i), i = 1, 2, ... over the rows kept: `columns` is sum_ij w_i X_ij cos(j);
    `random` is sum_jr j (Zt_j w)_r sin(0.7 r) over the terms j; `offset` is sum_i w_i offset_i.
    `blocks` lists the terms in theta order as group*columns.
    """

    formula: str
    n: int
    p: int
    columns: float
    blocks: str
    random: float
    offset: float


RECORDED = [
    Recorded("y ~ x + a + b + (1|g)", 46, 5, 3.596182019, "g*1", -2.796563338, 0),
    Recorded("y ~ 0 + x + a + b + (1|g)", 46, 5, -5.960422123, "g*1", -2.796563338, 0),
    Recorded("y ~ a*b*x + (1|g)", 46, 12, -1.242335006, "g*1", -2.796563338, 0),
    Recorded("y ~ (a + b + x)^2 - a:b + (1|g)", 46, 8, -7.251765843, "g*1", -2.796563338, 0),
    Recorded("y ~ a/b + (1|g)", 47, 6, -0.3910182899, "g*1", 7.357915981, 0),
    Recorded("y ~ a/x + (1|g)", 46, 6, -1.129626262, "g*1", -2.796563338, 0),
    Recorded("y ~ b:a + x + a + (1|g)", 46, 7, 2.540994641, "g*1", -2.796563338, 0),
    Recorded("y ~ a:b + (1|g)", 47, 6, -4.007539873, "g*1", 7.357915981, 0),
    Recorded("y ~ a + b:x + (1|g)", 46, 5, 3.058725867, "g*1", -2.796563338, 0),
    Recorded("y ~ a:c + a:b + (1|g)", 47, 12, -2.967680453, "g*1", 7.357915981, 0),
    Recorded("y ~ o*x + (1|g)", 47, 6, 13.28298159, "g*1", 7.096970881, 0),
    Recorded("y ~ 0 + o + a + (1|g)", 47, 5, 0.9044083756, "g*1", 7.357915981, 0),
    Recorded("y ~ 0 + x:a + b + (1|g)", 46, 5, 5.947506469, "g*1", -2.796563338, 0),
    Recorded("y ~ t*a + (1|g)", 47, 6, -0.5003010389, "g*1", 7.357915981, 0),
    Recorded(
        "y ~ I(x > 0.2) + I(a == 'p') + I(x^2 %% 2) + (1|g)",
        46,
        4,
        -1.607870457,
        "g*1",
        -2.796563338,
        0,
    ),
    Recorded(
        "y ~ scale(x) + log(size.mm) + log(z, 2) + (1|g)",
        46,
        4,
        1.615291501,
        "g*1",
        -7.619828833,
        0,
    ),
    Recorded(
        "y ~ scale(x, center=FALSE) + poly(size.mm, 3) + (1|g)",
        47,
        5,
        5.534738453,
        "g*1",
        7.096970881,
        0,
    ),
    Recorded(
        "y ~ factor(k) * x + relevel(a, ref='q') + (1|g)",
        46,
        10,
        -0.7163580835,
        "g*1",
        -2.796563338,
        0,
    ),
    Recorded(
        "y ~ C(a, contr.sum)*b + C(o, contr.helmert) + (1|g)",
        47,
        8,
        -11.08223893,
        "g*1",
        7.357915981,
        0,
    ),
    Recorded(
        "y ~ x + I(2*x + 1) + z + I(x - z) + (1|g)", 46, 3, -15.2170565, "g*1", -7.619828833, 0
    ),
    Recorded("y ~ a*b - a + (1|g)", 47, 6, -1.949591804, "g*1", 7.357915981, 0),
    Recorded(
        "y ~ x - 1 + (x|h) + (1|g) + (0 + z|g)", 46, 1, -2.947062899, "g*1 g*1 h*2", -93.08451923, 0
    ),
    Recorded("y ~ x + (x||g) + (1|h)", 47, 2, 4.380998112, "g*1 g*1 h*1", 12.2309554, 0),
    Recorded("y ~ x + (x*z||g)", 46, 2, 3.221703716, "g*1 g*1 g*1 g*1", -481.5131686, 0),
    Recorded("y ~ x + (a||g)", 46, 2, 4.575693012, "g*1 g*3", -2.973342277, 0),
    Recorded("y ~ x + (0 + a|g) + (1|a:h)", 46, 2, 4.575693012, "a:h*1 g*3", 1.129281722, 0),
    Recorded("y ~ x + (x||h/b)", 47, 2, 4.380998112, "b:h*1 b:h*1 h*1 h*1", -14.87596919, 0),
    Recorded("y ~ x + (o|g) + (t:x|h)", 47, 2, 4.380998112, "g*3 h*3", -0.9081335787, 0),
    Recorded(
        "y ~ (x + (1|g)) + offset(log(size.mm)) + ((1|h)) + offset(z)",
        46,
        2,
        3.221703716,
        "g*1 h*1",
        -4.437955045,
        16.79395613,
    ),
    Recorded(
        "y ~ 1 + (scale(x)|g) + (log(size.mm) - 1|h) + (1|h:g)",
        47,
        1,
        1.018609984,
        "h:g*1 g*2 h*1",
        -42.00757061,
        0,
    ),
]


def made_data() -> pd.DataFrame:
    i = np.arange(48)

    def factor(levels: str, codes: np.ndarray, **options: object) -> pd.Categorical:
        labels = np.array(list(levels), dtype=object)[codes]
        return pd.Categorical(labels, **options)  # type: ignore[arg-type]

    data = pd.DataFrame(
        {
            "y": (7 * i) % 11 / 2,
            "x": ((5 * i) % 13) / 4 - 1,
            "z": ((3 * i) % 17) / 8 + 10,
            "size.mm": ((11 * i) % 19) / 5 + 1,
            "a": factor("pqr", (i * i + i // 5) % 3),
            "b": factor("uv", (i // 3 + i // 7) % 2),
            "c": factor("klm", (i // 4 + i) % 3, categories=["m", "k", "l", "zz"]),
            "o": factor("123", (i // 2) % 3, ordered=True),
            "t": i % 5 < 2,
            "k": (i * i) % 4 + 1 + (i // 8) % 3,
            "g": factor("abcdef", i % 6),
            "h": factor("ABCD", (i // 6) % 4),
        }
    )
    data.loc[3, "x"] = np.nan
    data.loc[8, "z"] = np.nan
    data.loc[20, "a"] = None
    return data


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded.formula)
def test_arrays_are_those_of_lme4(recorded: Recorded) -> None:
    frame = build_frame(recorded.formula, made_data())
    w = np.sin(np.arange(1, recorded.n + 1))
    assert frame.X.shape == (recorded.n, recorded.p) == (len(frame.y), len(frame.X_names))
    columns = np.sum((w @ frame.X) * np.cos(np.arange(1, recorded.p + 1)))
    np.testing.assert_allclose(columns, recorded.columns, rtol=1e-8)
    assert " ".join(f"{b.grouping}*{len(b.names)}" for b in frame.blocks) == recorded.blocks
    random = 0.0
    for j, block in enumerate(frame.blocks, start=1):
        sums = np.zeros((len(block.levels), len(block.names)))
        np.add.at(sums, block.index, block.Z * w[:, None])
        random += j * np.sum(sums.ravel() * np.sin(0.7 * np.arange(1, sums.size + 1)))
    np.testing.assert_allclose(random, recorded.random, rtol=1e-8)
    np.testing.assert_allclose(w @ frame.offset, recorded.offset, rtol=1e-8, atol=1e-12)


def theta_names(frame: Frame) -> list[str]:
    return [
        f"{block.grouping}.{row}" if row == column else f"{block.grouping}.{row}.{column}"
        for block in frame.blocks
        for j, column in enumerate(block.names)
        for row in block.names[j:]
    ]


def case_frame(case: Case) -> Frame:
    data = case.frame()
    response = case.formula.split("~")[0].strip()
    # R takes the number of trials of a proportion as weights.
    trials = case.weights if response == "prop" else None
    return build_frame(case.formula, data, weights=None if trials else case.weights, trials=trials)


@pytest.mark.parametrize("case", LME4, ids=str)
def test_reference_fits(case: Case) -> None:
    data = case.frame()
    frame = case_frame(case)
    assert list(frame.X_names) == map_names(case.beta_names, data)
    assert list(frame.dropped_columns) == map_names(case.dropped_columns, data)
    assert len(frame.y) == case.n
    assert {b.grouping: len(b.levels) for b in frame.blocks} == case.ngroups
    plain = [re.sub(r"\[(?:T\.)?(.*?)\]", r"\1", name) for name in theta_names(frame)]
    assert [name.replace("Intercept", "(Intercept)") for name in plain] == list(case.theta_names)


@pytest.mark.parametrize("case", [one for one in LME4 if "separation" not in one.tags], ids=str)
def test_reference_linear_predictors(case: Case) -> None:
    """X beta + Z b + offset is lme4's linear predictor in the rows whose effects are recorded."""
    frame = case_frame(case)
    eta = frame.X @ case.beta + frame.offset
    for effects in case.effects:
        blocks = [block for block in frame.blocks if block.grouping == effects.group]
        levels = blocks[0].levels
        assert tuple(levels[: len(effects.levels)]) == effects.levels
        modes = np.full((len(levels), len(effects.terms)), np.nan)
        modes[: len(effects.levels)] = effects.mode
        # Several blocks of one factor: the recorded terms follow the blocks.
        Z = np.concatenate([block.Z for block in blocks], axis=1)
        eta = eta + np.sum(Z * modes[blocks[0].index], axis=1)
    known = np.isfinite(eta[:10])
    np.testing.assert_allclose(eta[:10][known], case.eta10[known], rtol=1e-6, atol=1e-7)


def small(**columns: object) -> pd.DataFrame:
    """24 rows to change one thing at a time."""
    n = 24
    i = np.arange(n)
    data = pd.DataFrame(
        {
            "y": (i * 7 % 5).astype(float),
            "x": np.linspace(-1.0, 1.0, n),
            "g": np.repeat(list("abcdef"), 4),
            "f": np.tile(list("uvw"), 8),
            "two": np.tile(["yes", "no"], 12),
            "b": i % 3 == 0,
            "size": np.full(n, 9),
            "total.fruits": i + 1.0,
            "visit 2": i**2,
            "class": i % 7,
            "day": pd.date_range("2020-01-01", periods=n),
        }
    )
    return data.assign(**columns)  # type: ignore[arg-type]


def test_names_that_are_no_python_names() -> None:
    frame = build_frame(
        "y ~ total.fruits + log(total.fruits) + `visit 2` + class + np.sin(`visit 2`) + "
        "(`visit 2` | g)",
        small(),
    )
    assert frame.X_names == (
        "Intercept",
        "total.fruits",
        "log(total.fruits)",
        "visit 2",
        "class",
        "np.sin(`visit 2`)",
    )
    assert frame.blocks[0].names == ("Intercept", "visit 2")
    np.testing.assert_array_equal(frame.X[:, 2], np.log(np.arange(24) + 1.0))


def test_r_and_python_spellings_agree() -> None:
    r = build_frame("y ~ factor(class) + I(x^2) + log(size)*f + (1|g)", small())
    python = build_frame("y ~ C(class) + I(x**2) + np.log(size)*f + (1|g)", small())
    np.testing.assert_array_equal(r.X, python.X)
    assert r.X_names[1:7] == tuple(f"factor(class)[T.{k}]" for k in range(1, 7))
    assert python.X_names[1] == "C(class)[T.1]"


def test_pi_is_a_number_unless_the_data_have_a_column_of_that_name() -> None:
    data = small()
    for text in ("sin(2*pi*x)", "np.sin(2*np.pi*x)"):
        frame = build_frame(f"y ~ {text} + ({text} | g)", data)
        np.testing.assert_allclose(frame.X[:, 1], np.sin(2 * np.pi * data["x"]), rtol=1e-12)
        # What it was in the fit it is in new data, which may have such a column.
        new = new_frame(frame, data.assign(pi=1.0))
        np.testing.assert_array_equal(new.X, frame.X)
        np.testing.assert_array_equal(new.blocks[0].Z, frame.blocks[0].Z)
    frame = build_frame("y ~ sin(2*pi*x) + (1 | g)", data.assign(pi=3.0))
    np.testing.assert_allclose(frame.X[:, 1], np.sin(6 * data["x"]), rtol=1e-12)
    with pytest.raises(ValueError, match="no column 'pi'"):
        new_frame(frame, data)
    for text in ("y ~ pi + (1 | g)", "y ~ x + (1 | pi)"):
        with pytest.raises(ValueError, match="no column 'pi'"):
            build_frame(text, data)


def test_stateful_transforms() -> None:
    data = small()
    frame = build_frame("y ~ scale(size + x) + center(x) + standardize(class) + (1|g)", data)
    s, x, c = data["size"] + data["x"], data["x"], data["class"]
    np.testing.assert_allclose(frame.X[:, 1], (s - s.mean()) / s.std(ddof=1), atol=1e-12)
    poly = build_frame("y ~ poly(x, 2) + standardize(class) + (1|g)", data)
    assert poly.X_names == ("Intercept", "poly(x, 2)[1]", "poly(x, 2)[2]", "standardize(class)")
    np.testing.assert_allclose(poly.X[:, 1:3].T @ poly.X[:, :3], np.eye(3)[1:], atol=1e-12)
    np.testing.assert_allclose(poly.X[:, 3], (c - c.mean()) / c.std(ddof=0), atol=1e-12)
    assert frame.dropped_columns == ("center(x)",) and x.size == 24  # scale(size + x) has it


def test_missing_elsewhere_does_not_move_a_transform() -> None:
    """scale(x) takes the mean over all rows where x is known, as R does."""
    data = small()
    data.loc[[0, 1, 2], "y"] = np.nan
    data.loc[5, "x"] = np.nan
    frame = build_frame("y ~ scale(x) + (1|g)", data)
    x = data["x"].drop([0, 1, 2, 5])
    expected = (x - data["x"].mean()) / data["x"].std()
    np.testing.assert_allclose(frame.X[:, 1], expected, atol=1e-12)
    assert frame.n_missing == 4
    assert list(frame.index) == list(x.index)


def test_the_rows_used_are_known_by_position() -> None:
    data = small().set_axis(["a", "b"] * 12)
    assert build_frame("y ~ x + (1|g)", data).kept_rows is None
    x = data["x"].to_numpy().copy()
    x[[2, 9]] = np.nan
    frame = build_frame("y ~ x + (1|g)", data.assign(x=x))
    assert frame.kept_rows is not None and frame.kept_rows.dtype == bool
    assert np.flatnonzero(~frame.kept_rows).tolist() == [2, 9]
    np.testing.assert_array_equal(frame.X[:, 1], x[frame.kept_rows])


def test_missing_values_of_every_kind_are_dropped() -> None:
    data = small(
        f=pd.Categorical(["u", None] + ["v", "w"] * 11),
        b=pd.array([True, None] + [True, False, False] * 7 + [True], dtype="boolean"),
        size=pd.array([None] + [3] * 22 + [None], dtype="Int64"),
        unused=np.nan,
    )
    data.loc[4, "g"] = None
    weights = np.ones(24)
    weights[7] = np.nan
    frame = build_frame("y ~ f + b + offset(size) + (1|g)", data, weights=weights, offset=data["x"])
    assert frame.n_missing == 5
    assert list(frame.index) == [i for i in range(24) if i not in (0, 1, 4, 7, 23)]
    assert frame.X_names == ("Intercept", "f[T.w]", "b[T.True]")  # "u" went with its row
    assert frame.weights is not None and frame.weights.shape == (19,)
    np.testing.assert_allclose(frame.offset, 3.0 + data["x"][frame.index])
    with pytest.raises(
        ValueError, match=r"'f' \(1\).*'g' \(1\).*'weights=' \(1\).*na_action='drop'"
    ):
        build_frame("y ~ f + (1|g)", data, weights=weights, na_action="raise")


def test_grouping_levels() -> None:
    data = small(
        g=pd.Categorical(np.tile([10, 2, 30], 8), categories=[30, 10, 2, 99]),
        h=np.repeat([3.0, 1.0, 2.5, 11.0], 6),
    )
    frame = build_frame("y ~ x + (1|h) + (1|g:two) + (1|day)", data)
    levels = {block.grouping: list(block.levels) for block in frame.blocks}
    assert list(levels) == ["day", "g:two", "h"]
    assert levels["h"] == ["1", "2.5", "3", "11"]
    assert levels["g:two"] == [f"{g}:{t}" for g in (30, 10, 2) for t in ("no", "yes")]
    index = frame.blocks[1].index
    assert index.dtype == np.int32
    assert [levels["g:two"][k] for k in index[:3]] == ["10:yes", "2:no", "30:yes"]
    one = build_frame("y ~ x + (1|g)", small(g="only"))
    assert list(one.blocks[0].levels) == ["only"]


def test_wide_interactions_do_not_overflow() -> None:
    n = 3000
    data = pd.DataFrame({"y": np.arange(n) * 1.0, "a": np.arange(n), "b": np.arange(n)[::-1]})
    data["c"] = data["a"].astype("category")
    (block,) = build_frame("y ~ 1 + (1|a:b:c)", data).blocks
    assert len(block.levels) == n
    assert block.levels[1] == "1:2998:1"
    np.testing.assert_array_equal(block.index, np.arange(n))


def test_responses() -> None:
    data = small()
    assert build_frame("two ~ x + (1|g)", data).response_levels == ("no", "yes")
    np.testing.assert_array_equal(build_frame("two ~ x + (1|g)", data).y, np.tile([1.0, 0.0], 12))
    boolean = build_frame("b ~ x + (1|g)", data)
    np.testing.assert_array_equal(boolean.y, data["b"].astype(float))
    assert boolean.response_levels == ("False", "True")
    np.testing.assert_array_equal(build_frame("y > 1 ~ x + (1|g)", data).y, data["y"] > 1)
    np.testing.assert_allclose(build_frame("log(size) ~ x + (1|g)", data).y, np.log(9.0))
    declared = small(two=pd.Categorical(["no"] * 24, categories=["no", "yes"]))
    np.testing.assert_array_equal(build_frame("two ~ x + (1|g)", declared).y, 0.0)
    counts = build_frame("cbind(y, size - y) ~ x + (1|g)", data)
    assert counts.response_name == "cbind(y, size - y)"
    np.testing.assert_array_equal(counts.y, data["y"])
    assert counts.trials is not None
    np.testing.assert_array_equal(counts.trials, 9.0)


def test_trials() -> None:
    data = small(p=(np.arange(24) * 7 % 5) / 9)
    by_count = build_frame("y ~ x + (1|g)", data, trials="size")
    by_share = build_frame("p ~ x + (1|g)", data, trials=np.full(24, 9))
    for frame in (by_count, by_share):
        assert frame.trials is not None
        np.testing.assert_array_equal(frame.y, data["y"])
        np.testing.assert_array_equal(frame.trials, 9.0)
    ones = build_frame("b ~ x + (1|g)", data, trials=np.ones(24))
    np.testing.assert_array_equal(ones.y, data["b"].astype(float))


def test_rank_deficiency() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) * [1.0, 1e-6, 1e6]
    near = X[:, 0] + 1e-3 * rng.normal(size=50)  # close, but another direction
    A = np.column_stack([X, X @ [1.0, 2e6, 3e-6], near, np.zeros(50), X[:, 0] * 5])
    np.testing.assert_array_equal(independent_columns(A), [1, 1, 1, 0, 1, 0, 0])
    nearer = X[:, [0]] + np.array([[3e-7, 3e-8]]) * rng.normal(size=(50, 1))
    np.testing.assert_array_equal(
        independent_columns(np.column_stack([X[:, 0], nearer[:, 0]])), [1, 1]
    )
    np.testing.assert_array_equal(
        independent_columns(np.column_stack([X[:, 0], nearer[:, 1]])), [1, 0]
    )
    assert independent_columns(rng.normal(size=(3, 5))).tolist() == [True] * 3 + [False] * 2
    assert independent_columns(np.empty((5, 0))).shape == (0,)
    frame = build_frame("y ~ x + I(2*x - 1) + f + (1|g)", small())
    assert frame.dropped_columns == ("I(2 * x - 1)",)
    assert frame.X_names == ("Intercept", "x", "f[T.v]", "f[T.w]")


def test_no_columns_at_all() -> None:
    frame = build_frame("y ~ 0 + (1|g)", small())
    assert frame.X.shape == (24, 0) and frame.X_names == ()


@pytest.mark.parametrize(
    ("counts", "order"),
    [
        ([60], [0]),
        ([60, 10], [0, 1]),
        ([10, 60], [1, 0]),
        ([5, 5, 3], [0, 1, 2]),
        ([118, 403, 63], [1, 0, 2]),
        ([5, 5, 9], [2, 1, 0]),  # R's rev(order()) turns ties round
    ],
)
def test_theta_order(counts: list[int], order: list[int]) -> None:
    assert theta_order(counts) == order


def test_vectors_beside_the_formula() -> None:
    data = small()
    data.index = pd.Index(np.arange(24) + 100)
    frame = build_frame("y ~ x + offset(x) + (1|g)", data, weights="total.fruits", offset=data["x"])
    np.testing.assert_array_equal(frame.weights, data["total.fruits"])
    np.testing.assert_allclose(frame.offset, 2 * data["x"])
    plain = build_frame("y ~ x + (1|g)", data)
    assert plain.weights is None
    np.testing.assert_array_equal(plain.offset, np.zeros(24))


def test_the_data_are_left_alone_and_not_shared() -> None:
    data = small()
    before, weights = data.copy(), np.ones(24)
    frame = build_frame("y ~ x*f + (x|g)", data, weights=weights)
    pd.testing.assert_frame_equal(data, before)
    y = frame.y.copy()
    data.loc[:, "y"] = -1.0
    weights[:] = 5.0
    np.testing.assert_array_equal(frame.y, y)
    np.testing.assert_array_equal(frame.weights, 1.0)
    frame.y[0] = 3.0  # an array of its own, free to write


def test_a_dictionary_will_do() -> None:
    frame = build_frame("y ~ x + (1|g)", small().to_dict("list"))  # type: ignore[arg-type]
    assert frame.X.shape == (24, 2)


FAULTS: list[tuple[str, dict[str, object], dict[str, object], str]] = [
    ("y ~ xx + (1|g)", {}, {}, "formula: the data have no column 'xx'; did you mean 'x'"),
    ("y ~ x + (1|G)", {}, {}, "no column 'G'; did you mean 'g'"),
    ("z ~ x + (1|g)", {}, {}, "response: the data have no column 'z'.*Columns: y, x, g"),
    ("y ~ np.pi + (1|g)", {}, {}, "no column 'np.pi'"),
    ("f ~ x + (1|g)", {}, {}, "response: 'f' is categorical with 3 level"),
    ("two ~ x + (1|g)", {"two": "yes"}, {}, "1 level.*declares both levels"),
    ("y ~ f + (1|g)", {"f": "u"}, {}, "factor 'f' has fewer than two levels"),
    ("y ~ log(x) + (1|g)", {}, {}, r"'log\(x\)' is not a number in 12 rows \(first: row 0\)"),
    ("y ~ log(y) + (1|g)", {}, {}, r"'log\(y\)' is infinite in 5 rows"),
    ("log(y) ~ x + (1|g)", {}, {}, r"'log\(y\)' is infinite"),
    ("y ~ x + (1|g)", {"x": [np.inf] * 24}, {}, "'x' is infinite in 24 rows"),
    ("y ~ x + (1|g)", {"x": [np.nan] * 24}, {}, r"no row is complete.*'x' \(24\)"),
    ("y ~ x + (1|g)", {"x": [1, "a"] * 12}, {}, "'x' mixes kinds"),
    ("y ~ x + (1|g)", {"x": [1j] * 24}, {}, "'x' is complex"),
    ("y ~ day + (1|g)", {}, {}, "'day' is of type datetime64"),
    ("y ~ log(f) + (1|g)", {}, {}, "'f' is a factor .levels u, v, w. where numbers"),
    ("y ~ offset(f) + (1|g)", {}, {}, "offset: 'f' must be one column of numbers"),
    ("y ~ I(3) + (1|g)", {}, {}, "uses no column"),
    ("y ~ I(f == 'q') + (1|g)", {}, {}, "is no level; levels: u, v, w"),
    ("y ~ I(f < 'v') + (1|g)", {}, {}, "has no order"),
    ("y ~ C(f, foo) + (1|g)", {}, {}, "is no contrast"),
    ("y ~ C(f, Treatment('q')) + (1|g)", {}, {}, "'q' not found"),
    ("y ~ factor(f, levels=c('u','v')) + (1|g)", {}, {}, "left out: w"),
    ("y ~ relevel(f, ref='q') + (1|g)", {}, {}, "is no level of it"),
    ("y ~ scale(x, 2, 3, 4) + (1|g)", {}, {}, "cannot use the arguments"),
    ("y ~ poly(class, 7) + (1|g)", {}, {}, "more than 7 distinct values"),
    ("y ~ exp(x, y) + (1|g)", {}, {}, "too many arguments"),
    ("y ~ x + (1|g:f)", {"g": ["a:b", "a"] * 12, "f": ["c", "b:c"] * 12}, {}, "hold colons"),
    ("y ~ x + (1|g)", {"g": pd.Categorical([1, "1"] * 12)}, {}, "both print as '1'"),
    ("y ~ x + (1|g)", {}, {"na_action": "omit"}, "na_action: 'drop' or 'raise'.*'omit'"),
    ("y ~ x + (1|g)", {}, {"weights": "nope"}, "weights: the data have no column 'nope'"),
    ("y ~ x + (1|g)", {}, {"weights": "f"}, "weights: column 'f'.*no numbers"),
    ("y ~ x + (1|g)", {}, {"weights": [1, 2]}, "weights: 2 values came for 24 rows"),
    ("y ~ x + (1|g)", {}, {"weights": 2.0}, "weights: 1 values came"),
    ("y ~ x + (1|g)", {}, {"weights": np.zeros(24)}, "weights: 24 values are not positive"),
    ("y ~ x + (1|g)", {}, {"weights": "x"}, r"not positive.*\(column 'x'\)"),
    ("y ~ x + (1|g)", {}, {"weights": np.full(24, np.inf)}, "weights: infinite"),
    ("y ~ x + (1|g)", {}, {"weights": ["a"] * 24}, "weights: one number a row"),
    ("y ~ x + (1|g)", {}, {"offset": np.ones((24, 2))}, "offset: one number a row"),
    (
        "y ~ x + (1|g)",
        {},
        {"offset": pd.Series(np.ones(24), np.arange(24) + 1)},
        "offset: the index",
    ),
    ("y ~ x + (1|g)", {}, {"trials": np.full(24, 2.5)}, "trials: positive whole numbers"),
    ("y ~ x + (1|g)", {}, {"trials": np.zeros(24)}, "trials: positive whole numbers"),
    ("y ~ x + (1|g)", {}, {"trials": np.ones(24)}, "exceeds trials in 14 rows"),
    ("x ~ 1 + (1|g)", {}, {"trials": "size"}, "'x' is negative"),
    ("b ~ x + (1|g)", {}, {"trials": "size"}, "a 1 may mean one success or all"),
    ("I(y/2) ~ x + (1|g)", {}, {"trials": "size"}, "fractions as well as values above 1"),
    ("I(y/7) ~ x + (1|g)", {}, {"trials": "size"}, "no whole number"),
    ("cbind(y, size - y) ~ x + (1|g)", {}, {"trials": "size"}, "holds the trials already"),
    ("cbind(y, y - size) ~ x + (1|g)", {}, {}, "failures of .* negative in 24"),
    ("cbind(I(y/2), size) ~ x + (1|g)", {}, {}, "successes of .* no whole numbers"),
    ("cbind(y, 2*y) ~ x + (1|g)", {}, {}, "no trials in 5 rows"),
]


@pytest.mark.parametrize(("formula", "columns", "options", "message"), FAULTS)
def test_faults(
    formula: str, columns: dict[str, object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_frame(formula, small(**columns), **options)  # type: ignore[arg-type]


def test_faults_of_the_table() -> None:
    with pytest.raises(ValueError, match=r"DataFrame.*not int"):
        build_frame("y ~ x + (1|g)", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no rows"):
        build_frame("y ~ x + (1|g)", small().iloc[:0])
    with pytest.raises(ValueError, match="make no table"):
        build_frame("y ~ x + (1|g)", {"y": [1.0, 2.0], "x": [1.0]})  # type: ignore[arg-type]
    twice = pd.concat([small(), small()[["x"]]], axis=1)
    with pytest.raises(ValueError, match="2 columns are called 'x'"):
        build_frame("y ~ x + (1|g)", twice)


NEW_FORMULA = (
    "y ~ poly(x, 2) + scale(size + x) + f*b + I(f == 'w') + offset(x) + "
    "(0 + f | g) + (x || two) + (1 | g:two)"
)


def test_new_frame_on_the_old_data_gives_the_old_arrays() -> None:
    data = small()
    frame = build_frame(NEW_FORMULA, data)
    new = new_frame(pickle.loads(pickle.dumps(frame)), data)
    np.testing.assert_allclose(new.X, frame.X, atol=1e-14)
    np.testing.assert_array_equal(new.offset, frame.offset)
    for old, again in zip(frame.blocks, new.blocks, strict=True):
        np.testing.assert_array_equal(again.Z, old.Z)
        np.testing.assert_array_equal(again.index, old.index)


def test_new_frame_on_one_row_remembers_transforms_and_levels() -> None:
    data = small()
    frame = build_frame(NEW_FORMULA, data)
    new = new_frame(frame, data.drop(columns="y").iloc[[7]])
    np.testing.assert_allclose(new.X, frame.X[[7]], atol=1e-14)
    assert [block.index[0] for block in new.blocks] == [b.index[7] for b in frame.blocks]
    population = new_frame(frame, data[["x", "size", "f", "b"]].iloc[[7]], random=False)
    np.testing.assert_array_equal(population.X, new.X)
    assert population.blocks == ()


def test_new_frame_keeps_to_the_columns_of_the_fit() -> None:
    data = small(x2=small()["x"] * 2)
    frame = build_frame("y ~ x + x2 + f + (1|g)", data)
    new = new_frame(frame, small(x2=0.0))
    assert new.X.shape == (24, 4)


def test_unseen_levels() -> None:
    frame = build_frame("y ~ f + (x|g)", small())
    new = small(g=["a", "zz", None] + ["b"] * 21)
    with pytest.raises(ValueError, match=r"values are missing in 'g' \(1\)"):
        new_frame(frame, new)
    with pytest.raises(ValueError, match=r"1 levels of 'g'.*'zz'.*allow_new_levels=True"):
        new_frame(frame, new.drop(index=2))
    allowed = new_frame(frame, new, allow_new_levels=True)
    assert allowed.blocks[0].index.tolist()[:4] == [0, -1, -1, 1]
    with pytest.raises(ValueError, match=r"'f' has levels .*'q'.*levels of the fit: u, v, w"):
        new_frame(frame, small(f=["q"] * 24), allow_new_levels=True)


def test_new_data_without_what_is_needed() -> None:
    frame = build_frame("y ~ x + (1|g)", small(), offset=np.ones(24))
    with pytest.raises(ValueError, match="newdata: the data have no column 'x'"):
        new_frame(frame, small().drop(columns="x"))
    with pytest.raises(ValueError, match="fitted with an array as offset="):
        new_frame(frame, small())
    given = new_frame(frame, small(), offset=np.full(24, 2.0))
    np.testing.assert_array_equal(given.offset, 2.0)
    with pytest.raises(ValueError, match=r"missing in 'x' \(24\)"):
        new_frame(frame, small(x=np.nan), offset="size")
    with pytest.raises(ValueError, match="numeric in the fit, now is categorical"):
        new_frame(frame, small(x="1"), offset="size")
    named = build_frame("y ~ x + (1|g)", small(), offset="size")
    np.testing.assert_array_equal(new_frame(named, small(size=4)).offset, 4.0)
