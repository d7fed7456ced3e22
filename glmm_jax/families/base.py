"""What a family is: a conditional distribution of y given the linear predictor eta, and a link.

A family is static metadata: hashable, equal to another of the same class and the same fields. Its
methods are pure, elementwise functions of arrays; derivatives come from `log_prob` by automatic
differentiation, so a new family states its density once.

Shapes: y and eta are (n,); `dispersion` is log(phi), of shape () or one that broadcasts to (n,);
`size` is (n,): the trials of a binomial row, the precision weight of a Gaussian row, None for ones.
Case weights are no business of a family: the objective multiplies each row's log density by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax import links
from glmm_jax.links import Link
from glmm_jax.tails import elementwise_derivative

# A count computed as proportion * trials is an integer only up to rounding.
_INTEGER_TOLERANCE = 1e-8


@dataclass(frozen=True, init=False)
class Family:
    """Conditional distribution of the response. Subclasses state the class-level facts below and
    define `log_prob`, `variance`, `unit_deviance`, `sample`, `start_mean` and `check`.

    A subclass with parameters of its own is again `@dataclass(frozen=True, init=False)`, with an
    `__init__` that calls this one and sets its fields by `object.__setattr__`.

    Args:
        link: a `Link` or the name of one; None for the default of the family.

    Raises:
        ValueError: the link is unknown or does not fit the family.
    """

    link: Link

    name: ClassVar[str]
    default_link: ClassVar[Link]
    allowed_links: ClassVar[tuple[str, ...]]
    has_dispersion: ClassVar[bool]
    canonical_link: ClassVar[str | None] = None
    mean_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  # closed

    def __init__(self, link: str | Link | None = None):
        chosen = self.default_link if link is None else links.get(link)
        if chosen.name not in self.allowed_links:
            allowed = ", ".join(repr(name) for name in self.allowed_links)
            raise ValueError(
                f"link={chosen.name!r} does not fit the {self.name} family; use one of {allowed}"
            )
        object.__setattr__(self, "link", chosen)

    @property
    def weights_are_precisions(self) -> bool:
        """What an analyst's weights are: True for precisions (the `size` of each row), False for
        factors of each row's log density."""
        return False

    @property
    def is_canonical(self) -> bool:
        """Whether the link is canonical: expected and observed information are then the same."""
        return self.link.name == self.canonical_link

    def log_prob(
        self, y: Array, eta: Array, dispersion: Array | None = None, size: Array | None = None
    ) -> Array:
        """log p(y | eta) with all constants, (n,). Not finite where the link has no valid mean."""
        raise NotImplementedError

    def mean(self, eta: Array) -> Array:
        """Conditional mean of y, (n,); of y / size for a binomial row."""
        return self.link.inverse(eta)

    def variance(
        self, mu: Array, dispersion: Array | None = None, size: Array | None = None
    ) -> Array:
        """Var(y | mu), (n,)."""
        raise NotImplementedError

    def unit_deviance(self, y: Array, mu: Array, size: Array | None = None) -> Array:
        """2 phi (saturated - fitted log-likelihood) of each row, (n,); no case weights."""
        raise NotImplementedError

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Array | None = None,
        size: Array | None = None,
    ) -> Array:
        """One draw of y for each row, (n,), in the dtype of eta."""
        raise NotImplementedError

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """A mean inside the range of the link, near y, to start iterations from, (n,)."""
        raise NotImplementedError

    def check(self, y: Any, size: Any = None) -> None:
        """Host-side test of the response.

        Raises:
            ValueError: y or size is outside what the family allows; names the first such row.
        """
        raise NotImplementedError

    def score(
        self, y: Array, eta: Array, dispersion: Array | None = None, size: Array | None = None
    ) -> Array:
        """d log p / d eta of each row, (n,)."""
        return elementwise_derivative(lambda eta: self.log_prob(y, eta, dispersion, size), eta)

    def curvature(
        self, y: Array, eta: Array, dispersion: Array | None = None, size: Array | None = None
    ) -> Array:
        """Observed information of each row, -d^2 log p / d eta^2, (n,)."""
        return -elementwise_derivative(lambda eta: self.score(y, eta, dispersion, size), eta)

    def fisher(
        self, eta: Array, dispersion: Array | None = None, size: Array | None = None
    ) -> Array:
        """Expected information about eta of each row, (n,): (dE[y]/deta)^2 / Var(y).

        A family overrides this where the quotient underflows in a tail, or where the information is
        another expression (any family that is not of exponential-dispersion type).
        """
        slope = elementwise_derivative(self.mean, eta)
        return jnp.square(slope) / self.variance(self.mean(eta), dispersion, size)


def relative_entropy_term(y: Array, fitted: Array) -> Array:
    """y log(y / fitted) with 0 log 0 = 0, value and derivative in `fitted` alike."""
    positive = y > 0
    # The inner `where` keeps 0 * log(0) out of the derivative of the branch not taken.
    ratio = jnp.where(positive, y, 1.0) / jnp.where(positive, fitted, 1.0)
    return jnp.where(positive, y * jnp.log(ratio), 0.0)


def numeric(argument: str, values: Any) -> np.ndarray:
    """`values` as a float64 vector.

    Raises:
        ValueError: not one-dimensional, not numbers, empty, NaN or infinite.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{argument} has shape {array.shape}; give a vector, one value per row")
    if array.size == 0:
        raise ValueError(f"{argument} is empty; give at least one row")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{argument} has dtype {array.dtype}; give numbers or booleans")
    array = array.astype(np.float64)
    require(
        argument, array, np.isfinite(array), "finite", "drop the row or fill in the missing value"
    )
    return array


def is_integer(values: np.ndarray) -> np.ndarray:
    """Whether each value is an integer, up to the rounding of a product such as 0.07 * 100."""
    return np.abs(values - np.round(values)) <= _INTEGER_TOLERANCE * np.maximum(1, np.abs(values))


def require(
    argument: str, values: np.ndarray, valid: np.ndarray, requirement: str, remedy: str
) -> None:
    """Raise a ValueError that names the first row where `valid` is false and counts the others."""
    rows = np.flatnonzero(~valid)
    if rows.size:
        others = f" (and {rows.size - 1} more)" if rows.size > 1 else ""
        raise ValueError(
            f"{argument} must be {requirement}; got {values[rows[0]]:g} in row {rows[0]}{others}; "
            f"{remedy}"
        )


def require_unit_size(family: Family, size: Any, remedy: str) -> None:
    """Raise a ValueError when a family without a size is given one other than ones."""
    if size is not None and np.any(np.asarray(size) != 1):
        raise ValueError(f"size was given, but the {family.name} family has none; {remedy}")


def sized(size: Any, y: np.ndarray) -> np.ndarray:
    """`size` as a float64 vector as long as y; ones for None.

    Raises:
        ValueError: not a vector of finite numbers, or of another length.
    """
    if size is None:
        return np.ones_like(y)
    array = numeric("size", size)
    if array.shape != y.shape:
        raise ValueError(f"size has {array.size} values and y has {y.size}; give one per row")
    return array
