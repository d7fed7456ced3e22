"""The marginal likelihood as a loss: of parameters, and of arrays that another function makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from glmm_jax.embedding.batches import Batch
from glmm_jax.model import Model, Params
from glmm_jax.objective import marginal as objective


def marginal_nll(model: Model | Batch, nagq: int = 1) -> Callable[..., jax.Array]:
    """The loss nll(params, **arrays) = -log p(y), with the random effects integrated out.

        nll(params, offset=o, X=X, ...) = deviance(params, model.replace(offset=o, X=X, ...)) / 2

    The arrays, any that `Model.replace` takes, may come from a network or any other function in
    JAX; derivatives of any order go through them. Penalties of the model count.

    Parameters
    ----------
    model : from `build_model`, or a batch of whole groups: then the loss is scaled so that its mean
        over the batches, and that of its gradient, are those of all groups. Arrays for a batch have
        its rows, `Batch.rows`.
    nagq : 1, Laplace; k > 1, adaptive quadrature with k nodes in each dimension, see `deviance`.

    Returns
    -------
    A pure function with a scalar value; NaN where the conditional mode was not found.

    Raises
    ------
    ValueError : an nagq that the model does not admit; and, from the loss, parameters or arrays
        that do not fit the model.
    """
    if not isinstance(model, Model | Batch):
        raise ValueError(
            f"model is a {type(model).__name__}; give a Model from build_model, or a Batch"
        )
    rows, scale = (model.model, model.scale) if isinstance(model, Batch) else (model, 1.0)
    if nagq == 0 and not isinstance(nagq, bool):
        raise ValueError("nagq=0 finds beta itself, so it is no loss in params; use nagq >= 1")
    objective.check(rows, nagq)

    def nll(params: Params, **arrays: Any) -> jax.Array:
        if "weights" in arrays and isinstance(model, Batch):
            raise ValueError(
                "weights= of a batch would count the rows that pad it; give the model its weights "
                "before group_batches"
            )
        return 0.5 * scale * objective.deviance(params, rows.replace(**arrays), nagq)

    return nll
