"""From a formula and a data frame to the arrays of a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax.formula.blocks import CONDITIONAL, RandomBlock, random_blocks
from glmm_jax.formula.columns import Factor, Value
from glmm_jax.formula.fixed import Coding, Terms, code, expand, model_matrix
from glmm_jax.formula.parser import parse, parse_one_sided
from glmm_jax.formula.rank import independent_columns
from glmm_jax.formula.relationship import check_names, read_relationships
from glmm_jax.formula.response import Response, counts, ordered, plain, two_levels, with_trials
from glmm_jax.formula.rows import (
    Rows,
    as_data_frame,
    constants_in,
    read_columns,
    read_vector,
    rows_to_keep,
)
from glmm_jax.formula.terms import Formula, RandomTerm
from glmm_jax.formula.transforms import State

# Arguments whose formulas may have random terms.
WITH_RANDOM = ("zero_inflation",)
# Numbers beside the formula that must be positive, and what to do where they are not.
POSITIVE = {
    "weights": "drop rows that should not count",
    "dispersion": "give values of phi, or a formula, '~ x', to estimate it",
}


@dataclass(frozen=True, eq=False)
class ParameterModel:
    """The model of a family's parameter besides eta: "dispersion" or "zero_inflation".

    Attributes:
        argument: name of the argument it came from.
        formula: its right side as normalised text, random terms included.
        X: (n, d) float64 model matrix of full column rank.
        names: the d column names.
        coding, kept: what `new_frame` needs.
    """

    argument: str
    formula: str
    X: np.ndarray
    names: tuple[str, ...]
    coding: Coding
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class Design:
    """What new data need: codings, transforms' states, names. Plain data, so it can be pickled."""

    fixed: Coding
    kept: np.ndarray  # (columns before the rank check,) bool
    random: tuple[Coding, ...]  # one a block, in theta order
    groupings: tuple[tuple[str, ...], ...]
    state: State
    offset_argument: str | None  # column name given as offset=, "" for an array, None for none


@dataclass(frozen=True, eq=False)
class Frame:
    """The arrays of a model on the n rows used, with the names that belong to them.

    Attributes:
        formula: the formula taken apart.
        response_name: left side as normalised text.
        y: (n,) response; 0 and 1 for two levels; successes where there are trials.
        trials: (n,) or None.
        response_levels: (failure, success) when y came from a factor, strings or truth values; of
            ordered categories their names, lowest first.
        X: (n, p) fixed-effects model matrix of full column rank, in R's column order.
        X_names: the p names, patsy's: `Intercept`, `urban[T.Y]`, `age:ch[T.Y]`, `I(age ** 2)`.
        dropped_columns: names of the columns left out because of rank deficiency.
        blocks: random-effects blocks in lme4's theta order, those of `parameter_models` last.
        offset: (n,) sum of all offsets, zeros where there are none.
        weights: (n,) or None.
        known: (n,) given values of the family's parameter phi, None where it is estimated.
        n_missing: number of rows dropped for missing values.
        index: labels of the rows used.
        design: what `new_frame` needs.
        parameter_models: models of the family's other parameters.
        kept_rows: (rows of the data,) bool, which of them are used; None where all are. Labels can
            occur twice, so it is by position that a row is found again in the caller's data.
    """

    formula: Formula
    response_name: str
    y: np.ndarray
    trials: np.ndarray | None
    response_levels: tuple[str, ...] | None
    X: np.ndarray
    X_names: tuple[str, ...]
    dropped_columns: tuple[str, ...]
    blocks: tuple[RandomBlock, ...]
    offset: np.ndarray
    weights: np.ndarray | None
    n_missing: int
    index: pd.Index
    design: Design
    kept_rows: np.ndarray | None = None
    parameter_models: tuple[ParameterModel, ...] = ()
    known: np.ndarray | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the model that have random effects, `CONDITIONAL` first."""
        return tuple(dict.fromkeys(block.part for block in self.blocks))


def build_frame(
    formula: str | Formula,
    data: pd.DataFrame,
    *,
    weights: object = None,
    offset: object = None,
    trials: object = None,
    na_action: str = "drop",
    dispersion: Any = None,
    zero_inflation: str | None = None,
    relationship: object = None,
    absorbed: bool = False,
) -> Frame:
    """The arrays of a model as R and lme4 would make them.

    Unordered categories, strings and truth values get treatment contrasts against the first level
    (strings: in the order of their characters); ordered categories get R's orthogonal polynomials.
    Levels that do not occur are left out, as lme4 does. A response of two levels counts the first
    as failure.

    Args:
        formula: text, or what `parse` made of it.
        data: a DataFrame or a dictionary of columns; it is not changed, and only the columns in
            use matter.
        weights, offset, trials: each the name of a column, or one number a row. With `trials` the
            response holds proportions or counts, see `response.with_trials`.
        na_action: "drop" leaves out rows with missing values in anything used (`n_missing` counts
            them), "raise" refuses them.
        dispersion, zero_inflation: one-sided formulas such as "~ x" for these parameters; that of
            zero_inflation may have random terms. A dispersion may be known instead: a positive
            number, or one a row.
        absorbed: whether the response is of ordered categories, whose thresholds take the place of
            the intercept: X has none, and categories become the numbers 0, 1, ...

    Raises:
        TypeError: `formula` is no text or `data` no table.
        ValueError: anything else wrong with the input; the message names the argument, what came
            and the remedy.
    """
    if na_action not in ("drop", "raise"):
        raise ValueError(f"na_action: 'drop' or 'raise' is needed, not {na_action!r}")
    if not isinstance(formula, Formula):
        formula = parse(formula)
    data = as_data_frame(data)
    fixed = expand(formula.fixed)
    random = tuple(expand(term.expression) for term in formula.random)
    modelled, known = (dispersion, None) if isinstance(dispersion, str) else (None, dispersion)
    others = {
        argument: parse_one_sided(text, argument, argument in WITH_RANDOM)
        for argument, text in (("dispersion", modelled), ("zero_inflation", zero_inflation))
        if text is not None
    }
    texts = dict.fromkeys(_response_texts(formula), "response")
    for text in predictor_texts(formula, fixed, random):
        texts.setdefault(text, "formula")
    for argument, (text, terms) in others.items():
        used = [*expand(text).factors]
        for term in terms:
            used += [*expand(term.expression).factors, *term.grouping]
        for name in used:
            texts.setdefault(name, argument)
    state = constants_in(data, texts)
    columns = read_columns(data, texts, state)
    if known is not None and np.ndim(known) == 0:
        known = np.full(len(data), known)
    given = {"weights": weights, "offset": offset, "trials": trials, "dispersion": known}
    vectors = {
        argument: read_vector(argument, value, data)
        for argument, value in given.items()
        if value is not None
    }
    masks = {name: column.missing for name, column in columns.items()}
    masks |= {name: np.isnan(vector) for name, vector in vectors.values()}
    keep = rows_to_keep(masks, len(data), na_action)
    rows = Rows(columns, keep, data.index, state, learn=True)
    n = rows.n
    extra = {
        argument: checked(argument, name, vector if keep is None else vector[keep])
        for argument, (name, vector) in vectors.items()
    }
    response = _response(formula, rows, extra.get("trials"), absorbed)
    values: dict[str, Value] = {factor: rows.term(factor) for factor in fixed.factors}
    fixed_coding = code(fixed, values)
    X = model_matrix(fixed_coding, values, n)
    kept = independent_columns(X)
    dropped = tuple(n for n, stays in zip(fixed_coding.names, kept, strict=True) if not stays)
    if absorbed:
        if "Intercept" not in fixed_coding.names:
            raise ValueError(
                f"formula: {formula.text.strip()!r} leaves the intercept out, whose place the "
                "thresholds of ordered categories take anyway; write it without 0 + or - 1"
            )
        kept = kept & (np.array(fixed_coding.names) != "Intercept")
    relationships = read_relationships(relationship)
    terms = [*formula.random, *(term for _, further in others.values() for term in further)]
    check_names(relationships, list(dict.fromkeys(term.group_name for term in terms)))
    members = random_blocks(formula.random, rows, CONDITIONAL, relationships)
    for argument, (_, terms) in others.items():
        members += random_blocks(terms, rows, argument, relationships)
    return Frame(
        formula=formula,
        response_name=formula.response,
        y=np.array(response.y),  # never a view of the caller's data
        trials=response.trials,
        response_levels=response.levels,
        X=X if kept.all() else np.ascontiguousarray(X[:, kept]),
        X_names=tuple(n for n, stays in zip(fixed_coding.names, kept, strict=True) if stays),
        dropped_columns=dropped,
        blocks=tuple(block for block, _, _ in members),
        offset=formula_offset(formula, rows, extra.get("offset")),
        weights=extra.get("weights"),
        known=extra.get("dispersion"),
        n_missing=len(data) - n,
        index=data.index if keep is None else data.index[keep],
        design=Design(
            fixed=fixed_coding,
            kept=kept,
            random=tuple(coding for _, coding, _ in members),
            groupings=tuple(grouping for _, _, grouping in members),
            state=rows.state,
            offset_argument=None if offset is None else offset if isinstance(offset, str) else "",
        ),
        kept_rows=keep,
        parameter_models=tuple(
            _parameter_model(argument, text, terms, rows)
            for argument, (text, terms) in others.items()
        ),
    )


def _parameter_model(
    argument: str, fixed: str, random: tuple[RandomTerm, ...], rows: Rows
) -> ParameterModel:
    terms = expand(fixed)
    values: dict[str, Value] = {factor: rows.term(factor) for factor in terms.factors}
    coding = code(terms, values)
    X = model_matrix(coding, values, rows.n)
    kept = independent_columns(X)
    names = tuple(name for name, stays in zip(coding.names, kept, strict=True) if stays)
    if not names:
        raise ValueError(f"{argument}: the formula has no column; write '~ 1' for a constant")
    parts = [str(int(terms.intercept)), *(":".join(term) for term in terms.terms)]
    kinds = ("" if t.structure == "us" else t.structure for t in random)
    bars = (f"{k}({t.expression} | {t.group_name})" for k, t in zip(kinds, random, strict=True))
    text = " + ".join([*parts, *bars])
    return ParameterModel(argument, text, np.ascontiguousarray(X[:, kept]), names, coding, kept)


def _response_texts(formula: Formula) -> tuple[str, ...]:
    if formula.successes is not None and formula.failures is not None:
        return formula.successes, formula.failures
    return (formula.response,)


def predictor_texts(
    formula: Formula, fixed: Terms, random: Iterable[Terms], groupings: bool = True
) -> tuple[str, ...]:
    texts = [*fixed.factors, *formula.offsets]
    for terms in random:
        texts.extend(terms.factors)
    if groupings:
        for term in formula.random:
            texts.extend(term.grouping)
    return tuple(dict.fromkeys(texts))


def checked(argument: str, name: str, vector: np.ndarray) -> np.ndarray:
    """A vector beside the formula without infinity; weights are positive too."""
    source = "" if name == f"{argument}=" else f" (column {name!r})"
    infinite = int(np.isinf(vector).sum())
    if infinite:
        raise ValueError(f"{argument}: infinite values in {infinite} rows{source}; correct them")
    if argument in POSITIVE and np.any(vector <= 0):
        raise ValueError(
            f"{argument}: {int(np.sum(vector <= 0))} values are not positive (smallest "
            f"{vector.min():g}){source}; {POSITIVE[argument]}"
        )
    return vector


def _response(
    formula: Formula, rows: Rows, trials: np.ndarray | None, absorbed: bool = False
) -> Response:
    name = formula.response
    if absorbed and (trials is not None or formula.successes is not None):
        raise ValueError(f"response: {name!r} has trials, which ordered categories have not")
    if absorbed:
        return ordered(rows.declared(name), name)
    if formula.successes is not None and formula.failures is not None:
        if trials is not None:
            raise ValueError(
                f"trials: {name!r} holds the trials already; leave trials= out, or give the "
                "successes alone as the response"
            )
        return counts(
            rows.numbers(formula.successes, "response"),
            rows.numbers(formula.failures, "response"),
            name,
        )
    value = rows.value(name)
    declared = rows.declared(name) if isinstance(value, Factor) else None
    response = two_levels(declared, name) if isinstance(declared, Factor) else plain(value, name)
    if trials is None:
        return response
    counted = with_trials(response.y, trials, name)
    return Response(counted.y, counted.trials, response.levels)


def formula_offset(formula: Formula, rows: Rows, vector: np.ndarray | None) -> np.ndarray:
    total = np.zeros(rows.n) if vector is None else vector.copy()
    for text in formula.offsets:
        total += rows.numbers(text, "offset")
    return total
