"""The streams of the process, made ready: all three open, UTF-8 where no terminal is, and no failure by stderr."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any


def fill() -> None:
    """Open the null device in place of closed standard streams, so that no file takes their numbers, nor their place.

    Also for a process whose streams are all there but for Python: `sys.stdout` may be None.
    """
    for number in range(3):
        if not _is_open(number):
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors="replace"))  # noqa: SIM115


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def encode() -> None:
    """Make stdout and stderr UTF-8 where they are no terminals; a terminal shows what it cannot encode as "?"."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        with suppress(OSError, ValueError):
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def spare_stderr() -> None:
    """Let nothing fail because stderr is closed, full or a pipe without a reader: the answer matters more."""
    stream: Any = sys.stderr
    if isinstance(stream, io.TextIOWrapper):
        encoding, errors = stream.encoding, stream.errors
        sys.stderr = _Spared(stream.detach(), encoding, errors, line_buffering=True)


class _Spared(io.TextIOWrapper):
    """A stream that drops what cannot be written."""

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()
