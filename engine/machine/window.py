"""The window of a terminal: how many columns it has now, and text that fits in it."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TextIO


def width(file: TextIO) -> int:
    """Return the columns of the terminal that a stream writes to; for another stream, those that the system names."""
    try:
        columns = os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return columns or shutil.get_terminal_size().columns


def filled(text: str, file: TextIO, piped: int | None = None) -> str:
    """Return a text for a stream, its lines broken between words where a terminal's window ends.

    piped: the columns of lines for a stream that is no terminal; None leaves them as they are.
    """
    columns = width(file) if file.isatty() else piped
    if columns is None:
        return text
    wrap = textwrap.TextWrapper(columns, break_on_hyphens=False, replace_whitespace=False)
    return "\n".join(wrap.fill(line) for line in text.split("\n"))
