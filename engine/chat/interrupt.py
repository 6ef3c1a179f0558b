"""Ctrl-C while compiled code runs: Python handles a signal only between two of its own instructions, and with a large
model those may be a minute apart. A thread that hears of the signal at once waits a moment, then ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

PATIENCE = 1.0  # seconds from a Ctrl-C to the end of the process
SHOW_CURSOR = "\x1b[?25h"  # which progress bars hide


@contextmanager
def impatient(presses: int = 1, last: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End the process with code 130 after `presses` Ctrl-C, unless the block ends within PATIENCE of the last.

    last: called before, in another thread, to print what there is.
    """
    if threading.current_thread() is not threading.main_thread():  # only it gets signals
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(reader, presses, done, last), name="pyllm-interrupt", daemon=True)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(writer)  # ends the watcher


@contextmanager
def at_once(before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End the process at once on Ctrl-C and SIGTERM, after calling `before`.

    For imports and compilation: there an exception would get lost, become another, or crash in LLVM's callbacks.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        before()
        os._exit(128 + number)

    try:
        handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, and only that gets signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch(reader: int, presses: int, done: threading.Event, last: Callable[[], None]) -> None:
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while presses > 0 and (numbers := signals.read(64)):
            presses -= numbers.count(signal.SIGINT)
        if presses <= 0 and not done.wait(PATIENCE):
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(SHOW_CURSOR if sys.stderr.isatty() else "")
                sys.stderr.flush()
            with suppress(Exception):
                last()
                sys.stdout.flush()
            os._exit(128 + signal.SIGINT)
