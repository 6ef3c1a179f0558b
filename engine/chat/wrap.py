"""Breaks lines between words while a text streams to a terminal; knows the window's width, not what the text means."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.cells import cell_len

FENCE = re.compile(r"(`{3,}|~{3,})[^`]*")
HOLD = 1000  # characters of a word that are held at most: without width, they would never fill a line
OPENING = frozenset("([{<“‘«「『（【〈《〔［｛")  # no line ends with these
CLOSING = frozenset(")]}>.,;:!?%”’»」』）】〉》〕］｝。．，、；：！？…‥・ー々ゝゞぁぃぅぇぉっゃゅょァィゥェォッャュョ")


class Wrap:
    """A text on its way to a terminal. At most one word is held back, until it is known to fit in the line.

    The spaces at which a line is broken give way to the line's end; nothing else changes. A word longer than a line is
    divided, and code between fences is left alone.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        """width: returns the columns of the window, which may change meanwhile."""
        self._width = width
        self._column = 0  # where the cursor is
        self._spaces = ""  # held, as is the word after them
        self._word, self._cells = "", 0
        self._begins = True  # nothing but spaces came yet in this line of the text
        self._fence = ""  # the mark that ends a block of code; "" outside of one
        self._code: str | None = None  # the line of code so far; None in the line that opens the block

    def feed(self, text: str) -> str:
        """Return what may be written now."""
        return "".join(map(self._take, text))

    def flush(self) -> str:
        """Return what was held back."""
        rest = self._place() + self._spaces
        self._spaces = ""
        return rest

    def _take(self, c: str) -> str:
        if c == "\n":
            return self._end()
        if self._fence:
            self._code = None if self._code is None else self._code + c
            return c
        if c in " \t":
            placed = self._place()
            if self._fence:  # that word opened a block of code, and this goes on with its line
                return placed + c
            self._spaces += c
            return placed
        cells = cell_len(c)
        if c == "\ufe0f" and self._word and cell_len(self._word[-1]) == 1:
            cells = 1  # it makes an emoji of a symbol, as wide as any
        placed = ""
        if self._divides(c, cells):
            placed = self._place()
            if self._fence:
                return placed + c
        self._word += c
        self._cells += cells
        return placed

    def _divides(self, c: str, cells: int) -> bool:
        """Return whether the word that is held ends before this character, of so many cells."""
        if not self._word:
            return False
        if self._cells + cells > max(1, self._width()) or len(self._word) >= HOLD:
            return True
        last = self._word[-1]
        if not cells or last == "\u200d" or "🏻" <= c <= "🏿" or ("🇦" <= last <= "🇿" and "🇦" <= c <= "🇿"):
            return False  # one sign of several characters
        return (_stands_alone(c) or _stands_alone(last)) and c not in CLOSING and last not in OPENING

    def _place(self) -> str:
        """Return the word, with the spaces before it or on a line of its own."""
        word, spaces = self._word, self._spaces
        if not word:
            return ""
        if self._begins and (mark := FENCE.fullmatch(word)):
            self._fence, self._code = mark[1], None
        width = max(1, self._width())
        column = self._column % width if self._column > width else self._column  # the window became narrower
        after = column + _blank(spaces, column)
        if after + self._cells > width and after > 0 and not self._fence:
            self._column, lead = self._cells, "\n"
        else:
            self._column, lead = after + self._cells, spaces
        self._word, self._cells, self._spaces, self._begins = "", 0, "", False
        return lead + word

    def _end(self) -> str:
        """Return the rest of a line, and its end."""
        rest = self._place()
        room = max(0, self._width() - self._column)
        rest += self._spaces if _blank(self._spaces, self._column) <= room else ""
        self._spaces, self._column, self._begins = "", 0, True
        if self._fence and self._code is not None:
            line = self._code.strip()
            if line.startswith(self._fence) and not line.strip(self._fence[0]):
                self._fence = ""
        self._code = "" if self._fence else None
        return rest + "\n"


def _stands_alone(c: str) -> bool:
    """Return whether lines may end before and after this character: those of scripts without spaces, and emojis."""
    return cell_len(c) == 2 and not "가" <= c <= "힣"


def _blank(spaces: str, column: int) -> int:
    """Return the cells of these spaces and tabs at a column."""
    begin = column
    for c in spaces:
        column += 8 - column % 8 if c == "\t" else 1
    return column - begin
