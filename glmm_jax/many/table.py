"""The results of many fits as tidy frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from glmm_jax.families.base import Family
from glmm_jax.formula.frame import Frame
from glmm_jax.inference.anova import mixture
from glmm_jax.inference.nesting import Verdict, nesting
from glmm_jax.results import Fit
from glmm_jax.status import Status


@dataclass(frozen=True, eq=False)
class Columns:
    """Numbers of B models: a row each.

    estimates, errors (B, P): parameters (beta, theta, dispersion) and their standard errors, NaN
    where there is none; deviance (B,); status (B,) codes; singular (B,) booleans; rows (B,) used;
    df (B,): number of parameters; evaluations (B,) of the gradient.
    """

    estimates: np.ndarray
    errors: np.ndarray
    deviance: np.ndarray
    status: np.ndarray
    singular: np.ndarray
    rows: np.ndarray
    df: np.ndarray
    evaluations: np.ndarray


def joined(parts: list[Columns]) -> Columns:
    """The columns of several blocks, one after another."""
    names = Columns.__dataclass_fields__
    return Columns(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})


def taken(columns: Columns, at: np.ndarray) -> Columns:
    """The columns of some models."""
    return Columns(**{name: values[at] for name, values in vars(columns).items()})


@dataclass(frozen=True, eq=False)
class ManyFits:
    """The fits of one formula to many responses or many data sets. Made by `glmer_many`.

    names : labels of the models, (B,). columns : their numbers. parameters : names of the P
    parameters, coefficients first. p, m : number of coefficients and of covariance parameters.
    formula, frame, family : what was fitted. refit : name -> Fit. complete : whether all models
    were fitted, or the run was interrupted. known : values of phi that were given, (B,), or None.
    """

    names: pd.Index
    columns: Columns
    parameters: pd.Index
    p: int
    m: int
    formula: str
    frame: Frame
    family: Family
    refit: Callable[[Any], Fit]
    complete: bool = True
    known: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def coefficients(self) -> pd.DataFrame:
        """Every coefficient of every model, a row each, p rows a model.

        Columns: model; term; estimate; std_error; statistic and p_value, of the Wald z test that
        the coefficient is zero; p_adjusted, by Benjamini and Hochberg over the models that have a
        p-value of this term. NaN where a model has no estimate.
        """
        estimate = self.columns.estimates[:, : self.p]
        error = self.columns.errors[:, : self.p]
        z = np.full_like(estimate, np.nan)
        np.divide(estimate, error, out=z, where=error > 0)
        pvalue = 2 * scipy.special.ndtr(-np.abs(z))  # of many at once: `two_sided` takes each alone
        return pd.DataFrame(
            {
                "model": np.repeat(self.names.to_numpy(), self.p),
                "term": np.tile(self.parameters[: self.p].to_numpy(), len(self)),
                "estimate": estimate.ravel(),
                "std_error": error.ravel(),
                "statistic": z.ravel(),
                "p_value": pvalue.ravel(),
                "p_adjusted": np.apply_along_axis(adjusted, 0, pvalue).ravel(),
            }
        )

    @property
    def theta(self) -> pd.DataFrame:
        """Covariance parameters, (B, m): lower triangles of Lambda by column, in lme4's order."""
        return self._wide(slice(self.p, self.p + self.m))

    @property
    def dispersion(self) -> pd.DataFrame:
        """Parameters of the family besides eta, each on its unbounded scale, "log(phi)" say; also
        where they are known."""
        if self.known is not None:
            return pd.DataFrame({"log(phi)": np.log(self.known)}, self.names)
        return self._wide(slice(self.p + self.m, None))

    @property
    def models(self) -> pd.DataFrame:
        """A row a model: llf, deviance, aic, bic, nobs, df, converged, is_singular, evaluations,
        status (a `Status` name) and message, its sentence."""
        c = self.columns
        codes, which = np.unique(c.status, return_inverse=True)
        known = [Status(int(code)) for code in codes]
        return pd.DataFrame(
            {
                "llf": -0.5 * c.deviance,
                "deviance": c.deviance,
                "aic": c.deviance + 2 * c.df,
                "bic": c.deviance + np.log(np.maximum(c.rows, 1)) * c.df,
                "nobs": c.rows,
                "df": c.df,
                "converged": c.status == Status.CONVERGED,
                "is_singular": c.singular,
                "evaluations": c.evaluations,
                "status": np.array([code.name for code in known], object)[which],
                "message": np.array([code.sentence for code in known], object)[which],
            },
            index=self.names,
        )

    @property
    def converged(self) -> np.ndarray:
        """Which models have a certified estimate, (B,) booleans."""
        return self.columns.status == Status.CONVERGED

    def fit(self, name: Any) -> Fit:
        """The full `Fit` of one model, by its name: everything that `glmer` returns."""
        if name not in self.names:
            raise ValueError(
                f"name={name!r} is none of the {len(self)} models; use one of .names, such as "
                f"{self.names[0]!r}"
            )
        return self.refit(name)

    def compare(self, reduced: ManyFits) -> pd.DataFrame:
        """Likelihood-ratio test of each model against that of a smaller formula, (B rows).

        Columns: statistic, twice the difference of log-likelihoods; df; p_value, from the
        chi-squared distribution, or from the equal mixture of chi2(df - 1) and chi2(df) where the
        smaller formula sets one variance to zero; p_adjusted (Benjamini and Hochberg). NaN where
        one of the two did not converge.

        Raises:
            ValueError: models with other names, or a formula that does not lie inside this one.
        """
        if not self.names.equals(reduced.names):
            raise ValueError("reduced: it has other models; fit both to the same responses")
        df = len(self.parameters) - len(reduced.parameters)
        found = nesting(reduced.frame, self.frame)
        outside = Verdict.OUTSIDE in (found.fixed, found.random)
        if df <= 0 or outside or self.family != reduced.family:
            raise ValueError(
                f"reduced: {reduced.formula!r} ({reduced.family.name}) is no special case of "
                f"{self.formula!r} ({self.family.name}); leave terms out of the larger formula"
            )
        if not np.array_equal(self._known(), reduced._known()):
            raise ValueError("reduced: it was fitted with other known dispersions; use the same")
        both = self.converged & reduced.converged
        change = reduced.columns.deviance - self.columns.deviance
        statistic = np.where(both, np.maximum(change, 0.0), np.nan)
        pvalue = mixture(statistic, df) if found.zero == 1 else scipy.special.chdtrc(df, statistic)
        frame = {"statistic": statistic, "df": df, "p_value": pvalue}
        return pd.DataFrame({**frame, "p_adjusted": adjusted(pvalue)}, index=self.names)

    def __str__(self) -> str:
        counts = self.models["status"].value_counts()
        lines = [
            f"{len(self)} generalized linear mixed models by maximum likelihood",
            f"  {self.formula}, {self.family.name} ({self.family.link.name})",
            "",
            *(f"{count:>10,}  {str(name).lower()}" for name, count in counts.items()),
        ]
        if self.columns.singular.any():
            lines.append(f"{int(self.columns.singular.sum()):>10,}  singular")
        if not self.complete:
            lines += ["", "Interrupted: the models above are those that were done."]
        tested = self.coefficients.dropna(subset="p_value")
        if len(tested):
            by = tested.groupby("term", sort=False)
            table = pd.DataFrame(
                {
                    "median": by["estimate"].median(),
                    "median std_error": by["std_error"].median(),
                    "p_adjusted < 0.05": by["p_adjusted"].apply(lambda p: int((p < 0.05).sum())),
                }
            )
            lines += ["", *table.to_string(float_format="{:.4g}".format).splitlines()]
        return "\n".join(lines)

    __repr__ = __str__

    def _known(self) -> np.ndarray:
        return np.zeros(0) if self.known is None else self.known

    def _wide(self, columns: slice) -> pd.DataFrame:
        return pd.DataFrame(
            self.columns.estimates[:, columns], self.names, self.parameters[columns]
        )


def adjusted(p_values: np.ndarray) -> np.ndarray:
    """p-values adjusted for the false discovery rate by Benjamini and Hochberg; NaN stays."""
    out = np.full(len(p_values), np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known])]
    ratio = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    # The smallest ratio from here on upwards: scipy.stats has it, but takes a second to import.
    out[order] = np.minimum(np.minimum.accumulate(ratio[::-1])[::-1], 1.0)
    return out
