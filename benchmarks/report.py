"""Print the results files as markdown tables.

python benchmarks/report.py [FILE.json ...]
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from growth import BOUNDS

RESULTS = Path(__file__).resolve().parent / "results"
SAME = 1e-4  # log-likelihoods that differ by more are not both at the optimum


def seconds(value: float | None) -> str:
    """A time in milliseconds or seconds, to three digits."""
    if value is None:
        return ""
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def ratio(value: float | None) -> str:
    """A ratio to two or three digits."""
    if value is None:
        return ""
    return f"{value:.2g}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def rows_of(header: list[str], body: list[list[str]]) -> str:
    """A markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in body]
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def place(results: dict[str, Any]) -> str:
    """The line above a table: machine, date, versions."""
    machine = results["machine"]
    known: dict[str, str] = {}
    for versions in results["versions"].values():
        for name, version in versions.items():
            # Two environments may differ, numpy's version for example: the first is ours.
            known.setdefault(name, version)
    listed = ", ".join(f"{name} {version}" for name, version in known.items())
    load = machine["load_average"]
    busy = f", load average {load[0]:.1f} at the start" if load else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{results['date'][:10]}{busy}; {listed}."
    )


def single_fits(results: dict[str, Any]) -> str:
    """Times of single fits, one table row per program and case."""
    body = []
    for case in results["cases"]:
        for name, entry in case["entries"].items():
            title = f"{case['title']} ({case['rows']:,} rows)"
            if "median" not in entry:
                reason = entry.get("not_run") or entry.get("error", "")
                body.append([title, name, reason, *[""] * 7])
                continue
            gap = entry.get("loglik_minus_ours")
            mark = "" if gap is None or abs(gap) <= SAME else " (differs)"
            memory = entry.get("peak_bytes")
            body.append([
                title, name, seconds(entry["median"]), seconds(entry["first"]),
                ratio(entry.get("ratio")), ratio(entry.get("ratio_engine")),
                f"{entry['loglik']:.5f}", "" if gap is None else f"{gap:+.1e}{mark}",
                str(entry.get("evaluations") or ""),
                f"{memory / 2**20:.0f} MiB" if memory else "",
            ])  # fmt: skip
    head = ["case", "program", "later calls", "first call", "/ ours", "/ our engine", "logLik",
            "minus ours", "evaluations", "peak memory"]  # fmt: skip
    return rows_of(head, body)


def growth(results: dict[str, Any]) -> str:
    """Exponents of time against size, one table row per series."""
    found = results.get("exponents", {})
    names = list(dict.fromkeys(name for programs in found.values() for name in programs))
    body = [
        [what, f"{BOUNDS[what]:g}" if what in BOUNDS else "",
         *(f"{programs[name]:.2f}" if name in programs else "" for name in names)]
        for what, programs in found.items()
    ]  # fmt: skip
    return rows_of(["time grows with", "at most", *names], body) if body else "no series"


def verdict(results: dict[str, Any]) -> str:
    """What a run says beside its times: optima that differ, what is slower, what is left out."""
    lower, slower = [], []
    for case in results["cases"]:
        for name, entry in case["entries"].items():
            if entry.get("loglik_minus_ours", 0.0) > SAME:
                lower.append(f"{case['case']}: {name} by {entry['loglik_minus_ours']:.1e}")
            if not name.startswith("glmm_jax") and entry.get("ratio", 1.0) < 1:
                slower.append(f"{case['case']}: {name} takes {ratio(entry['ratio'])} of our time")
    lines = [
        "A log-likelihood higher than ours by more than "
        f"{SAME:g}: {'; '.join(lower) if lower else 'none'}.",
        f"Faster than our whole call: {'; '.join(slower) if slower else 'no peer in any case'}.",
    ]
    if results.get("left_out"):
        lines.append(f"Left out when the time was up: {', '.join(results['left_out'])}.")
    return "\n".join(lines)


def cold_start(results: dict[str, Any]) -> str:
    """Whole processes: from the start to the first fit, and to the end."""
    body = []
    for case in results["cases"]:
        for name, entry in case["entries"].items():
            body.append([
                case["case"], name, seconds(entry["import"]), seconds(entry.get("first_fit")),
                seconds(entry.get("to_first_fit")), seconds(entry["process"]),
                ratio(entry.get("ratio_to_lme4")),
            ])  # fmt: skip
    head = ["case", "program", "import", "first fit", "start to first fit", "whole process",
            "/ lme4's process"]  # fmt: skip
    return rows_of(head, body)


def busy_core(results: dict[str, Any]) -> str:
    """Warm fits alone and beside a busy process."""
    body = [
        [case["case"], seconds(case["alone"]), seconds(case["busy"]), ratio(case["ratio"]),
         ratio(case["worst_ratio"])]
        for case in results["cases"]
    ]  # fmt: skip
    head = ["case", "alone", "one core busy", "ratio", "slowest busy / median alone"]
    return rows_of(head, body)


def profiles(results: dict[str, Any]) -> str:
    """Profiles of all parameters of a fit."""
    body = []
    for case in results["cases"]:
        for name, entry in case["entries"].items():
            title = f"{case['title']} ({case['parameters']} parameters)"
            if "points" not in entry:
                body.append([title, name, entry.get("not_run") or entry["error"], *[""] * 6])
                continue
            gap = entry.get("largest_difference")
            body.append([
                title, name, seconds(entry.get("median", entry.get("seconds"))),
                seconds(entry.get("first")), seconds(entry["cpu"]), ratio(entry.get("ratio")),
                str(entry["points"]), f"{entry['reach']:.2f}",
                "" if gap is None else f"{gap:.1e}",
            ])  # fmt: skip
    head = ["case", "program", "all profiles", "first call", "CPU", "/ ours", "points",
            "largest zeta", "limits apart (half-widths)"]  # fmt: skip
    return rows_of(head, body)


def bootstrap(results: dict[str, Any]) -> str:
    """All replicates of a parametric bootstrap."""
    body = []
    for case in results["cases"]:
        ours, lme4, n = case["ours"], case["lme4"], f"{case['replicates']:,}"
        scaled = f" (scaled from {lme4['replicates']})" if lme4["scaled"] else ""
        body.append([case["case"], n, "glmm_jax, first call", seconds(ours["first"]), ""])
        body.append([case["case"], n, "glmm_jax, later calls", seconds(ours["median"]), ""])
        name = f"lme4 bootMer, {lme4['processes']} processes{scaled}"
        ratios = f"{ratio(case['ratio_first'])}, {ratio(case['ratio'])}"
        body.append([case["case"], n, name, seconds(lme4["seconds_for_all"]), ratios])
    return rows_of(["case", "replicates", "program", "time", "/ our first, later calls"], body)


def many(results: dict[str, Any]) -> str:
    """Many models of one design."""
    body = []
    for case in results["cases"]:
        for name, entry in case["entries"].items():
            title = f"{case['title']} ({case['models']:,} models)"
            if "per_second" not in entry:
                body.append([title, name, entry.get("not_run") or entry["error"], *[""] * 8])
                continue
            found = entry.get("compared", {})
            gap = ""
            if found.get("loglik_minus_ours_least") is not None:
                least, most = (found[f"loglik_minus_ours_{end}"] for end in ("least", "most"))
                gap = f"{least:+.1e} to {most:+.1e} ({found['models']})"
            fits, failed = entry["models"] * len(entry["seconds"]), entry["failed"][-1]
            share = ""
            if name in case["shares"]:
                share, failed = f" ({fits:,} fits, scaled)", sum(entry["failed"])
            body.append([
                title, name + share, f"{entry['per_second']:,.4g}",
                f"{entry['per_second_first']:,.4g}", seconds(entry["cpu_per_model"]),
                ratio(entry.get("ratio")), ratio(entry.get("ratio_first")),
                ratio(entry.get("ratio_cpu")), gap, f"{failed:.0f}",
                f"{entry['peak_bytes'] / 2**20:.0f} MiB" if entry.get("peak_bytes") else "",
            ])  # fmt: skip
    head = ["case", "program", "models / s", "in the first call", "CPU a model", "ours / it",
            "ours with compiling / it", "CPU / ours", "logLik minus ours (models)",
            "not converged",
            "peak memory"]  # fmt: skip
    return rows_of(head, body)


def objectives(results: dict[str, Any]) -> str:
    """Cost of deviances and gradients."""
    body = [
        [case["case"], "Laplace" if entry["nagq"] == 1 else f"{entry['nagq']} nodes",
         seconds(entry["value"]), seconds(entry["gradient"]),
         ratio(entry["value_to_laplace"]), ratio(entry["gradient_to_value"])]
        for case in results["cases"]
        for entry in case["entries"]
    ]  # fmt: skip
    head = ["case", "integral", "value", "value and gradient", "value / Laplace value",
            "gradient / value"]  # fmt: skip
    return rows_of(head, body)


def derivatives(results: dict[str, Any]) -> str:
    """Derivatives of estimates beside an estimate and a gradient of the deviance."""
    body = []
    for case in results["cases"]:
        cpu, memory = case["cpu"], case["memory"]
        times, sizes = case["time_to_estimate"], case["memory_to_gradient"]
        body.append(
            [case["case"], seconds(cpu["gradient"]), seconds(cpu["estimate"]),
             seconds(cpu["reverse"]), ratio(times["reverse"]), ratio(times["alone"]),
             f"{memory['gradient'] / 2**20:.2f} MiB",
             *(ratio(sizes[name]) for name in ("estimate", "reverse", "alone"))]
        )  # fmt: skip
    head = ["case", "gradient", "estimate", "estimate and grad", "to estimate", "grad alone",
            "memory of gradient", "estimate", "estimate and grad", "grad alone"]  # fmt: skip
    return rows_of(head, body)


def influence(results: dict[str, Any]) -> str:
    """Influence without refits beside refits, and where first order fails."""
    body, failures = [], []
    for case in results["cases"]:
        for name, times in case["cpu"].items():
            body.append([case["case"], name, seconds(times["first"]), seconds(times["median"])])
        for one in case.get("first_order_fails", []):
            shown = ("move", "nonlinearity", "first-order", "second-order")
            failures.append(
                [case["case"], one["district"], str(one["rows"]), *(f"{one[k]:.3f}" for k in shown)]
            )
    head = ["case", "group", "rows", "move (standard errors)", "nonlinearity",
            "error of first order", "of second"]  # fmt: skip
    times = rows_of(["case", "task", "first call", "later calls"], body)
    return f"{times}\n\nWhere first order is off by more than 5 %:\n\n{rows_of(head, failures)}"


def coverage(results: dict[str, Any]) -> str:
    """How often intervals hold the true value, by parameter and method."""
    body = []
    for design in results["designs"]:
        for name, true in design["truth"].items():
            shares = [found[name] for found in design["coverage"].values()]
            body.append(
                [design["design"], name, f"{true:g}", *(f"{100 * s:.1f} %" for s in shares)]
            )
    methods = list(results["designs"][0]["coverage"])
    runs = results["designs"][0]["datasets"]
    error = 100 * (results["level"] * (1 - results["level"]) / runs) ** 0.5
    failed = "; ".join(
        f"{d['design']}: {d['failed']} fits failed, {d['singular']} had a variance of zero"
        for d in results["designs"]
    )
    foot = (
        f"{runs} data sets each, nominal {100 * results['level']:.0f} %, Monte-Carlo standard "
        f"error {error:.1f} %. {failed}."
    )
    return f"{rows_of(['design', 'parameter', 'true', *methods], body)}\n\n{foot}"


def small_clusters(results: dict[str, Any]) -> str:
    """Bias of standard deviations by number of nodes, and the difference of lme4's from ours."""
    counts = sorted({entry["nagq"] for d in results["designs"] for entry in d["entries"]})
    body, checks = [], []
    for design in results["designs"]:
        by_nodes = {entry["nagq"]: entry for entry in design["entries"]}
        for i, true in enumerate(design["truth"]):
            cells = [f"{by_nodes[k]['bias'][i]:+.3f}" if k in by_nodes else "" for k in counts]
            error = design["entries"][-1]["standard_error"][i]
            which = design["design"]
            if len(design["truth"]) > 1:
                which += f": {('inner', 'outer')[i]}"
            body.append([which, f"{true:g}", *cells, f"{error:.3f}"])
        lme4 = design.get("lme4", {})
        checks += [] if "not_run" in lme4 else [entry["sd"] for entry in lme4.values()]
    head = ["design", "true sd", "Laplace", *(f"{k} nodes" for k in counts[1:]), "standard error"]
    lost = sum(d["datasets"] - d["used"] for d in results["designs"])
    total = sum(d["datasets"] for d in results["designs"])
    foot = (
        f"Mean estimate less the true value; {total:,} data sets, of which {lost} are left out "
        "since a fit did not converge."
    )
    if checks:
        foot += f" lme4's standard deviations differ from ours by at most {max(checks):.1e}."
    return f"{rows_of(head, body)}\n\n{foot}"


def neural_random_effects(results: dict[str, Any]) -> str:
    """Log density of a held-out row by method, and less that of the head in the same repeat."""
    body = []
    for task, repeats in results["tasks"].items():
        for method in repeats[0]:
            found = [r[method] for r in repeats if "not_run" not in r[method]]
            heads = [r["head"] for r in repeats if "not_run" not in r[method]]
            if not found:
                body.append([task, method, repeats[0][method]["not_run"], "", "", ""])
                continue
            cells = []
            for part in ("test", "new"):
                if part not in found[0]:
                    cells.append("")
                    continue
                less = [a[part] - b[part] for a, b in zip(found, heads, strict=True)]
                error = statistics.stdev(less) / len(less) ** 0.5 if len(less) > 1 else 0.0
                mean = statistics.mean(one[part] for one in found)
                cell = f"{mean:.4f}"
                if method != "head":
                    cell += f" ({statistics.mean(less):+.4f}, error {error:.4f})"
                cells.append(cell)
            sd = f"{statistics.mean(one['sd'] for one in found):.3f}" if "sd" in found[0] else ""
            seconds = statistics.median(one["cpu_seconds"] for one in found)
            body.append([task, method, *cells, sd, f"{seconds:.1f} s"])
    repeats = {len(repeats) for repeats in results["tasks"].values()}
    head = ["data", "method", "known groups", "new groups", "sd of groups", "CPU"]
    foot = (
        f"Means over {'/'.join(map(str, sorted(repeats)))} repeats; in brackets less the head's, "
        "with its standard error. CPU: median, training and scores."
    )
    return f"{rows_of(head, body)}\n\n{foot}"


def huge(results: dict[str, Any]) -> str:
    """Fits beyond memory, a row for each call of each program."""
    body = [
        [
            case, f"{engine} {call['version']}", call["solver"], call["call"],
            seconds(call["wall"]), seconds(call["cpu"]),
            f"{call['peak_mb']:,.0f} MiB", f"{call['llf']:.3f}", f"{entry['load']:.0f}",
        ]
        for case, engines in results["cases"].items()
        for engine, entry in engines.items()
        for call in entry["calls"]
        if "llf" in call
    ]  # fmt: skip
    head = ["case", "program", "solver", "call", "time", "CPU", "peak memory", "logLik", "load"]
    return rows_of(head, body)


def many_gpu(results: dict[str, Any]) -> str:
    """Many models on an accelerator, a row for each call."""
    body = [
        [
            run["what"], run["dtype"], f"{run['models']:,}",
            seconds(run["seconds"]) + ", compiling" * run["first"],
            f"{run['models_per_second']:,.0f}",
        ]
        for run in results["runs"]
    ]  # fmt: skip
    head = ["what", "precision of the search", "models", "time", "models / s"]
    return f"{results['device']['kind']}\n\n{rows_of(head, body)}"


KINDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "single_fits": ("Single fits", single_fits),
    "cold_start": ("Fresh processes", cold_start),
    "profiles": ("Profile likelihood", profiles),
    "bootstrap": ("Parametric bootstrap", bootstrap),
    "many": ("Many models", many),
    "objectives": ("Cost of an objective", objectives),
    "derivatives": ("Derivatives of estimates", derivatives),
    "influence": ("Influence without refits", influence),
    "coverage": ("Coverage of confidence intervals", coverage),
    "small_clusters": ("Small clusters of 0/1 data", small_clusters),
    "busy_core": ("With a core kept busy", busy_core),
    "huge": ("Beyond memory", huge),
    "many_gpu": ("Many models on an accelerator", many_gpu),
    "neural_random_effects": ("Networks with random effects", neural_random_effects),
}


def main() -> None:
    paths = [Path(name) for name in sys.argv[1:]] or sorted(RESULTS.glob("*.json"))
    if not paths:
        raise SystemExit(f"there are no results files in {RESULTS}; run a benchmark first")
    for path in paths:
        results = json.loads(path.read_text(encoding="utf-8"))
        title, table = KINDS[results["kind"]]
        print(f"### {title}\n\n{place(results)}\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
