"""A GLMM inside something larger: a loss, the last layer of a network, a density for a sampler."""

from __future__ import annotations

from glmm_jax.embedding.batches import Batch, GroupBatches, group_batches
from glmm_jax.embedding.density import LogDensity, log_density
from glmm_jax.embedding.head import RandomEffectsHead
from glmm_jax.embedding.loss import marginal_nll
from glmm_jax.embedding.prediction import Prediction, predict

__all__ = [
    "Batch",
    "GroupBatches",
    "LogDensity",
    "Prediction",
    "RandomEffectsHead",
    "group_batches",
    "log_density",
    "marginal_nll",
    "predict",
]
