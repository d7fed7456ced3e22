"""Progress on a terminal or in a notebook: bars for work in parts, a clock for one long fit.

Nothing is shown elsewhere (a script whose errors go to a file, a test) unless it is asked for, and
nothing that is shown changes what is computed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

# A fit that ends sooner shows no clock; afterwards it moves this often (seconds).
DELAY = 2.0
INTERVAL = 0.5


class _Bar(tqdm):
    # tqdm's own thread would look after bars whose updates are rare; here each update is shown.
    monitor_interval = 0


def tracker(
    total: int | None, description: str, progress: bool | None = None, unit: str = "it"
) -> tqdm:
    """A bar to use as `with tracker(total, "profile", progress) as bar: bar.update(k)`.

    total : number of parts, each a `unit`; None if it is not known. description : one word or two,
    before the bar. progress : True shows the bar, False does not, None where someone may be
    watching: on a terminal or in a notebook.

    Raises:
        ValueError: progress is none of these.
    """
    return _bar_class()(
        total=total,
        desc=description,
        disable=not shown(progress),
        miniters=1,
        unit=unit,
        file=sys.stderr,
    )


def shown(progress: bool | None) -> bool:
    """Whether progress is to be shown; see `tracker`."""
    if progress is not None and not isinstance(progress, bool):
        raise ValueError(f"progress={progress!r}; use True, False or None (where it can be seen)")
    if progress is not None:
        return progress
    return in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    return running is not None and "IPKernelApp" in getattr(running, "config", {})


def _bar_class() -> type[tqdm]:
    if in_notebook():
        from tqdm import notebook  # imports ipywidgets, where there are any

        if getattr(notebook, "IProgress", None) is not None:
            return type("_NotebookBar", (notebook.tqdm,), {"monitor_interval": 0})
    return _Bar


@contextmanager
def clock(description: str, progress: bool | None = None) -> Iterator[Callable[[str], None]]:
    """Show the time that a single computation has taken, from `DELAY` seconds on, until it ends.

    Yields a function to be told the stage that begins ("compiling"), which stands beside the time.
    The clock runs in a thread of its own, since a compiled program returns only when it is done;
    the thread has ended when the context is left, by an exception too.

    Raises:
        ValueError: progress is not True, False or None.
    """
    if not shown(progress):
        yield _ignored
        return
    stages = [""]
    ended = threading.Event()
    thread = threading.Thread(target=_tick, args=(description, stages, ended), daemon=True)
    thread.start()
    try:
        yield stages.append
    finally:
        ended.set()
        thread.join()


def _ignored(stage: str) -> None:
    """What is told to a clock that nobody watches."""


def _tick(description: str, stages: list[str], ended: threading.Event) -> None:
    """The thread of `clock`: the last of `stages` and the time, until `ended` is set."""
    if ended.wait(DELAY):
        return
    if in_notebook():
        _tick_in_notebook(description, stages, ended)
        return
    bar = _Bar(
        desc=description,
        bar_format="{desc} {elapsed}",
        leave=False,
        file=sys.stderr,
        delay=1e-9,  # or tqdm would show 0 seconds first
    )
    with bar:
        bar.start_t -= DELAY
        while True:
            bar.set_description_str(f"{description}: {stages[-1]}" if stages[-1] else description)
            if ended.wait(INTERVAL):
                return


def _tick_in_notebook(description: str, stages: list[str], ended: threading.Event) -> None:
    """The clock as an output of its cell that is empty in the end: what is written to standard
    error would stay in the notebook."""
    from IPython.display import display

    begin = time.monotonic() - DELAY
    output = display({"text/plain": ""}, raw=True, display_id=True)
    assert output is not None  # for a display_id there is a handle
    while True:
        seconds = int(time.monotonic() - begin)
        text = ": ".join([description, stages[-1]] if stages[-1] else [description])
        output.update({"text/plain": f"{text} {seconds // 60:02d}:{seconds % 60:02d}"}, raw=True)
        if ended.wait(INTERVAL):
            output.update({"text/plain": ""}, raw=True)
            return
