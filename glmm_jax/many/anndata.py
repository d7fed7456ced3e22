"""Genes of an AnnData object: its counts as responses, its obs as data, results back to its var.

The object is read by its attributes (`obs`, `var`, `var_names`, `X`, `layers`), so that this
package needs no other for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from glmm_jax import families
from glmm_jax.families.base import Family
from glmm_jax.families.zeros import takes
from glmm_jax.many.glmer_many import glmer_many
from glmm_jax.many.table import ManyFits

NEEDED = ("obs", "var", "var_names", "X", "layers")
WRITTEN = ("estimate", "std_error", "p_value", "p_adjusted")


def from_anndata(
    adata: Any,
    formula: str,
    family: str | Family = "negative_binomial",
    link: str | None = None,
    *,
    layer: str | None = None,
    size_factors: Any = True,
    **settings: Any,
) -> ManyFits:
    """Fit one formula to every gene of an AnnData object.

        log(mean_ij) = log(s_i) + x_i' beta_j + z_i' b_j,   s_i = total_i / median of the totals

    Parameters
    ----------
    adata : an `anndata.AnnData`, or anything with its `obs`, `var`, `var_names`, `X` and `layers`;
        not changed. Its rows (cells or samples) are the observations, `obs` has the predictors and
        groups.
    formula : right side, with names of `obs`: "~ time * treatment + (1 | patient)".
    layer : the layer that holds raw counts; None for X.
    size_factors : True for the row totals over all genes here, divided by their median; a column of
        `obs` or (rows,) positive numbers; None for none. Their logarithms are the offset. Where a
        few genes make up most of a total, or genes have been left out, give factors of your own.
    settings : anything else that `glmer_many` takes, such as chunk_size, checkpoint or weights.

    Returns
    -------
    ManyFits, its models named by `var_names`.

    Raises
    ------
    ValueError : an object without these attributes, genes of one name, counts that are negative or
        no integers where the family takes counts, size factors that are not positive, or anything
        that `glmer_many` refuses.
    """
    lacking = [name for name in NEEDED if not hasattr(adata, name)]
    if lacking:
        raise ValueError(
            f"adata is a {type(adata).__name__} without .{lacking[0]}; give an AnnData object"
        )
    given = [name for name in ("responses", "by", "data") if name in settings]
    if given:
        raise ValueError(f"{given[0]}= comes from adata here; leave it out, or use glmer_many")
    names = pd.Index(adata.var_names)
    if names.has_duplicates:
        twice = names[names.duplicated()][0]
        raise ValueError(
            f"adata: the gene {twice!r} occurs twice in var_names; call "
            "adata.var_names_make_unique()"
        )
    chosen = families.get(family, link)
    counts = _matrix(adata, layer)
    _check_counts(counts, names, chosen, layer)
    if size_factors is not None and size_factors is not False:
        if settings.get("offset") is not None:
            raise ValueError(
                "offset= and size_factors= are both given; add the logarithms of the size factors "
                "to the offset, and set size_factors=None"
            )
        settings["offset"] = np.log(_size_factors(size_factors, counts, adata.obs))
    fits = glmer_many(formula, adata.obs, chosen, responses=counts, **settings)
    # Responses without names of their own are known by their positions.
    own = names[fits.names.to_numpy()]

    def refit(name: Any) -> Any:
        return fits.refit(int(names.get_indexer([name])[0]))

    return replace(fits, names=own, refit=refit)


def to_var(adata: Any, fits: ManyFits) -> pd.DataFrame:
    """A copy of adata.var with what was found for each gene: `adata.var = to_var(adata, fits)`.

    Added are, for each coefficient, "time: estimate", "time: std_error", "time: p_value" and
    "time: p_adjusted"; then "status" and "converged". Genes that were not fitted have missing
    values.

    Raises:
        ValueError: models that are no genes of adata.
    """
    var = adata.var.copy()
    unknown = fits.names.difference(var.index)
    if len(unknown):
        raise ValueError(
            f"fits: {unknown[0]!r} is no gene of adata.var; give the object that was fitted"
        )
    table = fits.coefficients
    found: dict[str, Any] = {}
    for term, rows in table.groupby("term", sort=False):
        rows = rows.set_index("model")
        found |= {f"{term}: {column}": rows[column] for column in WRITTEN}
    found |= {name: fits.models[name] for name in ("status", "converged")}
    for name, values in found.items():
        var[name] = values.reindex(var.index)
    return var


def _matrix(adata: Any, layer: str | None) -> Any:
    """The counts, (rows, genes): an array, or a sparse matrix by columns."""
    if layer is not None and layer not in adata.layers:
        known = ", ".join(repr(name) for name in adata.layers) or "none"
        raise ValueError(f"layer={layer!r} is not in adata.layers, which has {known}")
    counts = adata.X if layer is None else adata.layers[layer]
    if counts is None:
        raise ValueError("adata.X is empty; name the layer that holds raw counts, layer=")
    # What is read from disk piece by piece is read here.
    if hasattr(counts, "to_memory"):
        counts = counts.to_memory()
    return counts.tocsc() if hasattr(counts, "tocsc") else np.asarray(counts)


def _check_counts(counts: Any, names: pd.Index, family: Family, layer: str | None) -> None:
    """Raise a ValueError where a family of counts meets numbers that are none."""
    if takes(family, [0.5]):
        return
    sparse = hasattr(counts, "tocsc")
    values = counts.data if sparse else counts
    if values.dtype.kind not in "iuf":
        return
    wrong = values < 0
    if values.dtype.kind == "f":
        wrong |= values != np.floor(values)
    if not np.any(wrong):
        return
    if sparse:
        at = int(np.searchsorted(counts.indptr, int(np.argmax(wrong)), side="right")) - 1
    else:
        at = int(np.argmax(wrong.any(axis=0)))
    value = values[wrong].ravel()[0] if sparse else counts[:, at][wrong[:, at]][0]
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    raise ValueError(
        f"{where} holds {value:g} for the gene {names[at]!r}, so it was normalised or transformed; "
        f"family={family.name!r} needs raw counts: name the layer that has them, layer="
    )


def _size_factors(given: Any, counts: Any, obs: pd.DataFrame) -> np.ndarray:
    """Positive factors, (rows,)."""
    if given is True:
        # Counts are often kept in float32, which would round a total above 2^24.
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        empty = int(np.sum(~(totals > 0)))
        if empty:
            raise ValueError(
                f"size_factors: {empty} rows of adata have no counts at all (first: "
                f"{obs.index[int(np.argmax(~(totals > 0)))]!r}); leave them out"
            )
        return totals / np.median(totals)
    if isinstance(given, str):
        if given not in obs:
            raise ValueError(
                f"size_factors={given!r} is no column of adata.obs; use one of "
                f"{', '.join(map(str, obs.columns))}, or True for the totals of the rows"
            )
        given = obs[given]
    factors = np.asarray(given, float)
    if factors.shape != (len(obs),) or not np.all((factors > 0) & np.isfinite(factors)):
        raise ValueError(
            f"size_factors must be {len(obs)} positive numbers, one a row of adata; got shape "
            f"{factors.shape}, smallest {np.min(factors, initial=np.inf):g}"
        )
    return factors
