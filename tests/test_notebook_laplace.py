"""The notebook on the Laplace approximation runs, and its sentences say what its cells print."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import assert_complete, pictures, printed, stored
from nbformat import NotebookNode
from reference_cases import cases

PATH = Path(__file__).parent.parent / "notebooks" / "when_laplace_misleads.ipynb"
# Asked of the kernel when the last cell has run; the answer is no part of the notebook.
QUESTION = """
import json
print(json.dumps({
    "llf": {k: fit.llf for k, fit in fits.items()},
    "sd": {k: float(fit.theta.iloc[0]) for k, fit in fits.items()},
    "exact": float(exact.sum()),
    "by_hand": {k: float(by_quadrature(k).sum()) for k in (1, 81)},
    "error": error.integral,
    "auto": auto.llf,
    "slopes": [slopes.llf, float(slopes.theta.iloc[0]), float(curves[41][end]), slopes.warnings],
    "cm3": [bool(cm3.laplace_error().matters), cm3.laplace_error().integral],
    "nested": [bool((quadrature.theta > nested.theta).all()), quadrature.converged],
    "crossed": [[s.integral, s.standard_error] for s in found.values()],
}))
"""


def reference(id: str, nagq: int):
    (found,) = (case for case in cases(engine="lme4", nagq=nagq) if case.id == id)
    return found


def test_the_stored_notebook_is_complete() -> None:
    assert_complete(PATH)


def test_it_runs_and_shows_the_same_pictures(executed: NotebookNode) -> None:
    assert pictures(executed) == pictures(stored(PATH))
    assert len(pictures(executed)) >= 5


def test_its_fits_are_those_of_the_references(answer: dict) -> None:
    laplace = reference("toenail_visit", 1)
    assert answer["llf"]["1"] == pytest.approx(laplace.log_likelihood, abs=1e-6)
    assert answer["sd"]["1"] == pytest.approx(laplace.theta[0], abs=1e-4)
    # The maximum of the integral by separate code (tests/reference: independent), to 4 decimals.
    assert answer["llf"]["81"] == pytest.approx(-621.2015, abs=1e-4)
    assert answer["auto"] == pytest.approx(-621.2015, abs=1e-4)
    slopes = reference("toenail_slope", 1)
    assert answer["slopes"][0] == pytest.approx(slopes.log_likelihood, abs=1e-5)
    assert answer["slopes"][2] < answer["slopes"][0] - 100
    assert any("Laplace approximation alone" in one for one in answer["slopes"][3])
    districts = reference("cm3_agq25", 25)
    matters, integral = answer["cm3"]
    # At the estimates by Laplace, near the maximum and never above it.
    assert not matters
    assert districts.log_likelihood - 1e-3 < integral <= districts.log_likelihood + 1e-6


def test_its_own_computations_agree_with_the_package(answer: dict) -> None:
    assert answer["by_hand"]["1"] == pytest.approx(answer["llf"]["1"], abs=1e-6)
    assert answer["by_hand"]["81"] == pytest.approx(answer["exact"], abs=1e-4)
    assert answer["error"] == pytest.approx(answer["exact"], abs=1e-4)


def test_nested_and_crossed(answer: dict) -> None:
    assert answer["nested"] == [True, True]
    (few, few_se), (many, many_se) = answer["crossed"]
    assert abs(few - many) < 4 * (few_se**2 + many_se**2) ** 0.5
    assert 0 < many_se < few_se


def test_numbers_that_the_text_quotes(executed: NotebookNode) -> None:
    """Sentences beside the outputs repeat some of their numbers; both must be the same."""
    found = printed(executed)
    for number in [
        "never 163, at times 115, always 16",
        "5.30311",  # sum of the errors of patients never infected, by Laplace
        "-5.90377",  # the same by five nodes
        "-625.3132",  # the integral at the estimates by Laplace
        "-2.080",  # Laplace's intercept, in standard errors
        "1.592",  # Laplace's standard deviation, in standard errors
        "settled at 81 nodes",
        "143.62 above",  # the random slope by Laplace
        "48.28",
        "-621.5 at the fit",
        "integral at the fit: 140.7",
        "up to 0.042 standard errors",  # cm3
    ]:
        assert number in found, number
