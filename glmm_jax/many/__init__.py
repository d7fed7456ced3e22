"""Many models at once: one design and many responses, many data sets, power by simulation."""

from __future__ import annotations

from glmm_jax.many.anndata import from_anndata, to_var
from glmm_jax.many.glmer_many import glmer_many
from glmm_jax.many.power import power
from glmm_jax.many.power_table import Power
from glmm_jax.many.table import ManyFits

__all__ = ["ManyFits", "Power", "from_anndata", "glmer_many", "power", "to_var"]
