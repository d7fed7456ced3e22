"""The data sets have the rows, columns, types and levels that their source documents."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from glmm_jax import datasets
from glmm_jax.datasets.reader import read_table

# rows, number of levels of each factor; from the documentation of the R packages.
SETS = {
    "cbpp": (56, {"herd": 15, "period": 4, "obs": 56}),
    "contraception": (
        1934,
        {"woman": 1934, "district": 60, "use": 2, "livch": 4, "urban": 2, "ch": 2},
    ),
    "grouseticks": (403, {"INDEX": 403, "BROOD": 118, "YEAR": 3, "LOCATION": 63}),
    "insteval": (
        73421,
        {"s": 2972, "d": 1128, "studage": 4, "lectage": 6, "service": 2, "dept": 14},
    ),
    "pastes": (60, {"batch": 10, "cask": 3, "sample": 30}),
    "respiratory": (
        555,
        {"centre": 2, "treatment": 2, "gender": 2, "status": 2, "month": 5, "subject": 111},
    ),
    "respiratory_post": (
        444,
        {"centre": 2, "treatment": 2, "gender": 2, "status": 2, "subject": 111, "baseline": 2},
    ),
    "salamanders": (644, {"site": 23, "mined": 2, "spp": 7}),
    "sleepstudy": (180, {"Subject": 18}),
    "toenail": (1908, {"patientID": 294, "outcome": 2, "treatment": 2}),
    "verbagg": (
        7584,
        {
            "Gender": 2,
            "item": 24,
            "resp": 3,
            "id": 316,
            "btype": 3,
            "situ": 2,
            "mode": 2,
            "r2": 2,
        },
    ),
}
ORDERED = {
    ("insteval", "studage"),
    ("insteval", "lectage"),
    ("respiratory", "month"),
    ("salamanders", "site"),
    ("verbagg", "resp"),
}


def test_names_are_the_sets_expected() -> None:
    assert datasets.names() == tuple(sorted(SETS))


@pytest.mark.parametrize("name", sorted(SETS))
def test_rows_levels_and_types(name: str) -> None:
    rows, levels = SETS[name]
    frame = datasets.load(name)
    assert len(frame) == rows == datasets.describe(name).rows
    factors = {c for c in frame.columns if isinstance(frame[c].dtype, pd.CategoricalDtype)}
    assert factors == set(levels)
    for column, count in levels.items():
        assert len(frame[column].cat.categories) == count
        assert frame[column].cat.ordered == ((name, column) in ORDERED)
        assert frame[column].notna().all()
        assert frame[column].nunique() == count
    for column in set(frame.columns) - factors:
        assert frame[column].dtype in (np.dtype(np.int64), np.dtype(np.float64))
        assert np.isfinite(frame[column]).all()


@pytest.mark.parametrize(
    ("name", "column", "levels"),
    [
        ("contraception", "livch", ["0", "1", "2", "3+"]),
        ("contraception", "use", ["N", "Y"]),
        ("insteval", "dept", "15 5 10 12 6 7 4 8 9 14 1 3 11 2".split()),
        ("insteval", "studage", ["2", "4", "6", "8"]),
        ("respiratory", "status", ["poor", "good"]),
        ("salamanders", "mined", ["yes", "no"]),
        ("salamanders", "spp", ["GP", "PR", "DM", "EC-A", "EC-L", "DES-L", "DF"]),
        ("toenail", "outcome", ["none or mild", "moderate or severe"]),
        ("verbagg", "mode", ["want", "do"]),
    ],
)
def test_levels_are_in_the_order_of_the_source(name: str, column: str, levels: list[str]) -> None:
    assert list(datasets.load(name)[column].cat.categories) == levels


@pytest.mark.parametrize("name", sorted(SETS))
def test_integer_levels_ascend(name: str) -> None:
    frame = datasets.load(name)
    for column in SETS[name][1]:
        levels = list(frame[column].cat.categories)
        if (name, column) != ("insteval", "dept") and all(level.isdigit() for level in levels):
            assert levels == sorted(levels, key=int)


def test_some_values_of_the_source() -> None:
    # Totals that the documentation or the papers print.
    assert datasets.load("cbpp")["incidence"].sum() == 99
    assert (datasets.load("contraception")["use"] == "Y").sum() == 759
    assert datasets.load("sleepstudy")["Reaction"].mean() == pytest.approx(298.5078917)
    assert datasets.load("pastes")["strength"].mean() == pytest.approx(60.0533333)


def test_derived_columns_follow_their_rules() -> None:
    frame = datasets.load("contraception")
    assert ((frame["livch"] != "0") == (frame["ch"] == "Y")).all()
    assert (frame["urban_n"] == (frame["urban"] == "Y")).all()
    assert (frame["urban_n"] + frame["rural_n"] == 1).all()
    scaled = (frame["age"] - frame["age"].mean()) / frame["age"].std()
    np.testing.assert_allclose(frame["age_s"], scaled, rtol=1e-12, atol=1e-14)
    herds = datasets.load("cbpp")
    np.testing.assert_array_equal(herds["prop"], herds["incidence"] / herds["size"])
    ratings = datasets.load("insteval")
    assert (ratings["good"] == (ratings["y"] >= 4)).all()


def test_each_call_returns_a_fresh_frame() -> None:
    first = datasets.load("cbpp")
    first["incidence"] = -1
    assert datasets.load("cbpp")["incidence"].min() >= 0


def test_case_of_the_name_does_not_matter() -> None:
    pd.testing.assert_frame_equal(datasets.load("Contraception"), datasets.load("contraception"))
    assert datasets.describe("VerbAgg").name == "verbagg"


@pytest.mark.parametrize("name", ["contraceptive", "", None, 3, ["cbpp"]])
def test_unknown_name_lists_the_sets(name: object) -> None:
    with pytest.raises(ValueError, match=r"name: there is no data set.*cbpp, contraception"):
        datasets.load(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SETS))
def test_description_names_the_source(name: str) -> None:
    description = datasets.describe(name)
    assert description.columns == tuple(datasets.load(name).columns)
    assert "R package" in description.provenance
    assert description.provenance in str(description)
    assert set(description.derived) <= {*description.columns, "rows"}


def table(text: str) -> bytes:
    return gzip.compress(text.encode())


def test_reader_keeps_levels_as_text() -> None:
    columns = {
        "code": {"kind": "factor", "levels": ["02", "01"]},
        "word": {"kind": "ordered", "levels": ["None", "NA", ""]},
        "x": {"kind": "number"},
    }
    frame = read_table(table("code,word,x\n01,None,0.1\n02,NA,1e-3\n01,,2\n"), columns)
    assert list(frame["code"]) == ["01", "02", "01"]
    assert list(frame["code"].cat.codes) == [1, 0, 1]
    assert list(frame["word"].cat.codes) == [0, 1, 2]
    assert frame["x"].tolist() == [0.1, 1e-3, 2.0]


def test_reader_refuses_what_is_not_described() -> None:
    columns = {"g": {"kind": "factor", "levels": ["a"]}}
    with pytest.raises(ValueError, match="levels: column 'g' holds \\['b'\\]"):
        read_table(table("g\na\nb\n"), columns)
    with pytest.raises(ValueError, match="columns: described are"):
        read_table(table("h\na\n"), columns)
