"""What `influence` returns: tables of what each case does to the estimates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

SHOWN = 10


@dataclass(frozen=True, eq=False)
class Influence:
    """Influence of single rows (`by` None) or groups on a fit.

    Every table has a row for each case, labelled as the data are, and the parameters of
    `Fit.vcov_all`: coefficients, theta, dispersion. method : how it was found. rows : number of
    rows of each case. original : the estimate. without : the estimate without each case; first, how
    it moves to first order. parameters : `without` on the scale of standard deviations and
    correlations. covariance : of the estimate, twice the inverse Hessian. log_density : of the rows
    of each case given all others, at the estimate without it (see `cross_validate`). own : how much
    the linear predictor of the case's rows falls without it (mean over its rows); others : root
    mean square of its change in the other rows, None for single rows. NaN where a case could not be
    left out.
    """

    by: str | None
    method: str
    rows: pd.Series
    original: pd.Series
    without: pd.DataFrame
    first: pd.DataFrame
    parameters: pd.DataFrame
    covariance: pd.DataFrame
    coefficients: int
    log_density: pd.Series
    own: pd.Series
    others: pd.Series | None

    @property
    def dfbeta(self) -> pd.DataFrame:
        """Estimate less that without the case."""
        return -self.without.sub(self.original, axis=1)

    @property
    def dfbetas(self) -> pd.DataFrame:
        """`dfbeta` in standard errors of the whole fit; NaN for a variance of zero."""
        errors = np.sqrt(np.diag(self.covariance))
        return self.dfbeta / np.where(errors > 0, errors, np.nan)

    @property
    def cooks_distance(self) -> pd.DataFrame:
        """Cook's distance, D' V^-1 D / number of parameters, D = `dfbeta`.

        Columns: "coefficients", of the fixed effects with the theta-adjusted V; "all", of the
        coefficients, theta and dispersion together.
        """
        p = self.coefficients
        D = self.dfbeta.to_numpy()
        return pd.DataFrame(
            {
                "coefficients": _distance(D[:, :p], self.covariance.to_numpy()[:p, :p]),
                "all": _distance(D, self.covariance.to_numpy()),
            },
            self.without.index,
        )

    @property
    def nonlinearity(self) -> pd.Series:
        """How far first order is from `method`, as a part of the move, both measured by V^-1.

        Where it is 0.1 first order is wrong by 10 %; NaN where nothing moves.
        """
        V = self.covariance.to_numpy()
        moved = -self.dfbeta.to_numpy()
        total = np.sqrt(_distance(moved, V))
        off = np.sqrt(_distance(self.first.to_numpy() - moved, V))
        ratio = np.divide(off, total, out=np.full(len(off), np.nan), where=total > 0)
        return pd.Series(ratio, self.without.index, name="nonlinearity")

    def to_frame(self) -> pd.DataFrame:
        """One row for each case: its size, Cook's distances, log density, changes of the linear
        predictor, nonlinearity of its influence, and the DFBETAS of each parameter."""
        cook = self.cooks_distance
        columns = {
            "rows": self.rows,
            "cooks_distance": cook["coefficients"],
            "cooks_distance_all": cook["all"],
            "log_density": self.log_density,
            "own": self.own,
            **({} if self.others is None else {"others": self.others}),
            "nonlinearity": self.nonlinearity,
        }
        dfbetas = self.dfbetas.rename(columns=lambda name: f"dfbetas({name})")
        # By position: labels of rows may occur twice.
        plain = {name: column.to_numpy() for name, column in columns.items()}
        return pd.concat([pd.DataFrame(plain, self.without.index), dfbetas], axis=1)

    def top(self, n: int = SHOWN) -> pd.DataFrame:
        """The n cases with the largest Cook's distance of all parameters."""
        order = np.argsort(-self.cooks_distance["all"].fillna(-np.inf).to_numpy(), kind="stable")
        return self.to_frame().iloc[order[:n]]

    def __str__(self) -> str:
        what = "rows" if self.by is None else f"groups by {self.by}"
        failed = int(self.without.isna().any(axis=1).sum())
        lines = [f"Influence of {len(self.without)} {what} ({self.method})"]
        if failed:
            lines.append(f"{failed} of them could not be left out: NaN")
        lines.append(f"The {min(SHOWN, len(self.without))} with the largest Cook's distance:")
        with pd.option_context("display.width", 100):
            lines.append(self.top().to_string(float_format=lambda v: f"{v:.3g}"))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.top().to_html(float_format=lambda v: f"{v:.3g}")


def _distance(D: np.ndarray, V: np.ndarray) -> np.ndarray:
    """D' V^-1 D / rank for each row of D (k, P), parameters without a variance left out."""
    free = np.diag(V) > 0
    part = D[:, free]
    if not part.shape[1]:
        return np.zeros(len(D))
    sd = np.sqrt(np.diag(V)[free])
    R = V[np.ix_(free, free)] / np.outer(sd, sd)
    scaled = part / sd
    return np.sum(scaled * np.linalg.solve(R, scaled.T).T, axis=1) / part.shape[1]
