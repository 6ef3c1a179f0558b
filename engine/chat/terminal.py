"""Reads lines at a terminal, with history and line editing; knows prompt_toolkit, no models."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from ..store import ours


def line_reader(input: Input | None = None, output: Output | None = None) -> Callable[[], str]:
    """Return a function that asks for a line; Ctrl-C on an empty one raises KeyboardInterrupt, Ctrl-D EOFError."""
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

    session: PromptSession[str] = PromptSession(
        history=history(), key_bindings=keys, input=input, output=output, prompt_continuation="  "
    )
    return lambda: session.prompt("> ")


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
