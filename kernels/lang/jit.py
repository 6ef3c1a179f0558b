"""The one way kernels are compiled.

Two kinds: `@jit` for functions called from Python or from kernels, and `@kernel(ARGS)` for the operations of a plan,
which are compiled when a plan first needs them and called by address. What is compiled is kept: see kept.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import config
from numba.core.ccallback import CFunc

from .kept import Kept

if config.CPU_NAME and config.CPU_FEATURES is None:
    config.CPU_FEATURES = ""  # what the CPU of that name has; Numba would add what the host has


def jit(function: Any = None, **options: Any) -> Any:
    """numba.njit as the project uses it: without the GIL, kept, C's division. Options as numba.njit's."""
    if function is None:
        return partial(jit, **options)
    dispatcher = numba.njit(function, nogil=True, error_model="numpy", **options)
    dispatcher._cache = Kept(function)
    return dispatcher


def inline(function: Any) -> Any:
    """A function that is always compiled into its caller: part of a kernel with a name of its own."""
    return jit(function, forceinline=True)


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
            taken = numba.from_dtype(self.args), types.int64, types.int64, types.int64
            compiled: Any = CFunc(self._body, (taken, types.void), {}, {"nopython": True, "error_model": "numpy"})
            compiled._cache = Kept(self._body)
            compiled.compile()
            self._compiled = compiled
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
