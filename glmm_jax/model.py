"""The Model and Params pytrees: numbers only, no names, no data frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import covariance
from glmm_jax.families.base import Family
from glmm_jax.structure import Structure

CURVATURES = ("expected", "observed")
EXPECTED_REFUSED = (
    "curvature='expected': with random effects in zero_inflation= the information about eta and "
    "the zeros together is needed, which is known as observed only; use curvature='observed' (TMB)"
)
REPLACEABLE = (
    "y", "X", "Z", "offset", "weights", "size", "dispersion_X", "priors", "structure", "curvature",
)  # fmt: skip


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["beta", "theta", "dispersion"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Params:
    """Parameters of a GLMM.

    beta (p,): fixed-effects coefficients. theta (m,): covariance parameters in lme4's order, the
    lower triangle of each term's Lambda by column, term after term (or what `covariance` says of
    its kind). dispersion: the family's
    parameters besides eta; () for one, log(phi) say (Gaussian: log(sigma^2)); (d,) for several, or
    for the coefficients of models of them, parameter after parameter; None for families without.
    """

    beta: jax.Array
    theta: jax.Array
    dispersion: jax.Array | None = None


@dataclass(frozen=True)
class Term:
    """One random-effects term: the kind of its covariance, where its part of theta starts, and the
    linear predictor it belongs to: 0 for eta, s for the s-th of `Model.random_parameters`."""

    covariance: covariance.Covariance
    start: int
    predictor: int = 0

    @property
    def stop(self) -> int:
        """Where its part of theta ends."""
        return self.start + self.covariance.size


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "y", "X", "Z", "offset", "weights", "size", "structure", "dispersion_X", "priors",
    ],
    meta_fields=["terms", "family", "curvature", "random_parameters", "normalised"],
)  # fmt: skip
@dataclass(frozen=True)
class Model:
    """Data and structure of a GLMM as a pytree: arrays are leaves, the rest is static.

    Leaves: y (n,) response (number of successes for a binomial family); X (n, p); Z, one (n, k)
    array per grouping factor, the columns of all its terms side by side; offset (n,); weights (n,),
    which multiply each row's log density; size (n,) or None: trials of a binomial row, precision
    weight of a Gaussian row; structure: levels and couplings, integers; dispersion_X: for each of
    the family's `parameters` a model matrix (n, d) or None for a constant; () if all are constant;
    priors, functions (params, model) -> () that are added to the deviance, with the numbers they
    hold, see `priors`.
    Static: terms, per grouping factor the tuple of its `Term`s; family; curvature ("expected" or
    "observed"), the weights inside log|L|^2 of the Laplace deviance; random_parameters, positions
    in the family's `parameters` of those that have random effects: Z and the structure then have
    several rows for each of the n, see `pseudo_rows` and `predictors`; normalised, whether
    densities have the constants that no parameter is in (a search leaves them out).

    Grouping factors stand in order of elimination, which need not be the order of theta.
    """

    y: jax.Array
    X: jax.Array
    Z: tuple[jax.Array, ...]
    offset: jax.Array
    weights: jax.Array
    size: jax.Array | None
    structure: Structure
    terms: tuple[tuple[Term, ...], ...]
    family: Family
    curvature: str = "expected"
    dispersion_X: tuple[jax.Array | None, ...] = ()
    priors: tuple[Any, ...] = ()
    random_parameters: tuple[int, ...] = ()
    normalised: bool = True

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.y.shape[0]

    @property
    def p(self) -> int:
        """Number of fixed-effects coefficients."""
        return self.X.shape[1]

    @property
    def m(self) -> int:
        """Number of covariance parameters."""
        return sum(term.covariance.size for terms in self.terms for term in terms)

    @property
    def d(self) -> int:
        """Number of coefficients of the family's parameters besides eta."""
        return sum(self.dispersion_columns)

    @property
    def dispersion_columns(self) -> tuple[int, ...]:
        """Number of coefficients of each of the family's parameters besides eta."""
        matrices = self.dispersion_X or (None,) * len(self.family.parameters)
        return tuple(1 if matrix is None else matrix.shape[1] for matrix in matrices)

    @property
    def dispersion_shape(self) -> tuple[int, ...] | None:
        """Shape of `Params.dispersion`: () for one constant, (d,) for more, None without any."""
        if not self.family.parameters:
            return None
        return () if self.d == 1 and not self.dispersion_X else (self.d,)

    @property
    def q(self) -> int:
        """Number of random effects."""
        return self.structure.q

    def replace(self, **changes: Any) -> Model:
        """A new Model with other numbers: any of `REPLACEABLE`, in the shapes that it has now.

        Raises:
            ValueError: unknown field, or an array whose shape is not that of the one it replaces.
        """
        for name, value in changes.items():
            if name not in REPLACEABLE:
                raise ValueError(
                    f"{name}= cannot be replaced; use one of {', '.join(REPLACEABLE)}, or build "
                    "another model"
                )
            old = getattr(self, name)
            if name in ("y", "X", "offset", "weights", "size"):
                _check_array(name, value, old)
            if name == "Z" and (not isinstance(value, tuple) or len(value) != len(self.Z)):
                raise ValueError(f"Z= must be a tuple of {len(self.Z)} arrays (n, k)")
            if name in ("Z", "dispersion_X", "priors"):
                _check_tree(name, value, old)
        if changes.get("curvature", self.curvature) not in CURVATURES:
            raise ValueError(
                f"curvature={changes['curvature']!r}; use 'expected' (lme4) or 'observed' (TMB)"
            )
        if self.random_parameters and changes.get("curvature") == "expected":
            raise ValueError(EXPECTED_REFUSED)
        return replace(self, **changes)


def _check_array(name: str, value: Any, old: jax.Array | None) -> None:
    """Raise a ValueError unless `value` is an array of floats shaped as the one it replaces."""
    if old is None:
        if value is not None:
            raise ValueError(f"{name}= is given, but this model has none; build it with one")
        return
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        got = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{name}= is {got}; give an array of floats, shape {old.shape}")
    if value.shape != old.shape:
        raise ValueError(f"{name}= has shape {value.shape}; this model needs {old.shape}")


def _check_tree(name: str, value: Any, old: Any) -> None:
    """Raise a ValueError unless `value` holds arrays of floats where the one it replaces does."""
    if jax.tree.structure(value) != jax.tree.structure(old):
        shapes = jax.tree.map(jnp.shape, old)
        raise ValueError(f"{name}= has another make than that of this model, which is {shapes}")
    kept = jax.tree_util.tree_leaves_with_path(old)
    for given, (path, leaf) in zip(jax.tree.leaves(value), kept, strict=True):
        _check_array(name + jax.tree_util.keystr(path), given, leaf)


def check(params: Params, model: Model) -> None:
    """Raise a ValueError if the parameters do not fit the model."""
    if not isinstance(params, Params):
        raise ValueError(f"params (or start) is a {type(params).__name__}; give a glmm_jax.Params")
    for name, value in (("beta", params.beta), ("theta", params.theta)):
        if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
            got = getattr(value, "dtype", type(value).__name__)
            raise ValueError(f"params.{name} is {got}; give an array of floats")
    for name, wanted in (("beta", (model.p,)), ("theta", (model.m,))):
        got = jnp.shape(getattr(params, name))
        if got != wanted:
            raise ValueError(f"params.{name} has shape {got}; this model needs {wanted}")
    family = model.family
    names, wanted = ", ".join(family.parameters), model.dispersion_shape
    if wanted is None:
        if params.dispersion is not None:
            raise ValueError(
                f"params.dispersion is given; the {family.name} family has none: use None"
            )
    elif params.dispersion is None:
        raise ValueError(f"params.dispersion=None; the {family.name} family needs {names}")
    elif jnp.shape(params.dispersion) != wanted:
        got = jnp.shape(params.dispersion)
        raise ValueError(
            f"params.dispersion has shape {got}; this model needs {wanted}, the coefficients of "
            f"{names}"
        )


def pseudo_rows(predictors: int) -> np.ndarray:
    """Which linear predictors the pseudo-rows of a row hold, (rows, predictors) of 0 and 1.

    A row with one linear predictor is itself. One with several, on which random effects act by
    z_1, z_2, ..., has a pseudo-row z_s for each and z_s + z_t for each pair; see `predictors`.
    """
    own = np.eye(predictors)
    both = [own[s] + own[t] for s, t in combinations(range(predictors), 2)]
    return np.stack([*own, *both])


def row_dispersion(params: Params, model: Model) -> Any:
    """What the family calls `dispersion`: None, one array or a tuple, each () or (n,).

    Without the random effects that such a parameter may have: see `predictors.row_arguments`.
    """
    shape = model.dispersion_shape
    if shape is None or shape == ():
        return params.dispersion
    assert params.dispersion is not None
    parts, start = [], 0
    matrices = model.dispersion_X or (None,) * len(model.family.parameters)
    for matrix, columns in zip(matrices, model.dispersion_columns, strict=True):
        coefficients = params.dispersion[start : start + columns]
        parts.append(coefficients[0] if matrix is None else matrix @ coefficients)
        start += columns
    return parts[0] if len(parts) == 1 else tuple(parts)


def lambdas(theta: jax.Array, model: Model) -> tuple[jax.Array, ...]:
    """Lambda of each grouping factor, (k, k), with the factors of its terms as diagonal blocks."""
    out = []
    for terms in model.terms:
        blocks = [covariance.factor(t.covariance, theta[t.start : t.stop]) for t in terms]
        out.append(blocks[0] if len(blocks) == 1 else jax.scipy.linalg.block_diag(*blocks))
    return tuple(out)


def thetas(factors: tuple[jax.Array, ...], model: Model) -> jax.Array:
    """theta, (m,), from the Lambda of each grouping factor: the inverse of `lambdas`."""

    def own(kind: covariance.Covariance, Lambda: jax.Array, columns: slice) -> jax.Array:
        return covariance.parameters(kind, Lambda[columns, columns])

    return _by_term(own, factors, model)


def natural(rows: tuple[jax.Array, ...], model: Model) -> jax.Array:
    """Size of each element of theta, (m,), from a standard deviation of each column, (k,)."""

    def own(kind: covariance.Covariance, sd: jax.Array, columns: slice) -> jax.Array:
        return covariance.natural(kind, sd[columns])

    return _by_term(own, rows, model)


def _by_term(
    own: Callable[[covariance.Covariance, jax.Array, slice], jax.Array],
    held: tuple[jax.Array, ...],
    model: Model,
) -> jax.Array:
    """theta, (m,), put together from what `own` makes of each term: of its kind, of what is held
    for its grouping factor, and of the term's columns there."""
    parts = {}
    for terms, of_factor in zip(model.terms, held, strict=True):
        first = 0
        for term in terms:
            columns = slice(first, first + term.covariance.columns)
            parts[term.start] = own(term.covariance, of_factor, columns)
            first = columns.stop
    return jnp.concatenate([parts[start] for start in sorted(parts)])


def in_order(model: Model) -> list[Term]:
    """All terms of a model in the order of theta."""
    return sorted((t for terms in model.terms for t in terms), key=lambda t: t.start)


def pivots(model: Model) -> np.ndarray:
    """Which elements of theta are zero only where a variance is, (m,) bool; see `covariance`."""
    return np.concatenate([covariance.pivots(term.covariance) for term in in_order(model)])


def flatten(params: Params) -> jax.Array:
    """Parameters as one vector: beta, theta, then log(phi) if there is one."""
    parts = [params.beta, params.theta]
    if params.dispersion is not None:
        parts.append(jnp.ravel(params.dispersion))
    return jnp.concatenate(parts)


def unflatten(flat: jax.Array, model: Model) -> Params:
    """The inverse of `flatten` for the parameters of a model."""
    p, m = model.p, model.m
    shape = model.dispersion_shape
    dispersion = None if shape is None else flat[p + m :].reshape(shape)
    return Params(flat[:p], flat[p : p + m], dispersion)
