"""Formulas as text: what they say, how they are normalised, what is refused and where."""

from __future__ import annotations

import pytest

from glmm_jax.formula import RandomTerm, parse
from glmm_jax.formula.evaluate import names_in
from glmm_jax.formula.fixed import expand
from glmm_jax.formula.syntax import Binary, Node, Parens, Unary, parse_expression, render


def random_part(text: str) -> list[tuple[str, str]]:
    return [(term.expression, term.group_name) for term in parse(f"y ~ {text}").random]


def test_parts() -> None:
    formula = parse("use ~ age*ch + I(age^2) +\n urban + (urban | district) + offset(log(expo))")
    assert formula.response == "use"
    assert formula.fixed == "age * ch + I(age ** 2) + urban"
    assert formula.random == (RandomTerm("urban", ("district",)),)
    assert formula.offsets == ("log(expo)",)
    assert formula.successes is None and formula.failures is None


def test_cbind() -> None:
    formula = parse("cbind(incidence, size-incidence)~period+(1|herd)")
    assert formula.response == "cbind(incidence, size - incidence)"
    assert (formula.successes, formula.failures) == ("incidence", "size - incidence")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1|g)", [("1", "g")]),
        ("(x|g)", [("x", "g")]),
        ("(1+x|g)", [("1 + x", "g")]),
        ("(0+x|g)", [("0 + x", "g")]),
        ("(-1 + x | g)", [("-1 + x", "g")]),
        ("(x - 1|g)", [("x - 1", "g")]),
        ("(log(x)|g)", [("log(x)", "g")]),
        ("(x|g) + (1|h) + (0+z|g)", [("x", "g"), ("1", "h"), ("0 + z", "g")]),
        ("(1|a:b)", [("1", "a:b")]),
        ("(1|a/b)", [("1", "b:a"), ("1", "a")]),
        ("(1|a/b/c)", [("1", "c:b:a"), ("1", "b:a"), ("1", "a")]),
        ("(1|a:b/c)", [("1", "c:a:b"), ("1", "a:b")]),
        ("(1|factor(g))", [("1", "factor(g)")]),
        ("(1|C(g):h)", [("1", "C(g):h")]),
        ("(x||g)", [("1", "g"), ("0 + x", "g")]),
        ("(0+x||g)", [("0 + x", "g")]),
        ("(x*z||g)", [("1", "g"), ("0 + x", "g"), ("0 + z", "g"), ("0 + x:z", "g")]),
        # lme4 expands the double bar before the slash.
        ("(x||a/b)", [("1", "b:a"), ("1", "a"), ("0 + x", "b:a"), ("0 + x", "a")]),
        ("((1|g))", [("1", "g")]),
        ("(x + ((1|g) + (z|h)))", [("1", "g"), ("z", "h")]),
        ("(1|(g))", [("1", "g")]),
        ("I(u | v) + (1|g)", [("1", "g")]),
    ],
)
def test_random_terms(text: str, expected: list[tuple[str, str]]) -> None:
    assert random_part(text) == expected


def test_double_bar_is_remembered() -> None:
    assert [term.diagonal for term in parse("y ~ (x||g) + (x|h)").random] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("(1|g)", "1"),
        ("(1|g) + x", "x"),
        ("x + (1|g) + z", "x + z"),
        ("(1|g) - 1", "-1"),
        ("0 + (1|g)", "0"),
        ("-1 + (1|g) + f", "-1 + f"),
        ("(x + (1|g)) + ((1|h))", "(x)"),
        ("offset(w) + x + offset(v) + (1|g)", "x"),
        ("x - z + (1|g)", "x - z"),
    ],
)
def test_fixed_part_is_what_remains(text: str, fixed: str) -> None:
    assert parse(f"y ~ {text}").fixed == fixed


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("I(age^2)", "I(age ** 2)"),
        ("I( age**2 )", "I(age ** 2)"),
        ("a : b*c", "a:b * c"),
        ("Q('visit 2')", "`visit 2`"),
        ("`total.fruits`", "total.fruits"),
        ("factor(x,levels=c('b',\"a\"))", "factor(x, levels=c('b', 'a'))"),
        ("C(x, levels=['b', 'a'])", "C(x, levels=c('b', 'a'))"),
        ("poly(x, 2L, raw = TRUE)", "poly(x, 2, raw=True)"),
        ("-x^2", "-x ** 2"),
        ("x %/% 2", "x %/% 2"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    tree = parse_expression(text)
    assert render(tree) == normal
    assert parse_expression(normal) == tree


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a ** b ** c", "a ** (b ** c)"),
        ("-a ** 2", "-(a ** 2)"),
        ("a - b - c", "(a - b) - c"),
        ("a * b:c", "a * (b:c)"),
        ("a > 1 | b > 1 & !c == d", "(a > 1) | ((b > 1) & (!(c == d)))"),
        ("a * b %% c", "a * (b %% c)"),
    ],
)
def test_precedence_is_that_of_r(text: str, same_as: str) -> None:
    def nested(node: Node) -> object:
        match node:
            case Parens(inner):
                return nested(inner)
            case Binary(operator, left, right):
                return operator, nested(left), nested(right)
            case Unary(operator, operand):
                return operator, nested(operand)
        return render(node)

    assert nested(parse_expression(text)) == nested(parse_expression(same_as))


def test_names_with_dots_are_columns_and_calls_are_functions() -> None:
    tree = parse_expression("np.log(total.fruits) + log + I(`a b` * Q('c d')) + C(f, Treatment)")
    assert names_in(tree) == ("total.fruits", "log", "a b", "c d", "f")


@pytest.mark.parametrize(
    ("text", "intercept", "terms"),
    [
        ("a*b*c", True, ["a", "b", "c", "a:b", "a:c", "b:c", "a:b:c"]),
        ("a + b:c + d", True, ["a", "d", "b:c"]),
        ("(a + b + c)^2 - a:b", True, ["a", "b", "c", "a:c", "b:c"]),
        ("a/b/c", True, ["a", "a:b", "a:b:c"]),
        ("a + b + b:a - 1", False, ["a", "b", "a:b"]),
        ("0 + x.y + log(x.y):`b c`", False, ["x.y", "log(x.y):`b c`"]),
        ("(a + b)*(c + d)", True, ["a", "b", "c", "d", "a:c", "a:d", "b:c", "b:d"]),
        ("1", True, []),
        ("0", False, []),
    ],
)
def test_terms_come_in_the_order_of_r(text: str, intercept: bool, terms: list[str]) -> None:
    expanded = expand(text)
    assert expanded.intercept is intercept
    assert [":".join(term) for term in expanded.terms] == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y ~ x", "no random term.*GLM"),
        ("y x", "no '~'"),
        ("", "no '~'"),
        ("~ x + (1|g)", "no response"),
        ("y ~ x ~ (1|g)", "second '~'"),
        ("y + (a ~ b) + (1|g)", "must separate"),
        ("y ~ . + (1|g)", "'.' is left to R: write the columns"),
        ("y ~ x + 1|g", "needs parentheses"),
        ("y ~ x + (1|g", "never closed"),
        ("y ~ x + log(x + (1|g)", "never closed"),
        ("y ~ x + (1|g))", "unexpected"),
        ("y ~ x + (|g)", "missing before"),
        ("y ~ x + (1|)", "missing before"),
        ("y ~ x +", "missing before the end"),
        ("y ~ x z + (1|g)", "operator is missing"),
        ("y ~ x + (1|g|h)", "second bar"),
        ("y ~ x + (1||g|h)", "second bar"),
        ("y ~ x * (1|g)", "only be added"),
        ("y ~ x - (1|g)", "only be added"),
        ("y ~ x - offset(w) + (1|g)", "only be added"),
        ("y ~ x:offset(w) + (1|g)", "only be added"),
        ("y ~ log(offset(w)) + (1|g)", "only be added"),
        ("y ~ offset(w, v) + (1|g)", "one argument"),
        ("y ~ x + (0|g)", "nothing varies"),
        ("y ~ x + (1|1)", "grouping factor must be"),
        ("y ~ x + (1|a*b)", "grouping factor must be"),
        ("y ~ x + (1|log(g))", "grouping factor must be"),
        ("y ~ x + (1|a/(b/c))", "from left to right"),
        ("y ~ x > 0 + (1|g)", r"wrap it as I\(...\)"),
        ("y ~ !b + (1|g)", r"wrap it as I\(...\)"),
        ("y ~ a %in% b + (1|g)", "write the interaction as a:b"),
        ("y ~ 2 + (1|g)", "only 1 and 0"),
        ("y ~ x^1.5 + (1|g)", "must be 1, 2, 3"),
        ("y ~ x^z + (1|g)", "whole number"),
        ("y ~ -x + (1|g)", "Unary minus"),
        ("y ~ x[1] + (1|g)", "unexpected"),
        ("y ~ x $ z + (1|g)", r"cannot read '\$'"),
        ("y ~ foo(x) + (1|g)", "unknown function 'foo'.*A formula can call"),
        ("y ~ lgo(x) + (1|g)", "did you mean log"),
        ("y ~ np.scale(x) + (1|g)", "unknown function"),
        ("y ~ __import__('os') + (1|g)", "unknown function"),
        ("y ~ x + (foo(x)|g)", "unknown function"),
        ("y ~ x + offset(foo(x)) + (1|g)", "unknown function"),
        ("foo(y) ~ x + (1|g)", "unknown function"),
        ("cbind(y) ~ x + (1|g)", "cbind takes two"),
        ("y ~ cbind(a, b) + (1|g)", "no term"),
        ("y | z ~ x + (1|g)", "no meaning in the response"),
    ],
)
def test_faults(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_a_fault_shows_its_place() -> None:
    with pytest.raises(ValueError) as caught:
        parse("y ~ x +\n  (1 | g | h)")
    assert str(caught.value).splitlines()[1:] == [
        "      (1 | g | h)",
        "             ^",
    ]


def test_a_formula_is_a_string() -> None:
    with pytest.raises(TypeError, match="not int"):
        parse(3)  # type: ignore[arg-type]
