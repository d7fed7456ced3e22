"""Pictures of data, models and their checks, in matplotlib.

Every function draws on the axes it is given, or on a figure of its own, and returns the axes; none
shows a figure or changes a setting of matplotlib.
"""

from __future__ import annotations

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        'glmm_jax.plots needs matplotlib, an optional extra: pip install "glmm-jax[plot]"'
    ) from error

from glmm_jax.plots.caterpillar import caterpillar
from glmm_jax.plots.density import conditional_density
from glmm_jax.plots.exploration import smooth
from glmm_jax.plots.influence import held_out, influence, sensitivity, shifts
from glmm_jax.plots.links import inverse_link, link
from glmm_jax.plots.pairs import profile_pairs
from glmm_jax.plots.predictions import prediction
from glmm_jax.plots.profiles import profile_zeta
from glmm_jax.plots.quantiles import qq, qq_ranef
from glmm_jax.plots.residuals import residuals
from glmm_jax.plots.scatter import random_effects_scatter
from glmm_jax.plots.shrinkage import shrinkage

__all__ = [
    "caterpillar",
    "conditional_density",
    "held_out",
    "influence",
    "inverse_link",
    "link",
    "prediction",
    "profile_pairs",
    "profile_zeta",
    "qq",
    "qq_ranef",
    "random_effects_scatter",
    "residuals",
    "sensitivity",
    "shifts",
    "shrinkage",
    "smooth",
]
