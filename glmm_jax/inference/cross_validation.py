"""Cross-validation that leaves groups out, without refitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.inference.influence import influence

if TYPE_CHECKING:
    from glmm_jax.results import Fit


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """What `cross_validate` returns: frame, a row for each group with columns "rows" and
    "log_density"; by and method as asked."""

    by: str
    method: str
    frame: pd.DataFrame

    @property
    def elpd(self) -> float:
        """Sum of the log densities: the expected log predictive density for as many new groups."""
        return _total(self.frame["log_density"].to_numpy())[0]

    @property
    def standard_error(self) -> float:
        """Of `elpd`, from the variation between the groups."""
        return _total(self.frame["log_density"].to_numpy())[1]

    def compare(self, other: CrossValidation) -> tuple[float, float]:
        """elpd of this less that of another model of the same groups, and its standard error.

        Raises:
            ValueError: other groups, or of other sizes.
        """
        if not self.frame["rows"].equals(other.frame["rows"]):
            raise ValueError(
                "other has other groups, or groups of other sizes; validate both models by the "
                "same groups of the same rows"
            )
        ours, theirs = (one.frame["log_density"].to_numpy() for one in (self, other))
        return _total(ours - theirs)

    def __str__(self) -> str:
        rows = int(self.frame["rows"].to_numpy().sum())
        return (
            f"Leaving out {len(self.frame)} groups by {self.by}, one at a time ({self.method})\n"
            f"log predictive density {self.elpd:.2f}, standard error {self.standard_error:.2f} "
            f"({self.elpd / rows:.4f} a row)"
        )

    def __repr__(self) -> str:
        return str(self)


def _total(each: np.ndarray) -> tuple[float, float]:
    """Sum of a number of each group, and its standard error by their variation."""
    return float(np.sum(each)), float(np.sqrt(len(each) * np.var(each, ddof=1)))


def cross_validate(fit: Fit, by: str, *, method: str = "second-order") -> CrossValidation:
    """Log predictive density of each group of rows under the fit without it.

        l_g = log p(y_g | y_-g; psi_-g) = (d_-g(psi_-g) - d(psi_-g)) / 2

    with psi_-g the estimate without the group, d the deviance of all rows and d_-g that without
    them, by the fit's own approximation of the integral. Where the group is a level of the only
    grouping factor, that is its marginal likelihood: its random effect is new. In crossed designs
    it is predicted with what the other rows say about the levels that it shares with them.

    Parameters
    ----------
    by : a grouping factor of the model or a column of the data.
    method : how psi_-g is found, see `influence`; "refit" fits the model without each group.

    Returns
    -------
    CrossValidation: `frame`, `elpd`, `standard_error`, `compare(other)`. The density of a discrete
    response does not depend on units; of a continuous one only models of the same response compare.

    Raises
    ------
    ValueError : as `influence`.
    """
    if by is None:
        raise ValueError("by=None; name the column whose groups are left out")
    found = influence(fit, by, method=method)
    frame = pd.DataFrame({"rows": found.rows, "log_density": found.log_density})
    return CrossValidation(by, method, frame)
