"""How a summary looks: lme4's printed layout, and the same as HTML tables."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from glmm_jax.inference import digits

if TYPE_CHECKING:
    from glmm_jax.inference.summary import Summary, TermVariances

WIDTH = 90
QUANTILES = ("Min", "1Q", "Median", "3Q", "Max")
Table = list[list[str]]  # header and rows


def text(summary: Summary) -> str:
    """The summary in lme4's layout."""
    lines = [
        summary.title,
        f" Family: {summary.family}",
        *_wrapped(f"Formula: {summary.formula}"),
    ]
    if summary.response:
        lines += _wrapped(f"Response: {summary.response}")
    lines += ["", *_statistics_text(summary), ""]
    if summary.quantiles is not None:
        lines += ["Scaled residuals:", *digits.aligned(_quantiles(summary), left=()), ""]
    lines.append("Random effects:")
    lines += _random_text(summary.terms, summary.residual)
    lines.append(_observations(summary))
    for sentence in _related(summary):
        lines += _wrapped(sentence)
    lines += ["", "Fixed effects:"]
    lines += _fixed_text(summary.coefficients)
    constants = [one.title for one in summary.parameters if one.coefficients is None]
    for one in summary.parameters:
        if one.coefficients is not None:
            lines += ["", one.title, *_random_text(one.terms), *_fixed_text(one.coefficients)]
    if constants:
        lines += ["", *constants]
    if summary.correlation is not None and len(summary.correlation) > 1:
        lines += ["", "Correlation of Fixed Effects:"]
        lines += digits.aligned(_correlation(summary.correlation))
    lines.append("")
    for paragraph in summary.convergence.split("\n"):
        lines += _wrapped(paragraph)
    for warning in summary.warnings:
        lines += _wrapped(f"Warning: {warning}")
    return "\n".join(lines)


def html(summary: Summary) -> str:
    """The summary as HTML tables; every text from the model is escaped."""
    parts = [f"<p><b>{escape(summary.title)}</b><br>", f"Family: {escape(summary.family)}<br>"]
    parts.append(f"Formula: <code>{escape(summary.formula)}</code>")
    if summary.response:
        parts.append(f"<br>Response: {escape(summary.response)}")
    parts.append("</p>")
    parts.append(html_table(_statistics(summary), labelled=False))
    if summary.quantiles is not None:
        parts.append(html_table(_quantiles(summary), "Scaled residuals", labelled=False))
    parts.append(html_table(_random(summary.terms, summary.residual), "Random effects"))
    told = [_observations(summary), *_related(summary)]
    parts.append(f"<p>{'<br>'.join(map(escape, told))}</p>")
    if len(summary.coefficients):
        parts.append(html_table(_fixed(summary.coefficients), "Fixed effects"))
        parts.append(f"<p><small>{escape(digits.LEGEND)}</small></p>")
    else:
        parts.append("<p>No fixed effects</p>")
    for one in summary.parameters:
        if one.coefficients is None:
            parts.append(f"<p>{escape(one.title)}</p>")
        else:
            if one.terms:
                parts.append(html_table(_random(one.terms), f"{one.title} random effects"))
            parts.append(html_table(_fixed(one.coefficients), one.title))
    if summary.correlation is not None and len(summary.correlation) > 1:
        parts.append(html_table(_correlation(summary.correlation), "Correlation of fixed effects"))
    parts.append(f"<p>{'<br>'.join(map(escape, summary.convergence.splitlines()))}</p>")
    parts += [f"<p><b>Warning:</b> {escape(warning)}</p>" for warning in summary.warnings]
    return f'<div class="glmm-jax">{"".join(parts)}</div>'


def html_table(table: Table, caption: str = "", labelled: bool = True) -> str:
    """One table; with `labelled`, the first column holds the names of the rows."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
    body = []
    for row in table[1:]:
        cells = [f"<td>{escape(cell)}</td>" for cell in row]
        if labelled:
            cells[0] = f"<th>{escape(row[0])}</th>"
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _wrapped(paragraph: str) -> list[str]:
    return textwrap.wrap(paragraph, WIDTH, subsequent_indent="  ", break_long_words=False)


def _statistics(summary: Summary) -> Table:
    written = [
        f"{value:d}" if isinstance(value, int) else f"{value:.3f}"
        for value in summary.statistics.values()
    ]
    return [list(summary.statistics), written]


def _statistics_text(summary: Summary) -> list[str]:
    if len(summary.statistics) == 1:
        ((name, value),) = summary.statistics.items()
        return [f"{name}: {value:.3f}"]
    return digits.aligned(_statistics(summary), left=())


def _quantiles(summary: Summary) -> Table:
    assert summary.quantiles is not None
    return [list(QUANTILES), digits.common(digits.zapped(summary.quantiles, 5), 4)]


def _random_text(terms: tuple[TermVariances, ...], residual: float | None = None) -> list[str]:
    if not terms:
        return []
    table = _random(terms, residual)
    return [f" {line}" for line in digits.aligned(table, left=range(len(table[0])))]


def _random(terms: tuple[TermVariances, ...], residual: float | None = None) -> Table:
    """Groups, Name, Variance, Std.Dev. and a lower triangle of correlations."""
    variances = np.concatenate([term.variances for term in terms])
    if residual is not None:
        variances = np.append(variances, residual)
    variance, sd = digits.common(variances, 4), digits.common(np.sqrt(variances), 4)
    widths = (
        1 if term.common else max(min(term.correlations.shape[1], len(term.names) - 1), 0)
        for term in terms
    )
    extra = max(widths)
    table = [["Groups", "Name", "Variance", "Std.Dev.", *["Corr", *[""] * (extra - 1)][:extra]]]
    for term in terms:
        for i, name in enumerate(term.names):
            known = [correlation_text(r) for r in term.correlations[i, :i]]
            if term.common and i == 0:
                known = [term.common]
            group = term.group if i == 0 else ""
            row = len(table) - 1
            known += [""] * (extra - len(known))
            table.append([group, name, variance[row], sd[row], *known])
    if residual is not None:
        table.append(["Residual", "", variance[-1], sd[-1], *[""] * extra])
    return table


def correlation_text(r: float) -> str:
    """A correlation as a summary shows it."""
    return "NaN" if np.isnan(r) else f"{r:5.2f}"


def _observations(summary: Summary) -> str:
    groups = "; ".join(f"{name}, {levels}" for name, levels in summary.groups)
    missing = ""
    if summary.missing:
        rows = "row" if summary.missing == 1 else "rows"
        missing = f" ({summary.missing} {rows} with missing values left out)"
    return f"Number of obs: {summary.nobs}{missing}, groups:  {groups}"


def _related(summary: Summary) -> list[str]:
    """Which grouping factors have levels that are related, each in a sentence."""
    held = dict(summary.groups)
    return [
        f"Levels of {name} are related by a known matrix of {levels} levels"
        + (f", {levels - held[name]} of them without rows." if levels > held[name] else ".")
        for name, levels in summary.relationships
    ]


def _fixed(frame: pd.DataFrame) -> Table:
    """Coefficient table with a last column of significance codes, if it has p-values."""
    both = digits.estimates(frame.iloc[:, :2].to_numpy())
    z = digits.statistics(frame.iloc[:, 2].to_numpy())
    if not _has_p_values(frame):
        rows = zip(frame.index, both, z, strict=True)
        return [["", *map(str, frame.columns)], *([str(n), *pair, z] for n, pair, z in rows)]
    p = digits.p_values(frame.iloc[:, 3])
    marks = [digits.stars(value) for value in frame.iloc[:, 3]]
    rows = zip(frame.index, both, z, p, marks, strict=True)
    header = ["", *map(str, frame.columns), ""]
    return [header, *([str(name), *pair, *rest] for name, pair, *rest in rows)]


def _has_p_values(frame: pd.DataFrame) -> bool:
    return frame.shape[1] > 3


def _fixed_text(frame: pd.DataFrame) -> list[str]:
    if not len(frame):
        return ["  (none)"]
    if not _has_p_values(frame):
        return digits.aligned(_fixed(frame))
    return digits.starred(_fixed(frame), (0, 5), frame.iloc[:, 3])


def _correlation(R: pd.DataFrame) -> Table:
    """Lower triangle without the diagonal, the columns' names abbreviated."""
    short = digits.abbreviate([f"({c})" if c == "Intercept" else str(c) for c in R.columns])
    values = R.to_numpy()
    table = [["", *short[:-1]]]
    for i in range(1, len(R)):
        cells = [f"{values[i, j]:.3f}" for j in range(i)]
        table.append([str(R.index[i]), *cells, *[""] * (len(R) - 1 - i)])
    return table
