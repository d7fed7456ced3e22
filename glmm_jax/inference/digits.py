"""Numbers as R prints them, so that a summary can be read beside lme4's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

# Below the rounding of one a p-value is only a bound.
SMALLEST_P = 2.2e-16
ROUNDING = 1e-9
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."), (1.0, ""))
LEGEND = "Signif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1"


def common(values: Iterable[float], digits: int, floor: float = 0.0) -> list[str]:
    """Numbers with one number of decimals: R's format(values, digits=digits), not padded.

    It is the smallest with which every number shows `digits` significant digits, trailing zeros
    apart; exponents where they take less room. A number that is not finite is "NA", "Inf", "-Inf".
    One of rounding size beside `floor` is 0: it would ask for decimals of its own. Beside each
    other they may be of any size, since their units may differ.
    """
    numbers = [0.0 if abs(v) <= ROUNDING * floor else float(v) for v in values]
    finite = [v for v in numbers if math.isfinite(v)]
    parts = [_parts(v, digits) for v in finite if v != 0] or [(1, 0)]
    decimals = max(0, max(significant - 1 - exponent for significant, exponent in parts))
    mantissa = max(significant for significant, _ in parts) - 1
    fixed = [f"{v:.{decimals}f}" for v in finite]
    scientific = [f"{v:.{mantissa}e}" for v in finite]
    shorter = max(map(len, fixed), default=0) <= max(map(len, scientific), default=0)
    written = iter(fixed if shorter else scientific)
    return [next(written) if math.isfinite(v) else _not_finite(v) for v in numbers]


def _parts(value: float, digits: int) -> tuple[int, int]:
    """Significant digits that a number needs, at most `digits`, and its exponent of ten."""
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    return max(len(mantissa.replace(".", "").rstrip("0")), 1), int(exponent)


def _not_finite(value: float) -> str:
    return "NA" if math.isnan(value) else "Inf" if value > 0 else "-Inf"


def zapped(values: np.ndarray, digits: int) -> np.ndarray:
    """Numbers rounded to `digits` significant digits of the largest: R's zapsmall."""
    largest = np.max(np.abs(values), initial=0.0)
    if not np.isfinite(largest) or largest == 0:
        return values
    # Adding zero makes a minus zero a plain one.
    return np.round(values, max(0, digits - math.ceil(math.log10(largest)))) + 0.0


def estimates(values: np.ndarray, digits: int = 4) -> list[list[str]]:
    """Estimates and standard errors, (rows, columns), as R's printCoefmat rounds them.

    The smallest number in size shows about `digits` significant digits, and all as many decimals.
    One of rounding size beside the others of its row, which are in its unit, is 0.
    """
    largest = np.max(np.abs(values), axis=1, keepdims=True, where=np.isfinite(values), initial=0.0)
    values = np.where(np.abs(values) <= ROUNDING * largest, 0.0, values)
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    before = 1 + math.floor(math.log10(size.min())) if size.size else 0
    rounded = np.round(values, max(1, digits - before))
    flat = common(rounded.ravel(), digits)
    columns = values.shape[1]
    return [flat[i : i + columns] for i in range(0, len(flat), columns)]


def statistics(values: np.ndarray, digits: int = 4) -> list[str]:
    """Test statistics: at most three decimals, `digits` significant digits."""
    return common(np.round(values, digits - 1), digits)


def p_values(values: Iterable[float], digits: int = 3) -> list[str]:
    """P-values as R's format.pval: decimals from 0.0001 up, exponents below, then "< 2e-16"."""
    numbers = [float(v) for v in values]
    decimals = iter(common([v for v in numbers if v >= 1e-4], digits))
    exponents = iter(common([v for v in numbers if SMALLEST_P <= v < 1e-4], digits))
    out = []
    for v in numbers:
        if math.isnan(v):
            out.append("NA")
        elif v < SMALLEST_P:
            out.append("")
        else:
            out.append(next(decimals) if v >= 1e-4 else next(exponents))
    tiny = "<2e-16" if max(map(len, out), default=0) <= 6 else "< 2e-16"
    return [written or tiny for written in out]


def stars(p: float) -> str:
    """Significance code of a p-value; nothing for NaN."""
    return next((mark for limit, mark in STARS if p <= limit), "")


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines of a table: columns padded to one width, right-aligned but those in `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if j in left else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(" ".join(cells).rstrip())
    return lines


def starred(rows: Sequence[Sequence[str]], left: Sequence[int], p: Iterable[float]) -> list[str]:
    """`aligned`, and the legend of the stars if any of the p-values has one."""
    lines = aligned(rows, left)
    return [*lines, "---", LEGEND] if any(stars(value) for value in p) else lines


def abbreviate(names: Sequence[str], length: int = 6) -> list[str]:
    """Names of at most about `length` characters, kept distinct, as R's abbreviate makes them."""
    out: list[str] = []
    for name in names:
        limit = length
        short = _shorten(name, limit)
        while short in out and limit < len(name):
            limit += 1
            short = _shorten(name, limit)
        out.append(short)
    return out


def _shorten(name: str, length: int) -> str:
    """Drop lower-case vowels from the end, then lower-case letters, then anything but the first."""
    letters = list(name.replace(" ", ""))
    for droppable in ("aeiou", "abcdefghijklmnopqrstuvwxyz", None):
        for i in range(len(letters) - 1, 0, -1):
            if len(letters) <= length:
                break
            if droppable is None or letters[i] in droppable:
                del letters[i]
    return "".join(letters)
