"""The notebook on networks with random effects runs, and its sentences say what its cells print."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels import assert_complete, pictures, printed, stored
from nbformat import NotebookNode

PATH = Path(__file__).parent.parent / "notebooks" / "neural_random_effects.ipynb"
# Asked of the kernel when the last cell has run; the answer is no part of the notebook.
QUESTION = """
print(json.dumps({
    "sd": [sd, sd_error, truth],
    "known": {name: float(row["known groups"]) for name, row in scores.iterrows()},
    "batches": [float(by_batches[test].mean()), float(densities[stop, test].mean())],
    "path": [float(along_path[stop]), float(along_path[-1])],
    "spread": [float(spread[rows == 0].min()), float(spread[rows == 0].max())],
    "tasks": {
        name: [
            {method: one[method].get("test") for method in comparison.METHODS} for one in repeats
        ]
        for name, repeats in results["tasks"].items()
    },
    "sds": sds.tolist(),
    "versions": sorted(versions),
}))
"""


def test_the_stored_notebook_is_complete() -> None:
    assert_complete(PATH)


def test_it_runs_and_shows_the_same_pictures(executed: NotebookNode) -> None:
    assert pictures(executed) == pictures(stored(PATH))
    assert len(pictures(executed)) >= 6


def test_the_standard_deviation_is_recovered(answer: dict) -> None:
    sd, error, truth = answer["sd"]
    assert abs(sd - truth) < error < 0.15
    assert answer["spread"] == pytest.approx([sd, sd], rel=1e-9)  # of groups without rows


def test_the_head_beats_the_network_alone(answer: dict) -> None:
    """On held-out rows of known groups, by much more than the repeats differ."""
    assert answer["known"]["head"] > answer["known"]["alone"] + 0.015
    by_batches, whole = answer["batches"]
    assert by_batches == pytest.approx(whole, abs=0.02)
    stopped, end = answer["path"]
    assert end > stopped + 0.1


def test_the_results_that_it_reads(answer: dict) -> None:
    assert {"gpboost", "glmm_jax", "jax", "optax"} <= set(answer["versions"])
    assert set(answer["tasks"]) == {"simulated", "contraception"}
    for repeats in answer["tasks"].values():
        assert len(repeats) >= 5
        assert all(None not in one.values() for one in repeats)
    simulated = answer["tasks"]["simulated"]
    assert all(one["head"] > one["alone"] for one in simulated)
    # 0.68 of them are expected within one standard error, 0.95 within two.
    away = [abs(sd - answer["sd"][2]) / error for sd, error in answer["sds"]]
    assert sum(one < 2 for one in away) >= 0.8 * len(away)


def test_numbers_that_the_text_quotes(executed: NotebookNode) -> None:
    """Sentences beside the outputs repeat some of their numbers; both must be the same."""
    found = printed(executed)
    for number in [
        "-0.0484 +- 0.0055",  # the network alone, simulated
        "-0.0066 +- 0.0023",  # one-hot
        "-0.0007 +- 0.0037",  # GPBoost
        "sd 0.949 on average",
        "in 8 of 10",
        "1.154",
        "-0.0127 +- 0.0040",  # the network alone, contraception
        "-0.0013 +- 0.0019",
        "-0.0032 +- 0.0021",
        "0.484",
    ]:
        assert number in found, number
