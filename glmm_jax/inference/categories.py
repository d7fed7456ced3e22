"""Ordered categories by their names: of a response, and of its probabilities."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
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
    _check_ordinal(fit, "kind='category'")
    n = len(eta)
    found = np.zeros((0, len(labels(fit))))
    if n:
        size = bucket(n)
        parts = [padded(part, size) for part in values.values()]
        with engine():
            found = np.array(run(_probabilities, padded(eta, size), parts, family=fit.family))[:n]
    return pd.DataFrame(found, index, list(labels(fit)))


def thresholds(fit: Fit) -> pd.DataFrame:
    """Thresholds tau_k between categories, a row each, named "1|2" after the two.

    Columns Estimate, Std. Error (by the delta method) and z value, as those of the coefficients.

    Raises:
        ValueError: a response that is none of ordered categories.
    """
    _check_ordinal(fit, "thresholds")
    first, *log_gaps = fit.dispersion_params.to_numpy()
    gaps = np.exp(log_gaps)
    estimate = np.cumsum([first, *gaps])
    # dtau_k / d(first, log gaps): ones, then the gaps that lie below.
    slopes = np.tril(np.broadcast_to([1.0, *gaps], (len(estimate), len(estimate))))
    V = fit.vcov_all.to_numpy()[-len(estimate) :, -len(estimate) :]
    error = np.sqrt(np.einsum("ij,jk,ik->i", slopes, V, slopes))
    z = np.divide(estimate, error, out=np.full_like(error, np.nan), where=error > 0)
    names = [f"{low}|{high}" for low, high in pairwise(labels(fit))]
    return pd.DataFrame({"Estimate": estimate, "Std. Error": error, "z value": z}, names)


def _check_ordinal(fit: Fit, argument: str) -> None:
    if not isinstance(fit.family, Ordinal):
        raise ValueError(
            f"{argument}: the {fit.family.name} family has no categories; fit an ordered response "
            "with family='ordinal'"
        )


@partial(jax.jit, static_argnames="family")
def _probabilities(eta: jax.Array, values: list[jax.Array], *, family: Family) -> jax.Array:
    assert isinstance(family, Ordinal)
    return family.probabilities(eta, as_dispersion(values))
