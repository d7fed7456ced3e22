"""The notebook on many models runs, and its sentences say what its cells print."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import assert_complete, pictures, printed, stored
from nbformat import NotebookNode

PATH = Path(__file__).parent.parent / "notebooks" / "many_models.ipynb"
# Asked of the kernel when the last cell has run; the answer is no part of the notebook.
QUESTION = """
import json
separated = (models["status"] == "SEPARATION").to_numpy()
away = (test["estimate"] - genes["interaction"]).abs()
single = gj.glmer(
    "sales ~ price + (1 | shop)", markets[markets["market"] == "M007"], family="poisson",
    progress=False,
)
print(json.dumps({
    "converged": int(fits.converged.sum()),
    "separated": int(separated.sum()),
    "their tests": int(test["p_value"][separated].notna().sum()),
    "rates": [float((test["p_value"][known & null] < 0.05).mean()), level],
    "found": [int(found.sum()), int((found & null).sum()), int(by_lrt.sum())],
    "gene": [fit.llf, float(models.loc[top, "llf"])],
    "same": bool(same),
    "market": [single.llf, float(by_market.models.loc["M007", "llf"])],
    "covered": float((away < 1.96 * test["std_error"])[done].mean()),
    "level": none.frame["power"].iloc[-2:].tolist(),
    "power": {name: rows["power"].tolist() for name, rows in curves.items()},
}))
"""


def test_the_stored_notebook_is_complete() -> None:
    assert_complete(PATH)


def test_it_runs_and_shows_the_same_pictures(executed: NotebookNode) -> None:
    assert pictures(executed) == pictures(stored(PATH))
    assert len(pictures(executed)) >= 8


def test_what_is_found_is_what_was_put_in(answer: dict) -> None:
    """Bounds that simulated data with known effects must keep, whatever their random numbers."""
    assert answer["converged"] >= 985
    assert answer["separated"] > 0 and answer["their tests"] == 0
    # 850 genes without an effect: 5 % with a standard error of 0.75 %.
    assert all(0.03 < rate < 0.08 for rate in answer["rates"])
    assert 0.92 < answer["covered"] < 0.97
    wald, false, lrt = answer["found"]
    assert false < 0.15 * wald and abs(wald - lrt) < 8
    assert all(0.03 < level < 0.085 for level in answer["level"])
    for powers in answer["power"].values():
        assert powers == sorted(powers)
    strong, noisy, few = answer["power"].values()
    assert all(a > b for a, b in zip(strong, noisy, strict=True))
    assert sum(noisy) > sum(few)


def test_models_agree_with_fits_alone(answer: dict) -> None:
    for name in ("gene", "market"):
        alone, among = answer[name]
        assert among == pytest.approx(alone, abs=1e-6), name
    assert answer["same"]


def test_numbers_that_the_text_quotes(executed: NotebookNode) -> None:
    """Sentences beside the outputs repeat some of their numbers; both must be the same."""
    found = printed(executed)
    for number in [
        "123 samples of 82 patients",
        "6.0 %",  # genes without interaction below 0.05, by Wald
        "73 genes found, 3 of them false",
        "found: 73, false 2; by both tests 72",
        "5.9 %",  # genes without interaction below 0.05, by the likelihood ratio
        "0.052    0.011",  # the level of either test in 400 simulated responses
        "to the last bit: True",
    ]:
        assert number in found, number
