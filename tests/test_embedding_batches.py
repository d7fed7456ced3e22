"""Mini-batches of whole groups: unbiased to rounding, of one shape, or refused."""

from __future__ import annotations

from itertools import combinations

import designs
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from designs import Design

import glmm_jax as gj
from glmm_jax.model import Model, Params

# Rows of a balanced design that are left out, so that groups differ in size.
LEFT_OUT = [0, 5, 6, 13, 40, 44, 48, 52, 56]
NESTED = Design("nested_three", "poisson", "log")


def nested() -> tuple[Model, Params]:
    """Three nested factors and a penalty, which is no sum over groups."""
    data = designs.data(NESTED).drop(index=LEFT_OUT)
    prior = gj.priors.Normal(sd=0.5)
    return gj.build_model(NESTED.formula, data, "poisson", priors=prior), designs.params(NESTED)


def zeros() -> tuple[Model, Params]:
    """One factor, phi by a covariate, and random effects in a second predictor: pseudo-rows."""
    rng = np.random.default_rng(20113)
    g = np.repeat(np.arange(5), [3, 9, 4, 6, 2])
    data = pd.DataFrame({"g": g, "x": rng.normal(size=g.size), "size": rng.uniform(1, 2, g.size)})
    data["y"] = rng.poisson(2.0 * data["size"]) * rng.integers(0, 2, g.size)
    model = gj.build_model(
        "y ~ x + offset(log(size)) + (x | g)", data, "nbinom2", weights="size",
        dispersion="~ x", zero_inflation="~ 1 + (1 | g)",
    )  # fmt: skip
    params = Params(
        jnp.array([0.4, -0.2]), jnp.array([0.5, 0.2, 0.3, 0.8]), jnp.array([0.9, 0.1, -0.7])
    )
    return model, params


@pytest.mark.parametrize("made", [nested, zeros])
def test_the_mean_over_all_batches_is_the_whole(made) -> None:
    """To rounding, at any parameters: so the same holds of the gradient."""
    model, params = made()
    batches = gj.group_batches(model, 2)
    drawn = jnp.array(list(combinations(range(batches.levels), 2)))

    @jax.jit
    def each(params: Params) -> jax.Array:
        return jax.lax.map(lambda one: gj.marginal_nll(batches.take(one))(params), drawn)

    loss = gj.marginal_nll(model)
    for step in (0.0, 0.2):
        here = jax.tree.map(lambda x: x + step, params)  # noqa: B023
        assert np.ptp(each(here)) > 1.0
        np.testing.assert_allclose(jnp.mean(each(here)), loss(here), rtol=1e-12)


def test_rows_and_levels_of_a_batch() -> None:
    model, _ = nested()
    batches = gj.group_batches(model, 3)
    outer = np.asarray(model.structure.index[-1])
    counts = np.bincount(outer)
    batch = jax.jit(batches.take)(jnp.array([2, 0, 3]))
    assert batch.scale == pytest.approx(4 / 3)
    used = np.asarray(batch.model.weights) > 0
    assert batch.model.n == np.sort(counts)[-3:].sum() > used.sum()
    rows = np.asarray(batch.rows)
    assert sorted(rows[used]) == list(np.flatnonzero(np.isin(outer, [2, 0, 3])))
    np.testing.assert_array_equal(batch.model.y, model.y[batch.rows])
    np.testing.assert_array_equal(
        outer[rows][used], np.array([2, 0, 3])[batch.model.structure.index[-1]][used]
    )
    # Two rows share a level in the batch just if they do in the whole, for each factor.
    for whole, part in zip(model.structure.index, batch.model.structure.index, strict=True):
        names, places = np.asarray(whole)[rows[used]], np.asarray(part)[used]
        assert len(set(zip(names, places, strict=True))) == len(set(names)) == len(set(places))


def test_an_epoch_visits_each_group_once() -> None:
    batches = gj.group_batches(nested()[0], 3)
    epoch = np.asarray(batches.epoch(jax.random.key(1)))
    assert epoch.shape == (1, 3) and len(set(epoch.ravel())) == 3
    assert gj.group_batches(nested()[0], 4).epoch(jax.random.key(2)).shape == (1, 4)


def test_one_program_serves_every_batch() -> None:
    batches = gj.group_batches(zeros()[0], 2)
    traced = []

    @jax.jit
    def rows(batches: gj.embedding.GroupBatches, groups: jax.Array) -> jax.Array:
        traced.append(groups.shape)
        batch = batches.take(groups)
        return jnp.sum(batch.model.weights > 0)

    found = [int(rows(batches, jnp.array(pair))) for pair in [(1, 3), (4, 0), (2, 1)]]
    assert found == [15, 5, 13]
    assert len(traced) == 1


def test_models_without_an_unbiased_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"levels: 9, 6\) are crossed.*no unbiased|crossed"):
        gj.group_batches(designs.model(Design("crossed")), 2)
    with pytest.raises(ValueError, match="crossed, so the likelihood is no sum over groups"):
        gj.group_batches(designs.model(Design("nested_and_crossed", "poisson", "log")), 2)
    data = designs.data(Design("scalar"))
    levels = sorted(data["g"].unique())
    K = pd.DataFrame(np.eye(len(levels)) * 0.5 + 0.5, levels, levels)
    related = gj.build_model("y ~ x + (1 | g)", data, "bernoulli", relationship={"g": K})
    with pytest.raises(ValueError, match="related by relationship="):
        gj.group_batches(related, 2)


@pytest.mark.parametrize("groups", [0, 10, -1, 2.0, True, "2"])
def test_a_number_of_groups_that_there_are_not(groups) -> None:
    model = designs.model(Design("scalar"))
    assert model.structure.levels == (9,)
    with pytest.raises(ValueError, match=r"groups=.*; give an integer from 1 to 9"):
        gj.group_batches(model, groups)


def test_groups_of_another_shape() -> None:
    batches = gj.group_batches(designs.model(Design("scalar")), 4)
    with pytest.raises(ValueError, match=r"shape \(3,\); these batches take \(4,\) integers"):
        batches.take(jnp.arange(3))
    with pytest.raises(ValueError, match="groups is float64"):
        batches.take(jnp.arange(4.0))


def test_weights_of_a_batch_are_those_of_its_model() -> None:
    model = designs.model(Design("scalar"))
    loss = gj.marginal_nll(gj.group_batches(model, 4).take(jnp.arange(4)))
    params = gj.Params(jnp.zeros(model.p), jnp.ones(model.m))
    with pytest.raises(ValueError, match="weights= of a batch would count the rows that pad it"):
        loss(params, weights=jnp.ones(3))
