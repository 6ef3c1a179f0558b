"""Ctrl-C while compiled code runs: Python sees to a signal between two of its own steps, and with a large model these
may be a minute apart. A thread that the system tells at once waits a moment for that, and then ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PATIENCE = 1.0  # seconds from a Ctrl-C to the end of the process
SHOW_CURSOR = "\x1b[?25h"  # which progress bars hide


@contextmanager
def impatient(presses: int = 1) -> Iterator[None]:
    """In here, so many Ctrl-C end the process with 130, if nobody else has made something of them within PATIENCE."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(reader, presses, done), name="pyllm-interrupt", daemon=True)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(writer)  # ends the watcher


def _watch(reader: int, presses: int, done: threading.Event) -> None:
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while presses > 0 and (numbers := signals.read(64)):
            presses -= numbers.count(signal.SIGINT)
        if presses <= 0 and not done.wait(PATIENCE):
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(SHOW_CURSOR if sys.stderr.isatty() else "")
                sys.stderr.flush()
            os._exit(128 + signal.SIGINT)
