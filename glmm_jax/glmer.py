"""The analysts' entry: a formula, a data frame and a family in, a fit out."""

from __future__ import annotations

from typing import Any

import pandas as pd

from glmm_jax import families
from glmm_jax.estimate import MAX_STEPS
from glmm_jax.families.base import Family
from glmm_jax.fitting import Call, fit_call, prepared
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.model import Params
from glmm_jax.results import Fit


def glmer(
    formula: str,
    data: pd.DataFrame,
    family: str | Family = "gaussian",
    link: str | None = None,
    *,
    weights: Any = None,
    offset: Any = None,
    trials: Any = None,
    nagq: int | str = 1,
    start: Params | None = None,
    curvature: str | None = None,
    reml: bool = False,
    dispersion: Any = None,
    zero_inflation: str | None = None,
    priors: Any = (),
    relationship: Any = None,
    solver: str = "auto",
    optimizer: Any = "quasi-newton",
    max_steps: int = MAX_STEPS,
    na_action: str = "drop",
    progress: bool | None = None,
) -> Fit:
    """Fit a generalized linear mixed model by maximum likelihood, in float64.

    Parameters
    ----------
    formula : lme4's, for example "use ~ age + I(age^2) + urban + (urban | district)". The left side
        may be cbind(successes, failures), a proportion with `trials`, a two-level factor, strings
        or booleans. The covariance of a random term can have a structure, as in glmmTMB:
        diag(x | g), independent columns; cs(0 + f | g), compound symmetry, one correlation between
        every two levels of the factor f; ar1(0 + time | g), one variance and the correlation
        rho^|i - j| of the times i and j, the levels of the factor `time` (factor(time) makes one of
        numbers) in their order, those without rows included where it is categorical.
    data : a data frame (or a dictionary of columns), not changed.
    family : "bernoulli", "binomial", "poisson", "gaussian", "negative_binomial" and others (see
        `families`), or a `families.Family`.
    link : name of a link; None for the family's default.
    weights : column name or (n,) positive numbers that multiply each row's log density (an integer
        weight repeats its row). For the Gaussian family they are precisions, as in lmer:
        Var(y_i) = sigma^2 / weight_i; `families.Gaussian(weights="likelihood")` for the other.
    offset : column name or (n,), added to the linear predictor, besides offset(...) terms.
    trials : column name or (n,) positive integers, where the response is a proportion or a count.
    nagq : 1, the Laplace approximation; k > 1, adaptive Gauss-Hermite quadrature with k nodes in
        each dimension, for one grouping factor or nested ones; 0, faster and slightly biased: beta
        at the joint penalised mode; "auto", quadrature with as many nodes as it takes until more
        would move no estimate by 1e-3 of its standard error (`fit.nagq` is their number).
    start : `Params` to start from; none are needed.
    curvature : "expected" (lme4) or "observed" (TMB) information in the Laplace determinant; they
        differ for links that are not canonical. None: "expected" where the family knows it, and
        "observed" with random effects in zero_inflation=.
    reml : restricted maximum likelihood: beta is integrated out, exactly for a Gaussian response
        with identity link, by Laplace's method for others (as in glmmTMB).
    dispersion : a one-sided formula, "~ x", for log(phi) of the family; None for a constant; a
        number, or one for each row of data, where phi is known.
    zero_inflation : a one-sided formula for the logit of the probability of an excess zero, with
        random effects if wanted, "~ x + (1 | g)"; a count family becomes its zero-inflated version.
    priors : penalties for hard cases (separation, variances at zero): `priors.Normal()`,
        `priors.StudentT()`, `priors.Wishart()`, a function (params, model) -> -2 log density, or
        several of them.
    relationship : {"animal": K}, a known covariance between the levels of a grouping factor, up to
        its scale (pedigree, phylogeny, kinship): b of all levels has covariance K kron V, with V
        that of one level where K has a diagonal of ones. K is a DataFrame whose index and columns
        are the levels, or a pair (matrix, labels): symmetric, positive definite, with all levels of
        the data. Levels without rows are predicted from their relatives. A second, unrelated effect
        of the same levels needs a copy of their column under another name. The cost grows with the
        cube of the number of levels.
    solver : how the system matrix of crossed factors is solved. "exact", by Cholesky: what remains
        after the larger factors are eliminated is a dense matrix. "iterative", without forming it:
        conjugate gradients, and a log-determinant estimated from random sign vectors, the same at
        every call, with its Monte-Carlo error (`fit.monte_carlo()`); standard errors are from
        differences of its gradient. "auto", iterative where the remainder has more than 8,000
        random effects (0.5 GB for each copy of it).
    optimizer : "quasi-newton", "newton", "lbfgs" or an optax gradient transformation.
    max_steps : limit on evaluations of the gradient.
    na_action : "drop" rows with missing values (counted in the summary) or "raise".
    progress : whether a fit that takes longer than two seconds shows its stage and its time on
        standard error: True, False, or None for on a terminal and in a notebook.

    Returns
    -------
    Fit. A fit that did not converge says so: `fit.converged`, `fit.message`, `fit.warnings`.

    Raises
    ------
    ValueError : anything wrong with the input; the message names the argument, what came and what
        to do.

    Source: Bates (2011), Mixed models in R using the lme4 package, Part 5.
    """
    call = Call(
        as_data_frame(data).copy(deep=False),
        weights,
        offset,
        trials,
        na_action,
        nagq,
        curvature,
        optimizer,
        max_steps,
        reml,
        dispersion,
        zero_inflation,
        priors,
        relationship,
        solver,
    )
    frame, chosen, call = prepared(formula, families.get(family, link), call)
    fitted, call = fit_call(frame, chosen, call, start, progress)
    return Fit(frame, chosen, *fitted, call)
