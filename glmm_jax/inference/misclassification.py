"""Wrong answers in a response of two levels: what flips do to the estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.inference import derivatives
from glmm_jax.inference.influence import changed

if TYPE_CHECKING:
    from glmm_jax.results import Fit

SHOWN = 10


@dataclass(frozen=True, eq=False)
class Misclassification:
    """What `misclassification` returns.

    rate : probability of a flip. flips (nobs, P) : how the estimates move when one answer is turned
    into the other; NaN where no mode was found. frame, a row for each parameter of
    `Fit.vcov_all`: "estimate", "std_error", "change", its expectation under flips of that rate,
    and "sd", its standard deviation over which answers are flipped; "change_in_se", the change in
    standard errors.
    """

    rate: float
    flips: pd.DataFrame
    frame: pd.DataFrame

    def worst(self, parameter: str, n: int = SHOWN) -> pd.Series:
        """The n answers whose flip moves a parameter most, with the move.

        Raises:
            ValueError: no such parameter.
        """
        if parameter not in self.flips:
            listed = ", ".join(map(repr, self.flips.columns))
            raise ValueError(f"parameter={parameter!r}; use one of {listed}")
        moves = self.flips[parameter]
        return moves.iloc[np.argsort(-moves.abs().to_numpy(), kind="stable")[:n]]

    def __str__(self) -> str:
        table = self.frame.to_string(float_format=lambda v: f"{v:.4g}")
        return f"If {100 * self.rate:g} % of the answers were flipped at random:\n{table}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.frame.to_html(float_format=lambda v: f"{v:.4g}")


def misclassification(fit: Fit, rate: float = 0.02) -> Misclassification:
    """What the estimates would be if each answer were turned into the other with a probability.

    Let D_i be how far the estimates move when answer i alone is flipped. With flips independent of
    each other and of everything else, to first order in the rate,

        E(change) = rate sum_i D_i,     Var(change) = rate (1 - rate) sum_i D_i D_i'.

    A flip is no small change: to theta the derivative in y is twice what the flips do together,
    since each of them also adds to the variation that theta measures. So each D_i is taken with the
    answer flipped, from two gradients there (see `leave_out`), instead of a refit a row. A variance
    at zero stays there.

    Errors that are in the data already have pulled the estimates about as far the same way; a fit
    that allows for them is one with the link of a mean between `rate` and 1 - `rate`, see
    `links.custom`.

    Parameters
    ----------
    rate : probability of a flip, between 0 and 1/2; the change is to first order in it.

    Returns
    -------
    Misclassification: `frame`, `flips`, `worst(parameter)`; drawn by `gj.plots.shifts`.

    Raises
    ------
    ValueError : a response that is not of two levels, a rate outside (0, 1/2), a fit that has not
        converged or is no maximum in all parameters.

    Source: Neuhaus (1999), Bias and efficiency loss due to misclassified responses in binary
    regression, Biometrika 86, 843-855; Efron (1982), The Jackknife, the Bootstrap and Other
    Resampling Plans, chapter 6 (finite differences against derivatives of an estimator).
    """
    derivatives.check_maximum(fit, "misclassification")
    if fit.family.name != "bernoulli":
        raise ValueError(
            f"misclassification: a {fit.family.name} response is not of two levels; for a "
            "continuous one see sensitivity(wrt='y')"
        )
    number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not number or not 0 < rate < 0.5:
        raise ValueError(f"rate={rate!r}; use a probability between 0 and 0.5, such as 0.02")
    inverse = derivatives.inverse_hessian(fit, derivatives.local(fit).hessian)
    weights, y, n = np.asarray(fit.numbers.weights), np.asarray(fit.numbers.y), fit.nobs
    flips = changed(fit, inverse, np.arange(n), n, weights, 1.0 - y).second
    error = np.sqrt(2.0 * np.diag(inverse))
    change = rate * np.sum(flips, axis=0)
    in_se = np.divide(change, error, out=np.full(len(change), np.nan), where=error > 0)
    names = fit.vcov_all.index
    frame = pd.DataFrame(
        {
            "estimate": [*fit.params, *fit.theta, *fit.dispersion_params],
            "std_error": error,
            "change": change,
            "sd": np.sqrt(rate * (1.0 - rate) * np.sum(flips**2, axis=0)),
            "change_in_se": in_se,
        },
        names,
    )
    return Misclassification(float(rate), pd.DataFrame(flips, fit.frame.index, names), frame)
