"""Is the response more variable, or more often zero, than the model says?"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy

from glmm_jax.families.base import Family
from glmm_jax.inference import digits, simulate
from glmm_jax.inference.layout import WIDTH, html_table
from glmm_jax.inference.parameter_rows import ZERO
from glmm_jax.inference.quantile import monte_carlo_p
from glmm_jax.inference.replicates import Replicates, dispersed, replicates
from glmm_jax.inference.residuals import observed, residuals

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# Level at which a message speaks of a deviation.
LEVEL = 0.05
ZERO_COLUMNS = ["observed", "expected", "2.5 %", "97.5 %", "ratio", "p"]


@dataclass(frozen=True, eq=False)
class VariabilityTest:
    """What `overdispersion` and `zero_inflation` return: a table and what it means.

    frame : one row per test; no rows where there is nothing to test. message : in sentences, with
    what to do.
    """

    title: str
    frame: pd.DataFrame
    message: str

    def __str__(self) -> str:
        lines = [self.title]
        if len(self.frame):
            lines += ["", *digits.aligned(self._cells()), ""]
        return "\n".join([*lines, *textwrap.wrap(self.message, WIDTH, break_on_hyphens=False)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        table = html_table(self._cells(), self.title) if len(self.frame) else ""
        return f"{table}<p>{escape(self.message)}</p>"

    def _cells(self) -> list[list[str]]:
        columns = []
        for name in self.frame.columns:
            values = self.frame[name]
            columns.append(digits.p_values(values) if name == "p" else digits.common(values, 4))
        rows = zip(self.frame.index, *columns, strict=True)
        return [["", *self.frame.columns], *([str(label), *cells] for label, *cells in rows)]


def overdispersion(fit: Fit, n: int = 250, seed: int = 0) -> VariabilityTest:
    """Whether the response varies more about its conditional mean than its distribution allows.

    The statistic is the sum of squared Pearson residuals at the conditional modes,

        X^2 = sum_i w_i (y_i - mu_i)^2 / V(mu_i),

    prior weights w included. It is compared with

        chi-square   its approximate expectation, the residual degrees of freedom, and the upper
                     tail of that chi-squared distribution. Rough: the random effects take degrees
                     of freedom that are not counted, and the distribution is another one where
                     means are small.
        simulation   the same statistic of n responses simulated from the fit with new random
                     effects, each at its own conditional modes; two-sided. The one to trust.

    Parameters
    ----------
    n, seed : number of simulated responses and seed of the simulation. The smallest p-value that n
        responses can give is 2 / (n + 1).

    Returns
    -------
    VariabilityTest with a `frame` (rows "chi-square", "simulation"; columns statistic, expected,
    ratio, p) and a `message`. A 0/1 response cannot be overdispersed and a Gaussian one has a
    residual variance of its own: then the frame has no rows and the message says so.

    Raises
    ------
    ValueError : n or seed that `simulate` refuses.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5, "A word about
    overdispersion", on why no scale parameter is estimated.
    """
    simulate.check_draws(n, seed, "new")
    reason = untestable(fit)
    if reason:
        frame = pd.DataFrame(columns=["statistic", "expected", "ratio", "p"], dtype=float)
        return VariabilityTest("Overdispersion", frame, reason)
    return dispersion_test(fit, replicates(fit, simulate.simulate_array(fit, n, seed, "new")))


def dispersion_test(fit: Fit, found: Replicates) -> VariabilityTest:
    """The test of `overdispersion` from replicates at hand."""
    statistic = float(np.sum(residuals(fit, "pearson") ** 2))
    own, expected = float(found.pearson[0]), float(np.mean(found.pearson[1:]))
    df = fit.df_resid
    p = monte_carlo_p(found.pearson)
    frame = pd.DataFrame(
        {
            "statistic": [statistic, own],
            "expected": [float(df), expected],
            "ratio": [statistic / df if df > 0 else np.nan, own / expected],
            "p": [float(scipy.special.chdtrc(df, statistic)) if df > 0 else np.nan, p],
        },
        index=["chi-square", "simulation"],
    )
    message = _about_dispersion(fit, own / expected, p)
    if fit.frame.weights is not None:
        message += (
            " Prior weights multiply the log density of a row and are no part of the simulated "
            "responses, so only the simulated comparison means something."
        )
    return VariabilityTest(
        "Overdispersion: Pearson chi-square, observed and expected", frame, message
    )


def has_row_effect(fit: Fit) -> bool:
    """Whether some grouping factor has a level for each row, unrelated to the others."""
    return any(
        len(block.levels) == fit.nobs and block.relationship is None for block in fit.frame.blocks
    )


def _named(fit: Fit) -> str:
    """The family as sentences call it."""
    name = fit.family.name
    return name.capitalize() if name in ("gaussian", "poisson", "gamma") else name


def is_count(family: Family) -> bool:
    """Whether responses of the family are the counts 0, 1, 2, ..."""
    if hasattr(family, "absorbs_intercept"):
        return False
    takes = []
    for y in ([0.0, 1.0, 2.0], [0.0, 0.5, 1.0]):
        try:
            family.check(np.array(y))
        except ValueError:
            takes.append(False)
        else:
            takes.append(True)
    return takes == [True, False]


def untestable(fit: Fit) -> str:
    """Why overdispersion is no question for this response; empty if it is one."""
    if "log(phi)" in fit.family.parameters:
        return (
            f"The {_named(fit)} family has a dispersion that is estimated from "
            "the data, so there is nothing to test; look at the residuals instead."
        )
    if not dispersed(fit):
        return (
            f"The variance of a response of the {_named(fit)} family does not follow from its "
            "mean, so there is nothing to test; look at the residuals instead."
        )
    trials = fit.frame.trials
    if fit.family.name == "bernoulli" or (
        fit.family.name == "binomial" and (trials is None or np.all(trials == 1))
    ):
        return (
            "A 0/1 response cannot be overdispersed: its variance is mu (1 - mu) whatever the "
            "model, and a ratio of Pearson's statistic to its degrees of freedom says nothing. "
            "Variation between groups is what the random effects are for."
        )
    return ""


def _about_dispersion(fit: Fit, ratio: float, p: float) -> str:
    binomial = fit.family.name == "binomial"
    name = _named(fit)
    if not np.isfinite(p):
        return "The conditional modes of some simulated responses were not found: no test."
    if p > LEVEL:
        return (
            f"No sign of over- or underdispersion: the residuals vary {ratio:.2f} times as much as "
            f"those of simulated {name} responses (p = {p:.2g})."
        )
    if ratio < 1:
        return (
            f"Underdispersion: the residuals vary {ratio:.2f} times as much as those of simulated "
            f"{name} responses (p = {p:.2g}), so standard errors are too large. Look for a bound "
            "on the counts or for rows that repeat each other; family='conway_maxwell_poisson' and "
            "family='generalized_poisson' allow it."
        )
    other = "beta-binomial" if binomial else "negative binomial"
    there = "beta_binomial" if binomial else "negative_binomial"
    if ZERO in fit.family.parameters:
        there = "zero_inflated_negative_binomial"
    if has_row_effect(fit):
        remedy = (
            f"The random effect per row does not remove it: try a {other} response "
            f"(family={there!r})"
        )
    else:
        remedy = (
            "Let the model have a distribution that is wide enough: a random effect for each row, "
            "data.assign(row=range(len(data))) and + (1 | row) in the formula; or a "
            f"{other} response (family={there!r})"
        )
    return (
        f"Overdispersion: the residuals vary {ratio:.2f} times as much as those of simulated "
        f"{name} responses (p = {p:.2g}), so standard errors are too small. No scale parameter is "
        f"estimated, because no {name} distribution has one"
        + (
            ""
            if ZERO in fit.family.parameters
            else f": a quasi-{name} fit is not maximum likelihood of anything"
        )
        + f". {remedy}; and see whether a covariate or an interaction is "
        "missing."
    )


def zero_inflation(fit: Fit, n: int = 250, seed: int = 0) -> VariabilityTest:
    """Number of zeros against its distribution in responses simulated from the fit.

    Two comparisons with n responses simulated with new random effects:

        new effects   the number itself; their random effects are others, so it varies much
        own modes     the number less its expectation sum_i p(0 | eta_i) at the conditional modes of
                      the same response, which takes that variation away: the one to trust

    Parameters
    ----------
    n, seed : number of simulated responses and seed of the simulation.

    Returns
    -------
    VariabilityTest with a `frame` (rows "new effects", "own modes"; columns observed, expected,
    limits "2.5 %" and "97.5 %" of what the model expects, ratio, two-sided p) and a `message`. A
    response that is not a count (a 0/1 or a continuous one) has no zeros to test: then the frame
    has no rows and the message says so.

    Raises
    ------
    ValueError : n or seed that `simulate` refuses.
    """
    simulate.check_draws(n, seed, "new")
    reason = uncounted(fit)
    if reason:
        frame = pd.DataFrame(columns=ZERO_COLUMNS, dtype=float)
        return VariabilityTest("Zeros", frame, f"{reason[0].upper()}{reason[1:]}.")
    simulated = simulate.simulate_array(fit, n, seed, "new")
    return zero_test(fit, simulated, replicates(fit, simulated))


def uncounted(fit: Fit) -> str:
    """Why zeros of this response are not counted; empty if they are."""
    if is_count(fit.family):
        return ""
    trials = fit.frame.trials
    counted = fit.family.name in ("binomial", "beta-binomial")
    if counted and trials is not None and np.any(trials > 1):
        return ""
    if fit.family.name.startswith("truncated"):
        return "a truncated response has no zeros; the check is for counts that may be zero"
    if fit.family.name == "ordinal":
        return "a response of ordered categories has no zeros; the check is for counts"
    if fit.family.name in ("bernoulli", "binomial", "beta-binomial"):
        return (
            "a 0/1 response has as many zeros as its probabilities say, so there can be no excess "
            "of them; the check is for counts (poisson, or binomial with several trials)"
        )
    if fit.family.name in ("gaussian", "gamma", "inverse gaussian", "beta", "student t",
                           "lognormal", "exponential", "weibull"):  # fmt: skip
        return (
            f"the {fit.family.name} family is for continuous responses, in which a zero has "
            "probability zero; the check is for counts (poisson, or binomial with several trials)"
        )
    return (
        f"the {fit.family.name} family is not one of counts; the check is for counts (poisson, or "
        "binomial with several trials)"
    )


def zero_test(fit: Fit, simulated: np.ndarray, found: Replicates) -> VariabilityTest:
    """The test of `zero_inflation` from simulated responses, (n, nobs), and their replicates."""
    seen = int(np.sum(observed(fit) == 0))
    counts = np.sum(simulated == 0, axis=1).astype(float)
    # What the modes of the observed response leave to chance is what those of the others do.
    given = seen - found.excess_zeros[0] + found.excess_zeros[1:]
    rows = [
        _zeros_row(seen, counts, monte_carlo_p(np.array([seen, *counts]))),
        _zeros_row(seen, given, monte_carlo_p(found.excess_zeros)),
    ]
    frame = pd.DataFrame(rows, ["new effects", "own modes"], ZERO_COLUMNS)
    message = _about_zeros(seen, *frame.loc["own modes", ["expected", "p"]])
    return VariabilityTest("Zeros, observed and expected", frame, message)


def _zeros_row(seen: int, counts: np.ndarray, p: float) -> list[float]:
    expected = float(np.mean(counts))
    low, high = np.quantile(counts, [0.025, 0.975])
    if expected > 0:
        ratio = seen / expected
    else:
        ratio = 1.0 if seen == 0 else np.inf
    return [float(seen), expected, low, high, ratio, p]


def _about_zeros(seen: int, expected: float, p: float) -> str:
    if not np.isfinite(p):
        return "The conditional modes of some simulated responses were not found: no test."
    counted = f"{seen} zeros, {expected:.1f} expected (p = {p:.2g})"
    if p > LEVEL:
        return f"As many zeros as the model expects: {counted}."
    if seen < expected:
        return (
            f"Too few zeros: {counted}. Were rows without events recorded at all? A truncated or a "
            "hurdle model (family='truncated_poisson' or 'hurdle_poisson') may suit."
        )
    return (
        f"Too many zeros: {counted}. Overdispersion alone can cause them: look at "
        "fit.overdispersion() and try a random effect for each row first. If they remain, some "
        "zeros have another origin: a zero-inflated model, zero_inflation='~ 1'."
    )
