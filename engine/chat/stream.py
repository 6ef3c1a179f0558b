"""Pieces of an answer on their way to the reader; knows a stream and the progress bar, not what the text means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from ..machine.bars import Bars
from ..results import Piece, Stop


def stream(pieces: Iterator[Piece], out: TextIO | None, progress: Bars) -> tuple[str, Stop | None]:
    """Writes each piece when it comes, and ends the line, also when Ctrl-C ends the answer: (text, why it ended)."""
    written: list[str] = []
    stop = None
    try:
        for piece in pieces:
            progress.close()  # the prompt's bar: text goes below it
            stop = piece.stop
            written.append(piece.text)
            if out is not None:
                out.write(piece.text)
                out.flush()
    finally:
        text = "".join(written)
        if out is not None and not text.endswith("\n"):
            out.write("\n")
            out.flush()
    return text, stop
