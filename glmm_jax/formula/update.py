"""A formula changed as R's `update` does it: "~ . - livch", ". ~ . + x", "y2 ~ ."."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from glmm_jax.formula.fixed import expand
from glmm_jax.formula.parser import parse
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
    walk,
)
from glmm_jax.formula.terms import STRUCTURES

# A "." of its own, which the grammar does not know, between texts and quoted names that it does.
_DOT = re.compile(r"""`[^`]*`|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?<![\w.])\.(?![\w.])""")
_PLACE = "__what_was_there__"
_BARS = ("|", "||")
Key = frozenset[tuple[object, ...]]


@dataclass(frozen=True)
class _Right:
    """The right side of a formula as sums: fixed terms, offsets, random terms, each as trees.

    A random term is what stands in its parentheses, or the call that names its structure.
    """

    intercept: bool = True
    fixed: tuple[Node, ...] = ()
    offsets: tuple[Node, ...] = ()
    random: tuple[Node, ...] = ()

    def text(self) -> str:
        parts = [] if self.intercept else ["0"]
        parts += map(render, self.fixed)
        parts = parts or ["1"]
        parts += [f"offset({render(node)})" for node in self.offsets]
        return " + ".join([*parts, *map(_written, self.random)])


def merged(old: str, new: str) -> str:
    """The formula that `new` makes of `old`, as text.

    On either side of "~" a dot stands for what was there; an empty left side keeps the response.
    Terms are added and removed as in R; a random term is removed by writing it, `- (1 | g)`, also
    where it is one of those that `(1 | a/b)` or `(x || g)` stands for. In a product such as
    `.:x` or `.^2` the dot is the fixed part alone.

    Raises:
        TypeError: `new` is no string.
        ValueError: `new` is malformed, or removes a term that is not there.
    """
    if not isinstance(new, str):
        raise TypeError(f"formula: a string such as '~ . - x' is needed, not {type(new).__name__}")
    if new.count("~") != 1:
        raise ValueError(
            f"formula: {new!r} needs one '~', as in '~ . - x' (a dot is what was there)"
        )
    before = parse_expression(old)
    assert isinstance(before, Binary)  # the text of a fit has been parsed
    left, right = (_DOT.sub(_named, side).strip() for side in new.split("~"))
    if not right:
        raise ValueError(
            f"formula: {new!r} has nothing on the right of '~'; write '~ .' to keep it"
        )
    if left and _PLACE not in left and _PLACE not in right:
        return new.strip()
    response = before.left if not left else _response(parse_expression(left), before.left)
    there = _add(_Right(), before.right, None)
    text = f"{render(response)} ~ {_add(_Right(), parse_expression(right), there).text()}"
    if _PLACE in text:
        raise ValueError(f"formula: in {new!r} a dot stands where no terms can")
    return text


def _named(match: re.Match[str]) -> str:
    return _PLACE if match.group() == "." else match.group()


def _is_dot(node: Node) -> bool:
    return isinstance(node, Name) and node.name == _PLACE


def _has_dot(node: Node) -> bool:
    return any(_is_dot(item) for item in walk(node))


def _put(node: Node, what: Node) -> Node:
    """The tree with `what` in place of every dot."""
    match node:
        case Name():
            return what if _is_dot(node) else node
        case Call(function, arguments, keywords, at):
            named = tuple((key, _put(item, what)) for key, item in keywords)
            return Call(function, tuple(_put(item, what) for item in arguments), named, at)
        case Binary(operator, left, right, at):
            return Binary(operator, _put(left, what), _put(right, what), at)
        case Unary(operator, operand, at):
            return Unary(operator, _put(operand, what), at)
        case Parens(inner, at):
            return Parens(_put(inner, what), at)
    return node


def _response(new: Node, old: Node) -> Node:
    alone = _is_dot(new) or not isinstance(old, Binary | Unary)
    return _put(new, old if alone else Parens(old))


def _add(to: _Right, node: Node, there: _Right | None) -> _Right:
    """`to` with the terms of a sum added, one after another as they are written.

    there : what a dot stands for; None while the formula of a fit is read, which has none.
    """
    match node:
        case Binary("+", left, right):
            return _add(_add(to, left, there), right, there)
        case Binary("-", left, right):
            return _remove(_add(to, left, there), right, there)
        case Unary("+", operand):
            return _add(to, operand, there)
        case Unary("-", operand):
            return _remove(to, operand, there)
        case Parens(Binary(operator) as bar) if operator in _BARS:
            bar = bar if there is None else _put(bar, _as_factor(there))
            return _add_random(to, bar)
        case Call(function, (Binary() as bar,), (), at) if function in STRUCTURES:
            bar = bar if there is None else _put(bar, _as_factor(there))
            return _add_random(to, Call(function, (bar,), (), at))
        case Parens(inner) if _is_sum(inner):
            return _add(to, inner, there)
        case Call("offset", (inner,), ()):
            same = inner in to.offsets
            return to if same else replace(to, offsets=(*to.offsets, inner))
        case Constant(value) if value in (0.0, 1.0) and not isinstance(value, bool):
            return replace(to, intercept=value == 1.0)
    if there is not None and _is_dot(node):
        # As in R, a formula without an intercept brings that along, one with it does not.
        out = replace(to, intercept=to.intercept and there.intercept)
        for term in there.fixed:
            out = _add_fixed(out, term)
        return _add_others(out, there)
    if there is not None and _has_dot(node):
        return _add_fixed(_add_others(to, there), _put(node, _as_factor(there)))
    return _add_fixed(to, node)


def _add_random(to: _Right, bar: Node) -> _Right:
    known = {key for item in to.random for key in _keys(item)}
    return to if _keys(bar) <= known else replace(to, random=(*to.random, bar))


def _is_structured(node: Node) -> bool:
    return isinstance(node, Call) and node.function in STRUCTURES


def _written(bar: Node) -> str:
    """A random term as it stands in a formula."""
    return render(bar) if _is_structured(bar) else f"({render(bar)})"


def _is_sum(node: Node) -> bool:
    """Whether parentheses around a node can be left out where it is added."""
    match node:
        case Binary("+" | "-") | Unary() | Parens() | Call("offset"):
            return True
    return False


def _add_others(to: _Right, there: _Right) -> _Right:
    """`to` with the offsets and random terms that were there."""
    for inner in there.offsets:
        to = _add(to, Call("offset", (inner,)), None)
    for bar in there.random:
        to = _add(to, bar if _is_structured(bar) else Parens(bar), None)
    return to


def _add_fixed(to: _Right, node: Node) -> _Right:
    known = {term for item in to.fixed for term in _terms(item)}
    return to if _terms(node) <= known else replace(to, fixed=(*to.fixed, node))


def _as_factor(there: _Right) -> Node:
    """The fixed part as one operand of a product."""
    if not there.fixed:
        return Constant(1.0, "1")
    total = there.fixed[0]
    for term in there.fixed[1:]:
        total = Binary("+", total, term)
    return Parens(total)


def _remove(of: _Right, node: Node, there: _Right | None) -> _Right:
    """`of` without the terms of a sum; `there` as for `_add`.

    Raises:
        ValueError: a term is not there, unless the formula of a fit is read.
    """
    match node:
        case Parens(Binary(operator) as bar) if operator in _BARS:
            return _remove_random(of, bar, there is not None)
        case Call(function, (Binary(),), ()) if function in STRUCTURES:
            return _remove_random(of, node, there is not None)
        case Parens(inner) if _is_sum(inner):
            return _remove(of, inner, there)
        case Binary("+", left, right):
            return _remove(_remove(of, left, there), right, there)
        case Call("offset", (inner,), ()):
            if inner not in of.offsets:
                raise _absent(f"offset({render(inner)})", of)
            return replace(of, offsets=tuple(item for item in of.offsets if item != inner))
        case Constant(value) if value in (0.0, 1.0) and not isinstance(value, bool):
            return replace(of, intercept=value == 0.0)
    if _is_dot(node):
        raise ValueError("formula: '- .' leaves nothing; write the terms to remove")
    gone = _terms(node if there is None else _put(node, _as_factor(there)))
    kept: list[Node] = []
    for item in of.fixed:
        terms = expand(f"0 + {render(item)}").terms
        left = [term for term in terms if frozenset(term) not in gone]
        # A term of which something is left is written out: a * b without a:b is a + b.
        kept += [item] if len(left) == len(terms) else [parse_expression(":".join(t)) for t in left]
    if tuple(kept) == of.fixed and there is not None:
        raise _absent(render(node), of)
    return replace(of, fixed=tuple(kept))


def _remove_random(of: _Right, bar: Node, strict: bool) -> _Right:
    gone = _keys(bar)
    kept: list[Node] = []
    for item in of.random:
        keys = _keys(item)
        if not keys & gone:
            kept.append(item)
            continue
        for term in parse(f"y ~ {_written(item)}").random:
            left = parse_expression(f"{term.expression} | {term.group_name}")
            if _is_structured(item):
                left = Call(term.structure, (left,))
            if not _keys(left) & gone:
                kept.append(left)
    if tuple(kept) == of.random and strict:
        raise _absent(_written(bar), of)
    return replace(of, random=tuple(kept))


def _absent(text: str, of: _Right) -> ValueError:
    return ValueError(f"formula: {text} cannot be removed, it is no term of {of.text()!r}")


def _terms(node: Node) -> frozenset[frozenset[str]]:
    """The terms that an expression stands for, each as the set of its factors."""
    return frozenset(frozenset(term) for term in expand(f"0 + {render(node)}").terms)


def _keys(bar: Node) -> Key:
    """The random terms that one pair of parentheses stands for, comparable however written."""
    return frozenset(
        (
            expand(term.expression).intercept,
            frozenset(map(frozenset, expand(term.expression).terms)),
            frozenset(term.grouping),
            term.structure,
        )
        for term in parse(f"y ~ {_written(bar)}").random
    )
