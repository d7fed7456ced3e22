"""Mixed-model formulas: response, fixed part, random terms with their bars, offsets."""

from __future__ import annotations

from functools import lru_cache

from glmm_jax.formula.evaluate import FUNCTIONS, check_calls
from glmm_jax.formula.fixed import expand
from glmm_jax.formula.syntax import (
    Binary,
    Call,
    Constant,
    Name,
    Node,
    Parens,
    Unary,
    fault,
    parse_expression,
    render,
    walk,
)
from glmm_jax.formula.terms import STRUCTURES, Formula, RandomTerm

_BARS = ("|", "||")
_GROUPING_CALLS = ("factor", "C", "as.factor")

Bar = tuple[Binary, str]
"""A random term as it is written, and the structure of its covariance."""


def parse(text: str) -> Formula:
    """A formula such as `"use ~ age + I(age^2) + urban + (1 | district)"` taken apart.

    Random terms: `(1|g)`, `(x|g)`, `(0 + x|g)`, `(x||g)`, `(1|a/b)`, `(1|a:b)`, `(1|factor(g))`,
    any number of them, added to the fixed part anywhere. As in lme4,

    - `(x|a/b)` is `(x|b:a) + (x|a)`, named `b:a` and `a`;
    - `(x + z||g)` is `(1|g) + (0 + x|g) + (0 + z|g)`. A categorical `x` keeps its columns in one
      correlated block, `(0 + x|g)`: the bars separate terms, not columns.

    A term may name the structure of its covariance as in glmmTMB: `us(x|g)` (unstructured, the same
    as `(x|g)`), `diag(x|g)` (independent columns), `cs(0 + f|g)` (compound symmetry: one
    correlation), `ar1(0 + time|g)` (autoregressive in the order of the levels of `time`).

    Raises:
        TypeError: `text` is no string.
        ValueError: it is malformed (with a caret at the place), has no response or no random
            term, or calls a function that formulas do not know.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"formula: a string such as 'y ~ x + (1 | g)' is needed, not {type(text).__name__}"
        )
    return _parse(text)


def parse_one_sided(
    text: str, argument: str, random: bool = False
) -> tuple[str, tuple[RandomTerm, ...]]:
    """The right side of `"~ x + (1 | g)"`: fixed part as normalised text, and random terms.

    Args:
        text: the formula.
        argument: its name, for messages.
        random: whether random terms are allowed.

    Raises:
        ValueError: no text, malformed, a response, an offset, or a random term where none may be;
            names `argument`.
    """
    if not isinstance(text, str) or not text.strip().startswith("~"):
        raise ValueError(f"{argument}={text!r}; use a one-sided formula such as '~ x'")
    inner = text.strip()[1:]
    if not inner.strip() or "~" in inner:
        raise ValueError(f"{argument}={text!r}; use a one-sided formula such as '~ x'")
    bars: list[Bar] = []
    offsets: list[Node] = []
    fixed = _without_extras(inner, parse_expression(inner), bars, offsets)
    if offsets:
        raise ValueError(
            f"{argument}={text!r}; offsets are understood in the main formula only (glmmTMB has "
            "them here)"
        )
    if bars and not random:
        raise ValueError(
            f"{argument}={text!r}; random terms are understood in the main formula and in "
            "zero_inflation= only (glmmTMB has them here)"
        )
    terms = tuple(term for bar, kind in bars for term in _random_terms(inner, bar, kind))
    if fixed is None:
        return "1", terms
    _check_terms(inner, fixed)
    expand(render(fixed))
    return render(fixed), terms


@lru_cache(maxsize=1024)
def _parse(text: str) -> Formula:
    if "~" not in text:
        raise ValueError(f"formula: {text!r} has no '~'; write 'response ~ terms + (1 | group)'")
    if text.lstrip().startswith("~"):
        raise ValueError(f"formula: {text.strip()!r} has no response on the left of '~'")
    tree = parse_expression(text)
    if not (isinstance(tree, Binary) and tree.operator == "~"):
        at = next(n.at for n in walk(tree) if isinstance(n, Binary) and n.operator == "~")
        raise fault(text, at, "'~' must separate the response from all the rest")
    for node in (*walk(tree.left), *walk(tree.right)):
        if isinstance(node, Binary) and node.operator == "~":
            raise fault(text, node.at, "a second '~'")
    response, successes, failures = _response(text, tree.left)
    bars: list[Bar] = []
    offsets: list[Node] = []
    fixed = _without_extras(text, tree.right, bars, offsets)
    if fixed is not None:
        _check_terms(text, fixed)
        expand(render(fixed))  # raises what patsy refuses, such as -x
    if not bars:
        raise ValueError(
            f"formula: {text!r} has no random term; add one such as '+ (1 | group)', or fit a "
            "model without random effects with statsmodels' GLM"
        )
    random = tuple(term for bar, kind in bars for term in _random_terms(text, bar, kind))
    for offset in offsets:
        check_calls(offset)
    return Formula(
        text=text,
        response=response,
        fixed="1" if fixed is None else render(fixed),
        random=random,
        offsets=tuple(render(offset) for offset in offsets),
        successes=successes,
        failures=failures,
    )


def _response(text: str, node: Node) -> tuple[str, str | None, str | None]:
    if _first_bar(node) is not None:
        raise fault(text, node.at, "a bar has no meaning in the response")
    if not (isinstance(node, Call) and node.function == "cbind"):
        check_calls(node)
        return render(node), None, None
    if len(node.arguments) != 2 or node.keywords:
        raise fault(text, node.at, "cbind takes two columns, cbind(successes, failures)")
    for item in node.arguments:
        check_calls(item)
    return render(node), render(node.arguments[0]), render(node.arguments[1])


def _first_bar(node: Node) -> Binary | None:
    """The first bar outside function calls (inside them `|` means "or")."""
    match node:
        case Binary(operator, left, right):
            return node if operator in _BARS else _first_bar(left) or _first_bar(right)
        case Unary(_, inner) | Parens(inner):
            return _first_bar(inner)
    return None


def _structured(node: Node) -> bool:
    """Whether a call is a random term that names its covariance, such as `cs(0 + f | g)`."""
    match node:
        case Call(function, (Binary("|" | "||"), *_)):
            return function in STRUCTURES
    return False


def _is_offset(node: Node) -> bool:
    return isinstance(node, Call) and node.function == "offset"


def _without_extras(text: str, node: Node, bars: list[Bar], offsets: list[Node]) -> Node | None:
    """The fixed part alone (None when nothing is left); bars and offsets are collected."""

    def below(inner: Node) -> Node | None:
        return _without_extras(text, inner, bars, offsets)

    match node:
        case Parens(Binary(operator) as bar) if operator in _BARS:
            bars.append((bar, "us"))
            return None
        case Call(function, (Binary("|" | "||") as bar,), ()) if function in STRUCTURES:
            if bar.operator == "||":
                raise fault(text, bar.at, f"{function}(...) takes one bar, as in {function}(x | g)")
            bars.append((bar, function))
            return None
        case Call(function, (Binary("|" | "||"), *_)) if function not in (*FUNCTIONS, "c"):
            raise fault(
                text,
                node.at,
                f"unknown covariance structure {function!r}; a random term can be one of "
                f"{', '.join(f'{name}(x | g)' for name in STRUCTURES)}",
            )
        case Binary(operator) if operator in _BARS:
            raise fault(text, node.at, "a random term needs parentheses, as in (1 | group)")
        case Call("offset", arguments, keywords):
            if len(arguments) != 1 or keywords:
                raise fault(text, node.at, "offset takes one argument")
            offsets.append(arguments[0])
            return None
        case Binary("+", left, right):
            first, second = below(left), below(right)
            if first is None or second is None:
                return second if first is None else first
            return Binary("+", first, second, node.at)
        case Binary("-", left, right):
            _check_fixed_only(text, right)
            first = below(left)
            return Unary("-", right, node.at) if first is None else Binary("-", first, right)
        case Parens(inner):
            rest = below(inner)
            return None if rest is None else Parens(rest, node.at)
        case Unary("+", operand):
            return below(operand)
    algebra = ("*", "/", ":", "**", "-")
    if isinstance(node, (Binary, Unary)) and node.operator not in algebra:
        _check_terms(text, node)  # raises: the operator itself is the fault, not what it holds
    _check_fixed_only(text, node)
    return node


def _check_fixed_only(text: str, node: Node) -> None:
    bar = _first_bar(node)
    offset = next((item for item in walk(node) if _is_offset(item)), None)
    found = bar or next((item for item in walk(node) if _structured(item)), None)
    if found is not None:
        raise fault(text, found.at, "a random term can only be added to the others with '+'")
    if offset is not None:
        raise fault(text, offset.at, "offset(...) can only be added to the other terms with '+'")


def _check_terms(text: str, node: Node) -> None:
    """The operators of a formula are + - * / : ^ on columns and calls; all else needs I()."""
    match node:
        case Name():
            return
        case Call():
            if node.function in ("cbind", "c"):
                raise fault(text, node.at, f"{node.function}(...) is no term")
            inner_offset = next((item for item in walk(node) if _is_offset(item)), None)
            if inner_offset is not None:
                raise fault(text, inner_offset.at, "offset(...) cannot stand inside a term")
            check_calls(node)
            return
        case Constant(value):
            if isinstance(value, float) and value in (0.0, 1.0):
                return
            raise fault(text, node.at, "of constants only 1 and 0 (the intercept) are terms")
        case Binary("**", left, Constant(value)):
            if isinstance(value, float) and value.is_integer() and value >= 1.0:
                return _check_terms(text, left)
            raise fault(text, node.at, "a power of terms must be 1, 2, 3, ...")
        case Binary("**"):
            raise fault(text, node.at, "a power of terms must be a whole number, as in (a + b)^2")
        case Binary("+" | "-" | "*" | "/" | ":", left, right):
            _check_terms(text, left)
            return _check_terms(text, right)
        case Binary("%in%"):
            raise fault(text, node.at, "%in% is not supported; write the interaction as a:b")
        case Binary(operator):
            raise fault(text, node.at, f"{operator!r} is arithmetic here; wrap it as I(...)")
        case Unary("-" | "+", operand):
            return _check_terms(text, operand)
        case Unary(operator):
            raise fault(text, node.at, f"{operator!r} is logic here; wrap it as I(...)")
        case Parens(inner):
            return _check_terms(text, inner)


def _random_terms(text: str, bar: Binary, kind: str) -> list[RandomTerm]:
    """The blocks of one pair of parentheses in lme4's order: by `||` first, then by `/`."""
    if _first_bar(bar.left) is not None or _first_bar(bar.right) is not None:
        raise fault(text, bar.at, "a second bar in one random term")
    _check_fixed_only(text, bar.left)
    _check_terms(text, bar.left)
    groupings = _groupings(text, bar.right)
    diagonal = bar.operator == "||"
    expression = render(bar.left)
    terms = expand(expression)
    if not terms.intercept and not terms.terms:
        raise fault(text, bar.at, "nothing varies by group here; write (1 | group)")
    pieces = [expression]
    if diagonal:
        pieces = ["1"] if terms.intercept else []
        pieces += ["0 + " + ":".join(term) for term in terms.terms]
    return [RandomTerm(piece, group, diagonal, kind) for piece in pieces for group in groupings]


def _groupings(text: str, node: Node) -> list[tuple[str, ...]]:
    """Grouping factors of the right side of a bar, the most detailed first."""
    match node:
        case Name():
            return [(render(node),)]
        case Call(function, (_,), ()) if function in _GROUPING_CALLS:
            check_calls(node)
            return [(render(node),)]
        case Parens(inner):
            return _groupings(text, inner)
        case Binary(":" | "/", left, right):
            outer, inner = _groupings(text, left), _groupings(text, right)
            if len(inner) > 1 or (node.operator == ":" and len(outer) > 1):
                raise fault(text, node.at, "nest from left to right, as in a/b/c")
            if node.operator == ":":
                return [outer[0] + inner[0]]
            return [inner[0] + outer[0], *outer]
    raise fault(text, node.at, "a grouping factor must be a column, factor(column), a:b or a/b")
