"""What a parametric bootstrap found: estimates of every replicate, and their summaries."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from glmm_jax.inference import digits
from glmm_jax.inference.layout import WIDTH, html_table
from glmm_jax.inference.levels import check_level, percent
from glmm_jax.status import Status

KINDS = ("percentile", "basic")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Estimates of n replicates.

    estimates : (n, N), a row per replicate and a column per parameter: coefficients, standard
        deviations, correlations, sigma; NaN where the refit failed, and for a correlation with a
        standard deviation of zero. theta : (n, m), likewise.
    status (n,) : a `Status` code each. is_singular (n,) : which replicates have a variance of zero
        or a perfect correlation. original : the estimates of the fit itself. seed, random : the
        arguments. weighted : whether rows had weights that multiply their log density.
    """

    estimates: pd.DataFrame
    theta: pd.DataFrame
    status: np.ndarray
    is_singular: np.ndarray
    original: pd.Series
    seed: int
    random: str
    weighted: bool = False

    @property
    def n(self) -> int:
        """Number of replicates."""
        return len(self.status)

    @property
    def converged(self) -> np.ndarray:
        """Which replicates have an estimate, (n,)."""
        return self.status == Status.CONVERGED

    @property
    def failed(self) -> int:
        """Number of replicates without an estimate."""
        return int(np.sum(~self.converged))

    @property
    def singular(self) -> int:
        """Number of replicates with an estimate on the boundary."""
        return int(np.sum(self.is_singular))

    @property
    def bse(self) -> pd.Series:
        """Standard errors: standard deviations of the estimates over the replicates."""
        return self.estimates.std(ddof=1).rename("bse")

    @property
    def bias(self) -> pd.Series:
        """Mean of the estimates over the replicates, less the fit's own."""
        return (self.estimates.mean() - self.original).rename("bias")

    def conf_int(self, level: float = 0.95, kind: str = "percentile") -> pd.DataFrame:
        """Confidence intervals, one row per parameter; columns "2.5 %" and "97.5 %" at level 0.95.

        With q_a the a quantile of the M estimates, the (M + 1) a-th in order (interpolated), and
        t the fit's own,

            percentile   q_a to q_(1-a)
            basic        2 t - q_(1-a) to 2 t - q_a,          a = (1 - level) / 2.

        Raises:
            ValueError: another kind, a level outside (0, 1), or too few replicates for it.

        Source: Davison and Hinkley (1997), Bootstrap Methods and their Application, section 5.2.
        """
        check_interval(level, kind)
        needed, found = _needed(level), self.n - self.failed
        if found < needed:
            raise ValueError(
                f"level={level!r}: {found} replicates have an estimate and intervals of this level "
                f"need {needed}; use a larger n or a lower level"
            )
        tail = (1.0 - level) / 2.0
        limits = self._quantiles(np.array([tail, 1.0 - tail]), needed)
        if kind == "basic":
            limits = 2.0 * self.original.to_numpy()[:, None] - limits[:, ::-1]
        return pd.DataFrame(limits, self.estimates.columns, [percent(tail), percent(1.0 - tail)])

    def _quantiles(self, at: np.ndarray, needed: int) -> np.ndarray:
        """Quantiles of each column, (N, 2); NaN where too few of its estimates are defined."""
        out = np.full((self.estimates.shape[1], len(at)), np.nan)
        for j, values in enumerate(self.estimates.to_numpy().T):
            defined = values[np.isfinite(values)]
            if len(defined) >= needed:
                out[j] = np.quantile(defined, at, method="weibull")
        return out

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Estimate, bias, standard error and 95 % percentile interval of each parameter.

        The interval is NaN where there are too few replicates for it.
        """
        tail = 0.025
        limits = self._quantiles(np.array([tail, 1.0 - tail]), _needed(0.95))
        return pd.DataFrame(
            {
                "Estimate": self.original,
                "Bias": self.bias,
                "Std.Error": self.bse,
                percent(tail): limits[:, 0],
                percent(1.0 - tail): limits[:, 1],
            }
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before the intervals are used, each in sentences; empty if nothing."""
        notes = []
        if self.failed:
            notes.append(
                f"{self.failed} of {self.n} refits failed. They are left out, so that everything "
                "here describes the responses that could be fitted."
            )
            codes = np.bincount(self.status[~self.converged])
            notes += [f"{codes[c]}: {Status(c).sentence}" for c in np.flatnonzero(codes)]
        if self.singular:
            notes.append(
                f"{self.singular} of {self.n} refits are singular (a variance of zero or a perfect "
                "correlation). They are estimates like the others and are kept."
            )
        undefined = self.estimates.loc[self.converged].isna().sum()
        for name, count in undefined[undefined > 0].items():
            notes.append(
                f"{name} is not defined in {count} of them, where a standard deviation is zero; it "
                "is described by the others."
            )
        if self.n - self.failed < _needed(0.95):
            notes.append(f"Intervals of level 0.95 need {_needed(0.95)} replicates or more.")
        if self.random == "conditional":
            notes.append(
                "Every replicate has the random effects of the fit (random='conditional'): the "
                "spread is that of new responses of the same groups, too small for a population "
                "of groups."
            )
        if self.weighted:
            notes.append(
                "Rows have weights that multiply their log density. One response was drawn for "
                "each row whatever its weight, so a row of weight 2 was not drawn as two rows are."
            )
        return tuple(notes)

    def __str__(self) -> str:
        lines = [self._title(), ""]
        lines += digits.aligned(self._cells())
        for note in self.notes:
            lines += textwrap.wrap(f"Note: {note}", WIDTH, subsequent_indent="  ")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        notes = html_table([["Note"], *([note] for note in self.notes)], labelled=False)
        return html_table(self._cells(), self._title()) + (notes if self.notes else "")

    def _title(self) -> str:
        return f"Parametric bootstrap: {self.n} replicates, seed {self.seed}"

    def _cells(self) -> list[list[str]]:
        frame = self.frame
        error = frame["Std.Error"].to_numpy()
        error = error[np.isfinite(error) & (error > 0)]
        # Three significant digits of the smallest standard error; all numbers as many decimals.
        decimals = max(0, 2 - int(np.floor(np.log10(error.min())))) if len(error) else 4
        rows = [
            [str(name), *("NA" if np.isnan(v) else f"{v:.{decimals}f}" for v in row)]
            for name, row in zip(frame.index, frame.to_numpy(), strict=True)
        ]
        return [["", *map(str, frame.columns)], *rows]


def check_interval(level: float, kind: str, n: int | None = None) -> None:
    """Raise a ValueError for a level or kind that `conf_int` refuses, or too few replicates."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}; use 'percentile' or 'basic'")
    check_level(level)
    if isinstance(n, int) and n < _needed(level):
        raise ValueError(
            f"n={n!r}; intervals of level {level:g} need {_needed(level)} replicates or more"
        )


def _needed(level: float) -> int:
    """How many replicates have the quantiles of an interval: (M + 1) (1 - level) / 2 >= 1."""
    return int(np.ceil((2.0 / (1.0 - level) - 1.0) * (1.0 - 1e-9)))
