"""Names and values of the parameters as analysts read them: beta, SDs, correlations, the rest.

The engine's vector is (beta, theta, dispersion) with theta the lower triangles of Lambda; there are
as many parameters here, in this order: beta; of each covariance block the standard deviations, then
the correlations (2,1), (3,1), (3,2), ... as in `varcorr`, or the one that a structure has; then
sigma = sqrt(phi) of a Gaussian
family with one phi for all rows, or the coefficients of the family's other parameters on their
scales without bounds, as the engine has them: "log(phi)", "logit(zero): x". Of random effects in
such a parameter the names begin with it too: "logit(zero): sd(Intercept | site)".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from glmm_jax import covariance
from glmm_jax.build import PARAMETER_OF, coefficient_names, kind_of
from glmm_jax.covariance import AR1, Covariance, Diagonal, Structured
from glmm_jax.families.gaussian import Gaussian
from glmm_jax.formula.frame import CONDITIONAL, RandomBlock
from glmm_jax.inference import structured
from glmm_jax.model import flatten
from glmm_jax.runtime import engine

if TYPE_CHECKING:
    from glmm_jax.families.base import Family
    from glmm_jax.formula.frame import Frame
    from glmm_jax.results import Fit

# "root": the standard deviation of a column under compound symmetry, whose parameter is its square
# root; "cor2", "cor3", ...: the common correlation of so many columns.
KINDS = ("beta", "sd", "cor", "sigma", "parameter", "root", "cor2")
SIGMA = "sigma"


@dataclass(frozen=True)
class Layout:
    """Where the parameters lie: p coefficients, the covariance of each block, whether there is a
    sigma, and how many further parameters.

    It can be hashed, so that it may be a static argument of a compiled function.
    """

    p: int
    blocks: tuple[Covariance, ...]
    sigma: bool
    others: int = 0

    @property
    def size(self) -> int:
        """Number of parameters, P: the same in both orders."""
        return self.p + sum(kind.size for kind in self.blocks) + self.sigma + self.others

    @property
    def kinds(self) -> tuple[str, ...]:
        """One of `KINDS` for each parameter."""
        out = ["beta"] * self.p
        for kind in self.blocks:
            k = kind.columns
            if isinstance(kind, AR1):
                out += ["sd", "cor"]
            elif isinstance(kind, Structured):
                out += ["root"] * k + [f"cor{k}"]
            else:
                out += ["sd"] * k + ["cor"] * len(pairs(kind))
        return (*out, *(["sigma"] * self.sigma), *(["parameter"] * self.others))

    @property
    def members(self) -> dict[int, tuple[int, ...]]:
        """Of each correlation, by position, the positions of the standard deviations without any of
        which it means nothing."""
        out: dict[int, tuple[int, ...]] = {}
        start = self.p
        for kind in self.blocks:
            k = kind.columns
            if isinstance(kind, AR1):
                out[start + 1] = (start,)
            elif isinstance(kind, Structured):
                if k == 2:
                    out[start + 2] = (start, start + 1)
            else:
                for c, (i, j) in enumerate(pairs(kind)):
                    out[start + k + c] = (start + i, start + j)
            start += kind.size
        return out


def layout(fit: Fit) -> Layout:
    """The layout of a fit's parameters."""
    blocks = tuple(kind_of(block) for block in fit.frame.blocks)
    sigma = has_sigma(fit)
    others = 0 if sigma else fit.numbers.d
    return Layout(len(fit.frame.X_names), blocks, sigma, others)


def has_sigma(fit: Fit) -> bool:
    """Whether the model has one residual standard deviation: Gaussian, with the same phi for all
    rows."""
    return isinstance(fit.family, Gaussian) and not fit.frame.parameter_models


class Named(Protocol):
    """What has names for parameters: a fit, or a design of many."""

    @property
    def frame(self) -> Frame: ...
    @property
    def family(self) -> Family: ...


def dispersion_names(fit: Named) -> list[str]:
    """Names of the coefficients of the family's parameters besides eta, in the engine's order:
    "log(phi)" for a constant, "log(phi): x" for a column of its model.
    """
    return coefficient_names(fit.frame, fit.family)


def dispersion_errors(fit: Fit) -> np.ndarray:
    """Standard errors of `Fit.dispersion_params`, (d,); infinite where the deviance is flat.

    Such directions have no part in `Fit.vcov_all`, which would give a parameter that ran to an
    infinity a standard error of zero.
    """
    first = fit.numbers.p + fit.numbers.m
    errors = np.sqrt(np.diag(fit.vcov_all.to_numpy())[first:])
    return np.where(np.any(fit.flat_directions[first:] != 0, axis=1), np.inf, errors)


def names(fit: Fit) -> list[str]:
    """Names of the parameters, (P,), for example "age", "sd(Intercept | district)",
    "cor(Intercept, urban[T.Y] | district)", "sigma".
    """
    out = list(fit.frame.X_names)
    for block in fit.frame.blocks:
        own, kind = prefix(block), kind_of(block)
        if isinstance(kind, Structured):
            for one, two in structured.names(block):
                inner = f"sd({one}" if two is None else f"cor({one}, {two}"
                out.append(f"{own}{inner} | {block.grouping})")
            continue
        out += [f"{own}sd({name} | {block.grouping})" for name in block.names]
        for i, j in pairs(kind):
            out.append(f"{own}cor({block.names[j]}, {block.names[i]} | {block.grouping})")
    return [*out, *([SIGMA] if has_sigma(fit) else dispersion_names(fit))]


def prefix(block: RandomBlock) -> str:
    """What stands before the names of a block's parameters: "" or "logit(zero): "."""
    return "" if block.part == CONDITIONAL else f"{PARAMETER_OF[block.part]}: "


def pairs(kind: covariance.Linear) -> list[tuple[int, int]]:
    """Rows and columns (i, j), i > j, of the correlations of a block, in order."""
    i, j = np.tril_indices(0 if isinstance(kind, Diagonal) else kind.columns, -1)
    return list(zip(i.tolist(), j.tolist(), strict=True))


def flat(fit: Fit) -> np.ndarray:
    """The estimate as one vector (beta, theta, log phi), (P,)."""
    with engine():
        return np.asarray(flatten(jax.tree.map(jnp.asarray, fit.estimate.params)))


def values(fit: Fit, flat: Any) -> np.ndarray:
    """Values in the order of `names`, (..., P), of flat (beta, theta, dispersion), (..., P).

    sd_i = |Lambda_i|, the length of a row; cor_ij = Lambda_i . Lambda_j / (sd_i sd_j), NaN where a
    standard deviation is zero; sigma = exp(log(phi) / 2).

    Raises:
        ValueError: another number of parameters than the fit has.
    """
    array, where = np.asarray(flat, float), layout(fit)
    if array.shape[-1:] != (where.size,):
        raise ValueError(
            f"flat has shape {array.shape}; its last axis must hold the {where.size} parameters "
            "(beta, theta, dispersion) of this fit"
        )
    with np.errstate(invalid="ignore"):  # a correlation with a standard deviation of zero is 0 / 0
        return _transform(np, array, where)


def transform(flat: jax.Array, where: Layout) -> jax.Array:
    """`values` as a JAX function, (..., P) to (..., P), for `jit`, `vmap` and derivatives."""
    return _transform(jnp, flat, where)


def _transform(xp: Any, flat: Any, where: Layout) -> Any:
    parts, start = [flat[..., : where.p]], where.p
    for kind in where.blocks:
        k = kind.columns
        if isinstance(kind, Structured):
            parts.append(_one_correlation(xp, flat[..., start : start + kind.size], kind))
            start += kind.size
            continue
        row, column = kind.entries()
        place = {(i, j): start + e for e, (i, j) in enumerate(zip(row, column, strict=True))}
        Lambda = [
            [flat[..., place[i, j]] for j in range(i + 1) if (i, j) in place] for i in range(k)
        ]
        sd = [xp.sqrt(_dot(L, L)) for L in Lambda]
        cor = [_dot(Lambda[i], Lambda[j]) / (sd[i] * sd[j]) for i, j in pairs(kind)]
        parts.append(xp.stack([*sd, *cor], axis=-1))
        start += kind.size
    if where.sigma:
        parts.append(xp.exp(0.5 * flat[..., start:]))
    elif where.others:
        parts.append(flat[..., start:])
    return xp.concatenate(parts, axis=-1)


def _one_correlation(xp: Any, theta: Any, kind: Structured) -> Any:
    """Standard deviations, then the correlation, (..., size), of a structured covariance."""
    sd = covariance.deviations(kind, theta)
    enough = xp.sum(sd > 0, axis=-1) >= (1 if isinstance(kind, AR1) else 2)
    rho = xp.where(enough, covariance.correlation(kind, theta[..., -1], xp), xp.nan)
    return xp.concatenate([sd, rho[..., None]], axis=-1)


def _dot(a: list[Any], b: list[Any]) -> Any:
    """Inner product of two rows of a lower triangle: the shorter one ends with zeros."""
    return sum(x * y for x, y in zip(a, b, strict=False))
