"""The family and the link that the README makes, fitted to data simulated from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import glmm_jax as gj

ROOT = Path(__file__).parent.parent
GROUPS, ROWS = 40, 15


def run(containing: str, **names: Any) -> dict[str, Any]:
    """The names that the README's one block of Python with that text leaves behind."""
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (block,) = [one for one in blocks if containing in one]
    space = {"gj": gj, "jax": jax, "jnp": jnp, **names}
    exec(block, space)
    return space


@pytest.fixture(scope="module")
def design() -> tuple[np.random.Generator, pd.DataFrame, np.ndarray]:
    """A generator, the columns g and x, and standard normal effects of g by row."""
    rng = np.random.default_rng(20115)
    g = np.repeat(np.arange(GROUPS), ROWS)
    return rng, pd.DataFrame({"g": g, "x": rng.normal(size=g.size)}), rng.normal(size=GROUPS)[g]


def away(fit: gj.Fit, truth: list[float]) -> np.ndarray:
    """Estimates of all parameters less the truth, in standard errors."""
    parts = [fit.params, fit.theta, fit.dispersion_params]
    estimates = np.concatenate([part.to_numpy() for part in parts])
    return (estimates - truth) / np.sqrt(np.diag(fit.vcov_all))


def test_a_family_of_your_own(design) -> None:
    rng, frame, effects = design
    b = 2.0
    median = 1 / (1 + np.exp(-(0.3 + 0.5 * frame["x"] + 0.6 * effects)))
    # P(Y <= y) = 1 - (1 - y^a)^b, which is one half at the median.
    a = np.log(1 - 0.5 ** (1 / b)) / np.log(median)
    y = (1 - (1 - rng.uniform(size=len(frame))) ** (1 / b)) ** (1 / a)
    found = run("def kumaraswamy", data=frame.assign(y=y))

    # The density integrates to one, and to one half below 1 / (1 + exp(-eta)).
    eta, log_b = 0.7, 0.4
    middle = 1 / (1 + np.exp(-eta))
    for low, high, mass in [(0.0, 1.0, 1.0), (0.0, middle, 0.5)]:
        edges = np.linspace(low, high, 20_001)
        points = (edges[1:] + edges[:-1]) / 2
        density = np.exp(found["kumaraswamy"](points, eta, log_b))
        assert np.sum(density) * (high - low) / points.size == pytest.approx(mass, abs=1e-4)

    fit = found["fit"]
    assert fit.converged
    assert np.all(np.abs(away(fit, [0.3, 0.5, 0.6, np.log(b)])) < 3)
    assert "Kumaraswamy" in str(fit.summary())


def test_a_link_of_your_own(design) -> None:
    rng, frame, effects = design
    p = 0.25 + 0.75 / (1 + np.exp(-(0.5 + frame["x"] + 0.8 * effects)))
    correct = (rng.uniform(size=len(frame)) < p).astype(int)
    fit = run("guessing", data=frame.assign(correct=correct))["fit"]
    assert fit.converged
    assert np.all(np.abs(away(fit, [0.5, 1.0, 0.8])) < 3)
    # No predicted probability below that of a guess.
    assert fit.fittedvalues.min() > 0.25


def test_the_table_of_families_is_complete() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    table = text[text.index("## Families") : text.index("### A family of your own")]
    named = set(re.findall(r"`([a-z_0-9]+)`", table))
    wrapped = {"truncated_", "zero_inflated_", "hurdle_"}
    made = {type(gj.families.get(one)) for one in named if one in gj.families._FAMILIES}
    assert made == set(gj.families._FAMILIES.values())
    assert wrapped <= named and wrapped == set(gj.families._WRAPPERS)
