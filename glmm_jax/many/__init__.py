"""Many models at once: one design and many responses, many data sets, power by simulation."""

from __future__ import annotations

from glmm_jax.many.glmer_many import glmer_many
from glmm_jax.many.table import ManyFits

__all__ = ["ManyFits", "glmer_many"]
