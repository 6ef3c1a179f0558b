"""Verbs between threads: atomic counters, waiting, the clock, and calling a kernel by its address."""

from __future__ import annotations

import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import I32, I64, call

_X86 = platform.machine().lower() in ("x86_64", "amd64", "i686")


def _word(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address atomically; return the value before."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        step = context.cast(builder, args[1], sig.args[1], types.int64)
        return builder.atomic_rmw("add", _word(builder, args[0]), step, "acq_rel")

    return types.int64(types.int64, amount), codegen


@intrinsic
def load_acquire(typingctx: Any, address: Any) -> Any:
    """Return the int64 at an address; what its writer wrote before it is then visible too."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this thread only waits."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if _X86:
            call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        elif platform.machine().lower() in ("aarch64", "arm64"):
            call(builder, "llvm.aarch64.hint", ir.VoidType(), I32(1))
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def give_way(typingctx: Any) -> Any:
    """Let another thread run on this core."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), name)
        builder.call(function, [])
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def clock(typingctx: Any) -> Any:
    """Return a counter of constant rate: the time stamp counter on x86, the generic timer on ARM."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return call(builder, "llvm.readcyclecounter" if _X86 else "llvm.readsteadycounter", I64)

    return types.int64(), codegen


@intrinsic
def call_kernel(typingctx: Any, address: Any, args: Any, begin: Any, end: Any, thread: Any) -> Any:
    """Call void(void *, int64, int64, int64) at an address."""
    signature = types.none(*[types.int64] * 5)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: Any) -> ir.Value:
        function = ir.FunctionType(ir.VoidType(), [I64] * 4).as_pointer()
        builder.call(builder.inttoptr(values[0], function), values[1:])
        return context.get_dummy_value()

    return signature, codegen
