"""The log density of the parameters for a sampler, with the random effects integrated out.

A sampler moves on the whole line; standard deviations and correlations do not. With x the
position, theta_k = exp(x_k) for the elements that are zero only where a variance is, the angle of a
structured covariance (pi / 2) tanh(x_k), and everything else x_k itself,

    log density(x) = -deviance(params(x)) / 2 + log prior(params(x)) + log|d params / dx|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax.covariance import RIGHT_ANGLE, Structured
from glmm_jax.model import Model, Params, check, in_order, pivots
from glmm_jax.objective import marginal as objective

Prior = Callable[[Params], jax.Array]


@partial(jax.tree_util.register_dataclass, data_fields=["model"], meta_fields=["prior", "nagq"])
@dataclass(frozen=True)
class LogDensity:
    """log p(y | params) + log prior as a function of an unconstrained position, see `log_density`.

    A position is a `Params` whose theta is on the line; call the density with one, and `constrain`
    what a sampler returns (under `vmap` for many draws).
    """

    model: Model
    prior: Prior | None
    nagq: int

    def __call__(self, position: Params) -> jax.Array:
        """The log density of the position, (), the Jacobian included."""
        check(position, self.model)
        positive, angle = _kinds(self.model)
        x = position.theta
        # log d tanh(x) = log(1 - tanh(x)^2), without a difference of nearly equal numbers.
        bend = 2.0 * (np.log(2.0) - x - jax.nn.softplus(-2.0 * x)) + np.log(RIGHT_ANGLE)
        jacobian = jnp.sum(jnp.where(positive, x, 0.0) + jnp.where(angle, bend, 0.0))
        params = self.constrain(position)
        value = jacobian - 0.5 * objective.deviance(params, self.model, self.nagq)
        return value if self.prior is None else value + self.prior(params)

    def constrain(self, position: Params) -> Params:
        """The parameters at a position."""
        positive, angle = _kinds(self.model)
        x = position.theta
        # exp(x) of an element that is not positive could overflow, and its derivative with it.
        theta = jnp.where(positive, jnp.exp(jnp.where(positive, x, 0.0)), x)
        theta = jnp.where(angle, RIGHT_ANGLE * jnp.tanh(x), theta)
        return Params(position.beta, theta, position.dispersion)

    def unconstrain(self, params: Params) -> Params:
        """The position of parameters; minus infinity of a standard deviation of zero.

        Raises
        ------
        ValueError : parameters that do not fit the model.
        """
        check(params, self.model)
        positive, angle = _kinds(self.model)
        theta = params.theta
        x = jnp.where(positive, jnp.log(jnp.where(positive, theta, 1.0)), theta)
        inside = jnp.where(angle, theta / RIGHT_ANGLE, 0.0)
        return Params(params.beta, jnp.where(angle, jnp.arctanh(inside), x), params.dispersion)


def log_density(model: Model, prior: Prior | None = None, nagq: int = 1) -> LogDensity:
    """The log posterior density of a model's parameters, for NUTS of NumPyro, BlackJAX and others.

    Parameters
    ----------
    model : from `build_model`. Its penalties (`priors=`) are part of the density.
    prior : params -> log density, of beta, theta and dispersion on their own scales; None for a
        flat one, with which a posterior need not exist (few groups, separation).
    nagq : 1, Laplace; k > 1, adaptive quadrature with k nodes in each dimension, see `deviance`.

    Raises
    ------
    ValueError : an nagq that the model does not admit, or a prior that is no function.
    """
    if nagq == 0 and not isinstance(nagq, bool):
        raise ValueError("nagq=0 finds beta itself, so it has no density in params; use nagq >= 1")
    objective.check(model, nagq)
    if prior is not None and not callable(prior):
        raise ValueError(f"prior={prior!r}; give a function, params -> log density, or None")
    return LogDensity(model, prior, nagq)


def _kinds(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Which elements of theta are positive, and which are angles, (m,) each."""
    angle = np.zeros(model.m, bool)
    for term in in_order(model):
        if isinstance(term.covariance, Structured):
            angle[term.stop - 1] = True
    return pivots(model), angle
