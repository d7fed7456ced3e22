"""Randomised quantile residuals: where a response lies among responses simulated from the fit.

Let y_0 be the observed response of a row and y_1 .. y_n simulated ones. If the model is true the
n + 1 values are exchangeable, so that the rank of y_0 among them, ties broken at random, is
uniform on 0 .. n, and

    u = (#{k : y_k < y_0} + (1 + #{k : y_k = y_0}) V) / (n + 1),      V ~ U(0, 1),

is uniform on (0, 1) exactly, for discrete and for continuous responses alike. It is never 0 or 1,
so its normal score Phi^-1(u) is finite.

Source: Dunn & Smyth (1996), Randomized quantile residuals, J. Comp. Graph. Stat. 5, 236-244; by
simulation as in Hartig's R package DHARMa.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

# Numbers ranked at once: bounds the memory for many rows.
LARGEST_BLOCK = 4_000_000


def scaled(y: np.ndarray, simulated: np.ndarray, seed: int) -> np.ndarray:
    """Position u of each response among its simulated ones, (nobs,), in (0, 1).

    Parameters: y (nobs,); simulated (n, nobs), in the same coding; seed of the random ties.
    """
    below = np.sum(simulated < y, axis=0)
    tied = np.sum(simulated == y, axis=0)
    V = _generator(seed).random(y.shape)
    return (below + (1 + tied) * V) / (len(simulated) + 1)


class Ranks(NamedTuple):
    """Every response among all the others, for tests calibrated by simulation.

    u (n + 1, nobs) : positions, the observed response in row 0. outside (n + 1, nobs) : whether it
    is beyond all the others.
    """

    u: np.ndarray
    outside: np.ndarray


def ranks(y: np.ndarray, simulated: np.ndarray, seed: int) -> Ranks:
    """Positions of the observed and of every simulated response among all others.

    Positions of rows that share random effects depend on each other, so a test for independent
    uniform numbers has not its nominal level; compared with the same statistic of the simulated
    responses, it has.
    """
    together = np.concatenate([y[None], simulated])
    total, nobs = together.shape
    u = np.empty(together.shape)
    outside = np.empty(together.shape, bool)
    generator = _generator(seed)
    step = max(1, LARGEST_BLOCK // total)
    for first in range(0, nobs, step):
        part = slice(first, first + step)
        lowest = scipy.stats.rankdata(together[:, part], "min", axis=0)
        highest = scipy.stats.rankdata(together[:, part], "max", axis=0)
        V = generator.random(lowest.shape)
        u[:, part] = (lowest - 1 + (highest - lowest + 1) * V) / total
        outside[:, part] = (highest == 1) | (lowest == total)
    return Ranks(u, outside)


def distance_from_normal(u: np.ndarray) -> np.ndarray:
    """Lilliefors' distance of each row of u, (k, nobs): the shape of the residuals.

    The Kolmogorov-Smirnov distance of the normal scores, with their mean taken off and divided by
    their standard deviation, from the standard normal distribution. Estimation of the parameters
    has centred and scaled the residuals of the observed response, not those of the simulated ones;
    without this step the test would find nothing.
    """
    # Row by row: half a dozen arrays of the size of u would be too many for large data.
    return np.array([_lilliefors(row) for row in u])


def _lilliefors(u: np.ndarray) -> float:
    scores = np.sort(scipy.special.ndtri(u))
    probability = scipy.special.ndtr((scores - scores.mean()) / scores.std())
    steps = np.arange(len(u) + 1) / len(u)
    return float(max(np.max(steps[1:] - probability), np.max(probability - steps[:-1])))


def monte_carlo_p(statistics: np.ndarray, tail: str = "both") -> float:
    """P-value of statistics[0] among all of them, (n + 1,), exchangeable under the model.

    With g of the simulated values at least as large and l at most as large, (1 + g) / (n + 1) for
    tail "upper"; for "both", twice the smaller of that and (1 + l) / (n + 1), at most 1. NaN where
    a statistic is NaN.
    """
    if np.any(np.isnan(statistics)):
        return np.nan
    observed, others = statistics[0], statistics[1:]
    upper = (1 + np.sum(others >= observed)) / len(statistics)
    if tail == "upper":
        return float(upper)
    lower = (1 + np.sum(others <= observed)) / len(statistics)
    return float(min(1.0, 2 * min(upper, lower)))


def _generator(seed: int) -> np.random.Generator:
    # A stream of its own, so that ties are not broken by the numbers that made the responses.
    return np.random.default_rng([seed, 0x71])
