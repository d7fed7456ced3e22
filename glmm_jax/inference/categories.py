"""Ordered categories by their names: of a response, and of its probabilities."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np
import pandas as pd

from glmm_jax.build import bucket, padded
from glmm_jax.families.base import Family, as_dispersion
from glmm_jax.families.ordinal import Ordinal
from glmm_jax.runtime import engine, run

if TYPE_CHECKING:
    from glmm_jax.results import Fit


def labels(fit: Fit) -> tuple[str, ...]:
    """Names of the categories, lowest first: their numbers where the response was numbers."""
    assert isinstance(fit.family, Ordinal) and fit.family.categories is not None
    return fit.frame.response_levels or tuple(map(str, range(fit.family.categories)))


def categorical(fit: Fit, codes: np.ndarray) -> pd.Categorical:
    """Numbers of categories, (rows,), as an ordered factor."""
    return pd.Categorical.from_codes(codes.astype(int), categories=labels(fit), ordered=True)


def probabilities(
    fit: Fit, eta: np.ndarray, values: dict[str, np.ndarray], index: pd.Index
) -> pd.DataFrame:
    """P(y = k) in rows of linear predictor eta, (rows,), a column for each category.

    values : of each of the family's parameters in the rows, (rows,).

    Raises:
        ValueError: a response that is none of ordered categories.
    """
    if not isinstance(fit.family, Ordinal):
        raise ValueError(
            f"kind='category': the {fit.family.name} family has no categories; use 'response' or "
            "'link', or fit an ordered response with family='ordinal'"
        )
    n = len(eta)
    found = np.zeros((0, len(labels(fit))))
    if n:
        size = bucket(n)
        parts = [padded(part, size) for part in values.values()]
        with engine():
            found = np.array(run(_probabilities, padded(eta, size), parts, family=fit.family))[:n]
    return pd.DataFrame(found, index, list(labels(fit)))


@partial(jax.jit, static_argnames="family")
def _probabilities(eta: jax.Array, values: list[jax.Array], *, family: Family) -> jax.Array:
    assert isinstance(family, Ordinal)
    return family.probabilities(eta, as_dispersion(values))
