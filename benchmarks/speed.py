"""README's section on speed, from the results files.

    python benchmarks/speed.py [--print]

Reads results/single_fits.json, cold_start.json and, if it is there, single_fits_gpu.json, and puts
the tables between the two marks in README.md (or prints them). What is slower than a peer stands
there as what is faster does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from growth import BOUNDS
from report import RESULTS, SAME, place, ratio, rows_of, seconds

README = RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- speed: made by benchmarks/speed.py -->\n", "<!-- end of speed -->\n"
OURS, ENGINE = "glmm_jax", "glmm_jax, engine only"
NAMES = {"glmm": "PyPI `glmm`", "gpboost": "GPBoost", "gpboost_exact": "GPBoost (Cholesky)",
         "mixedlm": "PyPI `mixedlm`"}  # fmt: skip
FEW = 1_000  # rows below which the engine alone is compared


def compared(case: dict[str, Any]) -> tuple[float, list[tuple[float, str, bool]]]:
    """Our time (of the engine alone on few rows), and of each peer (time, name, same optimum)."""
    entries = case["entries"]
    ours = entries[ENGINE if case["rows"] < FEW else OURS]["median"]
    peers = [
        (entry["median"], NAMES.get(name, name), abs(entry["loglik_minus_ours"]) <= SAME)
        for name, entry in entries.items()
        if name not in (OURS, ENGINE) and "loglik_minus_ours" in entry
    ]
    return ours, sorted(peers)


def single(results: dict[str, Any]) -> str:
    """Whole calls beside the fastest peer, and in words which peers are faster."""
    body, slower, half = [], [], []
    for case in results["cases"]:
        entries = case["entries"]
        if case.get("series") or "median" not in entries[OURS]:
            continue
        ours, peers = compared(case)
        alone = case["rows"] < FEW
        shown = [
            f"{name} {seconds(time)}{'' if same else ' (another optimum)'}"
            for time, name, same in peers
        ]
        best = next((time for time, _, same in peers if same), None)
        body.append([
            case["title"], f"{case['rows']:,}", seconds(entries[OURS]["first"]),
            seconds(entries[OURS]["median"]), seconds(entries[ENGINE].get("median")),
            ratio(best / ours) if best else "", ", ".join(shown[:4]),
        ])  # fmt: skip
        what = f"{case['title']}{' (our engine alone)' if alone else ''}"
        slower += [
            f"{what}: {name} takes {ratio(time / ours)} of our time"
            + ("" if same else ", at another optimum")
            for time, name, same in peers
            if time < ours
        ]
        if best and ours <= best < 2 * ours:
            half.append(f"{what} ({ratio(best / ours)})")
    head = ["case", "rows", "first call", "later calls", "engine alone",
            "fastest peer at the same optimum / ours", "peers"]  # fmt: skip
    lines = [rows_of(head, body), ""]
    lines.append(f"Slower than a peer: {'; '.join(slower)}." if slower else "No peer is faster.")
    if half:
        lines.append(f"Faster, but by less than a factor of two: {', '.join(half)}.")
    lines.append(
        f"Standard errors are part of every fit. Below {FEW:,} rows the engine alone is compared. "
        f'"Another optimum" is a log-likelihood that differs from ours by more than {SAME:g}.'
    )
    return "\n".join(lines)


def grown(results: dict[str, Any]) -> str:
    """Exponents of our time in words, and whether they keep their bounds."""
    words = []
    for what, programs in results.get("exponents", {}).items():
        if OURS not in programs or what == "factors":
            continue
        found, bound = programs[OURS], BOUNDS.get(what)
        kept = "" if bound is None else f" (aim: at most {bound:g})"
        words.append(f"{what} to the power of {found:.2f}{kept}")
    return f"The time of a later call grows with {', with '.join(words)}." if words else ""


def cold(results: dict[str, Any]) -> str:
    """Whole processes beside lme4's, and in words where the aims are missed."""
    body, missed = [], []
    for case in results["cases"]:
        entries = case["entries"]
        cells = [seconds(entry["process"]) for entry in entries.values()]
        body.append([case["case"], *cells])
        for name, entry in entries.items():
            aim = {"glmm_jax, empty cache": 1.5, "glmm_jax, filled cache": 0.5}.get(name)
            found = entry.get("ratio_to_lme4")
            if aim and found:
                missed.append(f"{case['case']}, {name.split(', ')[1]}: {ratio(found)}")
    head = ["whole process, import to summary", *results["cases"][0]["entries"]]
    return f"{rows_of(head, body)}\n\nOf lme4's time: {'; '.join(missed)}."


def on_device(cpu: dict[str, Any], other: dict[str, Any]) -> str:
    """Later calls on a CPU and on another device."""
    device = other["versions"][OURS].get("device", "another device")
    known = {case["case"]: case["entries"][OURS].get("median") for case in cpu["cases"]}
    body = [
        [case["title"], f"{case['rows']:,}", seconds(known.get(case["case"])),
         seconds(case["entries"][OURS].get("median")), seconds(case["entries"][OURS].get("first"))]
        for case in other["cases"]
        if case["entries"][OURS].get("median") and not case.get("series")
    ]  # fmt: skip
    head = ["case", "rows", "CPU, later calls", f"{device}, later calls", "its first call"]
    return rows_of(head, body)


def section(folder: Path = RESULTS) -> str:
    """The section's generated part."""

    def read(name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    fits = read("single_fits.json")
    parts = [f"Single fits: {place(fits)}", single(fits), grown(fits)]
    if (folder / "single_fits.png").exists():
        parts.append("![Time against size](benchmarks/results/single_fits.png)")
    parts.append(cold(read("cold_start.json")))
    if (folder / "single_fits_gpu.json").exists():
        parts.append(on_device(fits, read("single_fits_gpu.json")))
    return "\n\n".join(filter(None, parts)) + "\n"


def main() -> None:
    made = section()
    if "--print" in sys.argv[1:]:
        print(made)
        return
    text = README.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{README} has not the lines {BEGIN.strip()} and {END.strip()}")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")
    print(f"written to {README}")


if __name__ == "__main__":
    main()
