"""Parametric bootstrap: responses simulated from a fit, and the model fitted to each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax.batch import responses_program
from glmm_jax.estimate import checked, program
from glmm_jax.inference import parameter_names
from glmm_jax.inference.bootstrap_table import Bootstrap
from glmm_jax.inference.refit import FINAL
from glmm_jax.inference.simulate import check_drawn, check_draws, chunk_size, draw
from glmm_jax.inference.varcorr import theta_names
from glmm_jax.model import flatten
from glmm_jax.progress import tracker
from glmm_jax.runtime import engine, run
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def bootstrap(
    fit: Fit, n: int = 1000, seed: int = 0, *, random: str = "new", progress: bool | None = None
) -> Bootstrap:
    """Simulate n responses from the fit and fit the model to each.

    Each search starts from the fit's estimate; one that ends without an estimate (other than by
    separation) is repeated from starting values of its own response. The refits run in one
    compiled program, in as many threads as there are cores, and replicate i depends on the seed
    and on i alone: it is the fit of the response "sim_i" of `simulate` with the same seed.

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
        for first, part in _parts(fit, n, seed, random):
            rows = slice(first, min(first + len(part.status), n))
            count = rows.stop - first
            flat[rows], status[rows] = part.flat[:count], part.status[:count]
            singular[rows] = part.singular[:count]
            bar.update(count)
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


class _Part(NamedTuple):
    """Results of one chunk of replicates: flat (count, P), status and singular (count,)."""

    flat: np.ndarray
    status: np.ndarray
    singular: np.ndarray


def _parts(fit: Fit, n: int, seed: int, random: str) -> Iterator[tuple[int, _Part]]:
    """The chunks of n replicates with the number of their first, in the order they are ready.

    Every chunk has the same size, so that there is one program; of the last one a part is unused.
    """
    count = chunk_size(fit.model.n)
    accelerator = jax.default_backend() != "cpu"
    # On a CPU fits side by side would wait for the slowest of them; cores take a chunk each.
    together = count if accelerator else None
    starts = range(0, n, count)
    # The first chunk alone: it compiles what the others use.
    yield 0, _chunk(fit, seed, 0, count, random, together)
    threads = 1 if accelerator else min(_cores(), len(starts) - 1)
    if threads <= 1:
        for first in starts[1:]:
            yield first, _chunk(fit, seed, first, count, random, together)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = {
            pool.submit(_chunk, fit, seed, first, count, random, together): first
            for first in starts[1:]
        }
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        # After an interruption what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _chunk(fit: Fit, seed: int, first: int, count: int, random: str, together: int | None) -> _Part:
    """Replicates first, ..., first + count - 1."""
    model, call = fit.model, fit.call
    with engine():  # the choice of float64 belongs to a thread
        start = jax.tree.map(jnp.asarray, fit.estimate.params)
        settings = checked(model, fit.nagq, start, call.optimizer, call.max_steps, fit.reml)
        responses = draw(fit, seed, first, count, random)
        check_drawn(fit, np.asarray(responses), random)
        found = run(responses_program, model, responses, start, batch_size=together, **settings)
        flat = np.array(jax.vmap(flatten)(found.params))
        status, singular = np.array(found.status), np.any(np.asarray(found.singular), axis=1)
        for i in np.flatnonzero(~np.isin(status, FINAL)):
            again: Any = run(program, replace(model, y=responses[i]), None, **settings)
            if int(again.status) in FINAL:
                flat[i], status[i] = np.asarray(flatten(again.params)), int(again.status)
                singular[i] = bool(np.any(np.asarray(again.singular)))
    return _Part(flat, status, singular)


def _weighted(fit: Fit) -> bool:
    """Whether a row's log density has a factor other than one: it stands for several responses."""
    return fit.frame.weights is not None and not fit.family.weights_are_precisions
