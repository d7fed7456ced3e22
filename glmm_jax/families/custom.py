"""A family of the caller's own, from a function of (y, eta, dispersion).

    def gumbel(y, eta, log_scale):
        z = (y - eta) / jnp.exp(log_scale)
        return -z - jnp.exp(-z) - log_scale

    family = gj.families.custom(gumbel, parameters=("log(phi)",), name="gumbel")
    fit = gj.glmer("y ~ x + (1 | g)", data, family=family)

is a model of yearly maxima, with eta the mode. The search for the conditional modes, the Laplace
approximation, quadrature and all derivatives follow from the one function; what else a verb needs,
a variance or a sampler, is given as a further function, or missed with a sentence. Under the link
identity fitted values are eta; here `mean=lambda eta, log_scale: eta + 0.5772 * jnp.exp(log_scale)`
would make them means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax import links
from glmm_jax.families.base import (
    Dispersion,
    Family,
    as_dispersion,
    numeric,
    parameter_values,
    reachable,
    require,
    require_unit_size,
)
from glmm_jax.links import Link

Function = Callable[..., Any]


@dataclass(frozen=True, init=False)
class Custom(Family):
    """A family made by `custom`; equal to another made of the same function objects."""

    name: str
    names: tuple[str, ...]
    functions: tuple[tuple[str, Function], ...]
    start: tuple[float, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.names

    def _given(self, name: str) -> Function | None:
        return dict(self.functions).get(name)

    def _needed(self, name: str, verb: str, signature: str) -> Function:
        function = self._given(name)
        if function is None:
            raise ValueError(
                f"{verb} of the {self.name} family was asked for, which was made without it; give "
                f"families.custom(..., {name}={signature})"
            )
        return function

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        # Checks the number of the parameters.
        values = as_dispersion(parameter_values(self, dispersion))
        function = self._needed("log_prob", "the density", "a function of (y, eta, dispersion)")
        return function(y, eta, values)

    def mean(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """What was given as `mean`, else the inverse of the link, the shape of eta."""
        function = self._given("mean")
        return self.link.inverse(eta) if function is None else function(eta, dispersion)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        function = self._needed("variance", "the variance", "a function of (mu, dispersion)")
        return function(mu, dispersion)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        signature = "a function of (y, mu, dispersion)"
        return self._needed("unit_deviance", "the unit deviance", signature)(y, mu, dispersion)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        signature = "a function of (key, eta, dispersion)"
        return self._needed("sample", "a simulation", signature)(key, eta, dispersion)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        signature = "a function of (eta, dispersion)"
        return self._needed("fisher", "the expected information", signature)(eta, dispersion)

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """The numbers given as `start`, zeros without."""
        return tuple(jnp.asarray(value, mu.dtype) for value in self.start)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """y itself where the link of it is finite, elsewhere the mean of such y, (n,)."""
        return reachable(self.link, y)

    def check(self, y: Any, size: Any = None) -> None:
        """y is finite and in the support, where one was given; there is no size."""
        values = numeric("y", y)
        support = self._given("support")
        if support is not None:
            valid = np.asarray(support(values))
            if valid.shape != values.shape or valid.dtype.kind != "b":
                raise ValueError(
                    f"support= of the {self.name} family gave {valid.dtype} of shape {valid.shape} "
                    f"for y of shape {values.shape}; let it give one boolean for each row"
                )
            remedy = "correct the row, or the support="
            require("y", values, valid, f"in the support of the {self.name} family", remedy)
        require_unit_size(self, size, "let the density contain what varies between rows")


def custom(
    log_prob: Function,
    link: str | Link = "identity",
    parameters: Sequence[str] = (),
    *,
    mean: Function | None = None,
    variance: Function | None = None,
    sample: Function | None = None,
    start: Sequence[float] | None = None,
    support: Function | None = None,
    unit_deviance: Function | None = None,
    fisher: Function | None = None,
    name: str = "custom",
) -> Custom:
    """A family from its log density alone.

    All functions are pure and elementwise, of JAX arrays that broadcast with one another (`support`
    alone: of a NumPy vector). `dispersion` is None without parameters, one array for one of them,
    a tuple of arrays for several, all on scales without bounds.

    Args:
        log_prob: (y, eta, dispersion) -> log p(y | eta) with all constants. eta is the linear
            predictor: the density applies the inverse of the link itself. Three times
            differentiable in eta and twice in the dispersion.
        link: which mean belongs to eta; used for starting values and for fitted values.
        parameters: names of the parameters besides eta. "log(phi)" is the one that a formula
            `dispersion=` models, "logit(zero)" the one of `zero_inflation=`.
        mean: (eta, dispersion) -> E[y], where it is not the inverse of the link.
        variance: (mu, dispersion) -> Var(y), for Pearson residuals.
        sample: (key, eta, dispersion) -> one draw of y for each eta, for simulations.
        start: a number to start each parameter from; default zeros.
        support: y -> whether each value is possible, a boolean vector.
        unit_deviance: (y, mu, dispersion) -> twice the distance to the saturated log density.
        fisher: (eta, dispersion) -> expected information about eta. Without it the curvature of a
            fit is "observed".
        name: how output calls it.

    Returns:
        A family for `glmer` and `build_model`. Two are equal if made of the same function objects:
        define the functions once, since each new one compiles programs of its own.

    Raises:
        ValueError: an argument of another type; a density that is not elementwise. What was not
            given is a ValueError when it is asked for, not before.
    """
    given = {
        "log_prob": log_prob,
        "mean": mean,
        "variance": variance,
        "sample": sample,
        "support": support,
        "unit_deviance": unit_deviance,
        "fisher": fisher,
    }
    for argument, function in given.items():
        optional = argument != "log_prob"
        if not callable(function) and not (optional and function is None):
            also = ", or None" if optional else " of (y, eta, dispersion)"
            raise ValueError(f"{argument}={function!r}; give a function{also}")
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r}; give a word for the family")
    if isinstance(parameters, str) or not all(isinstance(one, str) for one in parameters):
        raise ValueError(f"parameters={parameters!r}; give a tuple of names, such as ('log(phi)',)")
    names = tuple(parameters)
    if len(set(names)) < len(names):
        raise ValueError(f"parameters={parameters!r}; give each a name of its own")
    values = (0.0,) * len(names) if start is None else tuple(float(value) for value in start)
    if len(values) != len(names) or not np.all(np.isfinite(values)):
        raise ValueError(f"start={start!r}; give a finite number for each of {names}, or None")
    family = object.__new__(Custom)
    put = object.__setattr__
    put(family, "link", links.get(link))
    put(family, "default_link", family.link)
    put(family, "allowed_links", (family.link.name,))
    put(family, "name", name)
    put(family, "names", names)
    put(family, "functions", tuple((key, one) for key, one in given.items() if one is not None))
    put(family, "start", values)
    put(family, "has_dispersion", names == ("log(phi)",))
    put(family, "has_fisher", fisher is not None)
    _require_elementwise(family)
    return family


def _require_elementwise(family: Custom) -> None:
    """Raise a ValueError unless the density of shapes (3, 1) and (3, 2) has the shape (3, 2)."""

    def shaped(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.result_type(float))

    def density(y: Array, eta: Array, *values: Array) -> Array:
        return family.log_prob(y, eta, as_dispersion(values))

    try:
        got = jax.eval_shape(density, shaped(3, 1), shaped(3, 2), *(shaped() for _ in family.names))
    except TypeError as error:
        raise ValueError(
            f"log_prob= cannot be called ({error}); let it take (y, eta, dispersion), whose "
            "dispersion is None if the family has no parameters besides eta"
        ) from error
    if getattr(got, "shape", None) != (3, 2):
        raise ValueError(
            f"log_prob= gives {got} for y of shape (3, 1) and eta of shape (3, 2); let it give the "
            "log density of each element, shape (3, 2), without a sum or a mean"
        )
