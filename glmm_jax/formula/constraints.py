"""Linear constraints on coefficients, written as text: patsy's language on the names of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from patsy import PatsyError
from patsy.constraint import linear_constraint


def read_constraints(
    asked: str | Sequence[str] | Mapping[str, float], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients L, (r, p), and constants c, (r,), of the constraints L beta = c.

    Args:
        asked: "urban[T.Y] = 0, age = 2 * ch[T.Y]", a sequence of such, or {"age": 0.5}; a
            constraint without "=" is set to zero. A name is taken as a whole, brackets included;
            it may stand in backticks, a power in it may be written `^`, and the intercept may be
            called "(Intercept)".
        names: of the p coefficients.

    Raises:
        ValueError: it cannot be read, or names something else.
    """
    columns: dict[str, int] = {name: j for j, name in enumerate(names)}
    for j, name in enumerate(names):
        for other in _spellings(name):
            columns.setdefault(other, j)
    known = list(columns)
    if isinstance(asked, Mapping):
        unknown = [key for key in asked if key not in columns]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no coefficient")
        L = np.zeros((len(asked), len(names)))
        L[np.arange(len(asked)), [columns[key] for key in asked]] = 1.0
        return L, np.array(list(asked.values()), dtype=np.float64)
    texts = [asked] if isinstance(asked, str) else list(asked)
    if any(not text.strip() for text in texts):
        raise ValueError("a constraint is empty")
    try:
        with np.errstate(all="ignore"):  # the caller refuses what a division by zero leaves
            read = linear_constraint(texts, known)
    except PatsyError as error:
        raise ValueError(str(error)) from error
    if not (np.all(np.isfinite(read.coefs)) and np.all(np.isfinite(read.constants))):
        raise ValueError("its numbers must be finite")
    # Several spellings of one coefficient may occur in one constraint: their columns are added.
    L = np.asarray(read.coefs) @ np.eye(len(names))[[columns[name] for name in known]]
    return L, np.asarray(read.constants, dtype=np.float64).ravel() + 0.0


def _spellings(name: str) -> list[str]:
    """Other ways to write the name of a coefficient."""
    plain = [name.replace(" ** ", mark) for mark in ("**", "^", " ^ ")] if " ** " in name else []
    quoted = [f"`{one}`" for one in (name, *plain)]
    return [*plain, *quoted, *(["(Intercept)"] if name == "Intercept" else [])]
