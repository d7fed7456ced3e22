"""The notebook on sensitivity runs, and its statements hold of what its cells compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import assert_complete, pictures, stored
from nbformat import NotebookNode
from reference_cases import cases

PATH = Path(__file__).parent.parent / "notebooks" / "sensitivity.ipynb"
# Asked of the kernel when the last cell has run; the answer is no part of the notebook.
QUESTION = """
import json
print(json.dumps({
    "llf": fit.llf,
    "within": (off < 0.05).mean().to_dict(),
    "largest": float(found.dfbetas.abs().max().max()),
    "ratio": float((robust / model)["urban[T.Y]"]),
    "others": float((robust / model).drop("urban[T.Y]").max()),
    "held out": [one.elpd, fit.llf, gain, error],
    "changes": compared.to_numpy().tolist(),
    "correlation": np.corrcoef(moves["district.Intercept"], sums["district.Intercept"])[0, 1],
    "converged": bool(many.converged.all()),
}))
"""


def test_the_stored_notebook_is_complete() -> None:
    assert_complete(PATH)


def test_it_runs_and_shows_the_same_pictures(executed: NotebookNode) -> None:
    assert pictures(executed) == pictures(stored(PATH))
    assert len(pictures(executed)) == 6


def test_what_its_text_says(answer: dict) -> None:
    (cm3,) = (case for case in cases(engine="lme4", nagq=1) if case.id == "cm3")
    assert answer["llf"] == pytest.approx(cm3.log_likelihood, abs=1e-6)
    assert answer["within"]["second order"] >= 0.95
    assert answer["within"]["second order"] > answer["within"]["first order"]
    assert answer["largest"] < 1
    assert answer["ratio"] > answer["others"]
    held_out, fitted, gain, error = answer["held out"]
    assert held_out < fitted and 0 < gain < error
    assert answer["converged"] and answer["correlation"] > 0.95
    for expected, refitted, error in answer["changes"]:
        assert abs(expected - refitted) < 3.5 * error + 0.05 * abs(expected)
