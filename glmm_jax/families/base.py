"""What a family is: a conditional distribution of y given the linear predictor eta, and a link.

A family is static metadata: hashable, equal to another of the same class and the same fields. Its
methods are pure, elementwise functions of arrays; derivatives come from `log_prob` by automatic
differentiation, so a new family states its density once.

Shapes: y and eta are (n,), or broadcast with one another; `dispersion` holds the parameters besides
eta, on scales without bounds: for one parameter an array, log(phi) say, of shape () or broadcasting
with eta; for several a sequence of them in the order of `parameters`; else None. `size` is (n,):
the trials of a binomial row, the precision weight of a Gaussian row, None for ones. Case weights
are no business of a family: the objective multiplies each row's log density by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax import links
from glmm_jax.links import Link
from glmm_jax.tails import elementwise_derivative

Dispersion = Array | Sequence[Array] | None

# Part of the rows that the random effects leave over at least, for a starting value.
LEAST_FREEDOM = 1e-3

# A count computed as proportion * trials is an integer only up to rounding.
_INTEGER_TOLERANCE = 1e-8


@dataclass(frozen=True, init=False)
class Family:
    """Conditional distribution of the response. Subclasses state the class-level facts below and
    define `log_prob` (or its parts, where what eta leaves alone is costly), `variance`,
    `unit_deviance`, `sample`, `start_mean` and `check`.

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
    has_fisher: ClassVar[bool] = True
    # What phi means, in the words of a summary.
    phi_is: ClassVar[str] = ""
    # Whether phi is nothing but a factor of the variance: Pearson residuals then leave it out.
    variance_scales: ClassVar[bool] = False
    canonical_link: ClassVar[str | None] = None
    mean_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)  # closed

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse a `log_prob` over a parent whose parts the iterations would use instead."""
        super().__init_subclass__(**options)
        inherited = "log_kernel" not in vars(cls) and cls.log_kernel is not Family.log_kernel
        if "log_prob" in vars(cls) and inherited:
            raise TypeError(
                f"{cls.__name__} defines log_prob, but iterations use the parts of its parent's; "
                "define log_kernel, log_scale and log_base, or derive from Family"
            )

    def __init__(self, link: str | Link | None = None):
        chosen = self.default_link if link is None else links.get(link)
        # A link of the caller's own bears the caller's responsibility for its range.
        if not isinstance(chosen, links.Custom) and chosen.name not in self.allowed_links:
            allowed = ", ".join(repr(name) for name in self.allowed_links)
            raise ValueError(
                f"link={chosen.name!r} does not fit the {self.name} family; use one of {allowed}"
            )
        object.__setattr__(self, "link", chosen)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters besides eta, each on a scale without bounds."""
        return ("log(phi)",) if self.has_dispersion else ()

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
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """log p(y | eta) with all constants, (n,). Not finite where the link has no valid mean.

        It is the sum of three parts. Iterations over eta need the first alone, and a search for the
        parameters the first two; a family that does not tell them apart has all of it in the first.
        """
        kernel = self.log_kernel(y, eta, dispersion, size)
        return kernel + self.log_scale(y, dispersion, size) + self.log_base(y, size)

    def log_kernel(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """The part of `log_prob` that eta is in, (n,)."""
        return self.log_prob(y, eta, dispersion, size)

    def log_scale(
        self, y: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """The part of `log_prob` that other parameters are in, but not eta, (n,)."""
        return jnp.zeros_like(y)

    def log_base(self, y: Array, size: Array | None = None) -> Array:
        """The part of `log_prob` that no parameter is in, (n,)."""
        return jnp.zeros_like(y)

    def mean(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """Conditional mean of y, (n,); of y / size for a binomial row."""
        return self.link.inverse(eta)

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Var(y | mu), (n,)."""
        raise NotImplementedError

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """2 phi (saturated - fitted log-likelihood) of each row, (n,); no case weights.

        Without the factor phi where the density is not of exponential-dispersion type.
        """
        raise NotImplementedError

    def sample(
        self,
        key: Array,
        eta: Array,
        dispersion: Dispersion = None,
        size: Array | None = None,
    ) -> Array:
        """One draw of y for each row, (n,), in the dtype of eta."""
        raise NotImplementedError

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """Values to start `parameters` from, each (), given the means of a first fit, (n,).

        `weights` (n,) are the case weights, zero for padding; `lost` the degrees of freedom of the
        random effects. For one parameter log of the mean unit deviance.
        """
        if not self.has_dispersion:
            return ()
        total = jnp.sum(weights * self.unit_deviance(y, mu, size))
        rows = jnp.sum(weights)
        # Weights far below one may sum to less than the random effects take.
        mean = total / jnp.maximum(rows - lost, LEAST_FREEDOM * rows)
        # Means that fit exactly have a deviance of zero, which has no logarithm; a number below
        # `tiny` would count as zero in a compiled program.
        return (jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)),)

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
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """d log p / d eta of each row, (n,)."""
        return elementwise_derivative(lambda eta: self.log_kernel(y, eta, dispersion, size), eta)

    def curvature(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Observed information of each row, -d^2 log p / d eta^2, (n,)."""
        return -elementwise_derivative(lambda eta: self.score(y, eta, dispersion, size), eta)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """Expected information about eta of each row, (n,): (dE[y]/deta)^2 / Var(y).

        A family overrides this where the quotient underflows in a tail, or where the information is
        another expression. One without a usable expression states `has_fisher = False`.
        """
        slope = elementwise_derivative(self.mean, eta)
        return jnp.square(slope) / self.variance(self.mean(eta), dispersion, size)

    def positive_information(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Information about eta that is never negative, (n,): expected, or |observed| without one.

        For steps that must descend; no result depends on it.
        """
        if self.has_fisher:
            return self.fisher(eta, dispersion, size)
        return jnp.abs(self.curvature(y, eta, dispersion, size))


def one_parameter(family: Family, dispersion: Dispersion) -> Array:
    """The one parameter besides eta; a ValueError if it is missing, or if there are several."""
    if dispersion is None or isinstance(dispersion, Sequence):
        raise ValueError(
            f"dispersion={dispersion!r}, but the {family.name} family has one parameter; give "
            f"{family.parameters[0]}, one array"
        )
    return dispersion


def several_parameters(family: Family, dispersion: Dispersion) -> Sequence[Array]:
    """The parameters besides eta; a ValueError if their number is another."""
    names = family.parameters
    if not isinstance(dispersion, Sequence) or len(dispersion) != len(names):
        raise ValueError(
            f"dispersion={dispersion!r}, but the {family.name} family has {len(names)} parameters; "
            f"give {', '.join(names)}"
        )
    return dispersion


def parameter_values(family: Family, dispersion: Dispersion) -> tuple[Array, ...]:
    """The parameters besides eta as a tuple, whatever their number; see `as_dispersion`.

    Raises:
        ValueError: their number is another.
    """
    if not family.parameters:
        return ()
    if len(family.parameters) == 1:
        return (one_parameter(family, dispersion),)
    return tuple(several_parameters(family, dispersion))


def as_dispersion(values: Sequence[Array]) -> Dispersion:
    """What a family calls `dispersion`, of a tuple of its parameters: None, one array, a tuple."""
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def reachable(link: Link, y: Array) -> Array:
    """Means to start from under any link: y where the link of it is finite, else the mean of such.

    A y at an end of the link's range counts as out of it, although rounding may reach it. With no
    such value at all, the mean at eta = 0.
    """
    low, high = link.mean_range
    finite = jnp.isfinite(link.link(y)) & (y > low) & (y < high)
    total = jnp.sum(jnp.where(finite, y, 0.0))
    mean = total / jnp.maximum(jnp.sum(finite), 1)
    usable = jnp.isfinite(link.link(mean))
    return jnp.where(finite, y, jnp.where(usable, mean, link.inverse(jnp.zeros_like(mean))))


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
    nearest = np.rint(values)
    exact = values == nearest
    if exact.all():  # the usual case, in a third of the time
        return exact
    return np.abs(values - nearest) <= _INTEGER_TOLERANCE * np.maximum(1, np.abs(values))


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
