"""Many models by one call: each is what glmer makes of it, whatever the others are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from reference_cases import case
from scipy import stats

from glmm_jax import ManyFits, Status, glmer, glmer_many, priors, runtime
from glmm_jax.many import chunks as running
from glmm_jax.many.table import adjusted

N, GROUPS, B = 120, 12, 30
FORMULA = "~ x + (1 | g)"


@pytest.fixture(scope="module")
def design() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame({"x": rng.normal(size=N), "g": np.repeat(np.arange(GROUPS), N // GROUPS)})


@pytest.fixture(scope="module")
def counts(design: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    effect = 0.6 * rng.normal(size=(B, GROUPS))[:, design["g"]]
    slope = np.where(np.arange(B) < 10, 0.5, 0.0)[:, None]
    y = rng.poisson(np.exp(0.5 + slope * design["x"].to_numpy()[None] + effect))
    return pd.DataFrame(y.T, columns=[f"gene{i}" for i in range(B)])


@pytest.fixture(scope="module")
def fits(design: pd.DataFrame, counts: pd.DataFrame) -> ManyFits:
    return glmer_many(FORMULA, design, "poisson", responses=counts)


def alone(formula: str, data: pd.DataFrame, y: Any, family: str, **settings: Any):
    return glmer("y " + formula, data.assign(y=np.asarray(y)), family, **settings)


def check(fits: ManyFits, name: Any, single: Any) -> None:
    """A row of the tables against a fit by glmer."""
    row = fits.models.loc[name]
    assert row["llf"] == pytest.approx(single.llf, abs=1e-6)
    assert row["aic"] == pytest.approx(single.aic, abs=1e-5)
    assert row["bic"] == pytest.approx(single.bic, abs=1e-5)
    assert row["nobs"] == single.nobs
    assert row["status"] == single.status.name
    table = fits.coefficients.set_index(["model", "term"]).loc[name]
    np.testing.assert_allclose(table["estimate"], single.params, atol=1e-5)
    np.testing.assert_allclose(table["std_error"], single.bse, rtol=1e-4)
    np.testing.assert_allclose(table["p_value"], single.pvalues, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(fits.theta.loc[name], single.theta, atol=1e-5)


def test_each_model_is_that_of_glmer(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits
) -> None:
    assert len(fits) == B
    assert list(fits.names) == list(counts.columns)
    assert fits.converged.all()
    for name in ("gene0", "gene17", "gene29"):
        check(fits, name, alone(FORMULA, design, counts[name], "poisson"))


def test_other_families_and_structures() -> None:
    """Correlated slopes and trials; a lane against glmer. Dispersions: test_dispersions."""
    rng = np.random.default_rng(5)
    data = case("betabinom_as_binom/lme4").frame()
    g, x = data["g"].cat.codes.to_numpy(), data["x"].to_numpy()
    b, slope = 0.7 * rng.normal(size=(2, g.max() + 1))[:, g]
    chance = 1 / (1 + np.exp(-(b + (0.5 + slope) * x)))
    y = pd.DataFrame(rng.binomial(data["size"], chance, (2, len(data))).T, columns=["other", "y"])
    formula = "~ x + (x | g)"
    found = glmer_many(formula, data, "binomial", responses=y, trials=data["size"])
    single = alone(formula, data, y["y"], "binomial", trials=data["size"])
    check(found, "y", single)
    assert found.fit("y").llf == pytest.approx(single.llf, abs=1e-8)


def test_missing_values_zeros_and_numbers_of_a_model(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits
) -> None:
    y = counts.astype(float)
    y.loc[[3, 50, 51], "gene2"] = np.nan
    y["gene5"] = 0
    rng = np.random.default_rng(6)
    offset = pd.DataFrame(0.1 * rng.normal(size=y.shape), columns=y.columns)
    weights = pd.DataFrame(rng.integers(1, 3, y.shape), columns=y.columns)
    found = glmer_many(
        FORMULA, design, "poisson", responses=y, offset=offset, weights=weights
    )  # fmt: skip
    for name in ("gene2", "gene9"):
        single = alone(
            FORMULA, design, y[name], "poisson", offset=offset[name], weights=weights[name]
        )
        check(found, name, single)
        assert found.fit(name).llf == pytest.approx(single.llf, abs=1e-8)
    row = found.models.loc["gene5"]
    assert row["status"] == Status.NO_VARIATION.name
    assert "same in every row" in row["message"]
    assert found.coefficients.query("model == 'gene5'")["estimate"].isna().all()
    # One with missing values changes no other by a bit.
    y = counts.astype(float)
    y.loc[3, "gene2"] = np.nan
    among = glmer_many(FORMULA, design, "poisson", responses=y)
    others = np.arange(B) != 2
    np.testing.assert_array_equal(among.columns.estimates[others], fits.columns.estimates[others])


def test_a_separated_coefficient_has_no_test(design: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Counts only where x is large: neither coefficient has a finite estimate, and the Hessian is
    zero to rounding, of which no p-value may be made."""
    y = counts.assign(gene4=np.where(design["x"] > 1, 3, 0))
    data = design.assign(large=(design["x"] > 1).astype(float))
    found = glmer_many("~ large + (1 | g)", data, "poisson", responses=y)
    assert found.models.loc["gene4", "status"] == Status.SEPARATION.name
    rows = found.coefficients.query("model == 'gene4'")
    assert rows[["std_error", "statistic", "p_value", "p_adjusted"]].isna().all(axis=None)
    others = found.coefficients.query("model != 'gene4'").groupby("term")
    for _, table in others:
        expected = stats.false_discovery_control(table["p_value"])
        np.testing.assert_allclose(table["p_adjusted"], expected)


def test_forms_of_responses_and_chunks_give_the_same(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits
) -> None:
    array = counts.to_numpy()
    forms: dict[str, Any] = {
        "array": array,
        "sparse": scipy.sparse.csc_array(array),
        "blocks": (counts.iloc[:, i : i + 7] for i in range(0, B, 7)),
    }
    for name, responses in forms.items():
        found = glmer_many(FORMULA, design, "poisson", responses=responses, chunk_size=11)
        np.testing.assert_array_equal(found.columns.estimates, fits.columns.estimates)
        assert list(found.names) == (list(counts) if name == "blocks" else list(range(B)))
    with pytest.raises(ValueError, match="read block by block"):
        found.fit("gene1")


def test_adjusted_p_values_and_the_comparison_of_two_formulas(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits
) -> None:
    table = fits.coefficients.query("term == 'x'")
    expected = stats.false_discovery_control(table["p_value"])
    np.testing.assert_allclose(table["p_adjusted"], expected)
    assert (table["p_adjusted"] < 0.05).sum() >= 9
    assert np.isnan(adjusted(np.array([0.1, np.nan]))[1])
    reduced = glmer_many("~ 1 + (1 | g)", design, "poisson", responses=counts)
    lrt = fits.compare(reduced)
    small = alone("~ 1 + (1 | g)", design, counts["gene3"], "poisson")
    statistic = 2 * (fits.models.loc["gene3", "llf"] - small.llf)
    assert lrt.loc["gene3", "statistic"] == pytest.approx(statistic, abs=1e-6)
    assert lrt.loc["gene3", "p_value"] == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-5)
    with pytest.raises(ValueError, match="no special case"):
        reduced.compare(fits)
    assert "~ x + (1 | g), poisson (log)" in str(fits)
    assert max(map(len, str(fits).splitlines())) <= 90


@pytest.fixture(scope="module")
def sets(design: pd.DataFrame) -> pd.DataFrame:
    """Twelve data sets: in s4 x is constant, in s7 y."""
    rng = np.random.default_rng(7)
    parts = []
    for s in range(12):
        m = int(rng.integers(113, N))  # the size of other fits
        g = design["g"].to_numpy()[np.sort(rng.permutation(N)[:m])]
        x = np.ones(m) if s == 4 else rng.normal(size=m)
        y = rng.poisson(np.exp(0.4 + 0.3 * x + 0.5 * rng.normal(size=GROUPS)[g]))
        parts.append(pd.DataFrame({"s": f"s{s}", "g": g, "x": x, "y": 0 if s == 7 else y}))
    return pd.concat(parts).sample(frac=1, random_state=1)


def test_data_sets_of_one_frame(sets: pd.DataFrame) -> None:
    data = sets
    found = glmer_many("y " + FORMULA, data, "poisson", by="s")
    assert list(found.names) == list(dict.fromkeys(data["s"]))
    for name in ("s0", "s11"):
        single = glmer("y " + FORMULA, data[data["s"] == name], "poisson")
        check(found, name, single)
        assert found.fit(name).llf == pytest.approx(single.llf, abs=1e-8)
    x = found.coefficients.query("model == 's4' and term == 'x'")
    assert x["estimate"].isna().all()
    single = glmer("y ~ 1 + (1 | g)", data[data["s"] == "s4"], "poisson")
    assert found.models.loc["s4", "llf"] == pytest.approx(single.llf, abs=1e-6)
    assert found.models.loc["s4", "df"] == 2
    assert found.models.loc["s7", "status"] == "NO_VARIATION"


def test_priors_hold_for_data_sets_too(sets: pd.DataFrame) -> None:
    """And are no part of the log-likelihood."""
    prior = priors.Normal(sd=0.05, of="x", mean=1.0)
    some = sets[sets["s"].isin(["s1", "s2"])]
    found = glmer_many("y " + FORMULA, some, "poisson", by="s", priors=prior)
    data = sets[sets["s"] == "s2"]
    free, single = (glmer("y " + FORMULA, data, "poisson", priors=each) for each in ((), prior))
    assert free.params["x"] < single.params["x"] < 1.0
    assert single.llf < free.llf
    check(found, "s2", single)


def test_new_responses_sizes_and_chunks_compile_nothing(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(runtime._programs)
    rng = np.random.default_rng(8)
    glmer_many(FORMULA, design, "poisson", responses=rng.permutation(counts.to_numpy()))
    glmer_many(FORMULA, design, "poisson", responses=counts.iloc[:, :3], chunk_size=2)
    rows = np.arange(N - 5)
    glmer_many(FORMULA, design.iloc[rows], "poisson", responses=counts.iloc[rows])
    assert set(runtime._programs) <= before


def test_a_search_in_single_precision_ends_where_the_other_does(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits
) -> None:
    found = glmer_many(FORMULA, design, "poisson", responses=counts, dtype="float32")
    np.testing.assert_array_equal(found.columns.status, fits.columns.status)
    np.testing.assert_allclose(found.models["llf"], fits.models["llf"], rtol=1e-11)
    np.testing.assert_allclose(found.columns.estimates, fits.columns.estimates, atol=1e-5)
    np.testing.assert_allclose(found.columns.errors, fits.columns.errors, rtol=1e-4)
    # Counts beyond the integers and beyond the numbers of single precision.
    rng = np.random.default_rng(9)
    effect = (0.5 * rng.normal(size=GROUPS))[design["g"]]
    large = np.round(np.exp(30 + 0.3 * design["x"] + effect))
    other = counts.assign(gene0=large, gene1=1e20 * large)
    there, here = (
        glmer_many(FORMULA, design, "poisson", responses=other, dtype=dtype)
        for dtype in ("float32", "float64")
    )
    assert there.converged[0] and there.converged[2:].all()
    np.testing.assert_allclose(there.columns.estimates[0], here.columns.estimates[0], rtol=1e-5)
    assert not there.converged[1] and not here.converged[1]
    np.testing.assert_array_equal(there.columns.estimates[2:], found.columns.estimates[2:])


# --- checkpoints and interruptions ----------------------------------------------------------------

PROGRAM = """
import sys
import jax
import pandas as pd
from glmm_jax import glmer_many
from glmm_jax.many import chunks
design, counts = pd.read_csv(sys.argv[1]), pd.read_csv(sys.argv[2])
done = chunks.Checkpoint.write
def told(self, number, *rest):
    done(self, number, *rest)
    print(number, flush=True)
chunks.Checkpoint.write = told
found = glmer_many("~ x + (1 | g)", design, "poisson", responses=counts, chunk_size=5,
                   checkpoint=sys.argv[3], progress=False)
"""


def test_a_killed_run_goes_on_where_it_was(
    design: pd.DataFrame,
    counts: pd.DataFrame,
    fits: ManyFits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    design.to_csv(tmp_path / "design.csv", index=False)
    counts.to_csv(tmp_path / "counts.csv", index=False)
    folder = tmp_path / "run"
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "design.csv", tmp_path / "counts.csv", folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = sorted(path.name for path in folder.glob("chunk-*.npz"))
    assert 2 <= len(kept) < 6
    stamps = {name: (folder / name).stat().st_mtime_ns for name in kept}
    arguments: dict[str, Any] = {"responses": counts, "chunk_size": 5, "checkpoint": folder}
    found = glmer_many(FORMULA, design, "poisson", **arguments)
    assert list(found.names) == list(counts)
    np.testing.assert_array_equal(found.columns.estimates, fits.columns.estimates)
    np.testing.assert_array_equal(found.columns.errors, fits.columns.errors)
    # What was there is read, not fitted again.
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == stamps
    monkeypatch.setattr(running, "estimate_lanes", None)
    del arguments["chunk_size"]  # the checkpoint knows it
    again = glmer_many(FORMULA, design, "poisson", **arguments)
    np.testing.assert_array_equal(again.columns.estimates, fits.columns.estimates)
    for changed in (
        {"formula": "~ 1 + (1 | g)"},
        {"data": design.assign(x=-design["x"])},
        {"chunk_size": 6},
        {"nagq": 0},
    ):
        with pytest.raises(ValueError, match=r"checkpoint=.* holds chunks of another run"):
            glmer_many(**{"formula": FORMULA, "data": design, "family": "poisson", **arguments,
                          **changed})  # fmt: skip
    with pytest.raises(ValueError, match="written for other data"):
        glmer_many(FORMULA, design, "poisson", **{**arguments, "responses": counts.assign(gene3=0)})


def test_an_interruption_returns_what_is_done(
    design: pd.DataFrame, counts: pd.DataFrame, fits: ManyFits, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, calls = running.estimate_lanes, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    monkeypatch.setattr(running, "estimate_lanes", interrupted)
    found = glmer_many(FORMULA, design, "poisson", responses=counts, chunk_size=5)
    assert not found.complete
    assert list(found.names) == list(counts)[:10]
    np.testing.assert_array_equal(found.columns.estimates, fits.columns.estimates[:10])
    assert "Interrupted" in str(found)


def test_a_bar_counts_models_and_failures(
    design: pd.DataFrame, counts: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    glmer_many(FORMULA, design, "poisson", responses=counts, progress=True)
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert "models/s" in shown
    assert "failures=0" in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"responses": None}, "responses= or by= must be given"),
        ({"by": "g"}, "responses= or by= must be given"),
        ({"responses": np.ones((N - 1, 3))}, r"responses has shape \(119, 3\)"),
        ({"responses": np.ones(N)}, r"responses has shape \(120,\)"),
        ({"responses": 3}, "responses is a int"),
        ({"responses": []}, "responses has no block"),
        ({"responses": pd.DataFrame(np.ones((N, 2)), columns=["a", "a"])}, "'a' occurs twice"),
        ({"responses": pd.DataFrame({"a": ["x"] * N})}, "column 'a' holds no numbers"),
        ({"responses": pd.DataFrame({"a": np.ones(N)}, index=range(1, N + 1))}, "its index"),
        ({"responses": np.full((N, 2), np.inf)}, "infinite values in 0"),
        ({"responses": pd.DataFrame({"a": np.ones(N), "b": -np.ones(N)})}, "column 'b': y"),
        ({"formula": "log(y) ~ x + (1 | g)"}, "its left side is"),
        ({"formula": "x + (1 | g)"}, "write '~ terms"),
        ({"formula": "x ~ x + (1 | g)"}, "'x' is the name of the responses on its left"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"dtype": "float16"}, "dtype='float16'; use 'float64', or 'float32'"),
        ({"offset": np.zeros((N, 3))}, "offset has 3 columns for 30 responses"),
        ({"weights": np.zeros((N, B))}, "weights: values for the response 'gene0'"),
        (
            {"formula": "x ~ 1 + (1 | g)", "responses": None, "by": "gene"},
            "by='gene' is no column of data",
        ),
        ({"family": "ordinal"}, "thresholds differ"),
        ({"nagq": -1}, "nagq=-1"),
        ({"devices": "gpu:7"}, "devices="),
        ({"checkpoint": "/proc/none/here"}, "checkpoint="),
    ],
)
def test_bad_input_is_named(
    design: pd.DataFrame, counts: pd.DataFrame, changes: dict[str, Any], words: str
) -> None:
    arguments = {"formula": FORMULA, "data": design, "family": "poisson", "responses": counts}
    with pytest.raises(ValueError, match=words):
        glmer_many(**{**arguments, **changes})


def test_a_predictor_may_have_any_name(design: pd.DataFrame, counts: pd.DataFrame) -> None:
    renamed = design.rename(columns={"x": "response"})
    found = glmer_many("~ response + (1 | g)", renamed, "poisson", responses=counts.iloc[:, :2])
    single = alone(FORMULA, design, counts["gene0"], "poisson")
    assert found.models.loc["gene0", "llf"] == pytest.approx(single.llf, abs=1e-6)
