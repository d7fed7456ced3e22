"""The command line: the demonstration, a user's own CSV, and clean messages for mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reference_cases import case

import glmm_jax.__main__ as command_line
from glmm_jax import Fit, datasets, glmer
from glmm_jax.__main__ import main

FORMULA = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


@pytest.fixture
def csv(tmp_path: Path) -> str:
    data = datasets.load("cbpp")
    data["period"] = "p" + data["period"].astype(str)
    path = tmp_path / "cbpp.csv"
    data.to_csv(path, index=False)
    return str(path)


def test_the_demonstration_fits_and_compares_its_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the six are fitted: all are references, and fitted as such."""
    formulas = command_line.MODELS
    assert len(formulas) == 6 and set(command_line.PRINTED_2011) == set(formulas)
    for name, formula in formulas.items():
        one = case(f"{name}/lme4")
        assert formula.replace(" ", "") == one.formula.replace(" ", "")
        # The search of 2011 stopped short of the maximum.
        assert -0.7 < command_line.PRINTED_2011[name] - one.log_likelihood < 0
    assert {name for names in command_line.COMPARISONS for name in names} == set(formulas)
    chosen = ("cm3", "cm4")
    monkeypatch.setattr(command_line, "MODELS", {name: formulas[name] for name in chosen})
    monkeypatch.setattr(command_line, "COMPARISONS", (("cm4", "cm3"),))
    printed = {name: command_line.PRINTED_2011[name] for name in chosen}
    monkeypatch.setattr(command_line, "PRINTED_2011", printed)
    assert main([]) == 0
    text = capsys.readouterr().out
    for name, optimum in zip(chosen, (-1182.5906, -1176.7650), strict=True):
        assert f"\n{name}\n===\n" in text
        assert f"{name}  {optimum:.4f}  2011: -11" in text
    assert text.count("Models:\n") == 1 and text.count("Fixed effects:") == 2
    assert "Warning" not in text
    # cm3 in cm4: one variance more.
    assert text.count("Note: One variance of") == 1
    # The likelihood-ratio test of cm4 against cm3 in lme4 today.
    assert "11.651  2   0.002951 **" in text


def test_a_users_csv_is_fitted(csv: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", FORMULA, csv, "--family", "binomial", "--correlation"]) == 0
    text = capsys.readouterr().out
    known = glmer(FORMULA, datasets.load("cbpp"), "binomial")
    assert f"{known.llf:.3f}" in text
    assert "period[T.p2]" in text and "groups:  herd, 15" in text
    assert "Correlation of Fixed Effects:" in text


def test_options_reach_the_fit(csv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*arguments: Any, **keywords: Any) -> Fit:
        calls.append((arguments, keywords))
        return glmer(FORMULA, datasets.load("cbpp"), "binomial")

    monkeypatch.setattr(command_line, "glmer", record)
    options = "--family binomial --link probit --nagq 0 --weights w --offset o --trials size"
    rest = "--curvature observed --na-action raise --reml"
    assert main(["fit", "y ~ x + (1 | g)", csv, *options.split(), *rest.split()]) == 0
    ((formula, data, family, link), keywords) = calls[0]
    assert (formula, family, link) == ("y ~ x + (1 | g)", "binomial", "probit")
    assert len(data) == 56
    assert keywords == {
        "weights": "w",
        "offset": "o",
        "trials": "size",
        "nagq": 0,
        "reml": True,
        "curvature": "observed",
        "na_action": "raise",
    }


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("incidence ~ perod + (1 | herd)", [], "perod"),
        ("incidence ~ period", [], "random"),
        ("incidence ~ period + (1 | herd)", ["--family", "gauss"], "family='gauss'"),
        ("incidence ~ period + (1 | herd)", ["--weights", "w"], "weights"),
        (FORMULA, ["--family", "binomial", "--nagq", "999"], "nagq=999"),
    ],
)
def test_a_mistake_gives_one_line_and_code_2(
    csv: str, capsys: pytest.CaptureFixture[str], formula: str, options: list[str], message: str
) -> None:
    assert main(["fit", formula, csv, *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("glmm_jax: ") and message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    binary = tmp_path / "picture.csv"
    binary.write_bytes(bytes(range(256)))
    for path in (empty, binary, tmp_path):
        assert main(["fit", "y ~ x + (1 | g)", str(path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and str(path) in lines[0]


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "glmm_jax"]
    here = Path(__file__).parent.parent
    missing = str(tmp_path / "missing.csv")
    ended = subprocess.run(
        [*command, "fit", "y ~ x + (1 | g)", missing], cwd=here, capture_output=True, text=True
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == f"glmm_jax: data: there is no file {missing!r}\n"


def test_help_explains_the_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("formula", "--family", "--trials", "--na-action", "Example:"):
        assert word in text
