"""The file of answers, a JSON object in each line: a later run adds those that are missing; knows no model.

The first answer that a run writes also holds its settings, so that no other run's answers come among them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import IO, Any

from ...models.errors import PyllmError, UsageError
from ..store import ours
from .lines import LINE, BadLine, Line

SYNC = 1.0  # seconds after which what was written is on the disk
UNSAID = ("pyllm",)  # settings that may differ
Answer = dict[str, Any]


def answer_key(line: Line | BadLine) -> tuple[Any, ...]:
    """Return what finds a line's answer among others: its id; of a bad line its place and content."""
    return (line.id,) if isinstance(line, Line) else ("line", line.number, line.digest)


class Printed:
    """Answers on a stream, each written out at once."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = sys.stdout if out is None else out

    def write(self, answer: Answer) -> None:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(_line(answer, encoding.lower().replace("-", "") == "utf8"))
        self._out.flush()

    def has(self, line: Line | BadLine) -> bool:
        return False

    def close(self) -> None:
        pass


class Kept:
    """Answers in a file, which has those of earlier runs. Only one process writes to it at a time."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, retry: bool = False) -> None:
        """Open the file, or make it; a line that an earlier run did not finish is taken away.

        settings: all that answers depend on besides their lines. retry: an error does not count as an answer. Raises
        UsageError for a file that holds something else, or answers by other settings.
        """
        self.path, self._settings, self._retry = path, dict(settings), retry
        self._done: dict[tuple[Any, ...], str] = {}  # digests of the lines that have an answer
        self._failed: set[tuple[Any, ...]] = set()  # those whose answers are errors
        self._said = False  # whether the settings are in the file
        self._synced = monotonic()
        if kind := ours.problem(path):
            raise UsageError(f"-o {path}: {kind}: name a file, or leave -o out for stdout")
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"-o {path}: {reason}: name a file that can be written") from None
        try:
            _lock(self._file, path)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._done)

    @property
    def failed(self) -> int:
        """Return how many lines got an error in an earlier run and are not tried again."""
        return 0 if self._retry else len(self._failed)

    def has(self, line: Line | BadLine) -> bool:
        """Return whether a line has its answer; raises UsageError if that answer is to another prompt."""
        key = answer_key(line)
        before = self._done.get(key)
        if before is None or (self._retry and key in self._failed):
            return False
        if before != line.digest:
            id = json.dumps(line.id)[:80]
            raise UsageError(
                f"-o {self.path}: has an answer to id {id}, but line {line.number}, which has this id, was another "
                "then; give the line another id, or name another file"
            )
        return True

    def write(self, answer: Answer) -> None:
        """Add an answer. When this returns, the end of this process does not harm it."""
        if not self._said:
            answer, self._said = {**answer, "settings": self._settings}, True
        left = memoryview(_line(answer).encode())
        while left:
            left = left[self._file.write(left) :]
        if monotonic() - self._synced > SYNC:
            self._sync()

    def close(self) -> None:
        """Close the file; what was written is on the disk then."""
        try:
            self._sync()
        finally:
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = monotonic()

    def _read(self) -> None:
        """Learn which answers are there, and repair the end."""
        self._file.seek(0)
        end, whole = 0, True
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            while content := lines.readline(LINE + 1):
                answer = _parsed(content)
                if answer is None and (content.endswith(b"\n") or not _torn(content)):
                    raise UsageError(
                        f"-o {self.path}: holds something else than answers of pyllm run --parallel; name another file"
                    )
                if answer is not None:
                    self._learn(answer)
                    end += len(content)
                    whole = content.endswith(b"\n")
        if self._done and not self._said:
            raise UsageError(f"-o {self.path}: does not say by which settings its answers were made; name another file")
        self._file.truncate(end)
        if not whole:
            self._file.write(b"\n")

    def _learn(self, answer: Answer) -> None:
        key = ("line", answer["line"], answer["request"]) if "line" in answer else (answer["id"],)
        self._done[key] = answer["request"]
        self._failed.discard(key)  # an answer after an error is that of a run with `retry`
        if "error" in answer:
            self._failed.add(key)
        before = answer.get("settings")
        if isinstance(before, dict):
            self._said = True
            for name in {**before, **self._settings}:
                was, now = before.get(name), self._settings.get(name)
                if was != now and name not in UNSAID:
                    raise UsageError(
                        f"-o {self.path}: its answers were made with {name} {_short(was)}, now it is {_short(now)}; "
                        "go on with the same, or name another file"
                    )


def _line(answer: Answer, unicode: bool = True) -> str:
    text = json.dumps(answer, ensure_ascii=not unicode) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, in metadata
        return _line(answer, unicode=False)
    return text


def _parsed(content: bytes) -> Answer | None:
    """Return the answer in a line, None if there is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value.keys() >= {"id", "request"} or not value.keys() & {"text", "error"}:
        return None
    return value if isinstance(value["id"], str | int | float | None) and isinstance(value["request"], str) else None


def _torn(content: bytes) -> bool:
    """Return whether this may be the beginning of an answer."""
    begin = b'{"id": '
    return content.startswith(begin) or begin.startswith(content)


def _short(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)[:80]


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep other processes from writing too, where the system can do that; raises PyllmError."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PyllmError(f"-o {path}: another pyllm writes to it; wait for its end, or name another file") from None
    except OSError:  # a file system without locks
        return
