"""Single term deletions: lme4's values, coding without a term, what is noted and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from reference_cases import FOLDER, case

from glmm_jax import Fit, Status, datasets, glmer
from glmm_jax.families import Gaussian
from glmm_jax.fitting import Call
from glmm_jax.formula.fixed import term_columns
from glmm_jax.formula.frame import build_frame
from glmm_jax.inference import drop1 as module

KNOWN = json.loads((FOLDER / "inference_tests.json").read_text(encoding="utf-8"))
KNOWN_CM3 = "use ~ age*ch + I(age^2) + urban + (1|district)"


@cache
def fitted(key: str) -> Fit:
    if key == "bare":
        return glmer(KNOWN["bare"]["formula"], datasets.load("contraception"), "bernoulli")
    return glmer(**case(f"{key}/lme4").glmer_arguments())


def small_data() -> pd.DataFrame:
    """Counts with missing values, an index that repeats, and a cell (b, z) without rows."""
    rng = np.random.default_rng(11)
    n = 150
    data = pd.DataFrame(
        {
            "f": rng.choice(["a", "b"], n),
            "k": rng.choice(["x", "y", "z"], n),
            "w": rng.uniform(0.5, 1.5, n),
            "g": rng.integers(0, 10, n).astype(str),
        },
        index=np.repeat(np.arange(n // 2), 2),
    )
    data = data.loc[~((data["f"] == "b") & (data["k"] == "z"))]
    effect = rng.standard_normal(10) * 0.5
    rate = np.exp(0.5 * (data["k"] == "y") + effect[data["g"].astype(int)])
    data["y"] = rng.poisson(rate)
    data.loc[data.index[5], "f"] = None
    data.loc[data.index[40], "f"] = None
    return data


@pytest.mark.parametrize("key", ["cm1", "cm3", "cbpp", "bare"])
def test_deletions_are_those_of_lme4(key: str) -> None:
    known, fit = KNOWN[key]["drop1"], fitted(key)
    table = fit.drop1()
    frame = table.frame
    assert list(frame.columns) == ["npar", "AIC", "LRT", "Pr(Chi)"]
    assert list(frame.index) == [name.replace("^", " ** ") for name in known["rows"]]
    assert frame.iloc[0][["npar", "LRT", "Pr(Chi)"]].isna().all()
    assert list(frame["npar"].iloc[1:]) == known["npar"][1:]
    # 2e-5 in a deviance is 1e-5 in a log-likelihood.
    np.testing.assert_allclose(frame["AIC"], known["AIC"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(frame["LRT"].iloc[1:], known["LRT"][1:], rtol=0, atol=2e-5)
    np.testing.assert_allclose(frame["Pr(Chi)"].iloc[1:], known["p"][1:], rtol=1e-4)
    assert table.notes == ()


def test_layout_is_lme4s() -> None:
    lines = str(fitted("cm3").drop1()).splitlines()
    assert lines[:4] == ["Single term deletions", "", "Model:", KNOWN_CM3]
    assert lines[4].split() == ["npar", "AIC", "LRT", "Pr(Chi)"]
    assert lines[5].split() == ["<none>", "2379.181"]
    assert lines[8].split() == ["age:ch", "1", "2385.186", "8.0045", "0.004666", "**"]
    assert lines[-1].startswith("Signif. codes:")
    page = fitted("cm3").drop1()._repr_html_()
    assert "<th>&lt;none&gt;</th>" in page and "2385.186" in page


def test_other_terms_are_coded_again_on_the_rows_of_the_fit() -> None:
    data = small_data()
    weights = data["w"].rename(None)
    fit = glmer("y ~ 0 + f + k + (1|g)", data, "poisson", weights=weights)
    complete = data["f"].notna().to_numpy()
    without = glmer(
        "y ~ 0 + k + (1|g)", data.loc[complete], "poisson", weights=weights.to_numpy()[complete]
    )
    found = fit.drop1().frame.loc["f"]
    assert fit.nobs == without.nobs == complete.sum() < len(data)
    np.testing.assert_allclose(found["AIC"], without.aic, atol=2e-5)
    assert found["npar"] == 1
    loaded = replace(fit, call=replace(fit.call, data=None))
    with pytest.raises(ValueError, match="without 'f' the other terms have to be coded again"):
        loaded.drop1()
    other = replace(fit, call=replace(fit.call, data=data.loc[complete].iloc[:-1], weights=None))
    with pytest.raises(ValueError, match="complete rows and it used"):
        other.drop1()


def test_columns_dropped_for_rank_come_back_where_they_can() -> None:
    data = small_data().dropna()
    fit = glmer("y ~ f * k + (1|g)", data, "poisson")
    assert fit.frame.dropped_columns == ("f[T.b]:k[T.z]",)
    frame = fit.drop1().frame
    assert list(frame.index) == ["<none>", "f:k"]
    additive = glmer("y ~ f + k + (1|g)", data, "poisson")
    assert frame["npar"].iloc[1] == 1
    np.testing.assert_allclose(frame["AIC"].iloc[1], additive.aic, atol=2e-5)
    np.testing.assert_allclose(
        frame["Pr(Chi)"].iloc[1],
        scipy.stats.chi2.sf(additive.deviance - fit.deviance, 1),
        rtol=1e-4,
    )


def test_what_makes_a_row_doubtful_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted("cbpp")

    def stopped(*arguments):
        found = fit_frame(*arguments)
        estimate = replace(
            found.estimate, status=np.array(Status.STEP_LIMIT), deviance=np.array(100.0)
        )
        return found._replace(estimate=estimate)

    fit_frame = module.fit_frame
    monkeypatch.setattr(module, "fit_frame", stopped)
    table = fit.drop1()
    assert table.notes[0] == f"without period: {Status.STEP_LIMIT.sentence}"
    assert "likelihood is higher than with it" in table.notes[1]
    assert "Note: without period" in str(table) and "Note: without" in table._repr_html_()


def test_a_model_without_terms_is_refused() -> None:
    fit = fitted("cbpp")
    coding = replace(fit.frame.design.fixed, terms=(), names=("Intercept",))
    bare = replace(fit, frame=replace(fit.frame, design=replace(fit.frame.design, fixed=coding)))
    with pytest.raises(ValueError, match="has no fixed term to drop"):
        bare.drop1()


@pytest.mark.parametrize(
    ("formula", "term", "left"),
    [
        ("f * k + w", "w", "f * k"),
        ("f * k + w", "f:k", "f + k + w"),
        ("0 + f * k", "f:k", "0 + f + k"),
        ("0 + f + k + w", "f", "0 + k + w"),
        ("0 + w + f", "f", "0 + w"),
        ("0 + w + f", "w", "0 + f"),
        ("w + w:f + k", "w:f", "w + k"),
        ("f:k + w", "f:k", "w"),
        ("0 + f:k + w:f", "f:k", "0 + w:f"),
        ("poly(w, 2) + f", "poly(w, 2)", "f"),
    ],
)
def test_without_a_term_the_columns_span_those_of_the_shorter_formula(
    formula: str, term: str, left: str
) -> None:
    data = small_data().dropna().reset_index(drop=True)
    frame = build_frame(f"y ~ {formula} + (1|g)", data)
    shorter = build_frame(f"y ~ {left} + (1|g)", data)
    fit: Any = SimpleNamespace(family=Gaussian(), frame=frame, call=Call(data), nobs=len(data))
    names = [one.name for one in term_columns(frame.design.fixed)]
    X = module._reduced(fit, names.index(term)).X
    assert X.shape[1] == np.linalg.matrix_rank(X) == shorter.X.shape[1]
    assert np.linalg.matrix_rank(np.hstack([X, shorter.X]), tol=1e-8) == X.shape[1]
