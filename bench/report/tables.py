"""Rows of text as a Markdown table that is readable unrendered too; knows no units."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.machine.plain import plain


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return the table; the first `left` columns are aligned left, the others right."""
    cells = [list(map(plain, row)) for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        texts = (
            text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join(texts) + " |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])]) + "\n"
