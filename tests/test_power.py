"""Power by simulation: exact laws where there are some, failures counted, names checked."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from glmm_jax import Power, families, power
from glmm_jax.formula.frame import Frame, build_frame
from glmm_jax.many import chunks, truth

module = sys.modules["glmm_jax.many.power"]

GROUPS, SIZE = 20, 6
ROWS = GROUPS * SIZE
N = 600
FORMULA = "~ x + z + (1 | g)"
# x and z vary within groups only, balanced and orthogonal.
DATA = pd.DataFrame(
    {
        "g": np.repeat(np.arange(GROUPS), SIZE),
        "x": np.tile([-0.5, 0.5], ROWS // 2),
        "z": np.tile([-1.0, 0.0, 1.0], ROWS // 3),
    }
)
ARGUMENTS: dict[str, Any] = {
    "formula": FORMULA,
    "data": DATA,
    "params": {"z": 0.0, "x": 0.5, "Intercept": 1.0},
    "sd": {"g": 0.7},
    "dispersion": 1.2,
}
FREEDOM = ROWS - GROUPS - 2  # of the squares within groups
WITHIN = ROWS - GROUPS


@pytest.fixture(scope="module")
def found() -> Power:
    return power(**ARGUMENTS, reduced="y ~ z + (1 | g)", n=N, seed=1)


def beyond(limit: float, value: float, squares: float) -> float:
    """Probability that a t statistic of the within-group regression exceeds a limit in size."""
    law = stats.nct(FREEDOM, value * np.sqrt(squares / ARGUMENTS["dispersion"]))
    return float(law.sf(limit) + law.cdf(-limit))


def binomial(share: float, expected: float, n: int = N) -> None:
    """A share of n simulations against its probability, to four standard errors."""
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n), (share, expected)


def test_power_and_level_of_the_z_test_are_those_of_their_exact_law(found: Power) -> None:
    """By maximum likelihood sigma^2 is the sum of squares within groups over n - G, so that
    z^2 = t^2 (n - G) / df with t of df degrees of freedom, not central where x has an effect."""
    limit = stats.norm.isf(0.025) * np.sqrt(FREEDOM / WITHIN)
    frame = found.frame
    expected = beyond(limit, 0.5, float((DATA["x"] ** 2).sum()))
    assert 0.6 < expected < 0.9
    binomial(frame.loc["x", "power"], expected)
    level = beyond(limit, 0.0, 1.0)
    assert 0.05 < level < 0.06
    binomial(frame.loc["z", "power"], level)
    binomial(frame.loc["z", "power"], 0.05)
    # An interval holds a true zero where the test does not reject it.
    assert frame.loc["z", "coverage"] == pytest.approx(1 - frame.loc["z", "power"])
    binomial(frame.loc["x", "coverage"], 1 - level)


def test_power_of_the_likelihood_ratio_test_is_that_of_its_exact_law(found: Power) -> None:
    """Here the statistic is (n - G) log(1 + t^2 / df)."""
    limit = np.sqrt(FREEDOM * np.expm1(stats.chi2.isf(0.05, 1) / WITHIN))
    expected = beyond(limit, 0.5, float((DATA["x"] ** 2).sum()))
    row = found.frame.loc["likelihood ratio"]
    binomial(row["power"], expected)
    assert np.isnan(row["value"]) and row["failed"] == 0


def test_estimates_are_unbiased_and_the_frame_says_what_it_counted(found: Power) -> None:
    frame = found.frame
    assert list(frame.index) == ["Intercept", "x", "z", "likelihood ratio"]
    np.testing.assert_array_equal(frame["value"].iloc[:3], [1.0, 0.5, 0.0])
    spread = np.sqrt(frame["power"] * (1 - frame["power"]) / N)
    np.testing.assert_allclose(frame["std_error"], spread)
    table = found.fits.coefficients.groupby("term")
    for term in ("Intercept", "x", "z"):
        rows = table.get_group(term)
        assert frame.loc[term, "mean"] == pytest.approx(rows["estimate"].mean(), rel=1e-12)
        assert frame.loc[term, "power"] == pytest.approx((rows["p_value"] < 0.05).mean())
        assert abs(frame.loc[term, "bias"]) < 4 * rows["estimate"].std() / np.sqrt(N)
    # The groups' variance comes out with the bias that maximum likelihood has: E MSB (G - 1) / G.
    theta = found.fits.theta["g.Intercept"] ** 2
    between = (1.2 + SIZE * 0.49) * (GROUPS - 1) / GROUPS
    within = 1.2 * FREEDOM / WITHIN
    expected = (between - within) / SIZE
    assert theta.mean() == pytest.approx(expected, abs=4 * theta.std() / np.sqrt(N))
    assert found.n == N and found.notes == ()


def test_printing(found: Power) -> None:
    text = str(found)
    assert "600 responses simulated (seed 1)" in text
    assert "Smaller formula: y ~ z + (1 | g)" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("x ")]
    assert row[1] == "0.5" and row[2] == f"{found.frame.loc['x', 'power']:.3f}"
    assert "<table>" in found._repr_html_()
    assert max(map(len, text.splitlines())) <= 90


def test_a_response_depends_on_the_seed_and_its_number_alone(
    found: Power, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = power(**ARGUMENTS, n=40, seed=1)
    np.testing.assert_array_equal(
        few.fits.columns.estimates, found.fits.columns.estimates[:40]
    )  # fmt: skip
    assert not np.array_equal(
        power(**ARGUMENTS, n=40, seed=2).fits.columns.estimates, few.fits.columns.estimates
    )
    # In blocks, as where they do not fit into memory at once.
    monkeypatch.setattr(module, "LARGEST", 15 * ROWS)
    blocks = power(**ARGUMENTS, n=40, seed=1, reduced="~ z + (1 | g)")
    np.testing.assert_array_equal(blocks.fits.columns.estimates, few.fits.columns.estimates)
    lrt = found.fits.models["llf"].iloc[:40] - found.reduced.models["llf"].iloc[:40]  # type: ignore[union-attr]
    p = stats.chi2.sf(2 * lrt, 1)
    assert blocks.frame.loc["likelihood ratio", "power"] == np.mean(p < 0.05)


def test_an_interruption_counts_what_is_done(found: Power, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, calls = chunks.estimate_lanes, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(named)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    monkeypatch.setattr(chunks, "estimate_lanes", interrupted)
    monkeypatch.setattr(module, "LARGEST", 15 * ROWS)
    part = power(**ARGUMENTS, n=45, seed=1, reduced="~ z + (1 | g)")
    assert part.n == 30 and list(part.frame.index) == ["Intercept", "x", "z"]
    np.testing.assert_array_equal(part.fits.columns.estimates, found.fits.columns.estimates[:30])
    assert any("Interrupted" in note for note in part.notes)


def test_any_one_fit_is_a_full_fit(found: Power) -> None:
    fit = found.fits.fit(7)
    assert fit.llf == pytest.approx(found.fits.models.loc[7, "llf"], abs=1e-6)


def test_a_predictor_may_have_any_name_and_rows_may_be_missing(found: Power) -> None:
    """Not even the name that the simulated response would have."""
    renamed = DATA.rename(columns={"x": "response", "z": "simulated"})
    renamed.loc[ROWS] = [0, np.nan, 0.0]
    arguments = {
        **ARGUMENTS,
        "data": renamed,
        "formula": "response ~ response + simulated + (1 | g)",
        "params": {"Intercept": 1.0, "response": 0.5, "simulated": 0.0},
    }
    same = power(**arguments, n=40, seed=1)
    np.testing.assert_allclose(
        same.fits.columns.estimates, found.fits.columns.estimates[:40], atol=1e-8
    )
    assert (same.fits.models["nobs"] == ROWS).all()


def test_fits_without_an_estimate_are_counted_and_told() -> None:
    """With few counts, some responses have none at x = -0.5: separation, no estimate."""
    found = power(
        "~ x + (1 | g)", DATA, "poisson", params={"Intercept": -3.2, "x": 0.5}, sd={"g": 0.3},
        n=200, seed=3,
    )  # fmt: skip
    converged = found.fits.converged
    failures = int((~converged).sum())
    assert 5 < failures < 100
    assert found.frame["failed"].to_numpy() == pytest.approx(failures / 200)
    rows = found.fits.coefficients.query("term == 'x'")[converged]
    assert found.frame.loc["x", "power"] == (rows["p_value"] < 0.05).sum() / 200
    assert found.frame.loc["x", "mean"] == pytest.approx(rows["estimate"].mean())
    (note,) = found.notes
    assert f"{failures} of 200 fits" in note and "separation" in note
    assert note.split(".")[0] in " ".join(str(found).split())


# --- the truth, by name ---------------------------------------------------------------------------


def frame_of(formula: str) -> Frame:
    return build_frame(f"y {formula}", DATA.assign(y=np.arange(ROWS) % 7, h=np.arange(ROWS) % 5))


def test_standard_deviations_become_theta() -> None:
    frame = frame_of("~ x + (x | g) + (0 + z | g) + (1 | h)")
    sd = {"h": 0.2, "g": {"z": 3.0, "Intercept": 1.0, "x": 2.0}}
    # (x | g): Intercept, x.Intercept, x; then z; then h.
    np.testing.assert_array_equal(
        truth.covariance_parameters(sd, None, frame), [1.0, 0.0, 2.0, 3.0, 0.2]
    )
    theta = pd.Series(
        [0.2, 1.0, 0.3, 2.0, 3.0],
        ["h.Intercept", "g.Intercept", "g.x.Intercept", "g.x", "g.z"],
    )
    for given in (theta, [1.0, 0.3, 2.0, 3.0, 0.2]):
        np.testing.assert_array_equal(
            truth.covariance_parameters(None, given, frame), [1.0, 0.3, 2.0, 3.0, 0.2]
        )


def test_the_dispersion_is_phi_or_given_by_name() -> None:
    assert truth.dispersion_parameters(None, families.get("poisson")) is None
    assert truth.dispersion_parameters(2.0, families.get("gaussian")) == np.log(2.0)
    negative = families.get("negative_binomial")
    assert truth.dispersion_parameters({"log(phi)": 0.3}, negative) == 0.3
    both = families.with_zeros(negative)
    np.testing.assert_array_equal(
        truth.dispersion_parameters({"logit(zero)": -1, "log(phi)": 0.3}, both), [0.3, -1.0]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"formula": "x + (1 | g)"}, "write '~ terms"),
        ({"params": {"Intercept": 1.0, "q": 0.0, "x": 1.0}}, "'q' is not in the design; 'z' must"),
        ({"params": {"Intercept": 1.0, "x": 1.0, "z": np.nan}}, r"params\['z'\]=nan"),
        ({"params": [1.0, 0.5, 0.0]}, "by name, in a dictionary"),
        ({"sd": None}, "sd= or theta= must be given"),
        ({"theta": [1.0]}, "sd= or theta= must be given"),
        ({"sd": None, "theta": [1.0, 2.0]}, "give 1 numbers, of 'g.Intercept'"),
        ({"sd": {"h": 1.0}}, "sd: 'h' is not in the design"),
        ({"sd": {"g": -1.0}}, r"sd\['g'\]: -1 is negative"),
        ({"sd": {"g": "much"}}, r"sd\['g'\]\['Intercept'\]='much'"),
        ({"formula": "~ x + z + (x | g)"}, r"sd\['g'\]=0.7, but 'g' has the columns"),
        ({"dispersion": None}, "needs phi, a positive number"),
        ({"dispersion": 0.0}, "needs phi, a positive number"),
        ({"family": "poisson"}, "the poisson family has none"),
        ({"family": "tweedie", "dispersion": 1.0}, "give them by name"),
        ({"reduced": "~ x + z + (x | g)"}, "is no special case"),
        ({"reduced": FORMULA}, "is no special case"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"n": 0}, "n=0"),
        ({"seed": -1}, "seed=-1"),
        ({"family": "ordinal"}, "thresholds"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        power(**{**ARGUMENTS, **changes})


def test_a_mean_that_the_link_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="the identity link has no valid mean"):
        power(
            "~ x + (1 | g)", DATA, "poisson", "identity", params={"Intercept": 0.5, "x": 3.0},
            sd={"g": 1.0}, n=20,
        )  # fmt: skip
