"""Progress is shown where someone watches, changes nothing, and leaves nothing behind."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tqdm import notebook

from glmm_jax import datasets, glmer, progress, runtime
from glmm_jax.progress import clock, tracker

HERDS = "cbind(incidence, size - incidence) ~ period + (1 | herd)"


def test_a_bar_shows_its_description_and_count(capsys: pytest.CaptureFixture[str]) -> None:
    with tracker(7, "profile", True) as bar:
        bar.update(3)
        bar.update(4)
    shown = capsys.readouterr()
    assert "profile: 100%" in shown.err and "7/7" in shown.err
    assert shown.out == ""
    assert threading.active_count() == 1


@pytest.mark.parametrize("choice", [None, False])
def test_nothing_is_shown_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], choice: bool | None
) -> None:
    with tracker(2, "bootstrap", choice) as bar, clock("glmer", choice) as stage:
        stage("fitting")
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_a_terminal_and_a_notebook_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not progress.shown(None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress.shown(None)
    assert not progress.shown(False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    kernel = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    assert progress.in_notebook()
    assert progress.shown(None)
    shell = SimpleNamespace(config={})  # IPython on a terminal, whose errors go to a file
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not progress.shown(None)


def test_a_notebook_without_widgets_gets_a_plain_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(notebook, "IProgress", None, raising=False)
    with tracker(1, "profile") as bar:
        bar.update(1)
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize("choice", ["yes", 1, 0])
def test_another_choice_is_refused(choice: object) -> None:
    words = f"progress={choice!r}; use True, False or None"
    with pytest.raises(ValueError, match=words):
        tracker(1, "x", choice)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=words):
        glmer(HERDS, datasets.load("cbpp"), "binomial", progress=choice)  # pyright: ignore


def test_the_clock_tells_stage_and_time_and_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.05)
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with clock("glmer", True) as stage:
        stage("compiling")
        time.sleep(0.3)
        stage("fitting")
        time.sleep(0.3)
    shown = capsys.readouterr().err
    assert shown.index("glmer: compiling 00:00") < shown.index("glmer: fitting 00:00")
    assert shown.split("\r")[-2].strip() == ""  # wiped
    assert threading.active_count() == 1


def test_what_ends_soon_shows_no_clock(capsys: pytest.CaptureFixture[str]) -> None:
    with clock("glmer", True) as stage:
        stage("fitting")
    assert capsys.readouterr().err == ""
    assert threading.active_count() == 1


def test_no_thread_is_left_by_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with pytest.raises(KeyboardInterrupt), clock("glmer", True):
        time.sleep(0.05)
        raise KeyboardInterrupt
    assert threading.active_count() == 1


def test_a_fit_is_the_same_with_and_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "DELAY", 0.0)
    data = datasets.load("cbpp")
    silent = glmer(HERDS, data, "binomial", progress=False)
    assert capsys.readouterr().err == ""
    held = runtime.programs()
    shown = glmer(HERDS, data, "binomial", progress=True)
    assert runtime.programs() == held
    assert "glmer" in capsys.readouterr().err
    assert silent.llf == shown.llf
    assert np.array_equal(silent.params, shown.params)


def test_the_runtime_names_its_stages() -> None:
    @jax.jit
    def double(x: jax.Array) -> jax.Array:
        return 2 * x

    told: list[str] = []
    for _ in range(2):
        with runtime.engine():
            runtime.run(double, np.arange(3.0), stage=told.append)
    assert told == ["compiling", "fitting", "fitting"]
