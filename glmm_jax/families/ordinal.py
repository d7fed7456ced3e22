"""Ordered categories by a cumulative link: P(y <= k) = F(tau_k - eta), k = 0, ..., K - 2.

F = g^-1 for the links logit (proportional odds), probit, cloglog (proportional hazards), loglog and
cauchit; y = 0, ..., K - 1 is the number of the category, and a larger eta means a larger y. This
is the sign of MASS::polr, ordinal::clm and brms. The K - 1 thresholds increase:

    tau_1,    tau_(k+1) = tau_k + exp(delta_k),

with the parameters tau_1, delta_1, ..., delta_(K-2), so that any values of them are thresholds. The
thresholds absorb the intercept: the model matrix has none.

Mean and variance are those of the number of the category, a score and no more than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from glmm_jax import links
from glmm_jax.families.base import (
    Dispersion,
    Family,
    is_integer,
    numeric,
    parameter_values,
    require,
    require_unit_size,
)
from glmm_jax.families.intervals import log_interval
from glmm_jax.inversion import inverse_of
from glmm_jax.links import Link

_HALVINGS = 40


@dataclass(frozen=True, init=False)
class Ordinal(Family):
    """Ordered categories by a cumulative link.

    Args:
        link: logit, probit, cloglog, loglog or cauchit, or one of your own whose inverse increases
            from 0 to 1.
        categories: their number K, at least 2; None for that of the response, which `matched` puts
            in.

    Raises:
        ValueError: another link, or another number of categories.
    """

    categories: int | None

    name = "ordinal"
    default_link = links.Logit()
    allowed_links = ("logit", "probit", "cloglog", "loglog", "cauchit")
    has_dispersion = False
    absorbs_intercept = True

    def __init__(self, link: str | Link | None = None, categories: int | None = None):
        super().__init__(link)
        if categories is not None and (
            isinstance(categories, bool)
            or not isinstance(categories, int | np.integer)
            or categories < 2
        ):
            raise ValueError(f"categories={categories!r}; give an integer of at least 2, or None")
        object.__setattr__(self, "categories", None if categories is None else int(categories))

    @property
    def parameters(self) -> tuple[str, ...]:
        gaps = (f"log(tau_{k + 1} - tau_{k})" for k in range(1, self._number - 1))
        return ("tau_1", *gaps)

    @property
    def _number(self) -> int:
        if self.categories is None:
            raise ValueError(
                "family='ordinal' does not know its number of categories yet; give "
                "families.Ordinal(categories=K)"
            )
        return self.categories

    def matched(self, y: Any) -> Ordinal:
        """This family with the number of categories of a response 0, 1, ..., if it has none yet."""
        if self.categories is not None:
            return self
        codes = numeric("y", y)
        require("y", codes, is_integer(codes) & (codes >= 0), "a category 0, 1, 2, ...", _CODES)
        return Ordinal(self.link, max(int(np.max(np.round(codes))) + 1, 2))

    def thresholds(self, dispersion: Dispersion) -> tuple[Array, ...]:
        """tau_1, ..., tau_(K-1)."""
        first, *gaps = parameter_values(self, dispersion)
        out = [first]
        for log_gap in gaps:
            out.append(out[-1] + jnp.exp(log_gap))
        return tuple(out)

    def log_prob(
        self, y: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """log P(y), with y rounded to a category."""
        log_gaps = parameter_values(self, dispersion)[1:]
        taus = self.thresholds(dispersion)
        last = self._number - 1
        # Ends of the interval; an end at infinity is replaced by the other one and not used.
        lower, log_gap = taus[0], jnp.zeros_like(taus[0])
        for k, (tau, value) in enumerate(zip(taus[:-1], log_gaps, strict=True), 1):
            lower = jnp.where(y > k - 0.5, tau, lower)
            log_gap = jnp.where(jnp.abs(y - k) < 0.5, value, log_gap)
        first, highest = y < 0.5, y > last - 0.5
        lowest_end = self.link.log_mean(taus[0] - eta)
        highest_end = self.link.log_complement(taus[-1] - eta)
        outside = jnp.where(first, lowest_end, highest_end)
        if not log_gaps:
            return outside
        inside = log_interval(self.link, lower - eta, log_gap)
        return jnp.where(first | highest, outside, inside)

    def probabilities(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """P(y = k) for all k, the shape of eta with an axis of length K behind."""
        return jnp.moveaxis(jnp.exp(self._all_log_probs(eta, dispersion)), 0, -1)

    def _all_log_probs(self, eta: Array, dispersion: Dispersion) -> Array:
        categories = jnp.arange(self._number, dtype=eta.dtype)
        return jax.vmap(lambda k: self.log_prob(k * jnp.ones_like(eta), eta, dispersion))(
            categories
        )

    def mean(self, eta: Array, dispersion: Dispersion = None) -> Array:
        """Mean number of the category, sum over k of P(y > k), in (0, K - 1)."""
        total = jnp.zeros_like(eta)
        for tau in self.thresholds(dispersion):
            total = total + jnp.exp(self.link.log_complement(tau - eta))
        return total

    def variance(
        self, mu: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """Variance of the number of the category where its mean is mu, found numerically, (n,)."""
        eta = inverse_of(lambda eta: self.mean(eta, dispersion), mu)
        probabilities = self.probabilities(eta, dispersion)
        categories = jnp.expand_dims(jnp.arange(self._number, dtype=eta.dtype), range(mu.ndim))
        distance = categories - mu[..., None]
        return jnp.sum(probabilities * jnp.square(distance), axis=-1)

    def fisher(self, eta: Array, dispersion: Dispersion = None, size: Array | None = None) -> Array:
        """Sum over the categories of P(y) (dlog P(y) / deta)^2, the shape of eta."""
        values, slopes = jax.jvp(
            lambda eta: self._all_log_probs(eta, dispersion), (eta,), (jnp.ones_like(eta),)
        )
        # Half of the logarithm on each factor: a slope may be large where P(y) underflows.
        return jnp.sum(jnp.square(jnp.exp(0.5 * values) * slopes), axis=0)

    def unit_deviance(
        self, y: Array, mu: Array, size: Array | None = None, dispersion: Dispersion = None
    ) -> Array:
        """-2 log P(y) where the mean number of the category is mu: the saturated P(y) is one."""
        eta = inverse_of(lambda eta: self.mean(eta, dispersion), mu)
        return -2.0 * self.log_prob(y, eta, dispersion)

    def sample(
        self, key: Array, eta: Array, dispersion: Dispersion = None, size: Array | None = None
    ) -> Array:
        """The number of thresholds below a latent variable eta + F^-1(uniform)."""
        uniform = jax.random.uniform(key, eta.shape, eta.dtype)
        total = jnp.zeros_like(eta)
        for tau in self.thresholds(dispersion):
            total = total + (uniform >= self.link.inverse(tau - eta))
        return total

    def start_parameters(
        self, y: Array, mu: Array, weights: Array, size: Array | None, lost: Array | float
    ) -> tuple[Array, ...]:
        """Thresholds at which the mean of P(y <= k) over the rows is the share of y <= k.

        mu = g^-1(eta) is a device of the start, no mean.
        """
        eta = self.link.link(mu)
        # A row so far out that g^-1 has rounded to 0 or 1 says nothing here.
        finite = jnp.isfinite(eta)
        eta = jnp.where(finite, eta, 0.0)
        used = jnp.where(finite, weights, 0.0)
        K = self._number
        levels = jnp.arange(K - 1, dtype=mu.dtype)
        count = jnp.sum(jnp.where(y[None] <= levels[:, None] + 0.5, used[None], 0.0), axis=1)
        share = (count + 0.5 * (levels + 1.0) / K) / (jnp.sum(used) + 0.5)
        quantile = self.link.link(share)
        ends = quantile + jnp.min(eta), quantile + jnp.max(eta)

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            tau = 0.5 * (low + high)
            chance = self.link.inverse(tau[:, None] - eta[None])
            mean = jnp.sum(used[None] * chance, axis=1) / jnp.sum(used)
            return jnp.where(mean < share, tau, low), jnp.where(mean < share, high, tau)

        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
        tau = 0.5 * (low + high)
        gaps = jnp.log(jnp.maximum(tau[1:] - tau[:-1], 1e-3))
        return (tau[0], *(gaps[k] for k in range(K - 2)))

    def start_mean(self, y: Array, size: Array | None = None) -> Array:
        """g^-1 of the number of the category, centred and scaled into [-2, 2], (n,)."""
        return self.link.inverse(2.0 * (y - jnp.mean(y)) / (self._number - 1))

    def check(self, y: Any, size: Any = None) -> None:
        """Each value is a category 0, ..., K - 1, and each category occurs."""
        K = self._number
        codes = numeric("y", y)
        require("y", codes, is_integer(codes) & (codes > -0.5), "a category 0, 1, 2, ...", _CODES)
        require(
            "y",
            codes,
            codes < K - 0.5,
            f"at most {K - 1}",
            f"there are {K} categories, numbered from 0; change categories=",
        )
        missing = np.setdiff1d(np.arange(K), np.round(codes))
        if missing.size:
            raise ValueError(
                f"y: category {missing[0]} of 0, ..., {K - 1} has no rows, so its thresholds have "
                "no estimate; numbers count from 0 without a gap, and other labels are given as "
                "pd.Categorical(y, ordered=True), without levels that do not occur"
            )
        require_unit_size(self, size, "give weights= for repeated rows")


_CODES = "give an ordered factor, or the numbers of its levels from 0"
