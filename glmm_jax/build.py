"""From a frame of named columns to a Model of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import families, structure
from glmm_jax.covariance import KINDS, Covariance
from glmm_jax.families.base import Family
from glmm_jax.formula.frame import CONDITIONAL, Frame, RandomBlock, build_frame
from glmm_jax.formula.relationship import Relationship
from glmm_jax.model import CURVATURES, EXPECTED_REFUSED, Model, Term, pseudo_rows
from glmm_jax.priors import check_degrees, resolve

# The parameter, by its name in `Family.parameters`, that an argument of `glmer` models.
PARAMETER_OF = {"dispersion": "log(phi)", "zero_inflation": "logit(zero)"}


@dataclass(frozen=True)
class Placement:
    """Where each random-effects block of a frame lies in a model.

    factor, column : per block, the position of its grouping factor in the model and of its first
        column among the columns of that factor. levels : per factor, the levels that are real.
    n : rows that are real; the others are padding.
    """

    factor: tuple[int, ...]
    column: tuple[int, ...]
    levels: tuple[int, ...]
    n: int


def build_model(
    formula: str,
    data: pd.DataFrame,
    family: str | Family = "gaussian",
    link: str | None = None,
    *,
    weights: Any = None,
    offset: Any = None,
    trials: Any = None,
    curvature: str | None = None,
    na_action: str = "drop",
    dispersion: Any = None,
    zero_inflation: str | None = None,
    priors: Any = (),
    relationship: Any = None,
    solver: str = "auto",
) -> Model:
    """The Model pytree of a formula and a data frame, for the pure layer.

    Its arrays have JAX's default float type: float32, or float64 under `jax.enable_x64(True)`.

    Parameters
    ----------
    formula : as in lme4, for example "use ~ age + (1 | district)".
    data : a data frame or a dictionary of columns.
    family, link : a name or a `families.Family`; link None for the family's default.
    weights, offset, trials : names of columns or arrays (n,), see `glmer`.
    curvature : "expected" (lme4) or "observed" (TMB) weights inside log|L|^2; None for "expected"
        where the family knows its expected information, else "observed".
    dispersion, zero_inflation : one-sided formulas, "~ x", for log(phi) and logit(zero); the latter
        may have random effects, "~ x + (1 | g)", and makes a count family its zero-inflated
        version. A known phi is given as a number, or one a row.
    priors : penalties added to the deviance, see `priors`.
    na_action : "drop" rows with missing values, or "raise".
    relationship, solver : see `glmer`.

    Raises
    ------
    ValueError : anything wrong with the input; the message names the argument and the remedy.
    """
    chosen = families.get(family, link)
    if zero_inflation is not None:
        chosen = families.with_zeros(chosen)
    frame = build_frame(
        formula,
        data,
        weights=weights,
        offset=offset,
        trials=trials,
        na_action=na_action,
        dispersion=dispersion,
        zero_inflation=zero_inflation,
        absorbed=absorbs(chosen),
        relationship=relationship,
    )
    return place(frame, adapted(chosen, frame), curvature, priors=priors, solver=solver)[0]


def adapted(family: Family, frame: Frame) -> Family:
    """The family with the number of categories of the response, or with its dispersion known.

    Raises:
        ValueError: a dispersion is known of a family without one, or should be and is not.
    """
    if absorbs(family):
        return family.matched(frame.y)  # type: ignore[attr-defined]
    if frame.known is not None:
        return family if isinstance(family, families.Known) else families.Known(family)
    if isinstance(family, families.Known):
        raise ValueError(f"family={family!r} has a known dispersion; give its values, dispersion=")
    return family


def absorbs(family: Family) -> bool:
    """Whether the family has thresholds that take the place of the intercept."""
    return getattr(family, "absorbs_intercept", False)


def bucket(size: int, cubic: bool = False) -> int:
    """The padded size of an array of `size` rows, levels or couplings.

    Four sizes to a doubling (sixteen above 100,000, where padding would cost more than a
    compilation saves), so that data of a similar size reuse a compiled program. What is `cubic` in
    its size, levels of a dense matrix, has sixteen from 256: a quarter more doubles the work.
    """
    if size <= 8:
        return 8
    steps = 4 if size <= (256 if cubic else 100_000) else 16
    power = 1 << (int(size - 1).bit_length() - 1)  # the power of two below size
    unit = max(power // steps, 1)
    return -(-size // unit) * unit


def padded(values: np.ndarray, size: int) -> np.ndarray:
    """Values, (n, ...), followed by copies of the first up to a padded size, (size, ...).

    One compiled program then serves data of similar size; a first row is valid for every link.
    """
    n = len(values)
    if size == n:
        return values
    out = np.empty((size, *values.shape[1:]), values.dtype)
    out[:n], out[n:] = values, values[0]
    return out


def place(
    frame: Frame,
    family: Family,
    curvature: str | None = None,
    padded: bool = False,
    priors: Any = (),
    pad: Callable[[int], int] | None = None,
    solver: str = "auto",
) -> tuple[Model, Placement]:
    """Model of a frame, and where the frame's blocks lie in it; see `arrange`."""
    model, placement = arrange(frame, family, curvature, padded, priors, pad, solver)
    return jax.tree.map(jnp.asarray, model), placement


def arrange(
    frame: Frame,
    family: Family,
    curvature: str | None = None,
    padding: bool = False,
    priors: Any = (),
    pad: Callable[[int], int] | None = None,
    solver: str = "auto",
) -> tuple[Model, Placement]:
    """The model of a frame in NumPy arrays, and where the frame's blocks lie in it.

    With `padding`, rows of weight zero (copies of the first) and levels without rows are added up
    to the next `bucket` (or what `pad` makes of their number); neither changes an estimate. A
    compiled program takes such a model several times faster than `place` makes arrays of JAX.

    Raises:
        ValueError: the response does not suit the family, or the design cannot be estimated.
    """
    further = any(block.part != CONDITIONAL for block in frame.blocks)
    if curvature is None:
        curvature = "expected" if family.has_fisher and not further else "observed"
    if curvature not in CURVATURES:
        raise ValueError(f"curvature={curvature!r}; use 'expected' (lme4) or 'observed' (TMB)")
    if curvature == "expected" and not family.has_fisher:
        raise ValueError(
            f"curvature='expected': the {family.name} family has no expected information in closed "
            "form; use curvature='observed' (TMB)"
        )
    if curvature == "expected" and further:
        raise ValueError(EXPECTED_REFUSED)
    _check_distinct(frame)
    matrices = _parameter_matrices(frame, family)
    size, weights = _sizes_and_weights(frame, family)
    family.check(frame.y, size)
    _check_identified(frame, family)
    names = list(dict.fromkeys(block.grouping for block in frame.blocks))
    members = [[b for b in frame.blocks if b.grouping == name] for name in names]
    levels = tuple(len(blocks[0].levels) for blocks in members)
    columns = tuple(sum(b.Z.shape[1] for b in blocks) for blocks in members)
    index = tuple(np.asarray(blocks[0].index) for blocks in members)
    relations = [blocks[0].relationship for blocks in members]
    related = tuple(f for f, relation in enumerate(relations) if relation is not None)
    order, eliminated = structure.elimination_order(index, levels, columns, related)
    pad = (pad or bucket) if padding else structure.identity
    n = len(frame.y)
    size_n = pad(n)
    pad_rest = partial(bucket, cubic=True) if pad is bucket else pad
    padded_levels = tuple(
        (pad if i < eliminated else pad_rest)(levels[f]) for i, f in enumerate(order)
    )
    kind = jnp.result_type(float)
    parameters = _random_parameters(frame, family)
    holds = pseudo_rows(1 + len(parameters))
    pattern = structure.build(
        tuple(np.tile(padded(index[f], size_n), len(holds)) for f in order),
        padded_levels,
        tuple(columns[f] for f in order),
        eliminated,
        pad,
        {
            order.index(f): _root(relation, padded_levels[order.index(f)]).astype(kind)
            for f, relation in enumerate(relations)
            if relation is not None
        },
        solver,
    )
    starts = np.cumsum([0, *(kind_of(b).size for b in frame.blocks)])
    acts = [_predictor(b, parameters, family) for b in frame.blocks]
    terms = tuple(
        tuple(
            Term(kind_of(b), int(starts[i]), acts[i])
            for i, b in enumerate(frame.blocks)
            if b.grouping == names[f]
        )
        for f in order
    )
    check_degrees(priors, terms)
    case = np.zeros(size_n)
    case[:n] = 1.0 if weights is None else weights

    def columns_of(f: int) -> np.ndarray:
        """Z of a factor: of each pseudo-row the columns of the predictors that it holds."""
        side_by_side = [
            np.concatenate([padded(b.Z, size_n) * on for on in holds[:, acts[i]]])
            if len(holds) > 1
            else padded(b.Z, size_n)
            for i, b in enumerate(frame.blocks)
            if b.grouping == names[f]
        ]
        return np.concatenate(side_by_side, axis=1) if len(side_by_side) > 1 else side_by_side[0]

    numbers = {
        "y": frame.y,
        "X": frame.X,
        "offset": frame.offset,
        "size": size,
        "dispersion_X": matrices,
    }
    numbers = jax.tree.map(lambda a: padded(a, size_n), numbers)
    numbers |= {"Z": tuple(columns_of(f) for f in order), "weights": case}
    numbers = jax.tree.map(lambda a: np.asarray(a, kind), numbers)
    model = Model(
        **numbers,
        structure=pattern,
        terms=terms,
        family=family,
        curvature=curvature,
        priors=resolve(priors, frame.X_names, coefficient_names(frame, family)),
        random_parameters=parameters,
    )
    placement = Placement(
        factor=tuple(order.index(names.index(b.grouping)) for b in frame.blocks),
        column=tuple(_first_column(b, members[names.index(b.grouping)]) for b in frame.blocks),
        levels=tuple(levels[f] for f in order),
        n=n,
    )
    return model, placement


def kind_of(block: RandomBlock) -> Covariance:
    """The kind of covariance of a block's columns."""
    return KINDS[block.structure](block.Z.shape[1])


def _root(relation: Relationship, size: int) -> np.ndarray:
    """Lower Cholesky factor of a relationship matrix, (size, size); padded levels are unrelated."""
    root = np.eye(size)
    levels = len(relation.labels)
    root[:levels, :levels] = np.linalg.cholesky(relation.matrix)
    return root


def _parameter_matrices(frame: Frame, family: Family) -> tuple[np.ndarray | None, ...]:
    """Model matrix of each of the family's parameters besides eta, () if all are constant."""
    models = {PARAMETER_OF[model.argument]: model for model in frame.parameter_models}
    for name, model in models.items():
        if name not in family.parameters:
            raise ValueError(
                f"{model.argument}='~ {model.formula}': the {family.name} family has no parameter "
                f"{name}; choose another family or leave {model.argument}= out"
            )
    if not models:
        return ()
    return tuple(models[name].X if name in models else None for name in family.parameters)


def coefficient_names(frame: Frame, family: Family) -> list[str]:
    """Names of the coefficients of the family's parameters besides eta, in the engine's order:
    "log(phi)" for a constant, "log(phi): x" for a column of its model.
    """
    models = {PARAMETER_OF[model.argument]: model for model in frame.parameter_models}
    out = []
    for name in family.parameters:
        out += [f"{name}: {c}" for c in models[name].names] if name in models else [name]
    return out


def _random_parameters(frame: Frame, family: Family) -> tuple[int, ...]:
    """Positions in the family's `parameters` of those whose formulas have random terms."""
    parts = {block.part for block in frame.blocks} - {CONDITIONAL}
    return tuple(sorted(family.parameters.index(PARAMETER_OF[part]) for part in parts))


def _predictor(block: RandomBlock, parameters: tuple[int, ...], family: Family) -> int:
    """The linear predictor that a block acts on: 0 for eta, see `Term.predictor`."""
    if block.part == CONDITIONAL:
        return 0
    return 1 + parameters.index(family.parameters.index(PARAMETER_OF[block.part]))


def _check_distinct(frame: Frame) -> None:
    """Two terms with the same column and factor share one variance, which cannot be divided."""
    seen = set()
    for block in frame.blocks:
        where = "formula" if block.part == CONDITIONAL else block.part
        for name in block.names:
            if (name, block.grouping, block.part) in seen:
                raise ValueError(
                    f"{where}: {name!r} has a random effect by {block.grouping!r} in two terms, so "
                    "their variances cannot be told apart; write it once, for example "
                    f"(1 | {block.grouping}) + (0 + x | {block.grouping})"
                )
            seen.add((name, block.grouping, block.part))


def _first_column(block: RandomBlock, members: list[RandomBlock]) -> int:
    before = 0
    for member in members:
        if member is block:
            return before
        before += member.Z.shape[1]
    raise AssertionError("the block belongs to its factor")


def _sizes_and_weights(frame: Frame, family: Family) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What `weights=` and `trials=` mean for the family: (size, case weights)."""
    if family.weights_are_precisions and frame.weights is not None:
        return frame.weights, None
    if frame.trials is not None and family.name not in ("binomial", "beta-binomial"):
        raise ValueError(
            f"trials= (or cbind) was given, but family={family.name!r} has no trials; "
            "use family='binomial' or 'beta_binomial'"
        )
    if frame.known is not None:
        return np.log(frame.known), frame.weights
    return frame.trials, frame.weights


def _check_identified(frame: Frame, family: Family) -> None:
    """A Gaussian model needs residuals: none are left by a perfect fit or by a level per row."""
    if family.name != "gaussian":
        return
    n = len(frame.y)
    if family.link.name == "identity":
        response = frame.y - frame.offset
        left = response - frame.X @ np.linalg.lstsq(frame.X, response, rcond=None)[0]
        if np.linalg.norm(left) <= 1e-12 * np.linalg.norm(response):
            raise ValueError(
                f"response: {frame.response_name!r} is constant or an exact linear combination of "
                "the covariates, so its residual variance is zero; check the response and formula"
            )
    for block in frame.blocks:
        if block.relationship is not None and np.any(np.tril(block.relationship.matrix, -1)):
            continue  # related levels tell their variance from that of the residuals
        if block.structure in ("ar1", "cs") and block.Z.shape[1] > 2:
            continue  # and so do correlations of one kind between three columns or more
        effects = len(block.levels) * block.Z.shape[1]
        if effects >= n:
            raise ValueError(
                f"formula: {block.named(block.label)} has {effects} random "
                f"effects for {n} rows, so its variance and the residual variance cannot both be "
                "estimated; use a coarser grouping factor, fewer columns, or another family"
            )
