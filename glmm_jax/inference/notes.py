"""Notes under a printed table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

from glmm_jax.inference.layout import WIDTH


def notes_text(notes: Iterable[str]) -> list[str]:
    """Lines of the notes, each wrapped to the width of a summary."""
    lines = []
    for note in notes:
        lines += textwrap.wrap(
            f"Note: {note}",
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def notes_html(notes: Iterable[str]) -> str:
    """The notes as paragraphs."""
    return "".join(f"<p>Note: {escape(note)}</p>" for note in notes)
