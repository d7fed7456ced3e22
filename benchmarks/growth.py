"""How times grow with the size of a problem: exponents by least squares, and a picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

# What the time of a fit may grow with at most: time ~ size ** exponent.
BOUNDS = {"rows": 1.05, "levels": 1.1}


def series(cases: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Of each series and program the pairs (size, median time of the later calls), by size."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for case in sorted((c for c in cases if c.get("series")), key=lambda c: c["size"]):
        programs = found.setdefault(case["series"], {})
        for name, entry in case["entries"].items():
            if entry.get("median"):
                programs.setdefault(name, []).append((case["size"], entry["median"]))
    return found


def exponents(cases: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Slope of log(time) in log(size) of each series and program with three sizes or more."""
    return {
        what: {
            name: float(np.polyfit(*np.log(np.array(points)).T, 1)[0])
            for name, points in programs.items()
            if len(points) > 2
        }
        for what, programs in series(cases).items()
    }


def draw(cases: list[dict[str, Any]], path: Path) -> Path | None:
    """Time against size, a panel a series; None without matplotlib or without a series."""
    found = series(cases)
    if not found or importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(3.4 * len(found), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    names = list(dict.fromkeys(name for programs in found.values() for name in programs))
    for axes, (what, programs) in zip(panels, found.items(), strict=True):
        for name, points in programs.items():
            size, time = np.array(points).T
            color, ours = f"C{names.index(name)}", name.startswith("glmm_jax")
            axes.plot(size, time, "o-" if ours else "s--", color=color, label=name, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel=what)
        ticks = sorted({size for points in programs.values() for size, _ in points})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45, fontsize=7)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("time of a fit, seconds")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:g}")
    handles = {}
    for axes in panels:
        handles |= {
            text: line for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=130)
    return path
