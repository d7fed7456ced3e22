"""A fit written to a file and read again, copied, and sent to another process."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from reference_cases import FOLDER, case

import glmm_jax as gj
from glmm_jax.inference import archive, encoding, storage

FORMULA = (
    "cbind(s, m - s) ~ poly(x, 2) + scale(z) + center(x) + o + C(f, Sum) + offset(z) "
    "+ (x || g) + (1 | h)"
)


def made_data() -> pd.DataFrame:
    """Binomial data with everything that new data need: transforms, ordered levels, contrasts."""
    rng = np.random.default_rng(5)
    n = 240
    data = pd.DataFrame(
        {
            "x": rng.normal(1.0, 2.0, n),
            "z": rng.normal(0.0, 0.3, n),
            "o": pd.Categorical(rng.choice(["lo", "mid", "hi"], n), ["lo", "mid", "hi"], True),
            "f": rng.choice(["b", "a", "ü"], n),
            "g": rng.integers(0, 20, n),
            "h": rng.choice(["p", "q", "r", "s"], n),
            "m": rng.integers(3, 9, n),
        },
        index=[f"row{i % 50}" for i in range(n)],
    )
    b = rng.normal(0.0, 0.8, 20)
    eta = 0.2 * data["x"] + data["z"] + b[data["g"]]
    data["s"] = rng.binomial(data["m"], 1.0 / (1.0 + np.exp(-eta)))
    data.iloc[[3, 30], 1] = np.nan
    return data


@pytest.fixture(scope="module")
def made() -> gj.Fit:
    data = made_data()
    weights = pd.Series(np.linspace(0.5, 1.5, len(data)), data.index)
    return gj.glmer(FORMULA, data, "binomial", weights=weights, offset=np.full(len(data), 0.1))


@pytest.fixture(scope="module")
def sleep() -> gj.Fit:
    return gj.glmer(**case("sleep_corr_ml/lme4").glmer_arguments())


@pytest.fixture(scope="module")
def sleep_file(sleep: gj.Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fits") / "sleep.npz"
    sleep.save(path)
    return path


def new_rows() -> pd.DataFrame:
    return made_data().drop(columns=["s", "m"]).iloc[[0, 17, 101]]


def assert_same_fit(found: gj.Fit, fit: gj.Fit) -> None:
    """Every number of two fits is the same to the last bit, and so is every name."""
    for name in ("params", "theta", "bse", "linear_predictor", "fittedvalues", "gradient"):
        pd.testing.assert_series_equal(getattr(found, name), getattr(fit, name), check_exact=True)
    pd.testing.assert_frame_equal(found.vcov_all, fit.vcov_all, check_exact=True)
    for group, table in fit.ranef().items():
        pd.testing.assert_frame_equal(found.ranef()[group], table, check_exact=True)
    for kind in ("response", "pearson", "deviance"):
        pd.testing.assert_series_equal(found.resid(kind), fit.resid(kind), check_exact=True)
    assert (found.llf, found.dispersion, found.nobs) == (fit.llf, fit.dispersion, fit.nobs)
    assert str(found.summary()) == str(fit.summary())
    assert found.family == fit.family and found.placement == fit.placement
    ours, theirs = jax.tree.flatten(found.estimate), jax.tree.flatten(fit.estimate)
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    ours, theirs = jax.tree.flatten(found.model), jax.tree.flatten(fit.model)
    assert ours[1] == theirs[1]
    for a, b in zip(ours[0], theirs[0], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# --- what comes back -----------------------------------------------------------------------------


def test_everything_comes_back(made: gj.Fit, tmp_path: Path) -> None:
    path = tmp_path / "made"
    made.save(path)
    found = gj.load(path)
    assert_same_fit(found, made)
    assert isinstance(found, gj.Fit)
    assert_same_arrays(found.frame, made.frame, "frame")
    for random in ("conditional", "population"):
        arguments = {"random": random, "level": 0.9, "offset": np.array([0.0, 0.1, 0.2])}
        pd.testing.assert_frame_equal(
            found.predict(new_rows(), **arguments),
            made.predict(new_rows(), **arguments),
            check_exact=True,
        )


def assert_same_arrays(found: Any, known: Any, where: str) -> None:
    """Two frames agree field by field, in type and value."""
    assert type(found) is type(known), where
    if dataclasses.is_dataclass(known):
        for field in dataclasses.fields(known):
            name = field.name
            assert_same_arrays(getattr(found, name), getattr(known, name), f"{where}.{name}")
    elif isinstance(known, tuple):
        assert len(found) == len(known), where
        for i, (a, b) in enumerate(zip(found, known, strict=True)):
            assert_same_arrays(a, b, f"{where}[{i}]")
    elif isinstance(known, dict):
        assert list(found) == list(known), where
        for key in known:
            assert_same_arrays(found[key], known[key], f"{where}[{key!r}]")
    elif isinstance(known, np.ndarray):
        assert found.dtype == known.dtype and np.array_equal(found, known), where
    elif isinstance(known, pd.Index):
        pd.testing.assert_index_equal(found, known, exact=True)
    else:
        assert found == known, where


def test_the_call_comes_back_without_its_data(made: gj.Fit, tmp_path: Path) -> None:
    made.save(tmp_path / "made.npz")
    call = gj.load(tmp_path / "made.npz").call
    assert call.data is None
    pd.testing.assert_series_equal(call.weights, made.call.weights)
    np.testing.assert_array_equal(call.offset, np.full(240, 0.1))
    for name in ("trials", "na_action", "nagq", "curvature", "optimizer", "max_steps"):
        assert getattr(call, name) == getattr(made.call, name)


def test_a_dispersion_comes_back(sleep: gj.Fit, sleep_file: Path) -> None:
    assert_same_fit(gj.load(sleep_file), sleep)


def test_other_settings_come_back(tmp_path: Path) -> None:
    known = case("cbpp/lme4").glmer_arguments()
    family = gj.families.Binomial(link="cloglog")
    known = {**known, "family": family, "link": None, "curvature": "observed", "nagq": 0}
    fit = gj.glmer(**known, optimizer="newton", max_steps=77)
    fit.save(tmp_path / "fit")
    found = gj.load(tmp_path / "fit")
    assert_same_fit(found, fit)
    assert (found.nagq, found.curvature, found.family) == (0, "observed", family)
    assert (found.call.optimizer, found.call.max_steps) == ("newton", 77)


def test_a_family_keeps_its_settings() -> None:
    for family in (
        gj.families.Gaussian(weights="likelihood"),
        gj.families.Gaussian(link="log"),
        gj.families.Bernoulli(link="cauchit"),
        gj.families.Poisson(link="sqrt"),
    ):
        named = json.loads(json.dumps(storage._named_family(family)))
        assert storage._family(named) == family


def test_a_failed_fit_can_be_kept(sleep: gj.Fit, tmp_path: Path) -> None:
    estimate = dataclasses.replace(
        sleep.estimate,
        deviance=np.array(np.nan),
        status=np.array(int(gj.Status.MODE_FAILED)),
    )
    dataclasses.replace(sleep, estimate=estimate).save(tmp_path / "failed")
    found = gj.load(tmp_path / "failed")
    assert found.status is gj.Status.MODE_FAILED and np.isnan(found.llf)


# --- the file ------------------------------------------------------------------------------------


def test_the_file_opens_without_this_package(sleep: gj.Fit, sleep_file: Path) -> None:
    with np.load(sleep_file, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["frame/y"], sleep.frame.y)
        np.testing.assert_array_equal(file["estimate/params/beta"], sleep.params)
        document = json.loads(file["fit.json"])
        for name in file.files:
            assert name in ("fit.json", "sha256.txt") or file[name].dtype != object
    assert document["version"] == 3
    assert document["formula"] == sleep.frame.formula.text
    assert document["family"] == {
        "class": "Gaussian",
        "name": "gaussian",
        "link": "identity",
        "settings": {"weights": "precision"},
    }


def test_the_same_fit_gives_the_same_bytes(sleep_file: Path, tmp_path: Path) -> None:
    gj.load(sleep_file).save(str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == sleep_file.read_bytes()
    assert os.listdir(tmp_path) == ["again"]  # no suffix is added, nothing is left behind


def test_a_repacked_archive_is_still_a_fit(sleep: gj.Fit, sleep_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "repacked.zip"
    with zipfile.ZipFile(sleep_file) as old, zipfile.ZipFile(path, "w") as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))  # another order, not compressed, today's date
    assert gj.load(path).llf == sleep.llf


def test_writing_is_all_or_nothing(
    sleep: gj.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fit"
    path.write_bytes(b"the old file")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            sleep.save(path)
    assert path.read_bytes() == b"the old file" and os.listdir(tmp_path) == ["fit"]
    link = tmp_path / "link"
    link.symlink_to(path)
    sleep.save(link)
    assert link.is_symlink() and gj.load(path).llf == sleep.llf


# --- files that are no fit -----------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_refused(sleep_file: Path, tmp_path: Path) -> None:
    content, path = sleep_file.read_bytes(), tmp_path / "cut"
    for size in [*range(0, len(content), 53), *range(len(content) - 60, len(content))]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"path: '.*cut' is not a saved fit, or is incomplete"):
            gj.load(path)


def test_a_changed_byte_is_noticed_or_does_no_harm(sleep_file: Path, tmp_path: Path) -> None:
    content, path = sleep_file.read_bytes(), tmp_path / "changed"
    document, arrays = archive.read(sleep_file)
    refused = tried = 0
    for at in range(0, len(content), 37):
        for change in (0x01, 0x80):
            tried += 1
            path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
            try:
                found = archive.read(path)
            except ValueError as error:
                assert "path: " in str(error)
                refused += 1
                continue
            # Dates and permissions of the members are no part of the fit.
            assert found[0] == document
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[1][name], array)
    assert refused > 0.7 * tried


def edited(path: Path, source: Path, change: Callable[[Any, dict[str, np.ndarray]], Any]) -> Path:
    """A copy of a saved fit whose contents were changed before their digests were taken."""
    document, arrays = archive.read(source)
    change(document, arrays)
    archive.write(path, document, arrays)
    return path


def test_a_changed_member_is_noticed(sleep_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed"
    with zipfile.ZipFile(sleep_file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "fit.json":
                content = content.replace(b'"Intercept"', b'"intercept"')
            new.writestr(name, content)
    with pytest.raises(ValueError, match="was changed since it was saved"):
        gj.load(path)


def test_numbers_that_disagree_are_noticed(sleep_file: Path, tmp_path: Path) -> None:
    def moved(name: str, by: float) -> Callable[[Any, dict[str, np.ndarray]], None]:
        def change(document: Any, arrays: dict[str, np.ndarray]) -> None:
            arrays[name] = arrays[name] * (1.0 + by)

        return change

    def cut(document: Any, arrays: dict[str, np.ndarray]) -> None:
        arrays["estimate/hessian"] = arrays["estimate/hessian"][:-1]

    def without(document: Any, arrays: dict[str, np.ndarray]) -> None:
        del document["frame"]["fields"]["blocks"]

    def unknown(document: Any, arrays: dict[str, np.ndarray]) -> None:
        document["frame"]["fields"]["colour"] = "red"

    def other(document: Any, arrays: dict[str, np.ndarray]) -> None:
        document["family"]["class"] = "Unknown"

    for change, said in (
        (moved("frame/y", 1e-6), "the deviance is .* was stored"),
        (moved("estimate/deviance", 1e-7), "the deviance is .* was stored"),
        # At the optimum the deviance does not see a small change of these.
        (moved("estimate/params/beta", 0.01), "the deviance is .* was stored"),
        (moved("estimate/params/theta", 0.01), "the deviance is .* was stored"),
        (moved("estimate/u/0", 0.01), "the deviance is .* was stored"),
        (cut, "the hessian has shape"),
        (without, "blocks"),
        (unknown, "colour"),
        (other, "Unknown"),
    ):
        path = edited(tmp_path / "edited", sleep_file, change)
        with pytest.raises(ValueError, match=f"path: .*edited' is damaged or was made .*{said}"):
            gj.load(path)


def test_a_later_format_is_refused(sleep_file: Path, tmp_path: Path) -> None:
    def change(document: Any, arrays: dict[str, np.ndarray]) -> None:
        document["version"] = 99
        document["written by"]["glmm-jax"] = "9.1"

    path = edited(tmp_path / "late", sleep_file, change)
    with pytest.raises(ValueError, match=r"format 99.* reads up to 3.*glmm_jax version 9\.1"):
        gj.load(path)


def test_a_file_of_the_first_format_is_read() -> None:
    """Written by an earlier version of this package: the cbpp model of the references."""
    found = gj.load(FOLDER / "fit_format_1.npz")
    one = case("cbpp/lme4")
    assert found.llf == pytest.approx(one.log_likelihood, abs=1e-8) and found.converged
    beta = found.params.reindex(one.names())
    np.testing.assert_allclose(beta, one.beta, atol=1e-4 * one.se.min())
    assert not found.reml and found.call.zero_inflation is None
    np.testing.assert_allclose(found.predict(one.frame().iloc[:10]), one.fitted10, rtol=1e-6)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"a,b\n1,2\n", b"PK\x03\x04", b"\x93NUMPY" + bytes(90), os.urandom(3000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"path: '.*file' is not a saved fit"):
            gj.load(path)
    np.savez(tmp_path / "arrays.npz", y=np.zeros(3))
    with pytest.raises(ValueError, match="an archive but not a saved fit"):
        gj.load(tmp_path / "arrays.npz")
    archive.write(path, {"format": "something else"}, {})
    with pytest.raises(ValueError, match=r"is not a saved fit; give the path"):
        gj.load(path)
    archive.write(path, ["a list"], {})
    with pytest.raises(ValueError, match=r"is not a saved fit; give the path"):
        gj.load(path)


def test_paths_that_lead_nowhere(sleep: gj.Fit, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        gj.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        sleep.save(tmp_path / "absent" / "fit")
    for wrong in (5, None, True):
        with pytest.raises(ValueError, match=r"path=.*give the name of a file"):
            gj.load(wrong)
        with pytest.raises(ValueError, match=r"path=.*give the name of a file"):
            sleep.save(wrong)
    for folder in (tmp_path, str(tmp_path), ""):
        with pytest.raises(ValueError, match=r"path=.* is a folder.*give the name of a file"):
            gj.load(folder)
        with pytest.raises(ValueError, match=r"path=.* is a folder.*give the name of a file"):
            sleep.save(folder)
    assert os.listdir(tmp_path) == []


# --- what cannot be written ----------------------------------------------------------------------


class Tilted(gj.links.Logit):
    """A caller's link that has the name of another one."""


def _density(y: jax.Array, eta: jax.Array, dispersion: Any) -> jax.Array:
    return -0.5 * (y - eta) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def test_a_link_or_family_of_the_callers_own_is_refused(sleep: gj.Fit, tmp_path: Path) -> None:
    class Normal(gj.families.Gaussian):
        pass

    own = gj.families.custom(_density, name="own")
    link = gj.links.custom(jnp.exp, "own")
    wrapped = gj.families.ZeroInflated(gj.families.Poisson(link))
    for family in (gj.families.Bernoulli(Tilted()), Normal(), own, wrapped):
        fit = dataclasses.replace(sleep, family=family)
        with pytest.raises(ValueError, match=r"family: .* cannot be made again from its name"):
            fit.save(tmp_path / "fit")
    assert os.listdir(tmp_path) == []


def test_an_optax_optimizer_is_told(sleep: gj.Fit, tmp_path: Path) -> None:
    call = dataclasses.replace(sleep.call, optimizer=optax.adam(0.1))
    with pytest.warns(UserWarning, match="optax transformation cannot be written") as told:
        dataclasses.replace(sleep, call=call).save(tmp_path / "fit")
    assert told[0].filename == __file__
    assert gj.load(tmp_path / "fit").call.optimizer == "quasi-newton"


INDEXES = {
    "range": pd.RangeIndex(3, 30, 9, name="row"),
    "int": pd.Index([5, -1, 5]),
    "int8": pd.Index(np.array([5, -1, 5], np.int8)),
    "uint64": pd.Index(np.array([2**63, 1, 2], np.uint64)),
    "float": pd.Index([0.1, np.nan, -np.inf], name=0),
    "float32": pd.Index(np.array([0.1, 2.5], np.float32)),
    "bool": pd.Index([True, False]),
    "text": pd.Index(["a", "ü\x00", "", "\ud800"], dtype=object, name=("a", 1)),
    "str": pd.Index(["a", None, "b"], dtype="str"),
    "string": pd.Index(["a", None, "b"], dtype="string"),
    "python str": pd.Index(["a", "b"], dtype=pd.StringDtype("python", na_value=np.nan)),
    "mixed": pd.Index(["1", 1, None, 2.5, True], dtype=object),
    "Int64": pd.Index(pd.array([2**60 + 1, None], dtype="Int64")),
    "Float32": pd.Index(pd.array([0.1, None], dtype="Float32")),
    "boolean": pd.Index(pd.array([True, None], dtype="boolean")),
    "dates": pd.DatetimeIndex(["2011-01-03", None, "2011-03-27 03:15"], name="day"),
    "days": pd.date_range("2011-01-01", periods=3, freq="D", unit="s"),
    "zone": pd.date_range("2011-03-27", periods=30, freq="h", tz="Europe/Zurich"),
    "utc": pd.DatetimeIndex(["2011-01-03"], tz="UTC"),
    "fixed zone": pd.DatetimeIndex(["2011-01-03T00:00:00+02:00"]),
    "hours": pd.timedelta_range("1 h", periods=3, freq="90min"),
    "durations": pd.TimedeltaIndex(["1 h", None, "3 D"]),
    "periods": pd.PeriodIndex(["2011-01", None, "2012-02"], freq="M"),
    "categories": pd.CategoricalIndex(["b", None, "a"], categories=["b", "a", "c"], ordered=True),
    "multi": pd.MultiIndex.from_tuples(
        [("a", 1, pd.Timestamp("2011-01-03")), ("b", 2, pd.NaT)], names=["g", None, "t"]
    ),
    "empty": pd.Index([], dtype="str"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_labels_of_rows_come_back_exactly(name: str, tmp_path: Path) -> None:
    index = INDEXES[name]
    arrays: encoding.Arrays = {}
    document = encoding.encode(index, "index", arrays, {})
    archive.write(tmp_path / "index", document, arrays)
    found = encoding.decode(*archive.read(tmp_path / "index"), {})
    pd.testing.assert_index_equal(found, index, exact=True)
    assert found.dtype == index.dtype
    assert getattr(found, "freq", None) == getattr(index, "freq", None)
    assert list(map(type, found)) == list(map(type, index))


@pytest.mark.parametrize(
    "index",
    [
        pd.IntervalIndex.from_breaks([0, 1, 2]),
        pd.Index([1.5, pd.Timestamp("2011-01-03")], dtype=object),
        pd.Index([(1, 2), frozenset({3})], dtype=object),
        pd.Index([1j, 2.0]),
        pd.Index(["a", "b"], name=frozenset({1})),
        pd.date_range("2011-01-03", periods=3, freq=pd.offsets.CDay(holidays=["2011-01-04"])),
    ],
)
def test_other_labels_of_rows_are_refused(index: pd.Index, sleep: gj.Fit, tmp_path: Path) -> None:
    frame = dataclasses.replace(sleep.frame, index=index)
    with pytest.raises(ValueError, match=r"frame/index: row labels of type .*reset_index"):
        dataclasses.replace(sleep, frame=frame).save(tmp_path / "fit")


def test_plain_values_come_back_exactly(tmp_path: Path) -> None:
    value = {
        "numbers": (0.1, -0.0, 1e-320, np.inf, -np.inf, 2**70, True, None),
        "texts": ("", "ü\u2028", "\x00"),
        (1, "a"): np.array([[1, 2], [3, 4]], np.int16, order="F"),
        "scalars": (np.float64(0.3), np.int32(4), np.bool_(True)),
        "inner": {"a/b": np.array(2.5), "a": {"b": np.array(["2011"], "M8[Y]")}},
    }
    arrays: encoding.Arrays = {}
    document = encoding.encode(value, "value", arrays, {})
    archive.write(tmp_path / "value", document, arrays)
    found = encoding.decode(*archive.read(tmp_path / "value"), {})
    assert list(found) == list(value)
    assert repr(found["numbers"]) == repr(value["numbers"])
    assert found["texts"] == value["texts"]
    assert found[(1, "a")].dtype == np.int16
    np.testing.assert_array_equal(found[(1, "a")], value[(1, "a")])
    assert found["scalars"] == (0.3, 4, True)
    assert found["inner"]["a/b"] == 2.5 and found["inner"]["a"]["b"].dtype == "M8[Y]"
    for bad in (object(), np.array([None]), [1], {1, 2}, 1j):
        with pytest.raises(ValueError, match=r"^value/0: .* cannot be saved"):
            encoding.encode({"a": bad}, "value", {}, {})


def test_a_number_that_is_not_one_comes_back() -> None:
    assert np.isnan(encoding.decode(encoding.encode(np.nan, "x", {}, {}), {}, {}))


# --- copies and other processes ------------------------------------------------------------------


def test_a_deep_copy_shares_nothing_that_can_change(made: gj.Fit) -> None:
    twin = copy.deepcopy(made)
    assert_same_fit(twin, made)
    before = made.frame.y[0]
    twin.frame.y[0] += 1.0
    assert made.frame.y[0] == before
    assert made.call.data is not None and twin.call.data is not None
    pd.testing.assert_frame_equal(twin.call.data, made.call.data)


def report(fit: gj.Fit, path: Path) -> dict[str, Any]:
    """What a fresh process, in JAX's own precision, makes of a fit sent to it and one it loads."""
    loaded = gj.load(path)
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32
    out = {}
    for name, one in (("sent", fit), ("loaded", loaded)):
        offset = np.array([0.0, 0.1, 0.2])
        out[name] = {
            "summary": str(one.summary()),
            "ranef": one.ranef(),
            "predict": one.predict(new_rows(), offset=offset),
            "dtypes": {str(leaf.dtype) for leaf in jax.tree.leaves(one.model)},
        }
    return out


def test_a_fit_in_a_fresh_process(made: gj.Fit, tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    made.save(path)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(report, made, path).result(timeout=300)
    for one in (found["sent"], found["loaded"]):
        assert one["summary"] == str(made.summary())
        assert one["dtypes"] == {str(leaf.dtype) for leaf in jax.tree.leaves(made.model)}
        for group, table in made.ranef().items():
            pd.testing.assert_frame_equal(one["ranef"][group], table, rtol=1e-12)
        pd.testing.assert_series_equal(
            one["predict"],
            made.predict(new_rows(), offset=np.array([0.0, 0.1, 0.2])),
            check_exact=True,
        )
