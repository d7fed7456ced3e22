"""Terms and columns of a model matrix: patsy's algebra and contrasts, R's order and coding.

patsy expands `a*b`, `(a + b)**2`, `a/b`, `-1` into terms and supplies the contrast matrices. The
order of the terms (by the number of factors, then by appearance) and the choice between contrasts
and indicators are R's, so that the columns come as `model.matrix` has them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import patsy.contrasts
from patsy.desc import ModelDesc

from glmm_jax.formula.columns import Contrast, Factor, Value
from glmm_jax.formula.syntax import (
    Binary,
    Call,
    Constant,
    Name,
    Node,
    Parens,
    Unary,
    parse_expression,
    render,
)

T = TypeVar("T")

BLOCK = 4096  # rows of a model matrix that are filled together


@dataclass(frozen=True)
class Terms:
    """An expanded formula: each term is a tuple of factor expressions (normalised text)."""

    intercept: bool
    terms: tuple[tuple[str, ...], ...]

    @property
    def factors(self) -> tuple[str, ...]:
        """Every factor expression once."""
        return tuple(dict.fromkeys(factor for term in self.terms for factor in term))


@dataclass(frozen=True, eq=False)
class Part:
    """One factor within one term: `matrix` (levels, k) codes a categorical one, else None."""

    factor: str
    matrix: np.ndarray | None
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Coding:
    """How to compute the columns of a model matrix from the values of its factors."""

    intercept: bool
    terms: tuple[tuple[Part, ...], ...]
    names: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    """Labels of every categorical factor expression."""


def _with_aliases(node: Node, aliases: dict[str, str]) -> str:
    """Formula text for patsy in which every factor is a plain name."""
    match node:
        case Name() | Call():
            return aliases.setdefault(render(node), f"f{len(aliases)}")
        case Constant(_, text):
            return text
        case Binary(operator, left, right):
            return f"{_with_aliases(left, aliases)} {operator} {_with_aliases(right, aliases)}"
        case Unary(operator, operand):
            return f"{operator}{_with_aliases(operand, aliases)}"
        case Parens(inner):
            return f"({_with_aliases(inner, aliases)})"


@lru_cache(maxsize=1024)
def expand(expression: str) -> Terms:
    """Terms of the right side of a formula, in R's order.

    Within a term the factors stand in the order of their first appearance in the expression, so
    `a + b + b:a` has the term `a:b`, as in R.

    Raises:
        ValueError: patsy cannot expand it.
    """
    aliases: dict[str, str] = {}
    text = _with_aliases(parse_expression(expression), aliases)
    try:
        description = ModelDesc.from_formula(text)
    except patsy.PatsyError as error:
        raise ValueError(f"formula: cannot expand {expression!r}: {error.message}") from error
    factor_of = {alias: factor for factor, alias in aliases.items()}
    place = {factor: i for i, factor in enumerate(aliases)}
    terms = [
        tuple(sorted((factor_of[factor.name()] for factor in term.factors), key=place.__getitem__))
        for term in description.rhs_termlist
    ]
    full = sorted((term for term in terms if term), key=len)  # stable: appearance decides ties
    return Terms(() in terms, tuple(full))


def _contrast_matrix(factor: Factor) -> tuple[np.ndarray, list[str]]:
    """Contrast matrix (levels, k) and suffixes: treatment, polynomial if ordered, or as asked."""
    if factor.contrast is not None:
        return _coded(factor.labels, factor.contrast)
    return _default(factor.labels, factor.ordered)


@lru_cache(maxsize=256)
def _default(labels: tuple[str, ...], ordered: bool) -> tuple[np.ndarray, list[str]]:
    return _coded(labels, Contrast("Poly" if ordered else "Treatment"))


def _coded(labels: tuple[str, ...], contrast: Contrast) -> tuple[np.ndarray, list[str]]:
    coder = getattr(patsy.contrasts, contrast.name)
    try:
        coded = coder(*contrast.arguments, **dict(contrast.keywords)).code_without_intercept(
            list(labels)
        )
    except (patsy.PatsyError, TypeError, ValueError) as error:
        raise ValueError(f"formula: contrast {contrast.name} cannot be used: {error}") from error
    return np.asarray(coded.matrix, dtype=np.float64), list(coded.column_suffixes)


@lru_cache(maxsize=1024)
def _label(factor: str) -> str:
    """Name of a factor in column names: a column's own name without backticks."""
    node = parse_expression(factor)
    return node.name if isinstance(node, Name) else factor


def _part(factor: str, value: Value, indicators: bool) -> Part:
    label = _label(factor)
    if not isinstance(value, Factor):
        if value.ndim == 1:
            return Part(factor, None, (label,))
        return Part(factor, None, tuple(f"{label}[{k + 1}]" for k in range(value.shape[1])))
    if len(value.labels) < 2:
        shown = f"only {value.labels[0]!r}" if value.labels else "none"
        raise ValueError(
            f"formula: the factor {label!r} has fewer than two levels in the rows used ({shown}); "
            "leave it out of the formula"
        )
    if indicators:
        suffixes = [f"[{level}]" for level in value.labels]
        return Part(factor, np.eye(len(suffixes)), tuple(label + suffix for suffix in suffixes))
    matrix, suffixes = _contrast_matrix(value)
    return Part(factor, matrix, tuple(label + suffix for suffix in suffixes))


def _indicators(
    intercept: bool, terms: Sequence[tuple[str, ...]], categorical: Collection[str]
) -> list[tuple[bool, ...]]:
    """For each factor of each term: whether R codes it by indicators instead of contrasts."""
    out = []
    awaited = not intercept
    for i, term in enumerate(terms):
        chosen = []
        for factor in term:
            rest = set(term) - {factor}
            spanned = not rest or any(rest.issubset(earlier) for earlier in terms[:i])
            chosen.append(factor in categorical and (awaited or not spanned))
            awaited = awaited and factor not in categorical
        out.append(tuple(chosen))
    return out


def code(terms: Terms, values: Mapping[str, Value]) -> Coding:
    """Coding of the terms, by R's rule.

    In a term, a factor is coded by contrasts when the rest of the term is contained in an earlier
    term (or is empty), by indicators otherwise. Without an intercept the first categorical factor
    gets indicators.

    Args:
        values: value of every factor expression on the rows used; factors without unused levels.

    Raises:
        ValueError: a factor with fewer than two levels.
    """
    categorical = {factor for factor in terms.factors if isinstance(values[factor], Factor)}
    flags = _indicators(terms.intercept, terms.terms, categorical)
    coded = []
    for term, chosen in zip(terms.terms, flags, strict=True):
        parts = [_part(f, values[f], one) for f, one in zip(term, chosen, strict=True)]
        coded.append(tuple(parts))
    names = ["Intercept"] if terms.intercept else []
    for parts in coded:
        names.extend(":".join(column) for column in _combinations([part.names for part in parts]))
    levels = {
        factor: value.labels
        for factor in terms.factors
        if isinstance(value := values[factor], Factor)
    }
    return Coding(terms.intercept, tuple(coded), tuple(names), levels)


def _combinations(parts: list[tuple[T, ...]]) -> list[tuple[T, ...]]:
    """All choices of one item per part; the first part varies fastest, as in R."""
    chosen: list[tuple[T, ...]] = [()]
    for part in parts:
        chosen = [(*before, item) for item in part for before in chosen]
    return chosen


def model_matrix(coding: Coding, values: Mapping[str, Value], n: int) -> np.ndarray:
    """The columns of a coding, (n, len(coding.names)) float64.

    A missing level (code -1) gives rows of NaN in the columns of its factor.
    """
    X = np.empty((n, len(coding.names)))
    chosen: list[tuple[np.ndarray, ...]] = []
    for parts in coding.terms:
        chosen += _combinations([_columns(part, values) for part in parts])
    # X lies row by row: filled in blocks that fit a processor's cache.
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        block = X[rows]
        if coding.intercept:
            block[:, 0] = 1.0
        for j, combination in enumerate(chosen, int(coding.intercept)):
            block[:, j] = combination[0][rows]
            for column in combination[1:]:
                block[:, j] *= column[rows]
    return X


def _columns(part: Part, values: Mapping[str, Value]) -> tuple[np.ndarray, ...]:
    value = values[part.factor]
    if isinstance(value, Factor):
        assert part.matrix is not None
        padded = np.vstack([part.matrix, np.full((1, part.matrix.shape[1]), np.nan)])
        return tuple(padded[value.codes, k] for k in range(padded.shape[1]))
    return (value,) if value.ndim == 1 else tuple(value.T)


@dataclass(frozen=True)
class TermColumns:
    """One term of a coding: its name, its factors, and where its columns are.

    `start` and `stop` count the columns before the rank check.
    """

    name: str
    factors: frozenset[str]
    start: int
    stop: int


def term_columns(coding: Coding) -> tuple[TermColumns, ...]:
    """The terms of a coding in their order, the intercept left out."""
    out, start = [], int(coding.intercept)
    for parts in coding.terms:
        stop = start + math.prod(len(part.names) for part in parts)
        name = ":".join(_label(part.factor) for part in parts)
        out.append(TermColumns(name, frozenset(part.factor for part in parts), start, stop))
        start = stop
    return tuple(out)


def containing(terms: Sequence[TermColumns], term: TermColumns) -> list[TermColumns]:
    """The terms that are interactions of `term` with something, as `a:b` is of `a`."""
    return [other for other in terms if term.factors < other.factors]


def separable(coding: Coding, i: int) -> bool:
    """Whether term `i` can be dropped by leaving its columns out.

    It cannot where the other terms would then be coded differently: in `0 + f + g` the factor `g`
    has contrasts, and without `f` it has an indicator for each level.
    """
    terms = [tuple(part.factor for part in parts) for parts in coding.terms]
    now = _indicators(coding.intercept, terms, coding.levels)
    then = _indicators(coding.intercept, terms[:i] + terms[i + 1 :], coding.levels)
    return now[:i] + now[i + 1 :] == then


def without(expression: str, i: int) -> str:
    """The right side of a formula with its term number `i` (as `expand` orders them) left out."""
    expanded = expand(expression)
    kept = [":".join(term) for j, term in enumerate(expanded.terms) if j != i]
    return " + ".join(["1" if expanded.intercept else "0", *kept])
