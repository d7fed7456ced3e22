"""Power of a study before it is done: responses of a design simulated, fitted and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy

from glmm_jax import families
from glmm_jax.families.base import Family
from glmm_jax.families.zeros import takes
from glmm_jax.fitting import Call
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.inference.levels import check_level
from glmm_jax.inference.nesting import Verdict, nesting
from glmm_jax.inference.simulate import check_draws, chunk_size, draws_of
from glmm_jax.many import truth
from glmm_jax.many.designs import Design, design_of
from glmm_jax.many.glmer_many import glmer_many
from glmm_jax.many.power_table import Power
from glmm_jax.many.responses import Block
from glmm_jax.many.table import ManyFits
from glmm_jax.model import Params
from glmm_jax.runtime import engine

LARGEST = 1 << 25  # numbers in the responses that are held at once


def power(
    formula: str,
    data: pd.DataFrame,
    family: str | Family = "gaussian",
    link: str | None = None,
    *,
    params: Any,
    sd: Any = None,
    theta: Any = None,
    dispersion: Any = None,
    reduced: str | None = None,
    n: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
    weights: Any = None,
    offset: Any = None,
    trials: Any = None,
    nagq: int = 1,
    curvature: str | None = None,
    devices: Any = None,
    progress: bool | None = None,
) -> Power:
    """Simulate n responses of a design with given parameters, fit each, and count rejections.

        power = share of the n data sets in which |estimate / standard error| > z(1 - alpha / 2)

    Where a coefficient is zero in `params` that share is the type-I error of its test.

    Parameters
    ----------
    formula : right side as for `glmer`, "~ time * group + (1 | patient)"; a left side is ignored.
    data : predictors and groups, one row for each planned observation; it needs no response.
    params : every coefficient by name, {"Intercept": 1.0, "time": 0.2, ...}.
    sd : standard deviations of the random effects by grouping factor, {"patient": 0.5}; where a
        factor has several columns {"patient": {"Intercept": 0.5, "time": 0.1}}, uncorrelated.
    theta : instead of sd, the covariance parameters themselves, as `Fit.theta` has them.
    dispersion : phi of the family (Gaussian: sigma^2; negative binomial: the size); for families
        with several parameters a dictionary, on the scales of `Fit.dispersion_params`.
    reduced : a smaller formula; each response is fitted by it too, and the likelihood-ratio test
        between the two is counted as well.
    n : number of responses. A power of 0.8 from 1,000 has a Monte-Carlo standard error of 0.013.
    seed : a non-negative integer. Response i of a seed comes from the same random numbers whatever
        n and the parameters are, so that powers of neighbouring parameters compare well.
    alpha : level of the tests; intervals whose coverage is counted have the level 1 - alpha.

    The other arguments are those of `glmer_many`.

    Returns
    -------
    Power: `frame`, a row for each coefficient, and `fits`, all fits.

    Raises
    ------
    ValueError : anything wrong with the input, before any response is drawn.
    """
    check_draws(n, seed, "new")
    check_level(alpha, "alpha")
    n, table = int(n), as_data_frame(data).copy(deep=False)
    chosen = families.get(family, link)
    call = Call(table, weights, offset, trials, nagq=nagq, curvature=curvature)
    design = _design(formula, chosen, call)
    true = _parameters(design, params, sd, theta, dispersion)
    settings: dict[str, Any] = {
        "weights": weights, "offset": offset, "trials": trials, "nagq": nagq,
        "curvature": curvature, "devices": devices, "progress": progress,
    }  # fmt: skip
    smaller = None
    if reduced is not None:
        _check_reduced(_design(reduced, chosen, call), design, reduced)
    read = _responses(design, true, n, int(seed))

    def fitted(text: str) -> ManyFits:
        return glmer_many(_with_response(text, table), table, chosen, responses=read(), **settings)

    fits = fitted(formula)
    p_value = None
    if reduced is not None and fits.complete:
        smaller = fitted(reduced)
        # After an interruption what is done is counted: the coefficients.
        if smaller.complete:
            p_value = fits.compare(smaller)["p_value"].to_numpy()
    return Power(
        frame=_counted(fits, np.asarray(true.beta), alpha, p_value),
        fits=fits,
        reduced=smaller,
        formula=formula,
        reduced_formula=reduced,
        alpha=float(alpha),
        seed=int(seed),
    )


def _with_response(formula: Any, data: pd.DataFrame) -> str:
    """The formula with a response that is no column of data, whatever its left side.

    Raises:
        ValueError: no formula.
    """
    _, tilde, right = formula.partition("~") if isinstance(formula, str) else ("", "", "")
    if not tilde:
        raise ValueError(f"formula={formula!r}; write '~ terms + (1 | group)', as text")
    name = "simulated"
    while name in data.columns:
        name += "_"
    return f"{name} ~{right}"


def _design(formula: Any, family: Family, call: Call) -> Design:
    """The design of a formula, with any response that the family allows."""
    assert call.data is not None
    valid = 1.0 if takes(family, [1.0]) else 0.5
    y = np.full((len(call.data), 1), valid)
    return design_of(_with_response(formula, call.data), family, call, Block(pd.RangeIndex(1), y))


def _parameters(design: Design, params: Any, sd: Any, theta: Any, dispersion: Any) -> Params:
    beta = truth.coefficients(params, design.frame)
    covariance = truth.covariance_parameters(sd, theta, design.frame)
    phi = truth.dispersion_parameters(dispersion, design.family)
    with engine():
        phi = None if phi is None else jnp.asarray(phi, float)
        return Params(jnp.asarray(beta, float), jnp.asarray(covariance, float), phi)


def _check_reduced(small: Design, large: Design, reduced: str) -> None:
    """Raise a ValueError unless the smaller design lies inside the larger."""
    found = nesting(small.frame, large.frame)
    parameters = [design.model.p + design.model.m for design in (small, large)]
    if Verdict.OUTSIDE in (found.fixed, found.random) or parameters[0] >= parameters[1]:
        raise ValueError(
            f"reduced={reduced!r} is no special case of {large.formula!r}; leave terms out of it"
        )


def _responses(design: Design, true: Params, n: int, seed: int) -> Callable[[], Any]:
    """A function that gives the n responses: a table (rows, n), or blocks of it if it is large.

    Raises, when it is called or read:
        ValueError: responses that cannot be drawn.
    """
    model, frame = design.model, design.frame
    keep = frame.kept_rows
    rows = len(frame.y) if keep is None else len(keep)
    together = chunk_size(model.n)
    u = np.zeros(model.q)

    def block(first: int, stop: int) -> np.ndarray:
        out = np.full((rows, stop - first), np.nan)
        used = slice(None) if keep is None else keep
        for i in range(first, stop, together):
            with engine():
                drawn = np.asarray(draws_of(true, u, model, seed, i, together))
            drawn = drawn[: stop - i, : len(frame.y)]
            if not np.all(np.isfinite(drawn)):
                raise ValueError(
                    f"params: the {design.family.link.name} link has no valid mean for some row at "
                    "these parameters, so no response can be drawn; choose others, or a link "
                    "whose means are valid for every linear predictor"
                )
            out[used, i - first : i - first + len(drawn)] = drawn.T
        return out

    size = max(1, LARGEST // rows)

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, n, size):
            yield block(first, min(first + size, n))

    return blocks if n > size else lambda: block(0, n)


def _counted(
    fits: ManyFits, beta: np.ndarray, alpha: float, p_value: np.ndarray | None
) -> pd.DataFrame:
    """The frame of `Power`. A fit without an estimate rejects nothing, and has no interval."""
    p, n = len(beta), len(fits)
    found = fits.converged[:, None]
    estimate = np.where(found, fits.columns.estimates[:, :p], np.nan)
    error = np.where(found, fits.columns.errors[:, :p], np.nan)
    limit = -scipy.special.ndtri(alpha / 2)
    known = np.isfinite(error)
    reject = known & (np.abs(estimate) > limit * error)
    cover = known & (np.abs(estimate - beta) <= limit * error)
    count = np.maximum(known.sum(axis=0), 1)

    def over_known(values: np.ndarray) -> np.ndarray:
        total = np.where(known, values, 0.0).sum(axis=0)
        return np.where(known.any(axis=0), total / count, np.nan)

    mean = over_known(estimate)
    columns = {
        "value": beta,
        "power": reject.mean(axis=0),
        "mean": mean,
        "bias": mean - beta,
        "coverage": over_known(cover),
        "failed": 1.0 - known.mean(axis=0),
    }
    frame = pd.DataFrame(columns, index=pd.Index(fits.parameters[:p], name="term"))
    if p_value is not None:
        tested = np.isfinite(p_value)
        row = {"power": np.mean(tested & (p_value < alpha)), "failed": 1.0 - np.mean(tested)}
        frame = pd.concat([frame, pd.DataFrame(row, index=["likelihood ratio"])])
        frame.index.name = "term"
    spread = np.sqrt(frame["power"] * (1.0 - frame["power"]) / n)
    frame.insert(2, "std_error", spread)
    return frame
