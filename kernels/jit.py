"""The one way kernels are compiled, and where the compiled ones are kept.

Two kinds: `@jit` for functions called from Python or from kernels, and `@kernel(ARGS)` for the operations of a plan,
which are compiled when a plan first needs them and called by address.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import platformdirs
from numba import types
from numba.core import config

from . import cpu

# Numba watches one source file per kernel, so it would keep a kernel whose callee changed in another file; and what
# `cpu` chose is not in its key. So each state of the sources and each choice gets a folder of its own. The files are
# pickles, hence private.
_digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py"))))
_digest.update(f"{cpu.DOT} {cpu.HALF} {numba.__version__} {np.__version__} {sys.version}".encode())


def cache_root() -> Path:
    """The folder of all compiled kernels, of this state of the sources and of others."""
    return Path(os.environ.get("PYLLM_CACHE") or platformdirs.user_cache_dir("pyllm")) / "kernels"


def _private_folder(folder: Path) -> bool:
    """Make it, see that it is ours alone and can be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if hasattr(os, "getuid") and status.st_uid != os.getuid():
            return False
        if status.st_mode & 0o022:
            folder.chmod(0o700)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


CACHE = cache_root() / _digest.hexdigest()[:16]
CACHED: bool = _private_folder(CACHE)
"""Whether compiled kernels outlive this process."""
config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(CACHE)
if config.CPU_NAME and config.CPU_FEATURES is None:
    config.CPU_FEATURES = ""  # what the CPU of that name has; Numba would add what the host has


def _prune(keep: int = 6) -> None:
    """Drop the folders of old sources, the longest unused first."""
    with contextlib.suppress(OSError):
        CACHE.touch()
        others = sorted((p for p in CACHE.parent.iterdir() if p != CACHE), key=lambda p: p.stat().st_mtime)
        for folder in others[: -keep or None]:
            shutil.rmtree(folder, ignore_errors=True)


if CACHED:
    _prune()


def jit(function: Any = None, **options: Any) -> Any:
    """numba.njit as the project uses it: without the GIL, cached, C's division. Options as numba.njit's."""
    return numba.njit(function, nogil=True, cache=CACHED, error_model="numpy", **options)


def inline(function: Any) -> Any:
    """A function that is always compiled into its caller: part of a kernel with a name of its own."""
    return numba.njit(function, nogil=True, cache=CACHED, error_model="numpy", forceinline=True)


def _or_recompiled(compile_: Callable[[], Any]) -> Any:
    """A damaged cache is thrown away and made anew: whatever a broken pickle raises, a second failure is real."""
    try:
        return compile_()
    except Exception as error:
        if not CACHED or isinstance(error, numba.core.errors.NumbaError):
            raise
        shutil.rmtree(CACHE, ignore_errors=True)
        _private_folder(CACHE)
        return compile_()


class Kernel:
    """An operation over items: body(args, begin, end, thread), where args is a record of dtype `args`.

    Items are independent: any thread may do any of them, in any order. Scratch memory is told apart by `thread`.
    """

    def __init__(self, name: str, args: np.dtype[np.void], body: Callable[..., None]) -> None:
        self.name, self.args, self._body = name, args, body
        self._compiled: Any = None

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    @property
    def address(self) -> int:
        """Address of void(void *args, int64 begin, int64 end, int64 thread), compiled at the first call."""
        if self._compiled is None:
            signature = types.void(numba.from_dtype(self.args), types.int64, types.int64, types.int64)
            self._compiled = _or_recompiled(
                lambda: numba.cfunc(signature, nopython=True, cache=CACHED, error_model="numpy")(self._body)
            )
        return int(self._compiled.address)

    def run(self, args: npt.NDArray[np.void], begin: int, end: int, thread: int = 0) -> None:
        """Do the items from Python, on this thread: for tests and for work outside of a plan."""
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(self.address)
        call(args.ctypes.data, begin, end, thread)

    def __repr__(self) -> str:
        return f"Kernel({self.name})"


def kernel(args: np.dtype[np.void], name: str = "") -> Callable[[Callable[..., None]], Kernel]:
    """Decorator: make a function over items a Kernel. See there."""
    return lambda body: Kernel(name or body.__name__, args, body)


def record(**fields: str) -> np.dtype[np.void]:
    """The dtype of a kernel's arguments; fields are "ptr" (an address), "int" or "float" (32 bits)."""
    kinds = {"ptr": "<i8", "int": "<i8", "float": "<f4"}
    return np.dtype([(name, kinds[kind]) for name, kind in fields.items()], align=True)
