"""The models that are timed: classic data sets and simulated ones, prepared once for every peer.

A case is written as a CSV file, with responses as numbers, and a list of the levels of its factors,
so that each program fits the same numbers with the same coding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from glmm_jax import datasets

CM_FIXED = "age*ch + I(age^2) + urban"


@dataclass(frozen=True)
class Case:
    """One model on one data set.

    title : for tables. fixed : fixed part of the formula, in R's spelling. random : its bars.
    family : "bernoulli", "binomial" or "poisson", canonical link. response : column of numbers.
    trials : column of binomial trials or None. groups : grouping columns. frame : makes the data.
    vector : a term has several columns, correlated. large : run only when asked for. series : what
    grows from one case of its kind to the next ("rows", "levels", "parameters" or "factors"), size
    its number here.
    """

    name: str
    title: str
    response: str
    fixed: str
    random: str
    family: str
    groups: tuple[str, ...]
    frame: Callable[[], pd.DataFrame]
    trials: str | None = None
    vector: bool = False
    large: bool = False
    series: str | None = None
    size: int = 0

    @property
    def left(self) -> str:
        """Left side of the formula, as lme4 writes it."""
        if self.trials is None:
            return self.response
        return f"cbind({self.response}, {self.trials} - {self.response})"

    @property
    def formula(self) -> str:
        """Formula in lme4's spelling."""
        return f"{self.left} ~ {self.fixed} + {self.random}"


def numeric(data: str, response: str, success: str, columns: list[str]) -> pd.DataFrame:
    """Columns of a data set, its two-level response as 0 and 1."""
    frame = datasets.load(data)
    frame[response] = (frame[response] == success).astype(int)
    return frame[[response, *columns]]


def contraception() -> pd.DataFrame:
    """Contraceptive use by 1,934 women in 60 districts."""
    return numeric("contraception", "use", "Y", ["age", "ch", "urban", "district"])


def simulated_rows(rows: int, groups: int = 5_000, seed: int = 1) -> pd.DataFrame:
    """Bernoulli responses, five normal covariates, one factor with a standard deviation of 0.7."""
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(rows, 5))
    g = draw.integers(groups, size=rows)
    eta = -0.5 + X @ np.array([0.5, -0.3, 0.2, 0.0, 0.1]) + 0.7 * draw.normal(size=groups)[g]
    y = (draw.random(rows) < 1 / (1 + np.exp(-eta))).astype(int)
    columns = {f"x{k + 1}": X[:, k] for k in range(5)}
    return pd.DataFrame({"y": y, **columns, "g": g})


def simulated_crossed(
    rows: int, first: int = 20_000, second: int = 500, seed: int = 2
) -> pd.DataFrame:
    """Bernoulli responses, one covariate, two crossed factors with standard deviations 1 and 0.5.

    The first factor's levels are used evenly, each with second-factor levels drawn at random.
    """
    draw = np.random.default_rng(seed)
    a = np.arange(rows) % first
    b = draw.integers(second, size=rows)
    x = draw.normal(size=rows)
    eta = -0.3 + 0.4 * x + draw.normal(size=first)[a] + 0.5 * draw.normal(size=second)[b]
    y = (draw.random(rows) < 1 / (1 + np.exp(-eta))).astype(int)
    return pd.DataFrame({"y": y, "x": x, "a": a, "b": b})


def simulated(rows: int, covariates: int, levels: tuple[int, ...], seed: int = 3) -> pd.DataFrame:
    """Bernoulli responses, normal covariates x1, ..., crossed factors g1, ... with sd 0.7."""
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(rows, covariates))
    eta = -0.5 + X @ draw.normal(scale=0.3 / np.sqrt(covariates), size=covariates)
    columns = {f"x{k + 1}": X[:, k] for k in range(covariates)}
    for k, count in enumerate(levels):
        columns[f"g{k + 1}"] = draw.integers(count, size=rows)
        eta = eta + 0.7 * draw.normal(size=count)[columns[f"g{k + 1}"]]
    y = (draw.random(rows) < 1 / (1 + np.exp(-eta))).astype(int)
    return pd.DataFrame({"y": y, **columns})


def growing(short: bool = False) -> list[Case]:
    """Series of simulated cases in which one thing grows; a short form has three sizes of each."""

    def case(series: str, size: int, rows: int, covariates: int, levels: tuple[int, ...]) -> Case:
        groups = tuple(f"g{k + 1}" for k in range(len(levels)))
        return Case(
            f"{series}_{size}", f"series: {size:,} {series}", "y",
            " + ".join(f"x{k + 1}" for k in range(covariates)),
            " + ".join(f"(1|{g})" for g in groups), "bernoulli", groups,
            lambda: simulated(rows, covariates, levels), series=series, size=size,
        )  # fmt: skip

    step = slice(None, None, 2 if short else 1)
    return [
        *(case("rows", n, n, 5, (1_000,))
          for n in (20_000, 50_000, 100_000, 200_000, 500_000)[step]),
        *(case("levels", n, 200_000, 5, (n,)) for n in (500, 1_500, 5_000, 15_000, 50_000)[step]),
        *(case("parameters", n, 20_000, n, (500,)) for n in (4, 8, 16, 32, 64)[step]),
        *(case("factors", n, 20_000, 2, (500, 100, 40)[:n]) for n in (1, 2, 3)),
    ]  # fmt: skip


def cases(rows: int = 1_000_000, crossed_rows: int = 200_000) -> dict[str, Case]:
    """All cases by name; `rows` and `crossed_rows` are the sizes of the simulated ones."""
    found = [
        Case("cm3", "Contraception, (1|district)", "use", CM_FIXED, "(1|district)", "bernoulli",
             ("district",), contraception),
        Case("cm4", "Contraception, (urban|district)", "use", CM_FIXED, "(urban|district)",
             "bernoulli", ("district",), contraception, vector=True),
        Case("verbagg", "VerbAgg, (1|id) + (1|item)", "r2", "Anger + Gender + btype + situ",
             "(1|id) + (1|item)", "bernoulli", ("id", "item"),
             lambda: numeric("verbagg", "r2", "Y",
                             ["Anger", "Gender", "btype", "situ", "id", "item"])),
        Case("grouseticks", "grouse ticks, three factors", "TICKS", "YEAR + cHEIGHT",
             "(1|BROOD) + (1|INDEX) + (1|LOCATION)", "poisson", ("BROOD", "INDEX", "LOCATION"),
             lambda: datasets.load("grouseticks")[
                 ["TICKS", "YEAR", "cHEIGHT", "BROOD", "INDEX", "LOCATION"]]),
        Case("cbpp", "cbpp, binomial counts", "incidence", "period", "(1|herd)", "binomial",
             ("herd",), lambda: datasets.load("cbpp")[["incidence", "size", "period", "herd"]],
             trials="size"),
        Case("insteval", "InstEval, (1|s) + (1|d)", "good", "service", "(1|s) + (1|d)",
             "bernoulli", ("s", "d"),
             lambda: datasets.load("insteval")[["good", "service", "s", "d"]], large=True),
        Case("rows", "simulated, 5,000 groups", "y", "x1 + x2 + x3 + x4 + x5",
             "(1|g)", "bernoulli", ("g",), lambda: simulated_rows(rows), large=True),
        Case("crossed", "simulated, 20,000 x 500", "y", "x",
             "(1|a) + (1|b)", "bernoulli", ("a", "b"),
             lambda: simulated_crossed(crossed_rows), large=True),
    ]  # fmt: skip
    return {case.name: case for case in found}


def prepare(case: Case, folder: Path) -> tuple[Path, int]:
    """Write NAME.csv and NAME.levels to `folder`; return the CSV's path and the number of rows.

    A line of NAME.levels is a factor's column and its levels in order, separated by tabs.
    """
    frame = case.frame()
    lines = []
    for name in frame.columns:
        column = frame[name]
        if name in case.groups and not isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype("category")
        if isinstance(column.dtype, pd.CategoricalDtype):
            present = column.cat.remove_unused_categories().cat.categories
            lines.append("\t".join([str(name), *(str(level) for level in present)]))
    path = folder / f"{case.name}.csv"
    frame.to_csv(path, index=False)
    path.with_suffix(".levels").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, len(frame)


def named(names: str) -> list[Case]:
    """The cases of a `--cases` option, names separated by commas; exits on an unknown one."""
    known = cases()
    chosen = names.split(",")
    unknown = set(chosen) - set(known)
    if unknown:
        raise SystemExit(f"--cases {', '.join(sorted(unknown))}: use {', '.join(known)}")
    return [known[name] for name in chosen]
