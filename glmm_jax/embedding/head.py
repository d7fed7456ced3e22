"""Random effects as the last layer of a network: a pytree with the parameters of a GLMM.

    eta_i = output_i + x_i' beta + z_i' b + offset_i,       b ~ N(0, Lambda Lambda')

`output` comes from any function in JAX. The head is a frozen dataclass whose leaves are arrays, so
it can be a field of an Equinox module, a parameter of a Flax one, or an entry of a dictionary, and
optax trains it together with the rest: the loss is the marginal likelihood, in which the random
effects are integrated out rather than fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import pirls
from glmm_jax.covariance import Structured, independent
from glmm_jax.embedding import prediction
from glmm_jax.embedding.batches import Batch
from glmm_jax.embedding.loss import marginal_nll
from glmm_jax.linalg import base
from glmm_jax.model import Model, Params, in_order, lambdas, natural, pivots


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=[])
@dataclass(frozen=True)
class RandomEffectsHead:
    """The parameters of a GLMM whose fixed effects are, wholly or in part, a network's output.

    params : beta (p,), of the columns of the model's X that stay linear (none for a formula
    "y ~ 0 + (1 | g)"); theta (m,); dispersion. An intercept is for the formula or for the bias of
    the network's last layer, not for both.
    """

    params: Params

    @staticmethod
    def of(model: Model, sd: float = 0.5) -> RandomEffectsHead:
        """A head to start training from: beta of zero, uncorrelated random effects of the given
        standard deviation in units of b, log(phi) of zero.

        A standard deviation of zero would stay there: the gradient vanishes by symmetry.

        Raises
        ------
        ValueError : sd is not a positive number.
        """
        number = isinstance(sd, int | float) and not isinstance(sd, bool)
        if not number or not 0 < sd < np.inf:
            raise ValueError(f"sd={sd!r}; give a positive number")
        dtype = model.y.dtype
        size = natural(tuple(jnp.full(k, sd, dtype) for k in model.structure.columns), model)
        parts = []
        for term in in_order(model):
            own = slice(term.start, term.stop)
            if isinstance(term.covariance, Structured):
                parts.append(independent(term.covariance, size[own], jnp.ones((), dtype)))
            else:
                parts.append(jnp.where(pivots(model)[own], size[own], 0.0))
        shape = model.dispersion_shape
        dispersion = None if shape is None else jnp.zeros(shape, dtype)
        return RandomEffectsHead(
            Params(jnp.zeros(model.p, dtype), jnp.concatenate(parts), dispersion)
        )

    def nll(self, output: jax.Array, model: Model | Batch, nagq: int = 1) -> jax.Array:
        """-log p(y) with the output added to the offset, (); see `marginal_nll`.

        Parameters: output (n,), one number a row of the model or batch; nagq as in `deviance`.
        """
        rows = model.model if isinstance(model, Batch) else model
        return marginal_nll(model, nagq)(self.params, offset=_offset(output, rows))

    def predict(self, output: jax.Array, model: Model) -> prediction.Prediction:
        """Every row's linear predictor given the rows with weights; see `embedding.predict`.

        Rows to predict, of known groups or new ones, have weight zero in the model.
        """
        return prediction.predict(self.params, model.replace(offset=_offset(output, model)))

    def effects(self, output: jax.Array, model: Model) -> tuple[jax.Array, ...]:
        """Conditional modes b, one (levels, k) array per factor in the order of the structure.

        Elsewhere they give eta = output + sum_j z_j b[level, j] of a row of a known group; that of
        a new group has b = 0.
        """
        here = model.replace(offset=_offset(output, model))
        u = pirls.conditional_mode(self.params, here)
        return base.effects(model.structure, lambdas(self.params.theta, model), u)

    def deviations(self, model: Model) -> tuple[jax.Array, ...]:
        """Standard deviations of the random effects, (k,) per factor in the structure's order."""
        found = lambdas(self.params.theta, model)
        return tuple(jnp.sqrt(jnp.sum(Lambda**2, axis=1)) for Lambda in found)


def _offset(output: jax.Array, model: Model) -> jax.Array:
    """The model's offset plus a network's output; a ValueError if that is not one number a row."""
    shape = jnp.shape(output)
    if shape != (model.n,):
        hint = "; take [:, 0] of it" if shape == (model.n, 1) else ""
        raise ValueError(
            f"output has shape {shape}; give one number for each row of the model, ({model.n},)"
            f"{hint}"
        )
    return model.offset + output
