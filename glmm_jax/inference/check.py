"""One page that says what is wrong with a fit, if anything."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.inference import findings, quantile, simulate
from glmm_jax.inference.diagnosis import has_usable_means
from glmm_jax.inference.findings import Finding
from glmm_jax.inference.layout import WIDTH, html_table
from glmm_jax.inference.ranef import modes
from glmm_jax.inference.replicates import Replicates, replicates
from glmm_jax.inference.residuals import observed
from glmm_jax.inference.varcorr import triangles
from glmm_jax.inference.variability import dispersion_test, uncounted, untestable, zero_test
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

# P-values of the tests by simulation below which a finding is a note or a problem.
NOTE, PROBLEM = 0.05, 0.01
# A dispersion so near to one is of no consequence for a standard error, however certain it is.
SMALL_RATIO = 1.1
# Fits of which there is nothing to simulate from.
UNUSABLE = (Status.SEPARATION, Status.NOT_FINITE, Status.MODE_FAILED)


@dataclass(frozen=True, eq=False)
class Check:
    """What `check` returns: `print` gives a page of sentences, a notebook shows a table.

    title : formula, family and size. findings : a row for each, with columns topic, severity
    ("fine", "note", "problem") and sentence. tests : how many of them are tests by simulation.
    """

    title: str
    findings: pd.DataFrame
    tests: int

    @property
    def verdict(self) -> str:
        """The last line of the page."""
        severities = self.findings["severity"].to_list()
        problems, notes = severities.count("problem"), severities.count("note")
        if not problems and not notes:
            return "Verdict: nothing was found that speaks against this model."
        parts = [
            f"{k} {word}{'' if k == 1 else 's'}"
            for k, word in ((problems, "problem"), (notes, "note"))
            if k
        ]
        verdict = f"Verdict: {' and '.join(parts)}."
        if self.tests and not problems:
            verdict += (
                f" Each of the {self.tests} tests by simulation makes a note of a good model one "
                "time in twenty."
            )
        return verdict

    def __str__(self) -> str:
        lines = [*textwrap.wrap(self.title, WIDTH, subsequent_indent="  "), ""]
        for topic, severity, sentence in self.findings.itertuples(index=False):
            start = f"{severity:<8}"
            # A number is not torn from its name: these spaces do not break.
            kept = sentence.replace("p = ", "p\xa0=\xa0")
            wrapped = textwrap.wrap(
                f"{start}{topic}: {kept}",
                WIDTH,
                subsequent_indent=" " * len(start),
                break_on_hyphens=False,
                break_long_words=False,
            )
            lines += [line.replace("\xa0", " ") for line in wrapped]
        return "\n".join([*lines, "", *textwrap.wrap(self.verdict, WIDTH)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [[topic, severity, sentence] for topic, severity, sentence in
                self.findings.itertuples(index=False)]  # fmt: skip
        table = html_table([["Topic", "Severity", "Finding"], *rows])
        return (
            f'<div class="glmm-jax"><p><b>{escape(self.title)}</b></p>{table}'
            f"<p><b>{escape(self.verdict)}</b></p></div>"
        )


def check(fit: Fit, n: int = 250, seed: int = 0) -> Check:
    """Examine a fit: the end of the search, the design, and the data against the model.

    The tests compare the data with n responses simulated from the fit with new random effects;
    their p-values are (1 + how many are at least as extreme) / (n + 1), twice that where both
    tails count. They hold the parameters at their estimates, which makes them slightly
    conservative. One below 0.05 makes a note, one below 0.01 a problem; fewer than 200 simulated
    responses cannot make a two-sided p-value so small.

    Examined are: convergence, separation, singular and rank deficient terms; numbers of levels, 0/1
    responses per level, variance inflation, leverage; dispersion, zeros, the distribution of the
    quantile residuals and rows beyond all simulated values, extreme and skewed random effects.

    Parameters
    ----------
    n, seed : number of simulated responses, and seed of the simulation.

    Returns
    -------
    Check: printed as a page of sentences with a verdict at its end; `findings` as a data frame.

    Raises
    ------
    ValueError : n or seed that `simulate` refuses.
    """
    simulate.check_draws(n, seed, "new")
    found = findings.of_estimate(fit)
    tests: list[Finding] = []
    if fit.status in UNUSABLE and not (fit.status is Status.SEPARATION and has_usable_means(fit)):
        sentence = "Not examined, because there is no usable estimate."
        found.append(Finding("Design and data", "note", sentence))
    else:
        found += findings.of_design(fit)
        try:
            simulated = simulate.simulate_array(fit, n, seed, "new")
        except ValueError as error:  # a link without a valid mean for some random effects
            sentence = f"Not compared with simulated responses: {error}."
            found.append(Finding("Data", "note", sentence))
        else:
            tests = _of_data(fit, simulated, seed)
    tested = sum(finding.sentence.find("p = ") >= 0 for finding in tests)
    table = pd.DataFrame([*found, *tests], columns=["topic", "severity", "sentence"])
    family = f"{fit.family.name} family, {fit.family.link.name} link"
    title = f"Check of {fit.frame.formula.text.strip()} ({family}, {fit.nobs} rows)"
    return Check(title, table, tested)


def _of_data(fit: Fit, simulated: np.ndarray, seed: int) -> list[Finding]:
    found = replicates(fit, simulated)
    return [
        _dispersion(fit, found),
        *_zeros(fit, simulated, found),
        *_residuals(fit, simulated, seed),
        *_random_effects(fit, found),
    ]


def _severity(p: float) -> str:
    if np.isnan(p) or PROBLEM <= p < NOTE:
        return "note"
    return "fine" if p >= NOTE else "problem"


def _dispersion(fit: Fit, found: Replicates) -> Finding:
    reason = untestable(fit)
    if reason:
        return Finding("Dispersion", "fine", reason)
    test = dispersion_test(fit, found)
    p, ratio = test.frame.loc["simulation", ["p", "ratio"]]
    severity = _severity(p)
    if severity == "problem" and 1 / SMALL_RATIO < ratio < SMALL_RATIO:
        severity = "note"
    return Finding("Dispersion", severity, test.message)


def _zeros(fit: Fit, simulated: np.ndarray, found: Replicates) -> list[Finding]:
    if uncounted(fit):
        return []
    test = zero_test(fit, simulated, found)
    return [Finding("Zeros", _severity(test.frame.loc["own modes", "p"]), test.message)]


def _residuals(fit: Fit, simulated: np.ndarray, seed: int) -> list[Finding]:
    """Distribution of the quantile residuals, and rows that no simulated response reaches."""
    ranks = quantile.ranks(observed(fit), simulated, seed)
    distance = quantile.distance_from_normal(ranks.u)
    p = quantile.monte_carlo_p(distance, "upper")
    measured = f"(Lilliefors distance {distance[0]:.3f}, p = {p:.2g})"
    if p >= NOTE:
        shape = f"The quantile residuals are as normal as those of simulated responses {measured}."
    else:
        shape = (
            f"The quantile residuals are less normal than those of simulated responses {measured}: "
            "the distribution of the response is not the model's. Plot them against the fitted "
            "values and each covariate: a curve asks for another form of the covariate or link, a "
            "funnel for another family."
        )
    outside = np.sum(ranks.outside, axis=1).astype(float)
    q = quantile.monte_carlo_p(outside, "upper")
    rows = fit.frame.index[ranks.outside[0]]
    counted = (
        f"{len(rows)} of {fit.nobs} rows lie beyond all {len(simulated)} simulated values, "
        f"{np.mean(outside[1:]):.1f} expected (p = {q:.2g})"
    )
    if q >= NOTE:
        outliers = f"{counted}."
    else:
        outliers = (
            f"{counted}: {findings.labels(rows)}. Look whether they are errors of recording, and "
            "what changes without them; many of them mean tails that are too light."
        )
    return [
        Finding("Distribution", _severity(p), shape),
        Finding("Outliers", _severity(q), outliers),
    ]


def _random_effects(fit: Fit, found: Replicates) -> list[Finding]:
    """Extreme and skewed conditional modes of each random effect that has a variance."""
    # As `Replicates.effects` has them: by block, column after column.
    known: list[tuple[str, np.ndarray, float, pd.Index]] = []
    blocks = zip(fit.frame.blocks, triangles(fit.frame, fit.theta), modes(fit), strict=True)
    for block, Lambda, b in blocks:
        for j, name in enumerate(block.names):
            sd = float(np.sqrt(np.sum(Lambda[j] ** 2)))
            known.append((block.named(name), b[:, j], sd, block.levels))
    out = []
    # An effect's two tests share the level of one.
    for j, (label, mode, sd, levels) in enumerate(known):
        if sd == 0:
            continue
        p_extreme = quantile.monte_carlo_p(found.largest[:, j], "upper")
        p_skewed = quantile.monte_carlo_p(found.skewness[:, j])
        largest = int(np.argmax(np.abs(mode)))
        size = mode[largest] / sd
        where = f"the largest, of level {levels[largest]}, is {size:.1f} SD"
        p = min(1.0, 2 * min(p_extreme, p_skewed))
        if _severity(p) == "fine":
            sentence = (
                f"The conditional modes of {label} look like those of normal effects; {where} "
                f"(adjusted p = {p:.2g})."
            )
        elif p_extreme <= p_skewed:
            sentence = (
                f"The conditional modes of {label} have an extreme one: {where} (adjusted p = "
                f"{p:.2g}). See what is special about that level and what changes without it."
            )
        else:
            sentence = (
                f"The conditional modes of {label} are skewed ({found.skewness[0, j]:.2f}, "
                f"adjusted p = {p:.2g}), which normal effects are not. A covariate of the level "
                "may be missing, or levels come in kinds."
            )
        out.append(Finding("Random effects", _severity(p), sentence))
    return out
