"""SIGBUS: a page of a mapped file that is no longer there. It becomes a line on stderr and exit code 3.

The system sends SIGBUS to the thread that touches the page, which may be inside of a kernel, without the GIL. So the
handler is compiled, and calls only what POSIX allows in a handler: write, pause and _exit. (isatty is not in that list,
but is a single system call.)
"""

from __future__ import annotations

import ctypes
import functools
import signal
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.ccallback import CFunc
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from .kept import Kept
from .simd import I8, I32, I64

EXIT_CODE = 3
MESSAGE = (
    "pyllm: a mapped file, most likely the model's, was cut or cannot be read any more (SIGBUS); "
    "leave a model in use as it is, and rename a new one into its place\n"
)
_LINE = "\r\x1b[2K\x1b[?25h"  # where stderr is a terminal: end the progress bar's line, show the cursor


@intrinsic
def _end(typingctx: Any) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        def function(name: str, result: ir.Type, *taken: ir.Type) -> Any:
            return get_or_insert_function(builder.module, ir.FunctionType(result, taken), name)

        def write(text: str) -> None:
            raw = text.encode()
            pointer = context.insert_const_bytes(builder.module, raw)
            builder.call(function("write", I64, I32, I8.as_pointer(), I64), [I32(2), pointer, I64(len(raw))])

        said = ir.GlobalVariable(builder.module, I32, "pyllm.said")
        said.linkage, said.initializer = "internal", I32(0)
        first = builder.icmp_signed("==", builder.atomic_rmw("xchg", said, I32(1), "seq_cst"), I32(0))
        with builder.if_else(first) as (winner, others):
            with winner:
                terminal = builder.call(function("isatty", I32, I32), [I32(2)])
                with builder.if_then(builder.icmp_signed("!=", terminal, I32(0))):
                    write(_LINE)
                write(MESSAGE)
                builder.call(function("_exit", ir.VoidType(), I32), [I32(EXIT_CODE)])
            with others:  # the first thread is about to end the process
                builder.call(function("pause", I32), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _handler(number: int) -> None:
    _end()


@functools.cache
def guard() -> None:
    """Install the handler, once, where the system has SIGBUS and nobody, such as faulthandler, handles it already."""
    if not hasattr(signal, "SIGBUS"):
        return
    compiled: Any = CFunc(_handler, ((types.int32,), types.void), {}, {"nopython": True, "error_model": "numpy"})
    compiled._cache = Kept(_handler)
    compiled.compile()
    install = ctypes.CDLL(None).signal
    install.argtypes, install.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    if before := install(signal.SIGBUS, compiled.address):  # 0 is SIG_DFL
        install(signal.SIGBUS, before)
    else:
        _kept.append(compiled)


_kept: list[Any] = []  # handlers that are installed, whose code must stay
