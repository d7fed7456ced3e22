"""Responses simulated from a fit."""

from __future__ import annotations

from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import pirls
from glmm_jax.families.ordinal import Ordinal
from glmm_jax.inference.categories import categorical
from glmm_jax.model import Model, Params
from glmm_jax.predictors import row_arguments
from glmm_jax.runtime import QUICK_SIZE, engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit

RANDOM = ("new", "conditional")
TOGETHER = 64  # draws made side by side, if they are no more than QUICK_SIZE numbers


def simulate(fit: Fit, n: int = 1, seed: int = 0, random: str = "new") -> pd.DataFrame:
    """Responses drawn from the fitted model, a column each.

        y_i ~ p(y | eta_i, phi),   eta = X beta + Z Lambda u + offset

    Parameters
    ----------
    n : number of responses.
    seed : a non-negative integer. Draw i of a seed is the same whatever n.
    random : "new", u ~ N(0, I) drawn afresh for every response; "conditional", u at the
        conditional modes, so that every response comes from the same groups.

    Returns
    -------
    A data frame with a row per row used and columns "sim_1", "sim_2", ..., in the coding of the
    response in the fit: 1 for the second of two levels, numbers of successes where there are
    trials; ordered categories come as such. `refit` takes a column back. Precision weights enter
    the variance; a weight that multiplies a log density does not change how its row is drawn.

    Raises
    ------
    ValueError : n, seed or random are not as above, or the link has no valid mean at some draw of
        the random effects.
    """
    draws = simulate_array(fit, n, seed, random)
    names = [f"sim_{i + 1}" for i in range(n)]
    if isinstance(fit.family, Ordinal) and fit.frame.response_levels is not None:
        columns = (categorical(fit, one) for one in draws)
        return pd.DataFrame(dict(zip(names, columns, strict=True)), fit.frame.index)
    return pd.DataFrame(draws.T, fit.frame.index, names)


def simulate_array(fit: Fit, n: int = 1, seed: int = 0, random: str = "new") -> np.ndarray:
    """The responses of `simulate` as an array (n, rows used)."""
    check_draws(n, seed, random)
    chunk = 1 if n == 1 else chunk_size(fit.numbers.n)
    out = np.empty((n, fit.nobs))
    for first in range(0, n, chunk):
        with engine():
            drawn = np.asarray(draw(fit, seed, first, chunk, random))
        out[first : first + chunk] = drawn[: n - first, : fit.nobs]
    check_drawn(fit, out, random)
    return out


def check_drawn(fit: Fit, responses: np.ndarray, random: str) -> None:
    """Raise a ValueError if some of the responses, (n, rows), could not be drawn."""
    invalid = int(np.sum(~np.all(np.isfinite(responses), axis=1)))
    if invalid:
        raise ValueError(
            f"random={random!r}: in {invalid} of {len(responses)} draws the {fit.family.link.name} "
            "link has no valid mean for some row, so no response can be drawn; use a link whose "
            "means are valid for every linear predictor, or random='conditional'"
        )


def check_draws(n: Any, seed: Any, random: Any) -> None:
    """Raise a ValueError unless these are arguments of `simulate`."""
    if isinstance(n, bool) or not isinstance(n, Integral) or int(n) < 1:
        raise ValueError(f"n={n!r}; give the number of responses, a positive integer")
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise ValueError(f"seed={seed!r}; give an integer from 0 to 2**63 - 1")
    if random not in RANDOM:
        raise ValueError(
            f"random={random!r}; use 'new' (random effects drawn afresh) or 'conditional' (at "
            "their conditional modes)"
        )


def chunk_size(rows: int) -> int:
    """How many draws of `rows` numbers are made side by side, by a program compiled quickly."""
    return max(1, min(TOGETHER, QUICK_SIZE // rows))


def draw(fit: Fit, seed: int, first: int, count: int, random: str) -> jax.Array:
    """Draws first, ..., first + count - 1 of a seed, (count, padded rows); NaN without a mean.

    To be called inside `engine()`.
    """
    params, u = fit.estimate.params, fit.estimate.u
    return draws_of(params, u, fit.model, seed, first, count, random == "new")


def draws_of(
    params: Params, u: Any, model: Model, seed: int, first: int, count: int, new: bool = True
) -> jax.Array:
    """`draw` of any parameters and model; of u, (q,), the shape alone counts where new."""
    numbers = np.arange(first, first + count)
    arrays = jax.tree.map(jnp.asarray, (params, u))
    return run(_draws, *arrays, model, np.int64(seed), numbers, new=new)


@partial(jax.jit, static_argnames="new")
def _draws(
    params: Params, u: jax.Array, model: Model, seed: jax.Array, numbers: jax.Array, *, new: bool
) -> jax.Array:
    """One response for each of `numbers`, (count, n)."""
    # Named, so that a user's choice of another generator does not change what a seed gives.
    key = jax.random.key(seed, impl="threefry2x32")

    def one(number: jax.Array) -> jax.Array:
        # By its number, not by splitting: a draw depends on nothing but the seed and its number.
        for_u, for_y = jax.random.split(jax.random.fold_in(key, number))
        effects = jax.random.normal(for_u, u.shape, u.dtype) if new else u
        predictors = pirls.linear_predictor(params, model, effects)
        eta, phi = row_arguments(params, model, predictors)
        y = model.family.sample(for_y, eta, phi, model.size)
        # The density of what was drawn is finite wherever the link has a valid mean.
        density = model.family.log_prob(y, eta, phi, model.size)
        return jnp.where(jnp.isfinite(density), y, jnp.nan)

    return jax.vmap(one)(numbers)
