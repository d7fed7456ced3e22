"""Many models of one design: simulated responses, written once for every program.

A study is written as NAME.csv and NAME.levels (the design, see `cases.prepare`), NAME.bin (the
responses, whole numbers of 4 bytes, one model after another) and, where the dispersions are known,
NAME.phi (8-byte floats, one a model).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cases import Case, prepare

from glmm_jax import datasets, glmer

Draw = Callable[[int], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Study:
    """Many models of one design.

    title : for tables. fixed : fixed part of the formula without the offset. group : column of the
    random intercept. family : as `glmer` names it. design : predictors, groups, offset. draw :
    number of models -> responses (models, rows) and the dispersions that made them, or None.
    models : how many by default. offset, trials : columns or None. known : dispersions are given to
    the programs. bootstrap : the responses come from a fit, and the task is its bootstrap.
    """

    name: str
    title: str
    fixed: str
    group: str
    family: str
    design: Callable[[], pd.DataFrame]
    draw: Draw
    models: int
    offset: str | None = None
    trials: str | None = None
    known: bool = False
    bootstrap: bool = False

    @property
    def right(self) -> str:
        """Right side of the formula."""
        offset = f" + offset({self.offset})" if self.offset else ""
        return f"{self.fixed}{offset} + (1 | {self.group})"

    @property
    def formula(self) -> str:
        """Formula in lme4's spelling; the response is y."""
        left = "y" if self.trials is None else f"cbind(y, {self.trials} - y)"
        return f"{left} ~ {self.right}"

    def write(self, folder: Path, models: int) -> Path:
        """Write design and responses; return the path of the CSV file."""
        case = Case(
            self.name, self.title, "y", self.fixed, self.group, self.family, (self.group,),
            self.design, self.trials,
        )  # fmt: skip
        path, rows = prepare(case, folder)
        beside = path.with_suffix
        with beside(".bin").open("wb") as file, beside(".phi").open("wb") as own:
            # In parts: the largest study has a million models.
            for first in range(0, models, 100_000):
                y, phi = self.draw(min(100_000, models - first))
                if y.shape[1] != rows or y.min() < 0 or y.max() > np.iinfo(np.int32).max:
                    raise ValueError(f"{self.name}: responses that are no counts of {rows} rows")
                file.write(np.ascontiguousarray(y, np.int32).tobytes())
                if self.known:
                    own.write(np.ascontiguousarray(phi, np.float64).tobytes())
        return path


def _grouped(rows: int, groups: int, seed: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame({"x": draw.normal(size=rows), "g": np.arange(rows) % groups})


def poisson() -> pd.DataFrame:
    """200 rows in 20 groups, one normal covariate."""
    return _grouped(200, 20, 1)


def poisson_responses() -> Draw:
    """Intercept 0.5, slope 0.3, standard deviation between groups 0.5: the same for all models."""
    data, draw = poisson(), np.random.default_rng(2)

    def drawn(models: int) -> tuple[np.ndarray, None]:
        b = 0.5 * draw.normal(size=(models, 20))
        return draw.poisson(np.exp(0.5 + 0.3 * data["x"].to_numpy() + b[:, data["g"]])), None

    return drawn


def rnaseq() -> pd.DataFrame:
    """123 samples of 82 patients, 41 of whom at two times, response to treatment of a patient.

    size : log of the sample's size factor.
    """
    draw = np.random.default_rng(3)
    patient = np.concatenate([np.repeat(np.arange(41), 2), np.arange(41, 82)])
    time = np.concatenate([np.tile([0, 1], 41), draw.integers(0, 2, 41)])
    response = draw.integers(0, 2, 82)[patient]
    size = draw.normal(0, 0.3, 123)
    return pd.DataFrame({"time": time, "response": response, "size": size, "patient": patient})


def negative_binomial_responses(
    design: Callable[[], pd.DataFrame], group: str, parts: Callable[..., np.ndarray], seed: int,
    spread: tuple[float, float],
) -> Draw:  # fmt: skip
    """Counts with a dispersion and a standard deviation between groups of each model's own.

    parts : (design, generator, models) -> linear predictors (models, rows) without random effects.
    spread : shape and scale of the gamma distribution of the standard deviations. The dispersions
    phi (variance mu + mu^2 / phi) are log-normal, median e, standard deviation of the log 0.7.
    """
    data, draw = design(), np.random.default_rng(seed)
    codes, levels = pd.factorize(data[group])

    def drawn(models: int) -> tuple[np.ndarray, np.ndarray]:
        eta = parts(data, draw, models)
        sd, phi = draw.gamma(*spread, models), np.exp(draw.normal(1.0, 0.7, models))
        b = sd[:, None] * draw.normal(size=(models, len(levels)))
        mu = np.exp(np.minimum(eta + b[:, codes], 15.0))
        return draw.poisson(mu * draw.gamma(phi[:, None], 1 / phi[:, None], size=mu.shape)), phi

    return drawn


def _genes(data: pd.DataFrame, draw: np.random.Generator, models: int) -> np.ndarray:
    """Mean counts about 55, log-normal; a tenth of the genes with an interaction."""
    base = draw.normal(4, 1.5, models)
    effect = np.where(draw.random(models) < 0.1, draw.normal(0, 1, models), 0.0)
    shared = 0.2 * data["time"] + 0.1 * data["response"] + data["size"]
    both = (data["time"] * data["response"]).to_numpy()
    return base[:, None] + shared.to_numpy() + effect[:, None] * both


def single_cell() -> pd.DataFrame:
    """6,000 cells of 30 subjects, half of them treated; size: log of the cell's relative depth."""
    draw = np.random.default_rng(5)
    subject = np.arange(6_000) % 30
    return pd.DataFrame(
        {"treated": subject % 2, "size": draw.normal(0, 0.4, 6_000), "subject": subject}
    )


def _cells(data: pd.DataFrame, draw: np.random.Generator, models: int) -> np.ndarray:
    """Mean counts about 0.4, log-normal; a tenth of the genes with an effect of the treatment."""
    base = draw.normal(-1.0, 1.0, models)
    effect = np.where(draw.random(models) < 0.1, draw.normal(0, 0.7, models), 0.0)
    return base[:, None] + data["size"].to_numpy() + effect[:, None] * data["treated"].to_numpy()


def cbpp() -> pd.DataFrame:
    """The cbpp data with its response as y."""
    frame = datasets.load("cbpp")[["incidence", "size", "period", "herd"]]
    return frame.rename(columns={"incidence": "y"})


def cbpp_responses() -> Draw:
    """Responses simulated from the fit of cbpp: those of its own bootstrap with seed 0."""

    def drawn(models: int) -> tuple[np.ndarray, None]:
        fit = glmer("cbind(y, size - y) ~ period + (1 | herd)", cbpp(), "binomial")
        return fit.simulate(models, seed=0).to_numpy().T, None

    return drawn


def studies() -> dict[str, Study]:
    """All studies by name."""
    genes = negative_binomial_responses(rnaseq, "patient", _genes, 4, (2.0, 0.25))
    same = negative_binomial_responses(rnaseq, "patient", _genes, 4, (2.0, 0.25))
    cells = negative_binomial_responses(single_cell, "subject", _cells, 6, (2.0, 0.15))
    found = [
        Study("poisson", "Poisson, 200 rows, 20 groups", "x", "g", "poisson", poisson,
              poisson_responses(), 10_000),
        Study("rnaseq", "RNA-seq shape, 123 samples, 82 patients, dispersion estimated",
              "time * response", "patient", "negative_binomial", rnaseq, genes, 20_000,
              offset="size"),
        Study("rnaseq_known", "RNA-seq shape, dispersion known", "time * response", "patient",
              "negative_binomial", rnaseq, same, 20_000, offset="size", known=True),
        Study("cbpp", "cbpp, parametric bootstrap", "period", "herd", "binomial", cbpp,
              cbpp_responses(), 10_000, trials="size", bootstrap=True),
        Study("single_cell", "single-cell shape, 6,000 cells, 30 subjects, negative binomial",
              "treated", "subject", "negative_binomial", single_cell, cells, 2_000, offset="size"),
    ]  # fmt: skip
    return {study.name: study for study in found}
