"""A fit in a file: arrays and JSON, no pickle.

The file holds what the fit was made of and what was found: the frame (formula, response, matrices,
levels, codings for new data), family and link by name, the estimate, the settings of the call. The
padded model is not in it; it is built again, and the deviance computed from it at the stored
estimate must be the stored one. So a file does not depend on how a version arranges its arrays.
"""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from glmm_jax import families, links, priors
from glmm_jax.build import Placement, arrange
from glmm_jax.estimate import Estimate
from glmm_jax.families.base import Family
from glmm_jax.fitting import Call
from glmm_jax.formula.fixed import Coding, Part
from glmm_jax.formula.frame import Design, Frame, ParameterModel, RandomBlock
from glmm_jax.formula.relationship import Relationship
from glmm_jax.formula.terms import Formula, RandomTerm
from glmm_jax.inference import archive, encoding
from glmm_jax.model import Model, Params, check
from glmm_jax.objective.marginal import marginal
from glmm_jax.optimize.first_order import NAMES, FirstOrder
from glmm_jax.runtime import engine, run
from glmm_jax.status import Status

if TYPE_CHECKING:
    from glmm_jax.results import Fit

KIND = "glmm_jax fit"
# Raised when the meaning of the document changes; a file of a later version is refused. 2: families
# by class, priors, models of further parameters, REML. 3: the part of the model that random effects
# belong to, separation in the models of further parameters.
VERSION = 3

_RECORDS: encoding.Records = {
    record.__name__: record
    for record in (
        Call, Coding, Design, Estimate, Formula, Frame, ParameterModel, Params, Part, RandomBlock,
        RandomTerm, Relationship, *priors.PRIORS,
    )
}  # fmt: skip
# Relative to the deviance, or to one unit a row where the deviance happens to be near zero.
_TOLERANCE = 1e-8


def save(fit: Fit, path: Any) -> None:
    """Write a fit to one file, from which `glmm_jax.load` makes the same fit again.

    The file is a zip archive that other programs can read: the document fit.json and one .npy file
    an array (`numpy.load(path)["frame/y"]`), with their SHA-256 digests. It is written whole or not
    at all, and holds no executable code. All numbers of the fit come back exactly, and so do the
    labels of the rows and all that predictions for new data need. The caller's data frame is not in
    it: what asks for the data again, such as `update`, needs `data=` after loading.

    An optax transformation given as optimizer= has no name to write; a warning says so, and the
    loaded fit has "quasi-newton" in its place, which ends at the same optimum.

    Parameters
    ----------
    path : of the file, used as it is (no suffix is added); an existing file is replaced.

    Raises
    ------
    ValueError : `path` is no path; a family, link or prior that is not one of glmm_jax, and so
        cannot be made again by name; row labels of a type that has no exact form in the file.
    OSError : the folder does not exist or cannot be written to.
    """
    arrays: encoding.Arrays = {}

    def encoded(value: Any, name: str) -> Any:
        return encoding.encode(value, name, arrays, _RECORDS)

    document = {
        "format": KIND,
        "version": VERSION,
        "written by": {name: _installed(name) for name in ("glmm-jax", "jax", "numpy", "pandas")},
        "formula": fit.frame.formula.text,
        "family": _named_family(fit.family),
        "curvature": fit.curvature,
        "frame": encoded(fit.frame, "frame"),
        "estimate": encoded(dataclasses.replace(fit.estimate, u=_by_block(fit)), "estimate"),
        "call": encoded(_plain_call(fit.call), "call"),
    }
    archive.write(path, document, arrays)


def read(path: Any) -> dict[str, Any]:
    """Arguments of `Fit` from a file that `save` wrote.

    Returns
    -------
    A dictionary with every field of `Fit`. `call.data` is None.

    Raises
    ------
    ValueError : the file is not a saved fit, is cut short or changed, comes from a later version of
        the package, or its numbers do not agree with each other; the message says what to do.
    FileNotFoundError : there is no such file.
    """
    document, arrays = archive.read(path)
    name = archive.as_path(path)
    if not isinstance(document, dict) or document.get("format") != KIND:
        raise ValueError(
            f"path: {name!r} is not a saved fit; give the path of a file written by fit.save"
        )
    version = document.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ValueError(
            f"path: {name!r} has format {version}, and this version of glmm_jax reads up to "
            f"{VERSION}; it was written by glmm_jax {_writer(document)}: install that or a later "
            "version"
        )
    try:
        return _parts(document, arrays)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"path: {name!r} is damaged or was made by an incompatible version of glmm_jax "
            f"({_writer(document)}): {error}; use that version, or fit the model again"
        ) from error


def _parts(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fields of a fit from the contents of its file, tested against each other."""
    frame, estimate, call = (
        encoding.decode(document[name], arrays, _RECORDS) for name in ("frame", "estimate", "call")
    )
    family = _family(document["family"])
    with engine():
        model, placement = arrange(
            frame,
            family,
            document["curvature"],
            padding=True,
            priors=call.priors,
            solver=call.solver,
        )
    estimate = dataclasses.replace(estimate, u=_placed(estimate.u, model, placement))
    if document["version"] < 3:  # of beta alone
        none = np.zeros(model.d, bool)
        estimate = dataclasses.replace(estimate, separated=np.append(estimate.separated, none))
    _check_estimate(estimate, model)
    return {
        "frame": frame,
        "family": family,
        "numbers": model,
        "placement": placement,
        "estimate": estimate,
        "call": call,
    }


def _check_estimate(estimate: Estimate, model: Model) -> None:
    """A ValueError unless shapes, status and deviance of an estimate are those of the model."""
    Status(int(estimate.status))
    check(estimate.params, model)
    size = model.p + model.m + model.d
    for name, shape in (
        ("gradient", (size,)),
        ("hessian", (size, size)),
        ("separated", (model.p + model.d,)),
        ("singular", (model.m,)),
    ):
        found = np.shape(getattr(estimate, name))
        if found != shape:
            raise ValueError(f"the {name} has shape {found} where {shape} is needed")
    stored = float(estimate.deviance)
    if not np.isfinite(stored):  # a fit that failed; its status says so
        return
    with engine():
        u = jnp.asarray(estimate.u)
        settings = {"nagq": max(estimate.nagq, 1), "reml": estimate.reml}
        found = float(run(_deviance, estimate.params, model, u, **settings))
    # Negated, so that NaN counts as a difference.
    if not abs(found - stored) <= _TOLERANCE * max(abs(stored), model.n):
        raise ValueError(f"the deviance is {found!r} where {stored!r} was stored")


@partial(jax.jit, static_argnames=("nagq", "reml"))
def _deviance(params: Params, model: Model, u: jax.Array, *, nagq: int, reml: bool) -> jax.Array:
    """The deviance that a fit minimised; u is its conditional mode."""
    guess = (u, params.beta) if reml else u
    return marginal(params, model, guess, nagq, reml, solved=True)[0]


# --- what is not plain data ----------------------------------------------------------------------


def _by_block(fit: Fit) -> tuple[np.ndarray, ...]:
    """u~ of each block of the frame, (levels, k): without padding, in the order of the formula."""
    structure, placement = fit.numbers.structure, fit.placement
    starts = np.cumsum([0, *structure.sizes])
    out = []
    for block, f, first in zip(fit.frame.blocks, placement.factor, placement.column, strict=True):
        u = np.asarray(fit.estimate.u)[starts[f] : starts[f + 1]]
        u = u.reshape(structure.levels[f], structure.columns[f])
        out.append(u[: placement.levels[f], first : first + len(block.names)].copy())
    return tuple(out)


def _placed(blocks: tuple[np.ndarray, ...], model: Model, placement: Placement) -> np.ndarray:
    """The inverse of `_by_block`: u~ of the padded model, (q,), zero for levels without rows."""
    structure = model.structure
    shapes = zip(structure.levels, structure.columns, strict=True)
    parts = [np.zeros(shape) for shape in shapes]
    for u, f, first in zip(blocks, placement.factor, placement.column, strict=True):
        parts[f][: placement.levels[f], first : first + u.shape[1]] = u
    return np.concatenate([part.ravel() for part in parts])


def _public_families() -> dict[str, type[Family]]:
    public = (getattr(families, name) for name in families.__all__)
    kinds = [kind for kind in public if isinstance(kind, type) and kind is not Family]
    return {kind.__name__: kind for kind in kinds}


def _named_family(family: Family) -> dict[str, Any]:
    """A family as its class, the name of its link and its other settings, families among them."""
    try:
        named = _named(family)
        same = _family(named) == family
    except (KeyError, ValueError, TypeError):
        same, named = False, {}
    if not same:
        raise ValueError(
            f"family: {family!r} is not one of glmm_jax.families with one of its links, so it "
            "cannot be made again from its name; keep the formula, the data and the code of the "
            "family instead of the fit"
        )
    return named


def _named(family: Family) -> dict[str, Any]:
    values = {
        field.name: getattr(family, field.name)
        for field in dataclasses.fields(family)
        if field.name not in ("link", "name")
    }
    inner = values.pop("inner", None)
    named = {"class": type(family).__name__, "name": family.name, "settings": values}
    if inner is not None:
        return {**named, "inner": _named(inner)}
    return {**named, "link": family.link.name}


def _family(named: dict[str, Any]) -> Family:
    public = _public_families()
    if "class" in named:
        kind = public[named["class"]]
    else:  # a file of version 1
        kind = next(k for k in public.values() if getattr(k, "name", None) == named["name"])
    if "inner" in named:
        return kind(_family(named["inner"]), **named["settings"])  # type: ignore[arg-type]
    return kind(links.get(named["link"]), **named["settings"])


def _plain_call(call: Call) -> Call:
    """The call without its data, its vectors as numbers and its optimizer as a name."""
    optimizer = FirstOrder.of(call.optimizer).name
    if optimizer not in NAMES:
        warnings.warn(
            "optimizer: an optax transformation cannot be written to a file; the loaded fit will "
            "have optimizer='quasi-newton' in its call, which ends at the same optimum",
            UserWarning,
            stacklevel=3,
        )
        optimizer = "quasi-newton"
    given = ("weights", "offset", "trials", "dispersion")
    vectors = {name: _vector(getattr(call, name)) for name in given}
    for prior in call.priors:
        if not isinstance(prior, priors.PRIORS):
            raise ValueError(
                f"priors: {prior!r} is a function, which a file cannot hold; use priors.Normal, "
                "priors.StudentT or priors.Wishart, or keep the code instead of the fit"
            )
    return dataclasses.replace(call, data=None, optimizer=optimizer, **vectors)


def _vector(value: Any) -> Any:
    """weights=, offset=, trials= or a known dispersion=: a name (a formula), or numbers as
    `build_frame` reads them."""
    if value is None or isinstance(value, str | int | float):
        return value
    series = value if isinstance(value, pd.Series) else pd.Series(np.asarray(value))
    numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    # A Series keeps its labels, which `build_frame` compares with those of the data.
    return pd.Series(numbers, series.index) if isinstance(value, pd.Series) else numbers


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # used from a source tree
        return None


def _writer(document: dict[str, Any]) -> str:
    written = document.get("written by")
    version = written.get("glmm-jax") if isinstance(written, dict) else None
    return f"version {version}" if version else "of an unknown version"
