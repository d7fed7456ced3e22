"""What `power` returns, and how it is printed."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glmm_jax.inference import digits
from glmm_jax.inference.layout import WIDTH, html_table
from glmm_jax.inference.notes import notes_html, notes_text
from glmm_jax.many.table import ManyFits
from glmm_jax.status import Status

PROBABILITIES = ("power", "std_error", "coverage", "failed")
TITLES = {"std_error": "MC error"}


@dataclass(frozen=True, eq=False)
class Power:
    """Rejections among n simulated responses.

    frame : a row for each coefficient, by its name, and one for the likelihood-ratio test if there
        was a smaller formula. Columns: value, what the responses were simulated with; power, share
        of the n responses in which the test at level alpha rejects zero; std_error, of that share,
        sqrt(power (1 - power) / n); mean and bias of the estimates; coverage, share of the Wald
        intervals of level 1 - alpha that hold the value; failed, share of the n fits without an
        estimate. These reject nothing, and are left out of mean, bias and coverage.
    fits : all fits, a model for each response. reduced : those of the smaller formula, or None.
    formula, reduced_formula, alpha, seed : as given.
    """

    frame: pd.DataFrame
    fits: ManyFits
    reduced: ManyFits | None
    formula: str
    reduced_formula: str | None
    alpha: float
    seed: int

    @property
    def n(self) -> int:
        """Number of responses."""
        return len(self.fits)

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes the figures doubtful, each a sentence."""
        out = []
        for fits, which in ((self.fits, "the formula"), (self.reduced, "the smaller formula")):
            if fits is None or fits.converged.all():
                continue
            codes = fits.columns.status[~fits.converged]
            kinds = pd.Series([Status(int(code)).name.lower() for code in codes]).value_counts()
            listed = ", ".join(f"{count} {str(kind).replace('_', ' ')}"
                               for kind, count in kinds.items())  # fmt: skip
            out.append(
                f"{len(codes)} of {len(fits)} fits of {which} have no estimate ({listed}): they "
                "reject nothing, and are left out of mean, bias and coverage."
            )
        if not self.fits.complete or (self.reduced is not None and not self.reduced.complete):
            out.append("Interrupted: the responses above are those that were done.")
        return tuple(out)

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *digits.aligned(self._cells()), *self._tail()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells(), " ".join(self._head())) + notes_html(self.notes)

    def _head(self) -> list[str]:
        family = self.fits.family
        lines = [
            f"Power at level {self.alpha:g}: {self.n:,} responses simulated (seed {self.seed})",
            f"Formula: {self.formula}",
        ]
        if self.reduced_formula is not None:
            lines.append(f"Smaller formula: {self.reduced_formula}")
        lines.append(f"Family: {family.name} ({family.link.name})")
        return [part for line in lines for part in textwrap.wrap(line, WIDTH)]

    def _tail(self) -> list[str]:
        notes = notes_text(self.notes)
        return ["", *notes] if notes else []

    def _cells(self) -> list[list[str]]:
        frame = self.frame
        columns = {"": list(map(str, frame.index))}
        for name in frame:
            title = TITLES.get(str(name), str(name))
            form = ".3f" if name in PROBABILITIES else ".2g" if name == "bias" else ".4g"
            columns[title] = ["" if np.isnan(value) else f"{value:{form}}" for value in frame[name]]
        return [list(row) for row in zip(*([title, *cells] for title, cells in columns.items()),
                                         strict=True)]  # fmt: skip
