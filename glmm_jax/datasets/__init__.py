"""Classic data sets for mixed models, as pandas frames with their factors in documented order.

    >>> from glmm_jax import datasets
    >>> datasets.names()
    ('cbpp', 'contraception', ...)
    >>> frame = datasets.load("contraception")
    >>> print(datasets.describe("contraception"))

The values are those of the R packages named in each set's provenance, to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from glmm_jax.datasets.reader import read_table

__all__ = ["Description", "describe", "load", "names"]

_PACKAGE = "glmm_jax.datasets"


@dataclass(frozen=True)
class Description:
    """What a data set is and where it comes from.

    `derived` holds, for each column that the source lacks, how it was computed (the entry "rows"
    says which rows were kept); `rows` is the number of rows.
    """

    name: str
    title: str
    provenance: str
    rows: int
    columns: tuple[str, ...]
    derived: Mapping[str, str]

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.title} ({self.rows} rows)",
            f"Source: {self.provenance}",
            f"Columns: {', '.join(self.columns)}",
        ]
        if self.derived:
            added = "; ".join(f"{column} = {rule}" for column, rule in self.derived.items())
            lines.append(f"Not in the source: {added}")
        return "\n".join(lines)


def names() -> tuple[str, ...]:
    """Return the names of the data sets, in alphabetical order."""
    return tuple(sorted(_catalogue()))


def describe(name: str) -> Description:
    """Return title, provenance, columns and number of rows of the data set `name`.

    Raises:
        ValueError: there is no such data set.
    """
    key, entry = _entry(name)
    return Description(
        name=key,
        title=entry["title"],
        provenance=entry["provenance"],
        rows=entry["rows"],
        columns=tuple(entry["columns"]),
        derived=dict(entry["derived"]),
    )


def load(name: str) -> pd.DataFrame:
    """Return the data set `name` as a new data frame, read afresh at each call.

    Factors are unordered categories with their levels in the source's order; those that the
    source calls ordered are ordered categories. Upper and lower case in `name` are the same.

    Raises:
        ValueError: there is no such data set.
    """
    key, entry = _entry(name)
    content = files(_PACKAGE).joinpath("data", f"{key}.csv.gz").read_bytes()
    return read_table(content, entry["columns"])


def _entry(name: str) -> tuple[str, dict[str, Any]]:
    catalogue = _catalogue()
    key = name.lower() if isinstance(name, str) else name
    if not isinstance(key, str) or key not in catalogue:
        raise ValueError(
            f"name: there is no data set {name!r}; the data sets are {', '.join(names())}."
        )
    return key, catalogue[key]


@cache
def _catalogue() -> dict[str, dict[str, Any]]:
    text = files(_PACKAGE).joinpath("catalogue.json").read_text(encoding="utf-8")
    return json.loads(text)
