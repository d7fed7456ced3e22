"""Formula text as an expression tree, in R's grammar with Python's spellings understood.

The tree keeps names as they are in the data (`total.fruits`, `` `visit 2` ``, `Q("visit 2")`), so
nothing has to be renamed before an expression is evaluated. `^` and `**` are one operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(frozen=True)
class Name:
    """A column of the data."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Constant:
    """A number, a quoted text or a truth value."""

    value: float | str | bool
    text: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Call:
    """A function call; `keywords` are pairs of a name and an expression."""

    function: str
    arguments: tuple[Node, ...]
    keywords: tuple[tuple[str, Node], ...] = ()
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Binary:
    operator: str
    left: Node
    right: Node
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Unary:
    operator: str
    operand: Node
    at: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Parens:
    inner: Node
    at: int = field(default=0, compare=False)


Node = Name | Constant | Call | Binary | Unary | Parens

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?L?(?![\w.]))
      | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<quoted>`[^`]+`)
      | (?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)
      | (?P<op>%in%|%/%|%%|\|\||&&|\*\*|==|!=|<=|>=|//|[-+*/^:~|&!<>=(),\[\]%])""",
    re.VERBOSE,
)
_SAME = {"^": "**", "&&": "&"}
# Binding powers follow R (`?Syntax`). Python's own spellings `%` and `//` bind like `*`; `|` and
# `&` are R's in either spelling, so `a > 1 | b > 1` compares first.
_POWER = {
    **{"~": 1, "|": 2, "||": 2, "&": 3, "==": 5, "!=": 5, "<": 5, ">": 5, "<=": 5, ">=": 5},
    **{"+": 6, "-": 6, "*": 7, "/": 7, "%": 7, "//": 7},
    **{"%%": 8, "%/%": 8, "%in%": 8, ":": 9, "**": 11},
}
_UNARY = {"!": 4, "-": 10, "+": 10}
_TRUTH = {"TRUE": True, "True": True, "FALSE": False, "False": False}
_PLAIN = re.compile(r"(?:[^\W\d]|\.(?!\d))[\w.]*\Z")


def fault(text: str, at: int, message: str) -> ValueError:
    """A ValueError that shows the line of `text` holding position `at` with a caret below."""
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : end if end >= 0 else len(text)]
    return ValueError(f"formula: {message}\n    {line}\n    {' ' * (at - start)}^")


def _tokens(text: str) -> list[tuple[str, str, int]]:
    """(kind, text, position) of each token, closed by an `end` token."""
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise fault(text, at, f"cannot read {text[at]!r} here")
        if match.lastgroup != "space":
            found.append((str(match.lastgroup), match.group(), at))
        at = match.end()
    return [*found, ("end", "", len(text))]


class _Reader:
    """Precedence climbing over the tokens of one text."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = _tokens(text)
        self.next = 0

    def peek(self) -> str:
        """The operator at hand; empty for a name, a number, a text and the end."""
        kind, word, _ = self.tokens[self.next]
        return word if kind == "op" else ""

    def expect(self, symbol: str, opened: int, what: str) -> None:
        if self.peek() != symbol:
            kind, word, at = self.tokens[self.next]
            if kind == "end":
                raise fault(self.text, opened, f"this {what} is never closed")
            raise fault(self.text, at, f"unexpected {word!r}; an operator or {symbol!r} is due")
        self.next += 1

    def expression(self, floor: int = 1) -> Node:
        left = self.operand()
        while True:
            operator = _SAME.get(self.peek(), self.peek())
            power = _POWER.get(operator, 0)
            if power < floor:
                return left
            at = self.tokens[self.next][2]
            self.next += 1
            # `**` groups to the right, all else to the left.
            right = self.expression(power if operator == "**" else power + 1)
            left = Binary(operator, left, right, at)

    def operand(self) -> Node:
        kind, word, at = self.tokens[self.next]
        self.next += 1
        if kind == "number":
            digits = word.rstrip("L")
            return Constant(float(digits), digits, at)
        if kind == "text":
            value = re.sub(r"\\(.)", r"\1", word[1:-1])
            return Constant(value, repr(value), at)
        if kind == "quoted":
            return Name(word[1:-1], at)
        if kind == "name":
            return self.name(word, at)
        if word in _UNARY:
            return Unary(word, self.expression(_UNARY[word]), at)
        if word == "(":
            inner = self.expression()
            self.expect(")", at, "parenthesis")
            return Parens(inner, at)
        if word == "[":
            items, _ = self.arguments("]", at)
            return Call("c", items, (), at)
        shown = "the end of the formula" if kind == "end" else repr(word)
        raise fault(self.text, at, f"a name or a number is missing before {shown}")

    def name(self, word: str, at: int) -> Node:
        if self.peek() == "(":
            self.next += 1
            arguments, keywords = self.arguments(")", at)
            if word == "Q" and len(arguments) == 1 and isinstance(arguments[0], Constant):
                return Name(str(arguments[0].value), at)
            return Call(word, arguments, keywords, at)
        if word in _TRUTH:
            return Constant(_TRUTH[word], str(_TRUTH[word]), at)
        if word == ".":
            raise fault(self.text, at, "'.' is left to R: write the columns")
        return Name(word, at)

    def arguments(
        self, close: str, opened: int
    ) -> tuple[tuple[Node, ...], tuple[tuple[str, Node], ...]]:
        positional: list[Node] = []
        keywords: list[tuple[str, Node]] = []
        while self.peek() != close:
            kind, word, _ = self.tokens[self.next]
            if kind == "name" and self.tokens[self.next + 1][:2] == ("op", "="):
                self.next += 2
                keywords.append((word, self.expression()))
            else:
                positional.append(self.expression())
            if self.peek() != ",":
                break
            self.next += 1
        self.expect(close, opened, "call" if close == ")" else "list")
        return tuple(positional), tuple(keywords)


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Node:
    """The tree of `text`. Raises ValueError, with a caret at the place, when it is malformed."""
    reader = _Reader(text)
    tree = reader.expression()
    kind, word, at = reader.tokens[reader.next]
    if kind != "end":
        raise fault(text, at, f"unexpected {word!r}; an operator is missing before it")
    return tree


def render(node: Node) -> str:
    """Normalised text of a tree: `I(age^2)` becomes `I(age ** 2)`. It parses to the same tree."""
    match node:
        case Name(name):
            if _PLAIN.match(name) and name not in _TRUTH:
                return name
            return f"Q({name!r})" if "`" in name else f"`{name}`"
        case Constant(_, text):
            return text
        case Call(function, arguments, keywords):
            items = [render(item) for item in arguments]
            items += [f"{key}={render(item)}" for key, item in keywords]
            return f"{function}({', '.join(items)})"
        case Binary(operator, left, right):
            space = "" if operator == ":" else " "
            return f"{render(left)}{space}{operator}{space}{render(right)}"
        case Unary(operator, operand):
            return f"{operator}{render(operand)}"
        case Parens(inner):
            return f"({render(inner)})"


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, from left to right."""
    yield node
    match node:
        case Call(_, arguments, keywords):
            for item in (*arguments, *(item for _, item in keywords)):
                yield from walk(item)
        case Binary(_, left, right):
            yield from walk(left)
            yield from walk(right)
        case Unary(_, inner) | Parens(inner):
            yield from walk(inner)
