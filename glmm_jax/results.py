"""A fitted model as analysts see it: names, tables, and the certificate of the optimum."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import priors
from glmm_jax.build import Placement
from glmm_jax.estimate import Estimate
from glmm_jax.families.base import Family
from glmm_jax.fitting import Call
from glmm_jax.formula.frame import Frame
from glmm_jax.inference import (
    bootstrap,
    categories,
    check,
    coef,
    confint,
    cross_validation,
    design_checks,
    drop1,
    explained,
    hypotheses,
    influence,
    laplace_error,
    measurement_error,
    misclassification,
    monte_carlo,
    parameter_names,
    predict,
    profile,
    ranef,
    refit,
    residuals,
    robust,
    sensitivity,
    simulate,
    storage,
    summary,
    tidy,
    update,
    varcorr,
    variability,
    vcov,
)
from glmm_jax.inference.wald import two_sided
from glmm_jax.model import Model
from glmm_jax.runtime import engine
from glmm_jax.status import Status


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted generalized linear mixed model. Made by `glmer`; nothing in it changes.

    frame : names and arrays of the data used. family : with its link. numbers : the (padded) pytree
    that was fitted, and estimate : what the engine found, both in NumPy arrays. placement : where
    the frame's terms lie in it. call : the other arguments of `glmer`.

    The verbs are the functions of `glmm_jax.inference`, one a file, with the fit as first argument.
    """

    frame: Frame
    family: Family
    numbers: Model
    placement: Placement
    estimate: Estimate
    call: Call

    def __getstate__(self) -> dict[str, Any]:
        # JAX would unpickle its arrays in whatever precision is on at that moment.
        return {name: value for name, value in self.__dict__.items() if name != "model"}

    @cached_property
    def model(self) -> Model:
        """The (padded) pytree that was fitted, in JAX arrays."""
        with engine():
            return jax.tree.map(jnp.asarray, self.numbers)

    # --- estimates ---------------------------------------------------------------------------

    @property
    def params(self) -> pd.Series:
        """Fixed-effects coefficients beta."""
        return pd.Series(np.array(self.estimate.params.beta), self._names, name="params")

    @property
    def theta(self) -> pd.Series:
        """Covariance parameters: lower triangles of Lambda by column, in lme4's order and names."""
        return pd.Series(np.array(self.estimate.params.theta), varcorr.theta_names(self.frame))

    @property
    def dispersion_params(self) -> pd.Series:
        """Coefficients of the family's parameters besides eta, each on its unbounded scale.

        "log(phi)" say, or "log(phi): x" for a column of its model; empty for families without.
        """
        found = self.estimate.params.dispersion
        values = np.zeros(0) if found is None else np.atleast_1d(np.array(found))
        return pd.Series(values, parameter_names.dispersion_names(self), dtype=float)

    @property
    def dispersion(self) -> float | None:
        """phi (of a Gaussian response sigma^2); None where there is none, or none for all rows."""
        constant = self.dispersion_params.get("log(phi)")
        return None if constant is None else float(np.exp(constant))

    @property
    def sigma(self) -> float:
        """sqrt(phi) where phi is a factor of the variance (the residual standard deviation of a
        Gaussian response); NaN where phi has a model, 1 for other families."""
        if not self.family.variance_scales:
            return 1.0
        return np.nan if self.dispersion is None else float(np.sqrt(self.dispersion))

    @cached_property
    def _covariance(self) -> np.ndarray:
        """See `vcov_all`."""
        return vcov.covariance(np.array(self.estimate.hessian), self._free)

    @cached_property
    def _free(self) -> np.ndarray:
        """Parameters that are not held on the boundary, (P,) booleans."""
        free = np.ones(len(self.estimate.hessian), bool)
        p, theta = len(self.frame.X_names), self.estimate.params.theta
        free[p : p + len(theta)] = ~varcorr.held(self.frame, theta)
        return free

    @cached_property
    def flat_directions(self) -> np.ndarray:
        """Directions of (beta, theta, dispersion) about which the data say nothing, (P, k)."""
        return vcov.flat_directions(np.array(self.estimate.hessian), self._free)

    @cached_property
    def vcov_all(self) -> pd.DataFrame:
        """Joint covariance of (beta, theta, dispersion): twice the inverse Hessian of the deviance.

        A variance at zero has no sampling distribution of this kind: the rows of its column of
        Lambda are zero. A direction in which the deviance is flat to rounding is left out, and
        `warnings` names it. At nagq = 0 and with reml the beta part is (RX'RX)^-1, theta held
        fixed.
        """
        names = [*self._names, *varcorr.theta_names(self.frame)]
        names += parameter_names.dispersion_names(self)
        return pd.DataFrame(self._covariance, names, names)

    def cov_params(self) -> pd.DataFrame:
        """Covariance matrix of the fixed-effects coefficients, theta's uncertainty included."""
        p = len(self._names)
        return pd.DataFrame(self._covariance[:p, :p], self._names, self._names)

    @property
    def bse(self) -> pd.Series:
        """Standard errors of the fixed-effects coefficients; infinite for one without a finite
        estimate (`Status.SEPARATION`), whose Wald test says nothing."""
        p = len(self._names)
        errors = np.sqrt(np.diagonal(self._covariance)[:p])
        separated = np.asarray(self.estimate.separated)[:p]
        return pd.Series(np.where(separated, np.inf, errors), self._names, name="bse")

    @property
    def zvalues(self) -> pd.Series:
        """Wald z statistics."""
        return (self.params / self.bse).rename("zvalues")

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of the Wald z statistics."""
        return pd.Series(two_sided(self.zvalues.to_numpy()), self._names, name="pvalues")

    # --- fit statistics ----------------------------------------------------------------------

    @property
    def llf(self) -> float:
        """Log-likelihood, with all constants of the density."""
        return 0.0 - 0.5 * self.deviance

    @property
    def deviance(self) -> float:
        """-2 log-likelihood, without the penalties of priors."""
        return float(self.estimate.deviance) - self.penalty

    @cached_property
    def penalty(self) -> float:
        """-2 log prior density at the estimate, 0 without priors."""
        if not self.numbers.priors:
            return 0.0
        with engine():
            return float(priors.penalty(self.estimate.params, self.model))

    @property
    def nobs(self) -> int:
        """Number of rows used."""
        return len(self.frame.y)

    @property
    def df(self) -> int:
        """Number of parameters: beta, theta and the dispersion."""
        return len(self.estimate.gradient)

    @property
    def df_resid(self) -> int:
        """Number of rows less the number of parameters."""
        return self.nobs - self.df

    @property
    def aic(self) -> float:
        """Akaike's information criterion."""
        return self.deviance + 2 * self.df

    @property
    def bic(self) -> float:
        """Schwarz's criterion, counting rows."""
        return self.deviance + np.log(self.nobs) * self.df

    # --- certificate -------------------------------------------------------------------------

    @property
    def curvature(self) -> str:
        """Weights inside the Laplace determinant: "expected" or "observed" information."""
        return self.numbers.curvature

    @property
    def nagq(self) -> int:
        """Quadrature points per random effect: 1 is Laplace; 0 the joint mode of u and beta."""
        return self.estimate.nagq

    @property
    def reml(self) -> bool:
        """Whether the likelihood is the restricted one."""
        return self.estimate.reml

    @property
    def status(self) -> Status:
        """How the search ended."""
        return Status(int(self.estimate.status))

    @property
    def converged(self) -> bool:
        """Whether the end is a maximum of the likelihood by gradient and Hessian."""
        return self.status is Status.CONVERGED

    @property
    def gradient(self) -> pd.Series:
        """Gradient of the deviance (penalties included) in (beta, theta, dispersion)."""
        return pd.Series(np.array(self.estimate.gradient), self.vcov_all.index)

    @property
    def hessian(self) -> pd.DataFrame:
        """Hessian of the deviance in (beta, theta, dispersion), by automatic differentiation.

        At the estimate or within 1e-4 standard errors of it.
        """
        return pd.DataFrame(
            np.array(self.estimate.hessian), self.vcov_all.index, self.vcov_all.index
        )

    @property
    def is_singular(self) -> bool:
        """Whether the covariance of some term has a zero variance or a perfect correlation."""
        return bool(np.any(self.estimate.singular))

    @property
    def message(self) -> str:
        """How the fit ended, in sentences."""
        return summary.outcome(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an analyst should know before using the fit, each a sentence; empty if nothing."""
        return summary.warnings(self)

    # --- fitted values --------------------------------------------------------------------------

    @property
    def linear_predictor(self) -> pd.Series:
        """eta = X beta + Z b + offset of the rows used."""
        return pd.Series(residuals.linear_predictor(self), self.frame.index)

    @property
    def fittedvalues(self) -> pd.Series:
        """Conditional means of the rows used; probabilities for a binomial response."""
        return pd.Series(residuals.fitted(self), self.frame.index)

    # --- verbs: functions of `inference`, whose first argument is the fit -----------------------

    ranef = ranef.ranef
    coef = coef.coef
    varcorr = varcorr.varcorr
    conf_int = confint.conf_int
    profile = profile.profile
    bootstrap = bootstrap.bootstrap
    test = hypotheses.test
    test_terms = hypotheses.test_terms
    drop1 = drop1.drop1
    predict = predict.predict
    simulate = simulate.simulate
    refit = refit.refit
    update = update.update
    resid = residuals.resid
    thresholds = categories.thresholds
    overdispersion = variability.overdispersion
    zero_inflation = variability.zero_inflation
    r_squared = explained.r_squared
    icc = explained.icc
    vif = design_checks.vif
    leverage = design_checks.leverage
    laplace_error = laplace_error.laplace_error
    monte_carlo = monte_carlo.monte_carlo
    check = check.check
    sensitivity = sensitivity.sensitivity
    influence = influence.influence
    misclassification = misclassification.misclassification
    measurement_error = measurement_error.measurement_error
    cov_robust = robust.cov_robust
    cross_validate = cross_validation.cross_validate
    glance = tidy.glance
    augment = tidy.augment
    to_frame = tidy.tidy
    tidy = tidy.tidy
    save = storage.save
    summary = summary.summarise

    @classmethod
    def load(cls, path: Any) -> Fit:
        """The fit that `save` wrote to a file; see `inference.storage`."""
        return cls(**storage.read(path))

    # --- printing ------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    @property
    def _names(self) -> list[str]:
        return list(self.frame.X_names)
