"""Free space for downloads, errors of the disk, and locks between processes; knows no network."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...models.errors import PyllmError
from ...models.progress import Progress
from . import ours


def check_space(folder: Path, need: int, title: str) -> None:
    """Raise PyllmError if `need` bytes do not fit on the disk of `folder`; called before anything is written."""
    if shutil.disk_usage(folder).free < need:
        raise _no_space(folder, title, need)


def _no_space(folder: Path, title: str, need: int = 0) -> PyllmError:
    free = shutil.disk_usage(folder).free / 1e6
    takes = f"fetching {title} takes {need / 1e6:.0f} MB, " if need else ""
    return PyllmError(
        f"{folder}: no space left: {takes}{free:.0f} MB are free; make room or set PYLLM_CACHE (HF_HOME for the hub's "
        "files) to a folder on another disk"
    )


@contextmanager
def disk_errors(folder: Path, title: str) -> Iterator[None]:
    """Turn an OSError into a PyllmError of one line that names the folder and the cure."""
    try:
        yield
    except ours.Foreign as error:
        raise PyllmError(f"{error.filename}: {error.strerror}, and is not replaced; move it away yourself") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(folder, title) from None
        raise PyllmError(
            f"{folder}: cannot keep {title} there: {error.strerror or error}; "
            "set PYLLM_CACHE (HF_HOME for the hub's files) to a folder that can be written"
        ) from None


@contextmanager
def alone(lock: Path, title: str, progress: Progress) -> Iterator[None]:
    """Let one process at a time in; the others wait, and say so through `progress`."""
    from filelock import FileLock, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    begin = time.monotonic()
    while True:
        try:
            held.acquire(timeout=0.5)
            break
        except Timeout:
            progress(f"waiting for another process that fetches {title}", int(time.monotonic() - begin), 0)
    try:
        yield
    finally:
        held.release()
