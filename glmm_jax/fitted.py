"""Fitted values of the rows of a model at the conditional modes of its random effects, pure."""

from __future__ import annotations

import jax

from glmm_jax import pirls, predictors
from glmm_jax.model import Model, Params


def linear_predictor(params: Params, model: Model, u: jax.Array | None = None) -> jax.Array:
    """eta = X beta + Z Lambda u~ + offset of each row, (n,), with u~ the conditional mode.

    Parameters
    ----------
    params, model : parameters and data.
    u : (q,), the mode if it is known (`Estimate.u`): it saves the search, and the mode is
        differentiated as that of params and model all the same.

    Returns
    -------
    (n,), differentiable like `conditional_mode`; NaN if that was not found.

    Raises
    ------
    ValueError : parameters or a mode that do not fit the model.
    """
    return _eta(params, model, _mode(params, model, u))


def fitted_values(params: Params, model: Model, u: jax.Array | None = None) -> jax.Array:
    """Conditional mean of each row's response at u~, (n,); of y / size for a binomial row.

    Zeros in excess are included. Arguments and errors as for `linear_predictor`.
    """
    return _mean(params, model, _mode(params, model, u))


def _mode(params: Params, model: Model, u: jax.Array | None) -> jax.Array:
    return pirls.conditional_mode(params, model, u, solved=u is not None)


@jax.jit
def _eta(params: Params, model: Model, u: jax.Array) -> jax.Array:
    eta = pirls.linear_predictor(params, model, u)
    return predictors.row_arguments(params, model, eta)[0]


@jax.jit
def _mean(params: Params, model: Model, u: jax.Array) -> jax.Array:
    eta = pirls.linear_predictor(params, model, u)
    return model.family.mean(*predictors.row_arguments(params, model, eta))
