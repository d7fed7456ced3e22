"""Generalized linear mixed models by maximum likelihood in JAX, differentiable from end to end."""

from __future__ import annotations

from glmm_jax import datasets, families, links
from glmm_jax.build import build_model
from glmm_jax.estimate import Estimate, estimate
from glmm_jax.glmer import glmer
from glmm_jax.inference.anova import anova
from glmm_jax.model import Model, Params
from glmm_jax.objective.marginal import deviance
from glmm_jax.pirls import conditional_mode
from glmm_jax.results import Fit
from glmm_jax.status import Status

__version__ = "0.1.0"

__all__ = [
    "Estimate",
    "Fit",
    "Model",
    "Params",
    "Status",
    "anova",
    "build_model",
    "conditional_mode",
    "datasets",
    "deviance",
    "estimate",
    "families",
    "glmer",
    "links",
]
