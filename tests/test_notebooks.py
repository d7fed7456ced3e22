"""The notebook runs from its first cell to its last, and shows what it is kept for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kernels import assert_complete, pictures, printed, stored
from nbformat import NotebookNode
from reference_cases import cases

ROOT = Path(__file__).parent.parent
PATH = ROOT / "notebooks" / "contraception.ipynb"
MODELS = ("cm1", "cm2", "cm3", "cm4", "cm5", "cm6")
# Lowest deviances of cm4 with a standard deviation or the correlation held (the last of each name).
PROFILE = json.loads((ROOT / "tests/reference/inference_profile.json").read_text("utf-8"))["cm4"]
POINTS = {name: value for name, value, _ in PROFILE["points"] if name.startswith(("sd", "cor"))}
# Asked of the kernel when the last cell has run; the answer is no part of the notebook.
QUESTION = (
    f"POINTS = {POINTS!r}"
    + """
import json
names = ["cm1", "cm2", "cm3", "cm4", "cm5", "cm6"]
print(json.dumps({
    "llf": {name: globals()[name].llf for name in names},
    "by_hand": -0.5 * float(-2 * log_density + u @ u + logdet),
    "mode": float(np.abs(np.array(mode) - u).max()),
    "gradient": float(np.abs(np.array(gradient) * errors).max()),
    "quadrature": quadrature,
    "failed": int(boot.failed),
    "zeta": {name: float(profile4.zeta(name, value)) for name, value in POINTS.items()},
    "verdict": cm6.check().verdict,
}))
"""
)


def test_the_stored_notebook_is_complete() -> None:
    assert_complete(PATH)


def test_it_runs_and_shows_the_same_pictures(executed: NotebookNode) -> None:
    # NotebookClient has raised if a cell failed.
    assert pictures(executed) == pictures(stored(PATH))
    assert len(pictures(executed)) >= 15


def test_its_fits_are_those_of_the_reference(answer: dict) -> None:
    reference = {case.id: case for case in cases(engine="lme4", nagq=1)}
    for name in MODELS:
        np.testing.assert_allclose(
            answer["llf"][name], reference[name].log_likelihood, rtol=0, atol=1e-6
        )


def test_its_own_computations_agree_with_the_package(answer: dict) -> None:
    assert abs(answer["by_hand"] - answer["llf"]["cm3"]) < 1e-8
    assert answer["mode"] < 1e-12
    assert answer["gradient"] < 1e-6
    quadrature = {case.id: case for case in cases(engine="lme4", nagq=25)}["cm3_agq25"]
    assert abs(answer["quadrature"] - quadrature.log_likelihood) < 1e-6


def test_profile_bootstrap_and_check(answer: dict) -> None:
    lowest = {name: deviance for name, _, deviance in PROFILE["points"]}
    assert len(answer["zeta"]) == 3
    for name, zeta in answer["zeta"].items():
        rise = lowest[name] - PROFILE["deviance"]
        assert zeta**2 == pytest.approx(rise, abs=1e-3), name
    assert answer["failed"] == 0
    assert "nothing was found" in answer["verdict"]


def test_numbers_that_the_text_quotes(executed: NotebookNode) -> None:
    """Sentences beside the outputs repeat some of their numbers; both must be the same."""
    found = printed(executed)
    for number in [
        "0.7957",  # cm1 against cm2
        "0.004666",  # cm2 against cm3
        "2.042",  # odds ratio of urban in cm3
        "5 of 60 intervals leave out zero",
        "-1177.2978",  # cm5 at the estimates printed in 2011
        "0.001796",  # cm3 against cm4, boundary allowed for
        "rural effect: sd 0.615   urban effect: sd 0.444   correlation 0.090",
        "1.720",  # median odds ratio in cm6
        "women who move a district other than their own: 0",
    ]:
        assert number in found, number
