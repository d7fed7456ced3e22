"""Generalized linear mixed models by maximum likelihood in JAX, differentiable from end to end."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from glmm_jax import datasets, families, links, priors
from glmm_jax.batch import estimate_many
from glmm_jax.build import build_model
from glmm_jax.estimate import Estimate, estimate
from glmm_jax.fitted import fitted_values, linear_predictor
from glmm_jax.glmer import glmer
from glmm_jax.inference.anova import anova
from glmm_jax.information import hessian, standard_errors, vcov
from glmm_jax.model import Model, Params
from glmm_jax.objective.marginal import deviance
from glmm_jax.pirls import conditional_mode
from glmm_jax.results import Fit
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax import embedding, many
    from glmm_jax import plots as plots
    from glmm_jax.embedding import RandomEffectsHead, group_batches, log_density, marginal_nll
    from glmm_jax.many import ManyFits, Power, glmer_many, power
    from glmm_jax.sharding import shard_rows

__version__ = "0.1.0"

load = Fit.load

__all__ = [
    "Estimate",
    "Fit",
    "ManyFits",
    "Model",
    "Params",
    "Power",
    "RandomEffectsHead",
    "Status",
    "anova",
    "build_model",
    "conditional_mode",
    "datasets",
    "deviance",
    "embedding",
    "estimate",
    "estimate_many",
    "families",
    "fitted_values",
    "glmer",
    "glmer_many",
    "group_batches",
    "hessian",
    "linear_predictor",
    "links",
    "load",
    "log_density",
    "many",
    "marginal_nll",
    "power",
    "priors",
    "shard_rows",
    "standard_errors",
    "vcov",
]


# What a single fit does not need is imported when first used: it would be a part of the time that
# a first fit takes. `plots` needs matplotlib too, which is an extra.
_LATER = {
    **dict.fromkeys(
        ("RandomEffectsHead", "group_batches", "log_density", "marginal_nll"), "embedding"
    ),
    **dict.fromkeys(("ManyFits", "Power", "glmer_many", "power"), "many"),
    "shard_rows": "sharding",
}


def __getattr__(name: str) -> Any:
    """A name that is imported when first used."""
    if name in _LATER:
        value = getattr(importlib.import_module(f"glmm_jax.{_LATER[name]}"), name)
    elif name in ("embedding", "many", "plots"):
        value = importlib.import_module(f"glmm_jax.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    drawn = ["plots"] if importlib.util.find_spec("matplotlib") else []
    return sorted({*globals(), *__all__, *drawn})
