"""Plain data as JSON and named arrays, and back, exactly.

JSON has null, true, whole numbers, finite numbers, text and lists. All else is an object with one
key that says what it is: {"array": name}, {"float": "nan"}, {"map": [[key, value], ...]},
{"index": ...}, {"series": ...}, or {"record": class, "fields": {...}} for the frozen dataclasses
listed by the caller. A list stands for a tuple.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

Arrays = dict[str, np.ndarray]
Records = Mapping[str, type]

# Kinds of NumPy arrays that a .npy file holds as they are: numbers, truth values, times.
_STORABLE = "biufmM"
# Types of an index whose values are texts or numbers one by one.
_LISTED = (
    "object", "boolean", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64",
    "Float32", "Float64",
)  # fmt: skip


def encode(value: Any, name: str, arrays: Arrays, records: Records) -> Any:
    """What JSON can hold of a value; its arrays go into `arrays`, their names starting with `name`.

    Raises:
        ValueError: a value of a kind that has no such form.
    """
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in _STORABLE:
        # Blocks of one grouping factor share their index: it is written once.
        shared = next((known for known, array in arrays.items() if array is value), name)
        arrays[shared] = value
        return {"array": shared}
    if type(value) is tuple:
        return [encode(item, f"{name}/{i}", arrays, records) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        pairs = [
            [
                encode(key, f"{name}/{i}/key", arrays, records),
                encode(item, f"{name}/{i}", arrays, records),
            ]
            for i, (key, item) in enumerate(value.items())
        ]
        return {"map": pairs}
    if isinstance(value, pd.Index):
        return {"index": _checked_index(value, name, arrays)}
    if isinstance(value, pd.Series):
        parts = (value.to_numpy(), value.index, value.name)
        return {"series": encode(parts, name, arrays, records)}
    kind = type(value).__name__
    if records.get(kind) is type(value):
        names = [field.name for field in dataclasses.fields(records[kind])]
        fields = {
            field: encode(getattr(value, field), f"{name}/{field}", arrays, records)
            for field in names
        }
        return {"record": kind, "fields": fields}
    raise ValueError(f"{name}: a {kind} cannot be saved, only numbers, texts, arrays and tables")


def decode(node: Any, arrays: Mapping[str, np.ndarray], records: Records) -> Any:
    """The value that `encode` was given.

    Raises:
        ValueError, TypeError, KeyError: not something that `encode` makes.
    """
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, list):
        return tuple(decode(item, arrays, records) for item in node)
    if "record" in node:
        fields = {name: decode(item, arrays, records) for name, item in node["fields"].items()}
        return records[node["record"]](**fields)
    ((kind, content),) = node.items()
    if kind == "float":
        return float(content)
    if kind == "array":
        return arrays[content]
    if kind == "map":
        return {
            decode(key, arrays, records): decode(item, arrays, records) for key, item in content
        }
    if kind == "index":
        return _index(content, arrays)
    if kind == "series":
        values, index, name = decode(content, arrays, records)
        return pd.Series(values, index, name=name)
    raise ValueError(f"unknown kind of value {kind!r}")


# --- labels of rows ------------------------------------------------------------------------------


def _checked_index(index: pd.Index, name: str, arrays: Arrays) -> dict[str, Any]:
    """An index in JSON and arrays, after a test that it comes back as it was."""
    try:
        node = _encoded_index(index, name, arrays)
        same = _identical(_index(node, arrays), index)
    except (TypeError, ValueError, LookupError):  # the last: a time zone without a name
        same = False
    if not same:
        what = type(index).__name__ if isinstance(index, pd.MultiIndex) else index.dtype
        raise ValueError(
            f"{name}: row labels of type {what} cannot be saved exactly; use whole numbers, texts, "
            "dates or categories as the index of the data, or fit to data.reset_index()"
        )
    return node


def _encoded_index(index: pd.Index, name: str, arrays: Arrays) -> dict[str, Any]:
    if isinstance(index, pd.MultiIndex):
        levels = [
            _encoded_index(level, f"{name}/level{i}", arrays)
            for i, level in enumerate(index.levels)
        ]
        codes = [
            encode(np.asarray(code), f"{name}/codes{i}", arrays, {})
            for i, code in enumerate(index.codes)
        ]
        names = [encode(level, name, arrays, {}) for level in index.names]
        return {"kind": "multi", "levels": levels, "codes": codes, "names": names}
    node: dict[str, Any] = {"name": encode(index.name, name, arrays, {})}
    if isinstance(index, pd.RangeIndex):
        return node | {"kind": "range", "range": [index.start, index.stop, index.step]}
    if isinstance(index, pd.CategoricalIndex):
        return node | {
            "kind": "categories",
            "categories": _encoded_index(index.categories, f"{name}/categories", arrays),
            "codes": encode(np.asarray(index.codes), f"{name}/codes", arrays, {}),
            "ordered": bool(index.ordered),
        }
    if isinstance(index, pd.PeriodIndex):
        ordinals = encode(np.array(index.asi8), name, arrays, {})
        return node | {"kind": "periods", "values": ordinals, "frequency": index.freqstr}
    if isinstance(index, pd.DatetimeIndex):
        moments = index if index.tz is None else index.tz_convert("UTC").tz_localize(None)
        return node | {
            "kind": "dates",
            "values": encode(moments.to_numpy(), name, arrays, {}),
            "zone": None if index.tz is None else str(index.tz),
            "frequency": index.freqstr,
        }
    if isinstance(index, pd.TimedeltaIndex):
        durations = encode(index.to_numpy(), name, arrays, {})
        return node | {"kind": "durations", "values": durations, "frequency": index.freqstr}
    if isinstance(index.dtype, np.dtype) and index.dtype.kind in _STORABLE:
        return node | {"kind": "numbers", "values": encode(index.to_numpy(), name, arrays, {})}
    dtype = index.dtype
    if isinstance(dtype, pd.StringDtype):
        missing = "NA" if dtype.na_value is pd.NA else "nan"
        node |= {"kind": "texts", "storage": dtype.storage, "missing": missing}
    else:
        if str(dtype) not in _LISTED:
            raise ValueError("not a known type of index")
        node |= {"kind": "list", "dtype": str(dtype)}
    empty = index.isna()
    masked = str(dtype) != "object"
    values = [
        None if masked and none else encode(value, name, arrays, {})
        for value, none in zip(index.to_numpy(dtype=object), empty, strict=True)
    ]
    return node | {"values": values}


def _index(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> pd.Index:
    kind = node["kind"]
    if kind == "multi":
        return pd.MultiIndex(
            levels=[_index(level, arrays) for level in node["levels"]],
            codes=[decode(code, arrays, {}) for code in node["codes"]],
            names=[decode(name, arrays, {}) for name in node["names"]],
        )
    name = decode(node["name"], arrays, {})
    if kind == "range":
        return pd.RangeIndex(*node["range"], name=name)
    if kind == "categories":
        codes = decode(node["codes"], arrays, {})
        categories = _index(node["categories"], arrays)
        found = pd.Categorical.from_codes(codes, categories, ordered=node["ordered"])
        return pd.CategoricalIndex(found, name=name)
    values = decode(node["values"], arrays, {})
    if kind == "periods":
        return pd.PeriodIndex.from_ordinals(values, freq=node["frequency"], name=name)
    if kind == "dates":
        moments = pd.DatetimeIndex(values, name=name)
        if node["zone"] is not None:
            moments = moments.tz_localize("UTC").tz_convert(node["zone"])
        moments.freq = node["frequency"]
        return moments
    if kind == "durations":
        return pd.TimedeltaIndex(values, freq=node["frequency"], name=name)
    if kind == "numbers":
        return pd.Index(values, name=name)
    if kind == "texts":
        dtype = _text_type(node["storage"], node["missing"])
        return pd.Index(pd.array(list(values), dtype=dtype), name=name)
    if kind == "list" and node["dtype"] in _LISTED:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        if node["dtype"] != "object":
            array = pd.array(list(values), dtype=node["dtype"])
        return pd.Index(array, dtype=node["dtype"], name=name)
    raise ValueError(f"unknown kind of index {kind!r}")


def _text_type(storage: str, missing: str) -> pd.StringDtype:
    na_value = pd.NA if missing == "NA" else np.nan
    try:
        return pd.StringDtype(storage, na_value=na_value)
    except ImportError:  # written where pyarrow is installed; the texts are the same without
        return pd.StringDtype("python", na_value=na_value)


def _identical(a: pd.Index, b: pd.Index) -> bool:
    if type(a) is not type(b) or list(a.names) != list(b.names):
        return False
    if isinstance(a, pd.MultiIndex) and isinstance(b, pd.MultiIndex):
        return all(map(_identical, a.levels, b.levels)) and a.equals(b)
    same_frequency = getattr(a, "freq", None) == getattr(b, "freq", None)
    return a.dtype == b.dtype and same_frequency and a.equals(b)
