"""A family whose parameter besides eta is known: counts with a dispersion estimated elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import Array

from glmm_jax.families.base import Dispersion, Family


@dataclass(frozen=True, init=False)
class Known(Family):
    """`inner` with its parameter given, `Known(NegativeBinomial())` for example.

    The parameter is the `size` of each row, log(phi), (n,): numbers of the model like a response,
    so that many models with dispersions of their own are one program. `glmer(dispersion=2.5)` and
    `glmer_many(dispersion=values)` make such a family.

    Args:
        inner: a family with the one parameter log(phi) and no use for a size of its own.

    Raises:
        ValueError: `inner` is no such family.
    """

    inner: Family

    has_dispersion = False

    def __init__(self, inner: Family):
        plain_mean = type(inner).mean is Family.mean
        if inner.parameters != ("log(phi)",) or inner.weights_are_precisions or not plain_mean:
            raise ValueError(
                f"a known dispersion is for a family whose one parameter is phi and leaves the "
                f"mean alone, such as 'negative_binomial' or 'gamma'; {inner.name!r} is not"
            )
        for name in ("link", "default_link", "allowed_links", "has_fisher", "mean_range", "phi_is"):
            object.__setattr__(self, name, getattr(inner, name))
        object.__setattr__(self, "name", inner.name)
        object.__setattr__(self, "inner", inner)

    @property
    def is_canonical(self) -> bool:
        return self.inner.is_canonical

    def log_kernel(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return self.inner.log_kernel(y, eta, size)

    def log_base(self, y: Array, size: Array | None = None) -> Array:
        return self.inner.log_scale(y, size) + self.inner.log_base(y)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return self.inner.variance(mu, size)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        return self.inner.fisher(eta, size)

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return self.inner.positive_information(y, eta, size)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """Times phi, as that of `inner`: phi is no parameter to be divided by later."""
        return self.inner.unit_deviance(y, mu, None, size)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        return self.inner.sample(key, eta, size)

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        return self.inner.start_mean(y)

    def check(self, y: Any, size: Any = None) -> None:
        """As `inner`; log(phi) is finite."""
        self.inner.check(y)
        if size is not None and not np.all(np.isfinite(np.asarray(size))):
            raise ValueError(
                f"dispersion: the {self.name} family with a known dispersion needs finite positive "
                "values of phi"
            )
