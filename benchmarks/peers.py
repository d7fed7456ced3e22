"""The programs compared and the long-lived processes that run them, one per program and case."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import Case

HERE = Path(__file__).resolve().parent
OURS = "glmm_jax"
R_PEERS = ("lme4", "glmmTMB")
PYTHON_PEERS = ("glmm", "gpboost", "gpboost_exact", "mixedlm")
PEERS = (*R_PEERS, *PYTHON_PEERS)
# Those that need minutes where the others need seconds.
SLOW = ("lme4", "glmmTMB", "mixedlm")


class Failed(Exception):
    """A program could not fit: its own words, or that its process ended."""


class OverLimit(Failed):
    """A program took too long, and is still computing."""


def unable(peer: str, case: Case) -> str | None:
    """Why a peer does not fit a case; None if it does."""
    if peer.startswith("gpboost") and case.vector:
        return "no correlated random slopes"
    return None


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with changes; the checkout is importable without installing."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Whole processes are timed with their byte code kept, as a user's are.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **changes}


def peer_environment() -> dict[str, str]:
    """Environment of a peer: no paths of ours, so that it imports only its own packages."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


@dataclass(frozen=True)
class Interpreters:
    """What runs whom: the peers' Python (None: leave them out) and Rscript (None: likewise)."""

    python_peers: str | None
    rscript: str | None

    @staticmethod
    def find(python_peers: str | None) -> Interpreters:
        """The given Python, which must exist, and the Rscript on the path."""
        if python_peers is not None and shutil.which(python_peers) is None:
            raise SystemExit(f"--python-peers {python_peers}: there is no such program")
        return Interpreters(python_peers, shutil.which("Rscript"))

    def command(self, program: str, case: Case, path: Path) -> list[str] | None:
        """Command line of a worker; None where its interpreter is missing."""
        if program in R_PEERS:
            if self.rscript is None:
                return None
            return [self.rscript, str(HERE / "worker.R"), program, str(path), case.formula,
                    case.family]  # fmt: skip
        python = sys.executable if program == OURS else self.python_peers
        if python is None:
            return None
        described = {
            "formula": case.formula, "fixed": case.fixed, "family": case.family,
            "response": case.response, "trials": case.trials, "groups": list(case.groups),
        }  # fmt: skip
        return [python, str(HERE / "worker.py"), program, str(path), json.dumps(described)]


class Worker:
    """A running worker process: `ask` sends a command and waits for its answer."""

    def __init__(self, command: list[str], env: dict[str, str], limit: float) -> None:
        # What a program prints besides its answers is of no interest; its errors come as answers.
        self._process = subprocess.Popen(
            command, env=env, text=True, encoding="utf-8", errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.versions: dict[str, str] = self._answer(limit)["versions"]
        except Failed:
            self.close()
            raise

    def ask(self, command: str, limit: float) -> dict[str, Any]:
        """Answer to a command; `Failed` on an error there, `OverLimit` after `limit` seconds."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed("the process has ended") from None
        return self._answer(limit)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@@ "):
                self._answers.put(json.loads(line[3:]))
        self._answers.put(None)

    def _answer(self, limit: float) -> dict[str, Any]:
        try:
            found = self._answers.get(timeout=limit)
        except queue.Empty:
            raise OverLimit(f"over the limit of {limit:g} s") from None
        if found is None:
            raise Failed("the process has ended without an answer")
        if "error" in found:
            raise Failed(found["error"])
        return found


def start(
    program: str, case: Case, path: Path, interpreters: Interpreters, limit: float
) -> Worker | str:
    """A worker ready to fit, or the reason why there is none."""
    reason = unable(program, case)
    if reason is not None:
        return reason
    command = interpreters.command(program, case, path)
    if command is None:
        return "no interpreter"
    # Without the persistent cache the first call shows what tracing and compiling cost.
    env = environment(GLMM_JAX_CACHE="off") if program == OURS else peer_environment()
    try:
        return Worker(command, env, limit)
    except Failed as error:
        return str(error)


def pause(seconds: float = 0.05) -> None:
    """Let threads that still spin after a fit go to sleep before the next program is timed."""
    time.sleep(seconds)
