"""The one way kernels are compiled.

`@jit` is for functions called from Python or from kernels. `@kernel(ARGS)` is for the operations of a plan, which are
compiled when a plan first needs them and called by address. Compiled code is kept between runs: see kept.py.
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

from . import cpu
from .kept import Kept

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, and pyllm's kernels must be compiled: unset it")
if config.CPU_FEATURES is None and (config.CPU_NAME or "host") != "host":
    config.CPU_FEATURES = ""  # the features of the CPU of that name; Numba would add those of the host
elif config.CPU_FEATURES is None and "neon" in cpu.FEATURES:  # LLVM does not ask the system for all of them
    config.CPU_FEATURES = ",".join(f"+{name}" for name in sorted(cpu.FEATURES))


def jit(function: Any = None, **options: Any) -> Any:
    """Compile as numba.njit does, with the project's options: no GIL, C's division, kept on the disk."""
    if function is None:
        return partial(jit, **options)
    dispatcher = numba.njit(function, nogil=True, error_model="numpy", **options)
    dispatcher._cache = Kept(function)
    return dispatcher


def inline(function: Any) -> Any:
    """Compile a function into each of its callers: a part of a kernel that has a name of its own."""
    return jit(function, forceinline=True)


class Kernel:
    """An operation over items: body(args, begin, end, thread), where args is a record of dtype `args`.

    Items are independent: any thread may do any of them, in any order. `thread` tells which scratch memory to use.
    """

    def __init__(self, name: str, args: np.dtype[np.void], body: Callable[..., None]) -> None:
        self.name, self.args, self._body = name, args, body
        self._compiled: Any = None

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    @property
    def address(self) -> int:
        """The address of void(void *args, int64 begin, int64 end, int64 thread), compiled at the first call."""
        if self._compiled is None:
            taken = numba.from_dtype(self.args), types.int64, types.int64, types.int64
            compiled: Any = CFunc(self._body, (taken, types.void), {}, {"nopython": True, "error_model": "numpy"})
            compiled._cache = Kept(self._body)
            compiled.compile()
            self._compiled = compiled
        return int(self._compiled.address)

    def record(self, **operands: npt.NDArray[Any] | int | float) -> npt.NDArray[np.void]:
        """Return the args record (1,) of operands, which are its fields by name; an array stands for its address.

        The arrays must outlive the record.
        """
        args = np.zeros(1, self.args)
        names = set(self.args.names or ())
        assert set(operands) == names, (self.name, set(operands) ^ names)
        for name, value in operands.items():
            args[name] = value.ctypes.data if isinstance(value, np.ndarray) else value
        return args

    def run(self, args: npt.NDArray[np.void], begin: int, end: int, thread: int = 0) -> None:
        """Do items begin to end - 1 from Python, on this thread: for tests and for work outside of a plan."""
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(self.address)
        call(args.ctypes.data, begin, end, thread)

    def __repr__(self) -> str:
        return f"Kernel({self.name})"


def kernel(args: np.dtype[np.void], name: str = "") -> Callable[[Callable[..., None]], Kernel]:
    """Decorate a function over items, which makes it a Kernel; args: the dtype of its arguments."""
    return lambda body: Kernel(name or body.__name__, args, body)


def record(**fields: str) -> np.dtype[np.void]:
    """Return the dtype of a kernel's arguments; fields are "ptr" (an address), "int" (64 bits) or "float" (32 bits)."""
    kinds = {"ptr": "<i8", "int": "<i8", "float": "<f4"}
    return np.dtype([(name, kinds[kind]) for name, kind in fields.items()], align=True)
