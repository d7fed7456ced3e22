"""What a frame becomes, and what a caller can get wrong on the way to a fit.

A fault is a ValueError that names the argument, shows what came and says what to do. Faults of the
formula and of columns have their own tests (`test_formula_parser`, `test_formula_frame`); here each
kind is met once through `glmer`, and all that is checked later in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import designs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from designs import Design

import glmm_jax as gj
from glmm_jax import families
from glmm_jax.build import bucket, build_model, place
from glmm_jax.formula.frame import build_frame
from glmm_jax.model import Model, Params

N = 48
FORMULA = "use ~ x + (1 | g)"


def made(**columns: Any) -> pd.DataFrame:
    """Rows with a column of every kind; `columns` replace or add some."""
    rng = np.random.default_rng(3)
    row = np.arange(N)
    data = pd.DataFrame(
        {
            "use": rng.integers(0, 2, N),
            "count": rng.poisson(2.0, N),
            "height": rng.normal(size=N),
            "hits": rng.integers(0, 4, N),
            "trials": rng.integers(4, 9, N),
            "x": rng.normal(size=N),
            "g": row % 6,
            "row": row,
            "three": np.array(["low", "middle", "high"] * (N // 3)),
            "weight": rng.uniform(0.5, 2.0, N),
            "exposure": rng.normal(size=N),
        }
    )
    return data.assign(**columns)


def crossed() -> pd.DataFrame:
    """The data with a second grouping factor, crossed with the first."""
    return made(h=np.arange(N) % 4)


def with_value(name: str, value: float) -> pd.DataFrame:
    """The data with another value in row 5 of a column."""
    column = made()[name].to_numpy(float).copy()
    column[5] = value
    return made(**{name: column})


# What the model holds


def test_arrays_are_those_of_the_frame() -> None:
    case = Design("nested_and_crossed", "binomial", "probit")
    frame = designs.frame(case)
    model, placement = place(frame, case.distribution, "observed")
    for name in ("y", "X", "offset"):
        np.testing.assert_array_equal(getattr(model, name), getattr(frame, name))
    np.testing.assert_array_equal(model.size, frame.trials)
    np.testing.assert_array_equal(model.weights, 1.0)
    assert model.curvature == "observed" and model.family == case.distribution
    assert (model.n, model.p, model.m) == (len(frame.y), frame.X.shape[1], 5)
    assert model.q == sum(len(block.levels) * block.Z.shape[1] for block in frame.blocks)
    assert placement.n == model.n


def test_padding_repeats_the_first_row_at_weight_zero() -> None:
    case = Design("crossed", "poisson", "log", offset=True, weights=True)
    frame = designs.frame(case)
    model, placement = place(frame, case.distribution, padded=True)
    n = placement.n
    assert n == len(frame.y) and model.n == bucket(n) > n
    np.testing.assert_array_equal(model.weights[:n], frame.weights)
    np.testing.assert_array_equal(model.weights[n:], 0.0)
    for array in (model.y, model.X, model.offset, *model.Z, *model.structure.index):
        np.testing.assert_array_equal(array[n:], np.repeat(array[:1], model.n - n, axis=0))
    assert placement.levels == tuple(len(block.levels) for block in frame.blocks)
    assert model.structure.levels == tuple(bucket(levels) for levels in placement.levels)


def test_what_weights_mean() -> None:
    """Precisions of a Gaussian row, unless asked otherwise; factors of any other log density."""
    data, weight = made(), made()["weight"].to_numpy()
    formula = "height ~ x + (1|g)"
    precision = build_model(formula, data, "gaussian", weights="weight")
    np.testing.assert_array_equal(precision.size, weight)
    np.testing.assert_array_equal(precision.weights, 1.0)
    likelihood = build_model(
        formula, data, families.Gaussian(weights="likelihood"), weights="weight"
    )
    assert likelihood.size is None
    np.testing.assert_array_equal(likelihood.weights, weight)
    both = build_model("cbind(hits, trials - hits) ~ x + (1|g)", data, "binomial", weights="weight")
    np.testing.assert_array_equal(both.size, data["trials"])
    np.testing.assert_array_equal(both.weights, weight)


def test_float_type_is_that_of_jax() -> None:
    data = made()
    wide = build_model(FORMULA, data, "bernoulli")
    with jax.enable_x64(False):
        narrow = build_model(FORMULA, data, "bernoulli")
    for model, dtype in ((wide, jnp.float64), (narrow, jnp.float32)):
        arrays = model.y, model.X, model.offset, model.weights, *model.Z
        assert {array.dtype for array in arrays} == {np.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves(model.structure)} == {np.dtype(np.int32)}


def test_data_of_a_similar_size_make_pytrees_of_one_shape() -> None:
    """So that a program compiled for one serves the other."""
    small, large = made().iloc[:45], made()  # both have 48 rows when padded

    def padded(data: pd.DataFrame) -> Model:
        frame = build_frame(FORMULA, data)
        return place(frame, families.get("bernoulli"), padded=True)[0]

    first, second = padded(small), padded(large)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(one)] for one in (first, second)]
    assert shapes[0] == shapes[1]


def test_the_data_are_not_changed() -> None:
    data = made()
    before = data.copy(deep=True)
    build_model(FORMULA, data, "bernoulli", weights="weight", offset="exposure")
    pd.testing.assert_frame_equal(data, before)


# Faults that `glmer` and `build_model` meet


@dataclass(frozen=True)
class Fault:
    """Arguments of `glmer` with something wrong, and what the message must say."""

    name: str
    message: str
    formula: str = FORMULA
    data: Callable[[], pd.DataFrame] = made
    family: Any = "bernoulli"
    more: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "formula": self.formula,
            "data": self.data(),
            "family": self.family,
            **(self.more or {}),
        }


PROPORTION = "I(hits/trials) ~ x + (1|g)"
COUNT = "count ~ x + (1|g)"
HEIGHT = "height ~ x + (1|g)"
HITS = "hits ~ x + (1|g)"

# Wrong in the frame, the family or the design: `build_model` refuses it too.
OF_THE_MODEL = [
    Fault("unknown column", r"formula: .*no column 'xx'; did you mean 'x'", "use ~ xx + (1|g)"),
    Fault("unknown response", r"response: .*no column 'uses'; did you mean 'use'", "uses ~ (1|g)"),
    Fault("no random term", r"formula: 'use ~ x' has no random term; add one", "use ~ x"),
    Fault("no closing parenthesis", r"formula: .*never closed", "use ~ x + (1 | g"),
    Fault("bar without grouping", r"formula: .*missing before", "use ~ x + (1 | )"),
    Fault("bar without parentheses", r"formula: .*parentheses, as in \(1", "use ~ x + 1 | g"),
    Fault("negative count", r"y must be non-negative; got -2 in row 5; .*count", COUNT,
          lambda: with_value("count", -2), "poisson"),
    Fault("fractional count", r"y must be an integer; got 1.5 in row 5; give counts", COUNT,
          lambda: with_value("count", 1.5), "poisson"),
    Fault("Bernoulli of 2", r"y must be 0 or 1; got 2 in row 5; .*binomial.*trials",
          data=lambda: with_value("use", 2)),
    Fault("three levels", r"response: 'three'.*3 level.*'low'.*two are needed; make it",
          "three ~ x + (1|g)"),
    Fault("three levels, Gaussian", r"response: 'three'.*two are needed", "three ~ x + (1|g)",
          family="gaussian"),
    Fault("proportion above one", r"response: .*above 1 \(largest 1.5.*proportions in \[0, 1\]",
          "I(hits/2) ~ x + (1|g)", lambda: made(hits=[0, 1, 3] * 16), "binomial",
          {"trials": "trials"}),
    Fault("negative proportion", r"response: .*negative in 1 rows.*proportions in \[0, 1\]",
          PROPORTION, lambda: with_value("hits", -1), "binomial", {"trials": "trials"}),
    Fault("proportion without trials", r"y must be an integer.*or .*proportion.*trials=",
          PROPORTION, family="binomial"),
    Fault("successes above trials", r"response: 'hits' exceeds trials in 1 rows \(first 30 of",
          HITS, lambda: with_value("hits", 30), "binomial", {"trials": "trials"}),
    Fault("failures below zero", r"response: the failures.*negative.*give cbind",
          "cbind(trials, hits - trials) ~ x + (1|g)", family="binomial"),
    Fault("zero trials", r"trials: positive whole numbers.*first 0", HITS,
          lambda: with_value("trials", 0), "binomial", {"trials": "trials"}),
    Fault("trials of a Poisson response", r"trials=.*'poisson' has no trials; use family='bin",
          COUNT, family="poisson", more={"trials": np.full(N, 50)}),
    Fault("cbind of a Bernoulli response", r"cbind.*'bernoulli' has no trials; use family='bin",
          "cbind(hits, trials) ~ x + (1|g)"),
    Fault("zero weight", r"weights: 1 values are not positive \(smallest 0\).*drop",
          data=lambda: with_value("weight", 0), more={"weights": "weight"}),
    Fault("negative precision", r"weights: 1 values are not positive \(smallest -1\)", HEIGHT,
          lambda: with_value("weight", -1), "gaussian", {"weights": "weight"}),
    Fault("infinite weight", r"weights: infinite values in 1 rows.*correct",
          data=lambda: with_value("weight", np.inf), more={"weights": "weight"}),
    Fault("infinite response", r"'height' is infinite in 1 rows \(first: row 5\); .*drop", HEIGHT,
          lambda: with_value("height", np.inf), "gaussian"),
    Fault("infinite covariate", r"'x' is infinite in 1 rows \(first: row 5\); .*drop",
          data=lambda: with_value("x", -np.inf)),
    Fault("infinite offset", r"offset: infinite values in 1 rows.*correct",
          data=lambda: with_value("exposure", np.inf), more={"offset": "exposure"}),
    Fault("infinite offset term", r"'exposure' is infinite in 1 rows",
          "use ~ x + offset(exposure) + (1|g)", lambda: with_value("exposure", np.inf)),
    Fault("NaN response", r"data: values are missing in 'height' \(1\); drop or fill", HEIGHT,
          lambda: with_value("height", np.nan), "gaussian", {"na_action": "raise"}),
    Fault("NaN covariate", r"data: values are missing in 'x' \(1\); drop or fill",
          data=lambda: with_value("x", np.nan), more={"na_action": "raise"}),
    Fault("NaN offset", r"data: values are missing in 'exposure' \(1\); drop or fill",
          data=lambda: with_value("exposure", np.nan),
          more={"offset": "exposure", "na_action": "raise"}),
    Fault("na_action", r"na_action: 'drop' or 'raise'.*'omit'", more={"na_action": "omit"}),
    Fault("unknown family", r"family='bernouli' is not known; use one of 'bernoulli'",
          family="bernouli"),
    Fault("no family", r"family=None is not known; use one of", family=None),
    Fault("quasi family", r"family='quasipoisson' is a quasi-.*use family='poisson' with a random",
          COUNT, family="quasipoisson"),
    Fault("unknown link", r"link='logitt' is not known; use one of 'logit'",
          more={"link": "logitt"}),
    Fault("link of another family", r"link='logit' does not fit the poisson family; use one of",
          COUNT, family="poisson", more={"link": "logit"}),
    Fault("two links", r"link='probit' was given together with Bernoulli.*write families.Bern",
          family=families.Bernoulli(), more={"link": "probit"}),
    Fault("curvature", r"curvature='fisher'; use 'expected' \(lme4\) or 'observed' \(TMB\)",
          more={"curvature": "fisher"}),
    Fault("curvature that is not known", r"curvature='expected': the negative binomial 1 family "
          "has no expected", COUNT, family="nbinom1", more={"curvature": "expected"}),
    Fault("gamma response of zero", r"y must be positive; got 0 in row 2", HEIGHT,
          lambda: made(height=[1.5, 2.0, 0.0] * 16), "gamma"),
    Fault("beta response of one", r"y must be strictly between 0 and 1; got 1 in row 1", HEIGHT,
          lambda: made(height=[0.3, 1.0, 0.4] * 16), "beta"),
    Fault("Tweedie response below zero", r"y must be non-negative; got -1 in row 2", HEIGHT,
          lambda: made(height=[0.0, 2.0, -1.0] * 16), "tweedie"),
    Fault("truncated response with zeros", r"y must be positive; got 0 in row 0.*hurdle",
          "I(count * 0) ~ x + (1|g)", family="truncated_poisson"),
    Fault("hurdle without zeros", r"no zeros", "I(count + 1) ~ x + (1|g)",
          family="hurdle_poisson"),
    Fault("categories without an order", r"categorical without an order.*ordered=True",
          "three ~ x + (1|g)", family="ordinal"),
    Fault("zeros of a continuous response", r"zero_inflation= is for .*Gaussian.*not a", HEIGHT,
          family="gaussian", more={"zero_inflation": "~ x"}),
    Fault("dispersion of a family without", r"dispersion=.*poisson family has no parameter", COUNT,
          family="poisson", more={"dispersion": "~ x"}),
    Fault("a Gaussian level per row", r"formula: \(Intercept \| row\) has 48 random effects for 48 "
          r"rows.*use a coarser", "height ~ x + (1|row)", family="gaussian"),
    Fault("as many Gaussian effects as rows", r"formula: .*\| g\) has 48 random.*fewer columns",
          "height ~ x + (x + exposure + weight + hits + use + count + trials | g)",
          family="gaussian"),
    Fault("constant Gaussian response", r"response: .*residual variance is zero; check",
          "I(0*height + 2) ~ x + (1|g)", family="gaussian"),
    Fault("one effect in two terms", r"formula: 'Intercept' has a random effect by 'g' in two terms"
          r".*write it once", "use ~ x + (1 | g) + (x | g)"),
    Fault("no rows", r"data: there are no rows", data=lambda: made().iloc[:0]),
    Fault("no complete row", r"data: no row is complete; .*'x' \(48\)",
          data=lambda: made(x=np.nan)),
    Fault("few weights", r"weights: 3 values came for 48 rows", more={"weights": np.ones(3)}),
    Fault("one offset", r"offset: 1 values came for 48 rows", more={"offset": 0.5}),
    Fault("many trials", r"trials: 49 values came for 48 rows", HITS, family="binomial",
          more={"trials": np.ones(49)}),
]  # fmt: skip


@pytest.mark.parametrize("fault", OF_THE_MODEL, ids=str)
def test_wrong_model(fault: Fault) -> None:
    for build in (gj.glmer, gj.build_model):
        with pytest.raises(ValueError, match=fault.message):
            build(**fault.arguments)


def started(beta: Any, theta: Any, dispersion: Any = None) -> dict[str, Any]:
    return {"start": Params(beta, theta, dispersion)}


GOOD = np.zeros(2), np.ones(1)

# Wrong in how the fit is asked for.
OF_THE_FIT = [
    Fault("nagq -3", r"nagq=-3; use 1 \(Laplace\), the number", more={"nagq": -3}),
    Fault("nagq 9 with crossed factors", r"nagq=9: .*crossed.*Use nagq=1 \(Laplace\)",
          "use ~ x + (1|g) + (1|h)", crossed, more={"nagq": 9}),
    Fault("nagq of a million", r"nagq=1000000; use at most 101", more={"nagq": 1_000_000}),
    Fault("nagq by REML", r"reml=True with nagq=9", more={"nagq": 9, "reml": True}),
    Fault("nagq of another word", r"nagq='many'; use 1", more={"nagq": "many"}),
    Fault("nagq text", r"nagq='1'; use 1", more={"nagq": "1"}),
    Fault("nagq array", r"nagq=.*; use 1", more={"nagq": np.array([0, 1])}),
    Fault("optimizer name", r"optimizer='bfgs'; use one of 'quasi-newton', .*optax.adam",
          more={"optimizer": "bfgs"}),
    Fault("optimizer factory", r"optimizer=<function adam.*transformation such as optax.adam\(",
          more={"optimizer": optax.adam}),
    Fault("no optimizer", r"optimizer=None; use one of", more={"optimizer": None}),
    Fault("max_steps 0", r"max_steps=0; use a positive integer", more={"max_steps": 0}),
    Fault("max_steps 2.5", r"max_steps=2.5; use a positive integer", more={"max_steps": 2.5}),
    Fault("start beta", r"beta has shape \(3,\).*needs \(2,\)",
          more=started(np.zeros(3), GOOD[1])),
    Fault("start theta", r"theta has shape \(2,\).*needs \(1,\)",
          more=started(GOOD[0], np.ones(2))),
    Fault("start theta scalar", r"theta has shape \(\).*needs \(1,\)",
          more=started(GOOD[0], np.float64(1.0))),
    Fault("start dispersion", r"dispersion.*bernoulli family has none: use None",
          more=started(*GOOD, 0.3)),
    Fault("no start dispersion", r"dispersion=None.*gaussian family needs log\(phi\)",
          HEIGHT, family="gaussian", more=started(*GOOD)),
    Fault("start dispersion shape", r"dispersion has shape \(2,\)", HEIGHT,
          family="gaussian", more=started(*GOOD, np.zeros(2))),
    Fault("start dictionary", r"start.*dict.*Params",
          more={"start": {"beta": [0.0, 0.0], "theta": [1.0]}}),
    Fault("start lists", r"beta is list; give an array of floats",
          more=started([0.0, 0.0], [1.0])),
    Fault("start text", r"start.*str.*Params", more={"start": "glm"}),
]  # fmt: skip


@pytest.mark.parametrize("fault", OF_THE_FIT, ids=str)
def test_wrong_fit(fault: Fault) -> None:
    with pytest.raises(ValueError, match=fault.message):
        gj.glmer(**fault.arguments)


# Faults of the pure layer


def bernoulli() -> Model:
    return build_model(FORMULA, made(), "bernoulli")


def gaussian() -> Model:
    return build_model(HEIGHT, made(), "gaussian")


FUNCTIONS: list[Callable[[Params, Model], Any]] = [gj.deviance, gj.conditional_mode]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": jnp.zeros(3)}, r"params.beta has shape \(3,\); this model needs \(2,\)"),
        ({"theta": jnp.ones(2)}, r"params.theta has shape \(2,\); this model needs \(1,\)"),
        ({"theta": jnp.ones(())}, r"params.theta has shape \(\); this model needs \(1,\)"),
        ({"dispersion": None}, r"params.dispersion=None; the gaussian family needs log\(phi\)"),
        (
            {"dispersion": jnp.zeros(2)},
            r"params.dispersion has shape \(2,\); this model needs \(\)",
        ),
    ],
    ids=["beta", "theta", "theta scalar", "no dispersion", "dispersion"],
)
def test_wrong_parameters(
    function: Callable[[Params, Model], Any], change: dict[str, Any], message: str
) -> None:
    params = Params(jnp.zeros(2), jnp.ones(1), jnp.zeros(()))
    with pytest.raises(ValueError, match=message):
        function(replace(params, **change), gaussian())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_dispersion_of_a_family_without(function: Callable[[Params, Model], Any]) -> None:
    params = Params(jnp.zeros(2), jnp.ones(1), jnp.zeros(()))
    with pytest.raises(ValueError, match=r"dispersion is given; the bernoulli family has none"):
        function(params, bernoulli())


def test_wrong_guess() -> None:
    params = Params(jnp.zeros(2), jnp.ones(1))
    with pytest.raises(ValueError, match=r"guess.*\(3,\).*\(6,\)"):
        gj.conditional_mode(params, bernoulli(), guess=jnp.zeros(3))


def test_wrong_nagq_of_the_deviance() -> None:
    params = Params(jnp.zeros(2), jnp.ones(1))
    with pytest.raises(ValueError, match=r"nagq=-2; use 1 \(Laplace\)"):
        gj.deviance(params, bernoulli(), nagq=-2)
    model = build_model("use ~ x + (1|g) + (1|h)", crossed(), "bernoulli")
    with pytest.raises(ValueError, match=r"nagq=2: .*crossed"):
        gj.deviance(Params(jnp.zeros(2), jnp.ones(2)), model, nagq=2)


def test_estimate_checks_as_glmer_does() -> None:
    model = bernoulli()
    for options, message in [
        ({"nagq": 1.5}, r"nagq=1\.5"),
        ({"optimizer": "powell"}, "optimizer='powell'"),
        ({"max_steps": -1}, "max_steps=-1"),
        (started(np.zeros(3), GOOD[1]), r"beta has shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            gj.estimate(model, **options)  # type: ignore[arg-type]


def test_replace() -> None:
    model = bernoulli()
    weights = jnp.linspace(0.5, 1.5, N)
    changed = model.replace(weights=weights, curvature="observed")
    np.testing.assert_array_equal(changed.weights, weights)
    assert changed.curvature == "observed" and model.curvature == "expected"
    assert changed.y is model.y and changed.structure is model.structure


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(3)}, r"y= has shape \(3,\); this model needs \(48,\)"),
        ({"y": None}, r"y= is NoneType; give an array of floats, shape \(48,\)"),
        ({"y": np.arange(N)}, r"y= is int64; give an array of floats"),
        ({"X": np.zeros((N, 3))}, r"X= has shape \(48, 3\); this model needs \(48, 2\)"),
        ({"offset": 0.0}, r"offset= is float; give an array of floats, shape \(48,\)"),
        ({"weights": np.ones((N, 1))}, r"weights= has shape \(48, 1\)"),
        ({"Z": (np.ones((3, 1)),)}, r"Z\[0\]= has shape \(3, 1\); this model needs \(48, 1\)"),
        ({"Z": np.ones((N, 1))}, r"Z= must be a tuple of 1 arrays"),
        ({"size": np.ones(N)}, r"size= is given, but this model has none; build it with one"),
        ({"curvature": "fisher"}, r"curvature='fisher'; use 'expected'"),
        ({"theta": 1.0}, r"theta= cannot be replaced; use one of y, X"),
        ({"family": "poisson"}, r"family="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_replacement(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bernoulli().replace(**change)
