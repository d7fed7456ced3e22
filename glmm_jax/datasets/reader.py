"""Read a compressed table and give its factors the levels their documentation lists.

A table is a gzip-compressed CSV file; what its columns mean is stored beside it, since CSV
knows neither the order of a factor's levels nor which text stands for a missing value.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

ASCENDING = "ascending"


def read_table(content: bytes, columns: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the table in `content` as a data frame, its factors categorical.

    Args:
        content: a CSV file with a header line, gzip-compressed.
        columns: for each column, in the file's order, its `kind`: "integer", "number", "factor"
            (unordered) or "ordered"; for the last two also `levels`: their list in order, or
            "ascending" for integer levels in increasing order.

    Raises:
        ValueError: the file's columns are not those described, or hold a level not listed.
    """
    # Not pandas' reader: its guesses ("None" and "NA" as missing, "01" as 1) and its fast parser
    # of decimals, off in the last digit, would have to be switched off one by one.
    header, *rows = csv.reader(StringIO(gzip.decompress(content).decode("utf-8"), newline=""))
    if header != list(columns):
        raise ValueError(
            f"columns: described are {list(columns)}, the file has {header}; "
            "describe each column of the file, in its order."
        )
    cells = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            name: _column(name, values, columns[name])
            for name, values in zip(header, cells, strict=True)
        }
    )


def _column(
    name: str, cells: tuple[str, ...], column: Mapping[str, Any]
) -> np.ndarray | pd.Categorical:
    if column["kind"] == "integer":
        return np.array(cells).astype(np.int64)
    if column["kind"] == "number":
        return np.array(cells).astype(np.float64)
    levels = column["levels"]
    present = set(cells)
    if levels == ASCENDING:
        levels = sorted(present, key=int)
    unlisted = sorted(present.difference(levels))
    if unlisted:
        raise ValueError(
            f"levels: column {name!r} holds {unlisted[:5]}, which its description does "
            "not list; list every level."
        )
    return pd.Categorical(cells, categories=levels, ordered=column["kind"] == "ordered")
