"""Which files are ours to replace or delete: regular, the user's own, and beginning as those that we write do.

A path may name anything: a device, a pipe, a link, a file of another program. That is never moved, replaced, deleted or
waited for, and nothing is read without bound.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO

LIMIT = 64 << 20  # bytes of a study, a record or a history at most

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISLNK, "is a link"),
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISREG, ""),
)


class Foreign(OSError):
    """The file is not ours; `strerror` says why, beginning with a verb."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(errno.EPERM, problem, str(path))

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def read(path: Path, limit: int = LIMIT, begins: bytes = b"") -> bytes:
    """Return the bytes of a regular file, never waiting for a writer; links are followed.

    Raises Foreign for another kind of file, one of more than `limit` bytes, and one that does not begin with `begins`.
    """
    with _opened(path) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Foreign(path, f"is larger than {limit:,} bytes")
    if not raw.startswith(begins):
        raise Foreign(path, "holds something else")
    return raw


def problem(path: Path, begins: bytes = b"") -> str:
    """Return why the file must not be replaced or deleted; "" if it is ours, or if there is nothing at the path.

    begins: the first bytes of a file of ours. One that is shorter, because its writing was ended, is ours too if it
    begins like them and is not empty.
    """
    try:
        status = os.lstat(path)
    except OSError:  # nothing is there, or nothing that we can reach
        return ""
    if said := _kind(status.st_mode):
        return said
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return "belongs to another user"
    if begins:
        try:
            with _opened(path) as file:
                head = file.read(len(begins))
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        if not head or not begins.startswith(head):
            return "holds something else"
    return ""


def check(path: Path, begins: bytes = b"") -> None:
    """Raise Foreign if there is a file that must not be replaced or deleted."""
    if said := problem(path, begins):
        raise Foreign(path, said)


def write(path: Path, content: bytes, begins: bytes) -> None:
    """Write a file, which is on the disk and whole when this returns. Raises Foreign, or another OSError.

    begins: as for `problem`; the content begins so.
    """
    assert content.startswith(begins)
    check(path, begins)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = new_name(path)
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check(path, begins)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def new_name(path: Path) -> Path:
    """Return a name beside the path that nobody else has, for what is being written."""
    return path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}.part")


def set_aside(path: Path) -> Path:
    """Rename a file of ours to the first name NAME.damaged-1, -2 and so on that is free, and return that name."""
    n = 1
    while os.path.lexists(name := path.with_name(f"{path.name}.damaged-{n}")):
        n += 1
    os.rename(path, name)
    return name


def _opened(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Without O_NONBLOCK, opening a named pipe would wait for a writer."""
    flags = ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
    if said := _kind(os.stat(path).st_mode):  # some devices act when they are opened
        raise Foreign(path, said)
    descriptor = os.open(path, os.O_RDONLY | sum(getattr(os, name, 0) for name in flags))
    try:
        if said := _kind(os.fstat(descriptor).st_mode):
            raise Foreign(path, said)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _kind(mode: int) -> str:
    """Return what a file is that is not a regular one, as in "is a device"; "" for a regular one."""
    return next((said for test, said in _KINDS if test(mode)), "is a device")
