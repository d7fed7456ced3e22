"""The call of `glmer` again, with another formula, data or arguments."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from glmm_jax import families
from glmm_jax.fitting import Call, fit_call, prepared
from glmm_jax.formula.frame import Frame
from glmm_jax.formula.rows import as_data_frame
from glmm_jax.formula.update import merged

if TYPE_CHECKING:
    from glmm_jax.results import Fit

OWN = ("data", "wrapped", "settled", "refitted")
CALL = tuple(field.name for field in fields(Call) if field.name not in OWN)
OTHERS = ("family", "link", "start", "progress")


def update(
    fit: Fit, formula: str | None = None, data: pd.DataFrame | None = None, **changes: Any
) -> Fit:
    """The call of `glmer` again with changes: what is not given stays as it was.

    Parameters
    ----------
    formula : as R's `update` has it; a dot stands for what was there: "~ . - livch",
        ". ~ . + x", "y2 ~ .", "~ . - (1 | district) + (urban | district)". A formula without a
        dot replaces the old one.
    data : another data frame.
    changes : any other argument of `glmer`: family, link, weights, offset, trials, nagq, start,
        curvature, reml, dispersion, zero_inflation, priors, solver, optimizer, max_steps,
        na_action, progress. A family without a link has its default link; a link alone changes
        that of the family. zero_inflation=None takes the excess zeros away that zero_inflation=
        brought.

    Returns
    -------
    A new Fit; this one stays.

    Raises
    ------
    ValueError : an argument that `glmer` does not have, a term to remove that is not there, no
        data (a fit that was loaded from a file keeps none: give data=), or what `glmer` refuses.
    """
    unknown = sorted(set(changes) - {*CALL, *OTHERS})
    if unknown:
        raise ValueError(
            f"{unknown[0]}= is no argument of glmer; use one of {', '.join([*OTHERS, *CALL])}"
        )
    table = fit.call.data if data is None else as_data_frame(data).copy(deep=False)
    if table is None:
        raise ValueError(
            "data=None, and this fit has no data with it, since it was loaded from a file; give "
            "the data frame that it was made of, data="
        )
    old = fit.frame.formula.text
    text = old if formula is None else merged(old, formula)
    kept = {name: value for name, value in changes.items() if name in CALL}
    call = replace(fit.call, data=table, settled=None, **kept)
    family = _family(fit, changes)
    frame, family, call = prepared(text, family, call)
    if fit.call.refitted and data is None:
        frame = _with_response(frame, fit)
    else:
        call = replace(call, refitted=False)
    start, progress = changes.get("start"), changes.get("progress")
    fitted, call = fit_call(frame, family, call, start, progress)
    return replace(fit, frame=frame, family=family, call=call, **fitted._asdict())


def _with_response(frame: Frame, fit: Fit) -> Frame:
    """The frame with the response that the fit was refitted to, which its data do not hold.

    Raises:
        ValueError: another response, or other rows, than that response belongs to.
    """
    same_rows = len(frame.y) == fit.nobs and frame.index.equals(fit.frame.index)
    if frame.response_name != fit.frame.response_name or not same_rows:
        raise ValueError(
            "data=None, but this fit was refitted to a response that its data do not hold, and the "
            "new formula has another response or uses other rows; put the response into a data "
            "frame and give it as data="
        )
    return replace(frame, y=fit.frame.y)


def _family(fit: Fit, changes: dict[str, Any]) -> families.Family:
    """The family with its link."""
    link = changes.get("link")
    if "family" in changes:
        return families.get(changes["family"], link)
    family = fit.family.inner if fit.call.wrapped else fit.family  # type: ignore[attr-defined]
    if link is None:
        return family
    # The family as it is, parameters of its own included, with the link that the other has.
    return _with_link(family, link)


def _with_link(family: families.Family, link: Any) -> families.Family:
    """The same family with another link.

    Raises:
        ValueError: the link is unknown or does not fit the family.
    """
    if hasattr(family, "inner"):
        return type(family)(_with_link(family.inner, link))  # type: ignore[attr-defined]
    own = {field.name: getattr(family, field.name) for field in fields(family)}
    return type(family)(**{**own, "link": link})
