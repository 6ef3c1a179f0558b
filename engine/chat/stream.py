"""Writes the pieces of an answer as they come; knows a stream and the progress bar, not what the text means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from ..machine.bars import Bars
from ..machine.plain import plain_lines
from ..results import Piece, Stop


def stream(pieces: Iterator[Piece], out: TextIO | None, progress: Bars) -> tuple[str, Stop | None]:
    """Write each piece as it comes, and end the line, even after Ctrl-C; return (text, why the answer ended)."""
    show = plain_lines if out is not None and out.isatty() else str  # a pipe gets the answer byte for byte
    written: list[str] = []
    stop = None
    try:
        for piece in pieces:
            progress.close()  # text goes below the prompt's bar
            stop = piece.stop
            written.append(piece.text)
            if out is not None:
                out.write(show(piece.text))
                out.flush()
    finally:
        text = "".join(written)
        if out is not None and not text.endswith("\n"):
            out.write("\n")
            out.flush()
    return text, stop
