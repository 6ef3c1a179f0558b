"""What a command tells people: lines, notes and tables, whose text from outside cannot move the terminal's cursor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from ..machine.plain import plain, plain_lines

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120  # columns where the output is not a terminal


def say(text: object, file: TextIO | None = None) -> None:
    """Print text, to stdout unless `file` is given."""
    print(plain_lines(str(text)), file=file, flush=True)


def warn(text: object) -> None:
    """Print a line of pyllm's own to stderr."""
    print(f"pyllm: {plain(text)}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a note of pyllm's own to stderr, dim on a terminal."""
    if sys.stderr.isatty():
        console(sys.stderr).print(plain_lines(text), style="dim")
    else:
        say(text, sys.stderr)


def table(rows: Sequence[tuple[str, str]], file: TextIO | None = None) -> None:
    """Print names and values in two columns, to stderr unless `file` is given."""
    file = sys.stderr if file is None else file
    if not file.isatty():
        for name, value in rows:
            print(f"{name + ':':<16}{plain(value)}", file=file)
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name), Text(plain(value)), style="dim")
    out = console(file)
    out.print()
    out.print(grid)


def console(file: TextIO | None = None, width: int = WIDTH) -> Console:
    """Return Rich's console for a stream, by default stdout; `width` columns where that is not a terminal."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> NoReturn:
            raise BrokenPipeError  # Rich would end the process with another code

    file = sys.stdout if file is None else file
    settings: dict[str, Any] = {} if file.isatty() else {"width": width}
    return Piped(file=file, highlight=False, markup=False, emoji=False, **settings)
