"""Rows of text as tables: in aligned columns for people, or as Markdown; knows no units."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TextIO

from . import window
from .plain import plain

GAP = "  "
NARROW = 16  # cells that a column of text keeps when it gives way to others
FORMATS = ("table", "md")


@dataclass(frozen=True)
class Table:
    """A table of text, made safe for a terminal. The columns `left` are aligned left, the others, numbers, right.

    Where a table is too wide for the window, its columns go on below, with the columns `keys` repeated.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)
    keys: Sequence[int] = (0,)
    rule: bool = True  # a line below the titles

    def markdown(self) -> str:
        """Return the table as Markdown that is readable unrendered too, without its caption."""
        titles, *rows = ([text.replace("|", r"\|") for text in row] for row in self._plain())
        widths = [max(2, w) for w in _widths([titles, *rows])]
        rule = ["-" * w if i in self.left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
        lines = [titles, rule, *rows]
        return "".join(f"| {_line(line, widths, self.left, ' | ')} |\n" for line in lines)

    def lines(self, width: int | None = None) -> list[str]:
        """Return the table for people, in lines of at most `width` cells; None: as wide as it is.

        Without titles it has no heading. A cell that is wider than a line is broken between words.
        """
        widths, every = _widths(self._plain()), list(range(len(self.columns)))
        if width is None or _total(widths) <= width:
            return self._band(every, widths)
        text = max(self.left, key=lambda i: widths[i], default=0)
        if (rest := width - (_total(widths) - widths[text])) >= min(NARROW, widths[text]):
            return self._band(every, [rest if i == text else w for i, w in enumerate(widths)])
        keys = list(self.keys)
        widths = [min(w, max(NARROW, width // 2 // len(keys))) if i in keys else w for i, w in enumerate(widths)]
        room = max(NARROW, width - sum(widths[i] + len(GAP) for i in keys))
        widths = [w if i in keys else min(w, room) for i, w in enumerate(widths)]
        bands: list[list[int]] = []
        for i in every:
            if i in keys:
                continue
            if bands and _total([widths[j] for j in sorted([*keys, *bands[-1], i])]) <= width:
                bands[-1].append(i)
            else:
                bands.append([i])
        found = [self._band(sorted([*keys, *band]), widths) for band in bands or [[]]]
        return [line for n, band in enumerate(found) for line in ([""] * (n > 0) + band)]

    def _plain(self) -> list[list[str]]:
        """Return the titles and the rows as they may be printed."""
        return [list(map(plain, row)) for row in (self.columns, *self.rows)]

    def _band(self, chosen: Sequence[int], widths: Sequence[int]) -> list[str]:
        """Return the lines of these columns, each as wide as said."""
        sizes, left = [widths[i] for i in chosen], [n for n, i in enumerate(chosen) if i in self.left]
        titles, *rows = self._plain()
        heading = [titles] if any(titles) else []
        lines: list[str] = []
        for n, row in enumerate([*heading, *rows]):
            cells = zip_longest(*(_fold(row[i], widths[i]) for i in chosen), fillvalue="")
            lines += [_line(part, sizes, left, GAP).rstrip() for part in cells]
            lines += ["─" * _total(sizes)] if heading and n == 0 and self.rule else []
        return lines


def show(table: Table, file: TextIO, how: str = "table") -> None:
    """Write a table with its caption to a stream: for people, as wide as the window if it is a terminal, or as "md"."""
    caption = plain(table.caption)
    if how == "md":
        file.write(f"{caption}\n\n" * bool(caption) + table.markdown())
        return
    heading = [window.filled(caption, file)] if caption else []
    lines = table.lines(window.width(file) if file.isatty() else None)
    file.write("".join(f"{line}\n" for line in [*heading, *lines]))


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the cells that each column needs."""
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*rows, strict=True)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _line(row: Sequence[str], widths: Sequence[int], left: Collection[int], gap: str) -> str:
    from rich.cells import cell_len

    padded = ((text, " " * (w - cell_len(text))) for text, w in zip(row, widths, strict=True))
    return gap.join(text + pad if i in left else pad + text for i, (text, pad) in enumerate(padded))


def _fold(text: str, width: int) -> list[str]:
    """Return a cell in lines of this width."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
