"""Reads lines at a terminal, with history and line editing; knows prompt_toolkit, no models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.history import DummyHistory, FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from ..store import ours
from .chat import PROMPT


def line_reader(input: Input | None = None, output: Output | None = None) -> Callable[[str], str]:
    """Return a function that asks for a line with a prompt; Ctrl-C on an empty line raises KeyboardInterrupt, Ctrl-D
    EOFError. A terminal that moves no cursor, or a pipe, gives lines as they are."""
    if input is None and (not sys.stdin.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown")):
        return plain_line
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def cancel(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    def session(kept: History) -> PromptSession[str]:
        return PromptSession(history=kept, key_bindings=keys, input=input, output=output, prompt_continuation="  ")

    lines, answers = session(history()), session(DummyHistory())  # yes and no, and blocks, are not worth keeping

    def read(prompt: str = PROMPT) -> str:
        return (lines if prompt == PROMPT else answers).prompt(prompt)

    return read


def plain_line(prompt: str = PROMPT) -> str:
    """Return the next line of stdin as it is; the prompt is written only for somebody who types."""
    if sys.stdin.isatty():
        sys.stdout.write(prompt)
        sys.stdout.flush()
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", "replace").rstrip("\r\n")


def history() -> History:
    """Return the history of lines, kept in a file that only its owner can read; if that fails, only in memory."""
    from platformdirs import user_state_path

    path = user_state_path("pyllm") / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            ours.read(path)  # raises for what is no regular file, and for one that is too large
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
