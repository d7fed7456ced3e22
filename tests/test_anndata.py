"""Genes of an AnnData object by one call: what glmer_many makes of their counts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import glmm_jax as gj
from glmm_jax import ManyFits
from glmm_jax.many import anndata as anndata_module

CELLS, PATIENTS, GENES = 120, 12, 8  # the programs of test_glmer_many serve
FORMULA = "~ dose + (1 | patient)"


@dataclass
class Annotated:
    """What the adapter reads of an `anndata.AnnData`."""

    X: Any
    obs: pd.DataFrame
    var: pd.DataFrame
    layers: dict[str, Any] = field(default_factory=dict)

    @property
    def var_names(self) -> pd.Index:
        return self.var.index


@pytest.fixture(scope="module")
def adata() -> Annotated:
    rng = np.random.default_rng(11)
    patient = np.repeat(np.arange(PATIENTS), CELLS // PATIENTS)
    obs = pd.DataFrame(
        {
            "dose": rng.normal(size=CELLS),
            "patient": pd.Categorical([f"p{i}" for i in patient]),
            "depth": np.exp(rng.normal(0, 0.4, CELLS)),
        },
        index=[f"cell{i}" for i in range(CELLS)],
    )
    effect = 0.3 * rng.normal(size=(GENES, PATIENTS))[:, patient]
    slope = np.where(np.arange(GENES) < 3, 0.4, 0.0)[:, None]
    eta = 1.5 + np.log(obs["depth"].to_numpy()) + slope * obs["dose"].to_numpy() + effect
    counts = rng.poisson(np.exp(eta) * rng.gamma(3, 1 / 3, eta.shape)).T.astype(np.float32)
    counts[:, 5] = 0
    var = pd.DataFrame(
        {"length": np.arange(GENES)}, index=pd.Index([f"gene{j}" for j in range(GENES)])
    )
    logged = np.log1p(counts)
    return Annotated(logged, obs, var, {"counts": counts})


@pytest.fixture(scope="module")
def fits(adata: Annotated) -> ManyFits:
    return gj.many.from_anndata(adata, FORMULA, "poisson", layer="counts")


def test_each_gene_is_that_of_glmer_with_the_size_factors_as_offset(
    adata: Annotated, fits: ManyFits
) -> None:
    counts = adata.layers["counts"]
    assert list(fits.names) == list(adata.var_names)
    totals = counts.sum(axis=1, dtype=float)
    offset = np.log(totals / np.median(totals))
    data = adata.obs.assign(y=counts[:, 1])
    alone = gj.glmer("y " + FORMULA, data, "poisson", offset=offset)
    assert fits.models.loc["gene1", "llf"] == pytest.approx(alone.llf, abs=1e-6)
    table = fits.coefficients.set_index(["model", "term"])["estimate"]
    assert table["gene1", "dose"] == pytest.approx(alone.params["dose"], abs=1e-5)
    full = fits.fit("gene1")
    assert full.llf == pytest.approx(alone.llf, abs=1e-8)
    np.testing.assert_array_equal(full.frame.y, counts[:, 1])
    assert fits.models.loc["gene5", "status"] == "NO_VARIATION"


def test_sparse_counts_and_given_size_factors(adata: Annotated, fits: ManyFits) -> None:
    counts = adata.layers["counts"]
    for made in (scipy.sparse.csr_matrix, scipy.sparse.csc_array):
        sparse = replace(adata, X=made(counts))
        found = gj.many.from_anndata(sparse, FORMULA, "poisson", chunk_size=3)
        np.testing.assert_allclose(found.columns.deviance, fits.columns.deviance, atol=1e-7)
    settings: dict[str, Any] = {"formula": FORMULA, "family": "poisson", "layer": "counts"}
    depth = adata.obs["depth"]
    column = gj.many.from_anndata(adata, size_factors="depth", **settings)
    array = gj.many.from_anndata(adata, size_factors=depth.to_numpy(), **settings)
    np.testing.assert_array_equal(column.columns.estimates, array.columns.estimates)
    none = gj.many.from_anndata(adata, size_factors=None, **settings)
    by_hand = gj.many.from_anndata(adata, size_factors=None, offset=np.log(depth), **settings)
    np.testing.assert_allclose(by_hand.columns.deviance, column.columns.deviance, atol=1e-7)
    assert np.nanmax(np.abs(none.columns.deviance - column.columns.deviance)) > 1


def test_results_go_back_to_the_genes(adata: Annotated, fits: ManyFits) -> None:
    var = gj.many.to_var(adata, fits)
    assert list(adata.var.columns) == ["length"]
    assert list(var.index) == list(adata.var_names)
    row = fits.coefficients.query("model == 'gene2' and term == 'dose'").iloc[0]
    for column in ("estimate", "std_error", "p_value", "p_adjusted"):
        assert var.loc["gene2", f"dose: {column}"] == row[column]
    assert var.loc["gene5", "status"] == "NO_VARIATION"
    assert np.isnan(var.loc["gene5", "dose: estimate"])
    # The genes of the fits may be some of those of the object, in another order.
    part = replace(adata, var=adata.var.iloc[::-1])
    pd.testing.assert_frame_equal(gj.many.to_var(part, fits), var.iloc[::-1])
    with pytest.raises(ValueError, match="'gene0' is no gene"):
        gj.many.to_var(replace(adata, var=adata.var.iloc[1:]), fits)


class Passed(Exception):
    """Carries what `glmer_many` is asked to fit."""


def test_counts_are_negative_binomial_and_a_continuous_family_takes_what_is_no_count(
    adata: Annotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passed(formula: str, data: Any, family: Any, responses: Any, **settings: Any) -> None:
        raise Passed(family, responses, settings)

    monkeypatch.setattr(anndata_module, "glmer_many", passed)
    with pytest.raises(Passed) as told:
        gj.many.from_anndata(adata, FORMULA, layer="counts")
    assert told.value.args[0] == gj.families.get("negative_binomial")
    with pytest.raises(Passed) as told:
        gj.many.from_anndata(adata, FORMULA, "gaussian", size_factors=None)
    family, responses, settings = told.value.args
    assert family == gj.families.get("gaussian") and settings == {}
    np.testing.assert_array_equal(responses, adata.X)


def twice(adata: Annotated) -> Annotated:
    names = ["gene0", *list(adata.var_names)[:-1]]
    return replace(adata, var=adata.var.set_axis(pd.Index(names)))


def changed(adata: Annotated, value: float, sparse: bool) -> Annotated:
    counts = adata.layers["counts"].copy()
    counts[3, 6] = value
    return replace(adata, layers={"counts": scipy.sparse.csr_array(counts) if sparse else counts})


def without_counts(adata: Annotated) -> Annotated:
    counts = adata.layers["counts"].copy()
    counts[4] = 0
    return replace(adata, layers={"counts": counts})


@pytest.mark.parametrize(
    ("of", "settings", "words"),
    [
        (lambda a: a, {"layer": None}, r"adata\.X holds .* raw counts: name the layer"),
        (lambda a: a, {"layer": "raw"}, "layer='raw' is not in adata.layers, which has 'counts'"),
        (lambda a: changed(a, -1, False), {}, "holds -1 for the gene 'gene6'"),
        (lambda a: changed(a, 0.5, True), {}, "holds 0.5 for the gene 'gene6'"),
        (lambda a: changed(a, np.nan, False), {}, "holds nan for the gene 'gene6'"),
        (twice, {}, "'gene0' occurs twice in var_names"),
        (lambda a: a.obs, {}, r"adata is a DataFrame without \.obs"),
        (lambda a: replace(a, X=None), {"layer": None}, "adata.X is empty"),
        (without_counts, {}, "1 rows of adata have no counts at all .*'cell4'"),
        (lambda a: a, {"size_factors": "deep"}, "size_factors='deep' is no column"),
        (lambda a: a, {"size_factors": np.zeros(CELLS)}, "120 positive numbers"),
        (lambda a: a, {"size_factors": "depth", "offset": np.zeros(CELLS)}, "both given"),
        (lambda a: a, {"responses": np.zeros((CELLS, 2))}, "responses= comes from adata"),
        (lambda a: a, {"formula": "~ sex + (1 | patient)"}, "sex"),
    ],
)
def test_bad_input_is_named(
    adata: Annotated, of: Any, settings: dict[str, Any], words: str
) -> None:
    arguments = {"formula": FORMULA, "layer": "counts", **settings}
    with pytest.raises(ValueError, match=words):
        gj.many.from_anndata(of(adata), **arguments)


def test_the_real_class(adata: Annotated, fits: ManyFits) -> None:
    anndata = pytest.importorskip("anndata")
    real = anndata.AnnData(
        X=scipy.sparse.csr_matrix(adata.layers["counts"]), obs=adata.obs, var=adata.var
    )
    found = gj.many.from_anndata(real, FORMULA, "poisson")
    np.testing.assert_allclose(found.columns.deviance, fits.columns.deviance, atol=1e-7)
    real.var = gj.many.to_var(real, found)
    assert "dose: p_adjusted" in real.var
