"""Renders untrusted Jinja templates within 5 seconds and 256 MiB, whatever they do; knows nothing of chats.

jinja2's sandbox keeps a template from Python's internals, but not from taking all time and memory. So a process of its
own renders it (jinja_worker.py): the system limits its memory and CPU time, and it is killed when it does not answer in
time. It can be started early, is kept for later renderings, and ends when this process does, as its stdin does.

Where the system cannot limit a process's memory (Windows, macOS), this process looks at it every few milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import PyllmError

__all__ = ["Broken", "Refused", "rendering", "start"]

SOURCE_LIMIT = 128 << 10  # the most characters of a template; the largest known one has 18,120
SECONDS = 4.0  # for all renderings of a conversation; of 5 seconds, the rest is for the start and for the tokens
START_SECONDS = 60.0  # until the process is ready: only a machine that is very busy needs more than one
TEXT_LIMIT, TEXT_PER_CHARACTER = 256 << 10, 4  # characters of the text: a fixed part, and more by the values' length
MEMORY = 256 << 20  # bytes
OUT_OF_MEMORY = f"it takes more than {MEMORY >> 20} MiB"
POLL = 0.005  # seconds between two looks at the memory

# Without site-packages (-S) and environment (-I) the process starts sooner; it is told where to find what it imports.
PROGRAM = (
    "import sys; sys.path += sys.argv[2:]; from pyllm.models.text.jinja_worker import serve; serve(int(sys.argv[1]))"
)


class Refused(Exception):
    """The template refuses its input, by raise_exception."""


class Broken(Exception):
    """The template cannot be rendered: an error in it, or more than a limit."""


class _Worker:
    """The process that renders, one template after the other."""

    def __init__(self) -> None:
        specs = [find_spec(name) for name in ("jinja2", "markupsafe")]
        packages = [Path(__file__).parents[2], *(Path(spec.origin).parent for spec in specs if spec and spec.origin)]
        flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-c", PROGRAM, str(MEMORY), *(str(path.parent) for path in packages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.ready = self.polled = False
        self.killed = ""  # and why

    def wait(self) -> None:
        """Wait until the process has imported what it needs."""
        if not self.ready:
            self.polled = not self._answered(None, START_SECONDS, 1000)["bound"]
            self.ready = True

    def ask(self, source: str, values: Mapping[str, Any], seconds: float) -> str:
        """Return the text of a template; raises Refused and Broken."""
        limit = TEXT_LIMIT + TEXT_PER_CHARACTER * len(json.dumps(values, ensure_ascii=False))
        request = json.dumps({"source": source, "values": values, "limit": limit, "seconds": seconds}).encode()
        answer = self._answered(request, seconds, 12 * limit)  # JSON takes up to twelve bytes for a character
        if "refused" in answer:
            raise Refused(answer["refused"])
        if "memory" in answer:
            self.close()  # it ends
            raise Broken(OUT_OF_MEMORY)
        if "broken" in answer:
            raise Broken(answer["broken"])
        return str(answer["text"])

    def _answered(self, request: bytes | None, seconds: float, limit: int) -> dict[str, Any]:
        """Return the process's next line, of at most `limit` bytes; raises Broken, and then the process is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        line = b""
        try:
            with self._watched(seconds), suppress(OSError):  # BrokenPipeError, where it is gone
                if request is not None:
                    self.process.stdin.write(request + b"\n")
                    self.process.stdin.flush()
                line = self.process.stdout.readline(limit)
        except BaseException:  # Ctrl-C: what it answers later is for nobody
            self.close()
            raise
        if line.endswith(b"\n"):
            return dict(json.loads(line))
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it is dying, and what it dies of is worth a word
        self.close()
        raise Broken(self.killed or self._death())

    @contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """Kill the process if this takes more time or, where the system does not limit it, more memory."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done, seconds), name="pyllm-template", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _watch(self, done: threading.Event, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done.wait(min(POLL if self.polled else seconds, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                self.killed = f"it takes more than {SECONDS:g} s"
            elif self.polled and _memory(self.process.pid) > MEMORY:
                self.killed = OUT_OF_MEMORY
            if self.killed:
                self.process.kill()
                return

    def _death(self) -> str:
        """Return why the process ended, where this one did not kill it."""
        number = -self.process.returncode
        if number == getattr(signal, "SIGXCPU", None):
            return f"it takes more than {SECONDS:g} s"
        return f"it ends the process that renders it ({f'signal {number}' if number > 0 else f'exit code {-number}'})"

    def alive(self) -> bool:
        return not self.killed and self.process.poll() is None

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what it has not read
                pipe and pipe.close()
        self.process.wait()


def _memory(pid: int) -> int:
    import psutil

    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


_lock, _worker = threading.RLock(), None


def start() -> None:
    """Start the process, if there is none, so that it is ready when it is needed; raises PyllmError."""
    global _worker
    with _lock:
        if _worker is None or not _worker.alive():
            _close()
            try:
                _worker = _Worker()
            except (OSError, TypeError) as e:
                raise PyllmError(f"the process for chat templates does not start: {e}") from None


@contextmanager
def rendering(source: str) -> Iterator[Callable[[Mapping[str, Any]], str]]:
    """Yield a function that returns the template's text for some values (of JSON types).

    The function raises Refused, Broken and PyllmError. Its calls have SECONDS together; threads wait for each other.
    """
    with _lock:
        end = 0.0

        def render(values: Mapping[str, Any]) -> str:
            nonlocal end
            if len(source) > SOURCE_LIMIT:
                raise Broken(f"it has {len(source):,} characters, more than {SOURCE_LIMIT:,}")
            start()
            assert _worker is not None
            try:
                _worker.wait()
            except Broken as e:
                raise PyllmError(f"the process for chat templates does not start: {e}") from None
            end = end or time.monotonic() + SECONDS
            return _worker.ask(source, values, max(0.0, end - time.monotonic()))

        yield render


def _close() -> None:
    global _worker
    if _worker is not None:
        _worker.close()
    _worker = None


def _forget() -> None:
    """After a fork, leave the process to the parent that started it."""
    global _lock, _worker
    _lock, _worker = threading.RLock(), None


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
