"""Parametric bootstrap: responses simulated from a fit, and the model fitted to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax.driver import estimate_lanes
from glmm_jax.estimate import Estimate, checked
from glmm_jax.inference import parameter_names
from glmm_jax.inference.bootstrap_table import Bootstrap
from glmm_jax.inference.simulate import check_drawn, check_draws, chunk_size, draw
from glmm_jax.inference.varcorr import theta_names
from glmm_jax.model import flatten
from glmm_jax.progress import tracker
from glmm_jax.runtime import engine
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

LARGEST_CHUNK = 1 << 25  # numbers in the responses drawn at once
Told = Callable[[int, int], object]


def bootstrap(
    fit: Fit, n: int = 1000, seed: int = 0, *, random: str = "new", progress: bool | None = None
) -> Bootstrap:
    """Simulate n responses from the fit and fit the model to each.

    Each search starts from the fit's estimate; one that ends without an estimate (other than by
    separation) is repeated from cautious starting values. The refits run side by side, on all cores
    or on the accelerator (see `driver`), and replicate i depends on the seed and on i alone: it is
    the fit of the response "sim_i" of `simulate` with the same seed.

    Parameters
    ----------
    n : number of replicates; intervals of level 0.95 take a thousand.
    seed : a non-negative integer.
    random : as for `simulate`: "new" random effects for every replicate, or "conditional", all at
        their modes. Only "new" gives standard errors and intervals for the population.
    progress : whether to show a bar: True, False, or None for on a terminal and in a notebook.

    Returns
    -------
    Bootstrap: `estimates`, `status`, `conf_int(level, kind)`, `bse`, `bias`. Refits that fail are
    kept as rows of NaN with their status, counted, and told of when it is printed.

    Raises
    ------
    ValueError : n, seed, random or progress are not as above, or a response that cannot be drawn.
    """
    check_draws(n, seed, random)
    P = fit.df
    flat, status = np.full((n, P), np.nan), np.full(n, -1)
    singular = np.zeros(n, bool)
    with engine(), tracker(n, "bootstrap", progress) as bar:
        for first, part in _parts(fit, n, seed, random, lambda count, _: bar.update(count)):
            rows = slice(first, first + len(part.status))
            flat[rows], status[rows] = jax.vmap(flatten)(part.params), part.status
            singular[rows] = np.any(part.singular, axis=1)
    failed = status != Status.CONVERGED
    flat[failed] = np.nan
    replicate = pd.RangeIndex(1, n + 1, name="replicate")
    p, thetas = len(fit.params), theta_names(fit.frame)
    names = parameter_names.names(fit)
    return Bootstrap(
        estimates=pd.DataFrame(parameter_names.values(fit, flat), replicate, names),
        theta=pd.DataFrame(flat[:, p : p + len(thetas)], replicate, thetas),
        status=status,
        is_singular=singular & ~failed,
        original=pd.Series(
            parameter_names.values(fit, parameter_names.flat(fit)), names, name="estimate"
        ),
        seed=int(seed),
        random=random,
        weighted=_weighted(fit),
    )


def _parts(fit: Fit, n: int, seed: int, random: str, told: Told) -> Iterator[tuple[int, Estimate]]:
    """The refits of n replicates, chunk by chunk, with the number of their first."""
    start, call = fit.estimate.params, fit.call
    settings = checked(
        fit.model, fit.nagq, jax.tree.map(jnp.asarray, start), call.optimizer, call.max_steps,
        fit.reml,
    )  # fmt: skip
    drawn = chunk_size(fit.numbers.n)
    count = max(drawn, LARGEST_CHUNK // fit.numbers.n // drawn * drawn)
    for first in range(0, n, count):
        numbers = range(first, min(first + count, n), drawn)
        responses = [np.asarray(draw(fit, seed, i, drawn, random)) for i in numbers]
        y = np.concatenate(responses)[: n - first]
        check_drawn(fit, y, random)
        yield first, estimate_lanes(fit.model, {"y": y}, settings, start, told=told)


def _weighted(fit: Fit) -> bool:
    """Whether a row's log density has a factor other than one: it stands for several responses."""
    return fit.frame.weights is not None and not fit.family.weights_are_precisions
