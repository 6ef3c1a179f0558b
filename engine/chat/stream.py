"""Writes the pieces of an answer as they come; knows a stream and the progress bar, not what the text means."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TextIO

from ..machine import window
from ..machine.bars import Bars
from ..machine.plain import plain_lines
from ..results import Piece, Stop


def stream(pieces: Iterator[Piece], out: TextIO | None, progress: Bars) -> tuple[str, Stop | None]:
    """Write each piece as it comes, and end the line, even after Ctrl-C; return (text, why the answer ended).

    On a terminal, lines are broken between words; the text that is returned has no such breaks.
    """
    written: list[str] = []
    stop = None
    wrap = None
    if out is not None and out.isatty():
        from .wrap import Wrap

        wrap = Wrap(partial(window.width, out))
    try:
        for piece in pieces:
            progress.close()  # text goes below the prompt's bar
            stop = piece.stop
            written.append(piece.text)
            if out is not None:
                out.write(wrap.feed(plain_lines(piece.text)) if wrap else piece.text)
                out.flush()
    finally:
        text = "".join(written)
        if out is not None:
            out.write(wrap.flush() if wrap else "")
            out.write("" if text.endswith("\n") else "\n")
            out.flush()
    return text, stop
