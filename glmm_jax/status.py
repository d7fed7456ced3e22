"""How a fit ended: one code each, with a full sentence."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Outcome of an estimation; `Status(code).sentence` says what it means and what to do."""

    CONVERGED = 0
    SEPARATION = 1
    SADDLE = 2
    STEP_LIMIT = 3
    STALLED = 4
    NOT_FINITE = 5
    MODE_FAILED = 6
    NO_VARIATION = 7

    @property
    def sentence(self) -> str:
        """The meaning of the code, in one or two sentences."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: (
        "Converged: no step lowers the deviance by more than its rounding error, and the Hessian "
        "has no negative eigenvalue."
    ),
    Status.SEPARATION: (
        "Separation: a combination of the covariates predicts part of the response perfectly, so "
        "the likelihood rises for ever along it and its coefficients have no finite estimate. "
        "Drop or merge the covariate, or put a prior on it."
    ),
    Status.SADDLE: (
        "Not a maximum of the likelihood: the gradient is zero but the Hessian has a negative "
        "eigenvalue, and no step along it lowered the deviance. Try other starting values."
    ),
    Status.STEP_LIMIT: (
        "Not converged: the limit on the number of steps was reached before the gradient vanished. "
        "Raise max_steps, rescale the covariates or simplify the random effects."
    ),
    Status.STALLED: (
        "Not converged: no step along the search direction lowers the deviance, although its "
        "gradient is not zero. The objective may not be smooth there; try other starting values."
    ),
    Status.NOT_FINITE: (
        "Not converged: the deviance, its gradient or its Hessian is not a finite number. "
        "Check the scale of the response, the covariates and the offset."
    ),
    Status.MODE_FAILED: (
        "Not converged: the conditional mode of the random effects could not be found at the "
        "starting values. Check the response, the offset and the link, or give start values."
    ),
    Status.NO_VARIATION: (
        "Not fitted: the response is the same in every row (all zeros, say) or is missing in too "
        "many, so that it says nothing about the model."
    ),
}
