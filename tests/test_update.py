"""`update`: formulas changed as R changes them, and the call of `glmer` again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reference_cases import case

from glmm_jax import Fit, datasets, families, glmer
from glmm_jax.formula.parser import parse
from glmm_jax.formula.update import merged
from glmm_jax.inference.update import _family

OLD = "use ~ age + I(age^2) + urban*livch + offset(log(n.x)) + (1 | district/town)"
RIGHT = "age + I(age ** 2) + urban * livch"
OFFSET = "offset(log(n.x))"
BAR = "(1 | district / town)"


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ("~ .", f"use ~ {RIGHT} + {OFFSET} + {BAR}"),
        (". ~ .", f"use ~ {RIGHT} + {OFFSET} + {BAR}"),
        (". ~ . + x", f"use ~ {RIGHT} + x + {OFFSET} + {BAR}"),
        ("~ . + `a . b`", f"use ~ {RIGHT} + `a . b` + {OFFSET} + {BAR}"),
        ("~ . + total.fruits", f"use ~ {RIGHT} + total.fruits + {OFFSET} + {BAR}"),
        ("~ . + age", f"use ~ {RIGHT} + {OFFSET} + {BAR}"),  # it is there
        ("~ . + livch:urban", f"use ~ {RIGHT} + {OFFSET} + {BAR}"),  # so is this
        ("~ . - age", f"use ~ I(age ** 2) + urban * livch + {OFFSET} + {BAR}"),
        ("~ . - I(age**2)", f"use ~ age + urban * livch + {OFFSET} + {BAR}"),
        ("~ . - (age + I(age^2))", f"use ~ urban * livch + {OFFSET} + {BAR}"),
        ("~ . - livch:urban", f"use ~ age + I(age ** 2) + urban + livch + {OFFSET} + {BAR}"),
        ("~ . - livch", f"use ~ age + I(age ** 2) + urban + urban:livch + {OFFSET} + {BAR}"),
        ("~ . - urban*livch", f"use ~ age + I(age ** 2) + {OFFSET} + {BAR}"),
        ("~ . - 1", f"use ~ 0 + {RIGHT} + {OFFSET} + {BAR}"),
        ("~ 0 + .", f"use ~ 0 + {RIGHT} + {OFFSET} + {BAR}"),
        ("~ . - offset(log(n.x))", f"use ~ {RIGHT} + {BAR}"),
        ("~ . + offset(z)", f"use ~ {RIGHT} + {OFFSET} + offset(z) + {BAR}"),
        ("y2 ~ .", f"y2 ~ {RIGHT} + {OFFSET} + {BAR}"),
        ("log(.) ~ .", f"log(use) ~ {RIGHT} + {OFFSET} + {BAR}"),
        ("cbind(a, b) ~ .", f"cbind(a, b) ~ {RIGHT} + {OFFSET} + {BAR}"),
        ("~ . + (1 | g)", f"use ~ {RIGHT} + {OFFSET} + {BAR} + (1 | g)"),
        ("~ . + (1 | district)", f"use ~ {RIGHT} + {OFFSET} + {BAR}"),
        ("~ . - (1 | district)", f"use ~ {RIGHT} + {OFFSET} + (1 | town:district)"),
        ("~ . - (1 | district:town)", f"use ~ {RIGHT} + {OFFSET} + (1 | district)"),
        (
            "~ . - (1 | district/town) + (urban || district)",
            f"use ~ {RIGHT} + {OFFSET} + (urban || district)",
        ),
        ("~ .:x + .", f"use ~ ({RIGHT}):x + {RIGHT} + {OFFSET} + {BAR}"),
        ("~ .^2", f"use ~ ({RIGHT}) ** 2 + {OFFSET} + {BAR}"),
        ("~ x + (1 | g)", "use ~ x + (1 | g)"),
        (" y ~ x + (1 | g) ", "y ~ x + (1 | g)"),
        ('~ . + C(x, levels=["a . b"])', None),
    ],
)
def test_formulas_change_as_in_r(new: str, expected: str | None) -> None:
    found = merged(OLD, new)
    if expected is not None:
        assert found == expected
    assert parse(found).random  # it is a formula of a mixed model


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("y ~ x + (1 | g)", "~ . - x", "y ~ 1 + (1 | g)"),
        ("y ~ 0 + x + (1 | g)", "~ . + 1", "y ~ x + (1 | g)"),
        ("y ~ x - 1 + (1 | g)", "~ 1 + .", "y ~ 0 + x + (1 | g)"),
        ("y ~ -1 + x + (1 | g)", "~ . + z", "y ~ 0 + x + z + (1 | g)"),
        ("y ~ x + (x + z || g)", "~ . - (0 + z | g)", "y ~ x + (1 | g) + (0 + x | g)"),
        ("y ~ (x + z) + ((1 | g))", "~ . - z", "y ~ x + (1 | g)"),
        ("y ~ (a + b)^2 - a:b + (1 | g)", "~ . - b", "y ~ a + (1 | g)"),
        ("y ~ x - z + (1 | g)", "~ . + w", "y ~ x + w + (1 | g)"),
        ("a/b ~ x + (1 | g)", "log(.) ~ .", "log((a / b)) ~ x + (1 | g)"),
        ("y ~ x + (1 | g)", "~ . - (1 | g) + (. | g)", "y ~ x + ((x) | g)"),
        ("y ~ factor(x) + (1 | g)", "~ . - factor(x)", "y ~ 1 + (1 | g)"),
    ],
)
def test_intercepts_products_and_parentheses(old: str, new: str, expected: str) -> None:
    assert merged(old, new) == expected
    parse(expected)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("~ . - height", "height cannot be removed, it is no term of 'age"),
        ("~ . - (age | district)", r"\(age \| district\) cannot be removed"),
        ("~ . - offset(z)", r"offset\(z\) cannot be removed"),
        ("~ . - .", "'- .' leaves nothing"),
        ("- livch", "needs one '~'"),
        ("~ . ~ x", "needs one '~'"),
        ("~", "nothing on the right"),
        ("~ . + (x", "never closed"),
        ("~ . + offset(.)", "a dot stands where no terms can"),
    ],
)
def test_what_cannot_be_done_is_told(new: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        merged(OLD, new)


def test_a_formula_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="not int"):
        merged(OLD, 3)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def fit() -> Fit:
    return glmer(**case("cbpp/lme4").glmer_arguments())


def test_models_as_lme4_fits_them() -> None:
    """From one reference model to another and back."""
    known = case("cbpp_obs/lme4")
    two = glmer(**known.glmer_arguments())
    one = two.update(". ~ . - (1 | obs)")
    assert one.llf == pytest.approx(case("cbpp/lme4").log_likelihood, abs=1e-5)
    assert one.frame.formula.text == "cbind(incidence, size - incidence) ~ period + (1 | herd)"
    back = one.update("~ . + (1 | obs)")
    assert back.llf == pytest.approx(known.log_likelihood, abs=1e-5)
    assert two.frame.formula.text == known.glmer_arguments()["formula"]


def test_what_is_not_given_stays(fit: Fit) -> None:
    again = fit.update()
    assert again.llf == fit.llf
    assert np.array_equal(again.params, fit.params)
    strict = fit.update(na_action="raise")
    assert (strict.call.na_action, fit.call.na_action) == ("raise", "drop")
    assert strict.update("~ . - period").call.na_action == "raise"


def test_another_link_keeps_the_family(fit: Fit) -> None:
    other = fit.update(link="cloglog")
    assert (other.family.name, other.family.link.name) == ("binomial", "cloglog")
    same = glmer(**{**case("cbpp/lme4").glmer_arguments(), "link": "cloglog"})
    assert other.llf == same.llf
    assert other.update(family="binomial").family.link.name == "logit"


def test_parameters_of_a_family_outlast_another_link(fit: Fit) -> None:
    family = families.Gaussian(weights="likelihood")
    gaussian = replace(fit, family=family)
    changed = _family(gaussian, {"link": "log"})
    assert changed == families.Gaussian(link="log", weights="likelihood")
    assert _family(gaussian, {}) is family
    assert _family(gaussian, {"family": "gaussian"}) == families.Gaussian()
    with pytest.raises(ValueError, match="link='logit' does not fit the gaussian family"):
        _family(gaussian, {"link": "logit"})


def test_other_data_and_weights(fit: Fit) -> None:
    data = datasets.load("cbpp")
    doubled = data.assign(w=2.0)
    found = fit.update(data=doubled, weights="w", formula="~ . - period")
    direct = glmer(
        "cbind(incidence, size - incidence) ~ 1 + (1 | herd)", doubled, "binomial", weights="w"
    )
    assert found.llf == direct.llf
    assert found.update(weights=None).llf == fit.update("~ . - period").llf
    first = fit.update(data=data[data["period"] != "4"])
    assert first.nobs < fit.nobs
    assert len(first.params) == 3


def test_the_data_of_the_call_are_those_of_then() -> None:
    data = datasets.load("cbpp")
    fit = glmer("cbind(incidence, size - incidence) ~ 1 + (1 | herd)", data, "binomial")
    data["incidence"] = 0
    assert fit.update().llf == fit.llf


def test_a_fit_without_data_asks_for_them(fit: Fit) -> None:
    loaded = replace(fit, call=replace(fit.call, data=None))
    with pytest.raises(ValueError, match=r"data=None.*loaded from a file; give.*data="):
        loaded.update("~ . - period")
    assert loaded.update(data=datasets.load("cbpp")).llf == fit.llf


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wieghts": "w"}, "wieghts= is no argument of glmer; use one of family"),
        ({"family": "quasipoisson"}, "quasi-likelihood"),
        ({"nagq": 0.5}, "nagq=0.5"),
        ({"weights": "nothing"}, "nothing"),
    ],
)
def test_wrong_changes_are_told(fit: Fit, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit.update(**changes)


def test_update_keeps_the_response_of_a_refit() -> None:
    fit = glmer(**case("cbpp/lme4").glmer_arguments())
    other = fit.simulate(1, seed=3)["sim_1"]
    again = fit.refit(other)
    expected = fit.update("~ . - period").refit(other)
    found = again.update("~ . - period")
    np.testing.assert_array_equal(found.frame.y, other)
    assert found.llf == pytest.approx(expected.llf, abs=1e-7)
    assert found.llf != pytest.approx(fit.update("~ . - period").llf, abs=1e-3)
    # New data bring their own response.
    assert again.update(data=fit.call.data).llf == pytest.approx(fit.llf, abs=1e-7)
    with pytest.raises(ValueError, match="refitted to a response that its data do not hold"):
        again.update("size ~ .", family="poisson")


def test_arrays_given_to_glmer_may_change_afterwards() -> None:
    arguments = case("cbpp/lme4").glmer_arguments()
    weights = np.ones(len(arguments["data"]))
    fit = glmer(**arguments, weights=weights)
    weights[:] = 5.0
    assert fit.update().llf == pytest.approx(fit.llf, abs=1e-7)
