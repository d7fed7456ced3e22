"""Values of expressions: a fixed list of functions over the columns of the data.

Expressions are evaluated by walking their tree, so a formula sees the data and the functions
listed here and nothing else: no local variable of the caller, no Python builtin. Transforms that
depend on the data they first see (`scale`, `center`, `standardize`, `poly`) leave what they
learnt in `state`, a plain dictionary, and use it on new data.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from glmm_jax.formula.columns import Column, Contrast, Factor, Value, factor_of, label_of
from glmm_jax.formula.syntax import Binary, Call, Constant, Name, Node, Parens, Unary, render
from glmm_jax.formula.transforms import TRANSFORMS, State, transform

_MATH: dict[str, Callable[..., np.ndarray]] = {
    name: getattr(np, name)
    for name in "exp sqrt abs log1p expm1 log2 log10 sin cos tan floor ceil".split()
}
_ARITHMETIC = {
    **{"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv},
    **{"**": np.power, "%": np.mod, "%%": np.mod, "//": np.floor_divide, "%/%": np.floor_divide},
}
_COMPARE = {
    **{"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt},
    **{"<=": operator.le, ">=": operator.ge},
}
_FACTORS = ("C", "factor", "as.factor", "ordered", "relevel")
CONTRASTS = {
    **{name: name for name in ("Treatment", "Poly", "Sum", "Helmert", "Diff")},
    **{"contr.treatment": "Treatment", "contr.poly": "Poly"},
    **{"contr.sum": "Sum", "contr.helmert": "Helmert"},
}
CONSTANTS = {"pi": np.pi, "np.pi": np.pi, "numpy.pi": np.pi}
"""Names with a value of their own, unless the data have a column of that name."""
FUNCTIONS = ("I", "log", *_MATH, *_FACTORS, *TRANSFORMS)
"""Names that a formula can call; the mathematical ones also as `np.log` and so on."""


def _plain(function: str) -> str:
    """`np.log` as `log`; only mathematical functions have that prefix."""
    head, _, tail = function.rpartition(".")
    return tail if head in ("np", "numpy") and (tail == "log" or tail in _MATH) else function


def _keyword(node: Call, name: str) -> Node | None:
    return next((item for key, item in node.keywords if key == name), None)


def _contrast_argument(node: Call) -> Node | None:
    if node.function != "C":
        return None
    return node.arguments[1] if len(node.arguments) > 1 else _keyword(node, "contrast")


def check_calls(node: Node) -> None:
    """Raises ValueError for a function that is not in FUNCTIONS."""
    match node:
        case Call(function, arguments, keywords):
            if _plain(function) not in (*FUNCTIONS, "c"):
                near = difflib.get_close_matches(function, FUNCTIONS, n=2)
                hint = f"; did you mean {' or '.join(near)}?" if near else "."
                raise ValueError(
                    f"formula: unknown function {function!r} in {render(node)!r}{hint} A formula "
                    f"can call {', '.join(FUNCTIONS)}; compute anything else as a column of the "
                    "data first"
                )
            contrast = _contrast_argument(node)
            for item in (*arguments, *(item for _, item in keywords)):
                if item is not contrast:
                    check_calls(item)
        case Binary(_, left, right):
            check_calls(left)
            check_calls(right)
        case Unary(_, inner) | Parens(inner):
            check_calls(inner)


@lru_cache(maxsize=4096)
def names_in(node: Node) -> tuple[str, ...]:
    """Columns that an expression uses, in order of appearance, each once."""
    found: dict[str, None] = {}

    def visit(node: Node) -> None:
        match node:
            case Name(name):
                found[name] = None
            case Call(_, arguments, keywords):
                contrast = _contrast_argument(node)
                for item in (*arguments, *(item for _, item in keywords)):
                    if item is not contrast:
                        visit(item)
            case Binary(_, left, right):
                visit(left)
                visit(right)
            case Unary(_, inner) | Parens(inner):
                visit(inner)

    visit(node)
    return tuple(found)


def evaluate(node: Node, columns: Mapping[str, Column], state: State, learn: bool) -> Value:
    """Value of an expression on all rows of `columns`, none of which may be missing.

    Args:
        node: the expression; a plain name gives the column itself.
        columns: what it uses.
        state: the constants in use, and what stateful transforms learnt; written when `learn`, read
            otherwise.
        learn: True on the data of the fit, False on new data.

    Returns:
        float64 (n,) or (n, k), bool (n,), or a Factor.

    Raises:
        ValueError: a factor where a number is needed, bad arguments, no column used.
    """
    with np.errstate(all="ignore"):  # NaN and infinity are reported by the caller, by name
        value = _value(node, columns, state, learn)
    if isinstance(value, Factor) or (isinstance(value, np.ndarray) and value.ndim > 0):
        return value
    raise ValueError(f"formula: {render(node)!r} uses no column of the data")


def _value(node: Node, columns: Mapping[str, Column], state: State, learn: bool) -> object:
    def value_of(item: Node) -> object:
        return _value(item, columns, state, learn)

    match node:
        case Name(name):
            return columns[name].value if name in columns else float(state[name][0])
        case Constant(value):
            return value
        case Parens(inner):
            return value_of(inner)
        case Unary("!", operand):
            return ~_truth(value_of(operand), operand)
        case Unary(sign, operand):
            number = _number(value_of(operand), operand)
            return -number if sign == "-" else number
        case Binary(op, left, right) if op in _ARITHMETIC:
            first = _number(value_of(left), left)
            return _ARITHMETIC[op](first, _number(value_of(right), right))
        case Binary(op, left, right) if op in _COMPARE:
            return _compared(op, value_of(left), value_of(right), node, learn)
        case Binary("&" | "|" | "||", left, right):
            first, second = _truth(value_of(left), left), _truth(value_of(right), right)
            return first & second if node.operator == "&" else first | second
        case Binary(op):
            raise ValueError(f"formula: operator {op!r} has no meaning inside {render(node)!r}")
        case Call():
            return _called(node, columns, state, learn)
    raise AssertionError(node)


def _called(node: Call, columns: Mapping[str, Column], state: State, learn: bool) -> object:
    function = _plain(node.function)
    if function in _FACTORS:
        return _as_factor(node, columns, state, learn)
    values = [_value(item, columns, state, learn) for item in node.arguments]
    options = {key: _value(item, columns, state, learn) for key, item in node.keywords}
    if function == "c":
        return tuple(values)
    if not values:
        raise ValueError(f"formula: {render(node)!r} needs an argument")
    if function == "I":
        if len(values) > 1 or options:
            raise ValueError(f"formula: too many arguments in {render(node)!r}")
        return values[0]
    number = _number(values[0], node.arguments[0])
    if function in TRANSFORMS:
        return transform(function, render(node), number, values[1:], options, state, learn)
    if options.keys() - ({"base"} if function == "log" else set()) or len(values) > 2:
        raise ValueError(f"formula: too many arguments in {render(node)!r}")
    if function == "log":
        base = values[1] if len(values) == 2 else options.get("base")
        logs = np.log(number)
        return logs if base is None else logs / np.log(_number(base, node))
    if len(values) > 1:
        raise ValueError(f"formula: too many arguments in {render(node)!r}")
    return _MATH[function](number)


def _number(value: object, node: Node) -> np.ndarray:
    """A value as float64 numbers; truth values count 0 and 1."""
    if isinstance(value, Factor):
        shown = ", ".join(value.labels[:4]) + (", ..." if len(value.labels) > 4 else "")
        raise ValueError(
            f"formula: {render(node)!r} is a factor (levels {shown}) where numbers are needed; "
            "use the factor alone, compare it with a level, or convert the column"
        )
    if isinstance(value, (str, tuple)):
        raise ValueError(f"formula: {render(node)} stands where a number is needed")
    return np.asarray(value, dtype=np.float64)


def _truth(value: object, node: Node) -> np.ndarray:
    if not (isinstance(value, bool) or (isinstance(value, np.ndarray) and value.dtype == bool)):
        raise ValueError(f"formula: {render(node)!r} is neither true nor false; compare it first")
    return np.asarray(value)


def _compared(op: str, left: object, right: object, node: Binary, learn: bool) -> np.ndarray:
    """Comparison; a factor is compared with the text of one of its levels, as in R."""
    if isinstance(right, Factor) and not isinstance(left, Factor):
        mirrored = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(op, op)
        return _compared(mirrored, right, left, node, learn)
    if not isinstance(left, Factor):
        return _COMPARE[op](_number(left, node.left), _number(right, node.right))
    if not isinstance(right, (str, float, bool)):
        raise ValueError(f"formula: {render(node)!r} compares a factor with what is no level")
    label = label_of(right)
    if label not in left.labels:
        if not learn and op in ("==", "!="):  # a level of the fit may not occur in new data
            return np.full(left.codes.shape, op == "!=")
        raise ValueError(
            f"formula: {label!r} in {render(node)!r} is no level; levels: {', '.join(left.labels)}"
        )
    if op not in ("==", "!=") and not left.ordered:
        raise ValueError(f"formula: the factor in {render(node)!r} has no order; use == or !=")
    return _COMPARE[op](left.codes, left.labels.index(label))


def _as_factor(node: Call, columns: Mapping[str, Column], state: State, learn: bool) -> Factor:
    """C(x, contrast, levels=), factor(x, levels=, ordered=), ordered(x), relevel(x, ref=)."""
    allowed = {"C": 2, "relevel": 2, "factor": 2}.get(node.function, 1)
    known = {
        "C": {"contrast", "levels"},
        "factor": {"levels", "ordered"},
        "ordered": {"levels"},
        "relevel": {"ref"},
    }.get(node.function, set())
    if not 1 <= len(node.arguments) <= allowed or {key for key, _ in node.keywords} - known:
        raise ValueError(f"formula: cannot use the arguments of {render(node)!r}")
    first = node.arguments[0]
    if isinstance(first, Name):
        factor = columns[first.name].factor
    else:
        inner = _value(first, columns, state, learn)
        factor = inner if isinstance(inner, Factor) else factor_of(np.asarray(inner), render(first))
    options = {
        key: _value(item, columns, state, learn) for key, item in node.keywords if key != "contrast"
    }
    if node.function in ("relevel", "factor") and len(node.arguments) == 2:
        key = "ref" if node.function == "relevel" else "levels"
        options[key] = _value(node.arguments[1], columns, state, learn)
    levels = options.get("levels")
    if node.function == "relevel":
        # On new data the reference need not occur; the codes are matched by label there.
        reference = label_of(options.get("ref"))
        if learn and reference not in factor.labels:
            raise ValueError(f"formula: the reference of {render(node)!r} is no level of it")
        levels = (reference, *(label for label in factor.labels if label != reference))
    if levels is not None:
        factor = _with_levels(factor, levels, node)
    contrast = _contrast_argument(node)
    ordered = factor.ordered or node.function == "ordered" or options.get("ordered") is True
    chosen = factor.contrast if contrast is None else _contrast(contrast)
    return Factor(factor.codes, factor.labels, ordered, chosen)


def _with_levels(factor: Factor, levels: object, node: Call) -> Factor:
    labels = tuple(label_of(level) for level in (levels if isinstance(levels, tuple) else [levels]))
    used = factor.used()
    lost = [label for label in used.labels if label not in labels]
    if lost or len(set(labels)) < len(labels):
        raise ValueError(
            f"formula: the levels of {render(node)!r} must name each value once; left out: "
            f"{', '.join(lost) or 'none'}"
        )
    renumber = np.array([labels.index(label) for label in used.labels], dtype=np.intp)
    return Factor(renumber[used.codes], labels, factor.ordered, factor.contrast)


def _contrast(node: Node) -> Contrast:
    call = Call(node.name, ()) if isinstance(node, Name) else node
    if not isinstance(call, Call) or call.function not in CONTRASTS:
        raise ValueError(
            f"formula: {render(node)!r} is no contrast; choose from {', '.join(CONTRASTS)}"
        )
    arguments = tuple(_value(item, {}, {}, False) for item in call.arguments)
    keywords = tuple((key, _value(item, {}, {}, False)) for key, item in call.keywords)
    return Contrast(CONTRASTS[call.function], arguments, keywords)
