"""What a command tells people besides its result: notes and tables on stderr, dim on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO


def note(text: str) -> None:
    """Print a note of pyllm's own to stderr."""
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, style="dim", markup=False)
    else:
        print(text, file=sys.stderr)


def table(rows: Sequence[tuple[str, str]], file: TextIO | None = None) -> None:
    """Print names and values in two columns, to stderr unless `file` is given."""
    file = sys.stderr if file is None else file
    if not file.isatty():
        for name, value in rows:
            print(f"{name + ':':<16}{value}", file=file)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name), Text(value), style="dim")
    console = Console(file=file, highlight=False)
    console.print()
    console.print(grid)
