"""Compiled kernels on the disk, from one run to the next. A file that cannot be used never stops a run.

Numba's own files have no checksum, end the program when the disk is full, and get mixed up when two processes compile
at once. Here each compiled function is one file, which appears in one step and is read only if its checksum is right.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import pickle
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import platformdirs
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

from . import cpu

_CURE = "set PYLLM_CACHE to a folder of your own"
_DIGEST = hashlib.sha256().digest_size
_LIMIT = 64 << 20  # bytes of a file; kernels have some 100 KB
_STATE = re.compile("[0-9a-f]{16}")  # the names that `_state` gives
_KERNELS = Path(__file__).parents[1]


def root() -> Path:
    """Return the folder of all compiled kernels, those of this state of the sources and of others."""
    given = os.environ.get("PYLLM_CACHE")
    return (Path(given).expanduser().absolute() if given else platformdirs.user_cache_path("pyllm")) / "kernels"


def _state() -> str:
    """Return a name for what a compiled kernel depends on: all sources of kernels, what `cpu` chose, and versions."""
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(_KERNELS.rglob("*.py"))))
    digest.update(f"{cpu.DOT} {cpu.AMX} {cpu.HALF} {numba.__version__} {np.__version__} {sys.version}".encode())
    return digest.hexdigest()[:16]


FOLDER = root() / _state()


def _refusal() -> str:
    """Make the folder; return why it cannot be used, or "". The files are pickles, so the folder must be ours."""
    try:
        if not FOLDER.is_dir():  # it may be there and read-only, which is fine
            FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = FOLDER.stat()
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            return "belongs to another user"
        if status.st_mode & 0o022:
            FOLDER.chmod(0o700)
    except OSError as error:
        return f"cannot be used ({error.strerror or error})"
    return ""


REFUSED = _refusal()


def states(folder: Path) -> list[Path]:
    """Return the folders of compiled kernels that are ours, one for each state of the sources."""
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if _STATE.fullmatch(path.name) and _is_our_folder(path.lstat())]
    return []


def _is_our_folder(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def _prune(keep: int = 6) -> None:
    """Delete our folders of other states, those unused the longest first, but for `keep` of them."""
    with contextlib.suppress(OSError):
        FOLDER.touch()
        others = sorted((p for p in states(FOLDER.parent) if p != FOLDER), key=lambda p: p.stat().st_mtime)
        for folder in others[: -keep or None]:
            shutil.rmtree(folder, ignore_errors=True)


if not REFUSED:
    _prune()


@functools.cache
def _warn(problem: str) -> None:
    """Log each problem once; Numba swallows warnings."""
    logging.getLogger(__name__).warning("%s: %s", FOLDER, problem)


def _sealed(path: Path, body: bytes) -> bytes:
    """Return a file's bytes: a digest over the names of file and folder and the content, then the content."""
    return _digest(path, body) + body


def _digest(path: Path, body: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}\n".encode())
    digest.update(body)
    return digest.digest()


def _opened(path: Path) -> memoryview:
    """Return the content of a file that `_sealed` made; raises OSError or ValueError. Never waits for a writer."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        raw = memoryview(file.read(_LIMIT + 1))
    if len(raw) > _LIMIT or _digest(path, raw[_DIGEST:]) != raw[:_DIGEST]:
        raise ValueError("the checksum is wrong")
    return raw[_DIGEST:]


class Kept:
    """The compiled versions of one function, in the place of Numba's own cache."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the function compiled for these types; None if its file is missing or damaged."""
        if REFUSED:
            return None
        rtsys.initialize(target_context)  # functions with arrays link to it; the compiler itself need not start
        try:
            body = _opened(self._path(sig, target_context.codegen()))
            return CompileResult._rebuild(target_context, *pickle.loads(body))
        except FileNotFoundError:
            return None
        except Exception:  # a pickle may raise anything
            _warn("a kernel in it is damaged, and is compiled again")
            return None

    def save_overload(self, sig: Any, result: CompileResult) -> None:
        """Write the function compiled for these types to the disk, if possible."""
        if REFUSED:
            _warn(f"{REFUSED}, so kernels are compiled in every run; {_CURE}")
        elif not result.library.has_dynamic_globals:
            try:
                path = self._path(sig, result.codegen)
                self._write(path, _sealed(path, dumps(result._reduce())))
            except OSError as error:
                _warn(f"cannot be written ({error.strerror or error}), so kernels are compiled in every run; {_CURE}")

    def _write(self, path: Path, raw: bytes) -> None:
        FOLDER.mkdir(mode=0o700, exist_ok=True)  # another process may have pruned it
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(raw)
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise OSError(errno.EEXIST, f"{path.name} is no regular file")
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def _path(self, sig: Any, codegen: Any) -> Path:
        """Return the file's path: the function's name, and a digest of all that its machine code depends on."""
        code, source = self._function.__code__, Path(self._function.__code__.co_filename)
        digest = hashlib.sha256(f"{sig} {codegen.magic_tuple()} {code.co_firstlineno}".encode())
        digest.update(code.co_code + dumps([cell.cell_contents for cell in self._function.__closure__ or ()]))
        if _KERNELS not in source.parents:  # a test's own kernel, which `_state` does not know
            with contextlib.suppress(OSError):
                digest.update(source.read_bytes())
        return FOLDER / f"{self._function.__module__}.{self._function.__name__}-{digest.hexdigest()[:20]}"
