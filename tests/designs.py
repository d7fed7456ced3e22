"""Small simulated designs: a structure of the random effects, a family and a link.

They feed the tests of values, derivatives, transformations and linear algebra. A design knows
its data (seeded), its model in the engine, parameters away from any optimum, and the plain matrices
of the same model, made here without the engine: Z with a column per random effect and Lambda from
theta in lme4's order.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import families
from glmm_jax.build import place
from glmm_jax.families.base import Family
from glmm_jax.formula.frame import Frame, build_frame
from glmm_jax.model import Model, Params

STRUCTURES = {
    "scalar": "(1 | g)",
    "slope": "(x | g)",
    "slopes": "(x + z | g)",
    "two_terms": "(1 | g) + (0 + x | g)",
    "diagonal_and_full": "(x || g) + (z | h)",
    "nested": "(1 | a/b)",
    "nested_three": "(x | a) + (1 | a:b) + (1 | a:b:c)",
    "crossed": "(1 | g) + (1 | h)",
    "crossed_slopes": "(x | g) + (z | h)",
    "crossed_three": "(1 | g) + (x | h) + (1 | k)",
    "nested_and_crossed": "(1 | a/b) + (x | h)",
    "nested_and_crossed_twice": "(1 | a/b) + (1 | h) + (1 | k)",
    "five_columns": "(x + z + v + w | g)",
}


@dataclass(frozen=True)
class Design:
    """A structure, a family, a link, and what else a row may carry."""

    structure: str
    family: str = "bernoulli"
    link: str = "logit"
    curvature: str = "expected"
    offset: bool = False
    weights: bool = False

    def __str__(self) -> str:
        extra = ["offset"] * self.offset + ["weights"] * self.weights
        extra += [self.curvature] * (self.curvature != "expected")
        return "-".join([self.structure, self.family, self.link, *extra])

    @property
    def distribution(self) -> Family:
        """The family with its link."""
        return families.get(self.family, self.link)

    @property
    def intercept(self) -> float:
        """Of the simulated data: a square root must stay positive for every row."""
        return 3.0 if self.link == "sqrt" else 0.3

    @property
    def formula(self) -> str:
        """The model formula."""
        fixed = "cbind(y, trials - y)" if self.family == "binomial" else "y"
        return f"{fixed} ~ x + z + " + STRUCTURES[self.structure]


@dataclass(frozen=True, eq=False)
class Plain:
    """The same model as plain matrices: per term Z (n, k), level of each row, number of levels."""

    y: np.ndarray
    X: np.ndarray
    offset: np.ndarray
    weights: np.ndarray
    size: np.ndarray | None
    terms: tuple[tuple[np.ndarray, np.ndarray, int], ...]

    @property
    def Z(self) -> np.ndarray:
        """Random-effects model matrix, (n, q): term after term, level after level."""
        blocks = []
        for Z, index, levels in self.terms:
            n, k = Z.shape
            block = np.zeros((n, levels, k))
            block[np.arange(n), index] = Z
            blocks.append(block.reshape(n, levels * k))
        return np.concatenate(blocks, axis=1)

    def Lambda(self, theta, numpy=np):
        """Lambda, (q, q), from theta in lme4's order; `numpy=jnp` keeps it differentiable."""
        q = sum(levels * Z.shape[1] for Z, _, levels in self.terms)
        total = numpy.zeros((q, q))
        start, row = 0, 0
        for Z, _, levels in self.terms:
            k = Z.shape[1]
            block = numpy.zeros((k, k))
            for j in range(k):
                for i in range(j, k):
                    block = block + theta[start] * _unit(k, i, j)
                    start += 1
            size = levels * k
            placed = numpy.kron(np.eye(levels), block)
            before, after = np.eye(q)[:, row : row + size], np.eye(q)[row : row + size]
            total = total + before @ placed @ after
            row += size
        assert start == len(theta)
        return total


def _unit(k: int, i: int, j: int) -> np.ndarray:
    out = np.zeros((k, k))
    out[i, j] = 1.0
    return out


@cache
def data(design: Design, n: int = 72) -> pd.DataFrame:
    """The rows of a design, simulated from its family, as a data frame with labelled factors."""
    rng = np.random.default_rng(zlib.crc32(str(design).encode()))
    frame = pd.DataFrame({name: rng.normal(size=n) for name in "xzvw"})
    # The nested factors are balanced, the others are not.
    row = np.arange(n)
    labels = {"a": row % 4, "b": row // 4 % 3, "c": row // 12 % 2}
    labels |= {name: rng.integers(0, count, n) for name, count in (("g", 9), ("h", 6), ("k", 5))}
    for name, codes in labels.items():
        frame[name] = pd.Categorical([f"{name}{code}" for code in codes])
    frame["exposure"] = rng.normal(0.0, 0.3, n)
    frame["weight"] = rng.uniform(0.5, 2.0, n)
    frame["trials"] = rng.integers(2, 9, n)
    eta = design.intercept + 0.4 * frame["x"].to_numpy() - 0.2 * frame["z"].to_numpy()
    for name in "abghk":
        codes = frame[name].cat.codes.to_numpy()
        eta = eta + rng.normal(0.0, 0.4, codes.max() + 1)[codes]
    if design.offset:
        eta = eta + frame["exposure"].to_numpy()
    mean = np.asarray(design.distribution.mean(jnp.asarray(eta)))
    draw: dict[str, Callable[[], np.ndarray]] = {
        "bernoulli": lambda: rng.binomial(1, mean).astype(float),
        "binomial": lambda: rng.binomial(frame["trials"], mean).astype(float),
        "poisson": lambda: rng.poisson(mean).astype(float),
        "gaussian": lambda: mean + rng.normal(0.0, 0.7, n),
    }
    frame["y"] = draw[design.family]()
    return frame


@cache
def frame(design: Design) -> Frame:
    """What the formula makes of the data."""
    return build_frame(
        design.formula,
        data(design),
        offset="exposure" if design.offset else None,
        weights="weight" if design.weights else None,
    )


def model(design: Design, padded: bool = False) -> Model:
    """The engine's model."""
    return place(frame(design), design.distribution, design.curvature, padded)[0]


def params(design: Design) -> Params:
    """Parameters away from the optimum, every element of theta other than zero."""
    built = frame(design)
    beta = np.array([design.intercept - 0.1, 0.3, -0.4])
    theta: list[float] = []
    for block in built.blocks:
        k = len(block.names)
        for j in range(k):
            theta += [0.7 - 0.05 * j, *(0.15 - 0.1 * ((i + j) % 2) for i in range(j + 1, k))]
    phi = jnp.asarray(-0.5) if design.family == "gaussian" else None
    return Params(jnp.asarray(beta), jnp.asarray(theta), phi)


def plain(design: Design) -> Plain:
    """The matrices of the model, from the frame alone."""
    built = frame(design)
    n = len(built.y)
    weights, size = built.weights, built.trials
    if design.family == "gaussian" and weights is not None:
        weights, size = None, weights
    return Plain(
        y=built.y,
        X=built.X,
        offset=built.offset,
        weights=np.ones(n) if weights is None else weights,
        size=size,
        terms=tuple((block.Z, block.index, len(block.levels)) for block in built.blocks),
    )
