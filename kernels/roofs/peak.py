"""Bare multiply-adds: how many a core does when its operands are in registers or the first cache, by each path."""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from ..lang import amx, cpu
from ..lang.dot import DOTS
from ..lang.jit import Kernel, kernel, record
from ..lang.memory import load_f32, load_i8, splat_floats, splat_words, store_rows
from ..lang.simd import I8, call, fma, result_type, rowwise, zeros_f32, zeros_i32

TURNS = 4096
"""Turns of the loop in an item."""

ROOM = 4096
"""Bytes of operands, which stay in the first-level cache."""

SUMS = 1024
"""Bytes of a thread's sums."""

PEAK = record(data="ptr", sums="ptr")

# Independent sums, as many as fit in the registers.
_DOT_ROWS = {"avx512vnni": 8, "avx2": 2, "neon": 4, "portable": 2}
_F32_ROWS = 12 if "avx512f" in cpu.FEATURES else 4

_TILE_MACS = 4 * 16 * 16 * 32


@intrinsic(prefer_literal=True)
def _dot(typingctx: Any, path: Any, acc: Any, w: Any, x: Any) -> Any:
    """Do the int8 dot product of dot.py by the instructions of `path`."""
    out, emit = result_type((acc, x), None), DOTS[path.literal_value]

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return rowwise(emit, out)(context, builder, signature(out, *sig.args[1:]), args[1:])

    return out(path, acc, w, x), codegen


@intrinsic
def _tile_products(typingctx: Any) -> Any:
    """Do four independent products of tiles."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        for c in range(4):
            call(builder, "llvm.x86.tdpbf16ps", ir.VoidType(), I8(c), I8(4 + c % 2), I8(6 + c // 2))
        return context.get_dummy_value()

    return types.none(), codegen


def _int8(path: str) -> Kernel:
    """Return the kernel for int8 dot products by the instructions of `path`."""
    n = _DOT_ROWS[path]

    @kernel(PEAK, f"peak_{path}")
    def peak(a, begin, end, thread):
        x, total = splat_words(a.data, 4, n), zeros_i32(n)
        for _ in range(begin, end):
            for i in range(TURNS):  # independent sums of int8 products
                total = _dot(path, total, load_i8(a.data + (i & 31) * 64), x)
        store_rows(a.sums + SUMS * thread, 64, total)

    return peak


def _f32() -> Kernel:
    """Return the kernel for float32 multiply-adds."""
    n = _F32_ROWS

    @kernel(PEAK, "peak_f32")
    def peak(a, begin, end, thread):
        x, total = splat_floats(a.data, 4, n), zeros_f32(n)
        for _ in range(begin, end):
            for i in range(TURNS):  # independent sums of float32 products
                total = fma(load_f32(a.data + (i & 31) * 64), x, total)
        store_rows(a.sums + SUMS * thread, 64, total)

    return peak


def _amx() -> Kernel:
    """Return the kernel for products on the matrix unit."""

    @kernel(PEAK, "peak_amx")
    def peak(a, begin, end, thread):
        amx.configure()
        for _ in range(begin, end):
            for _ in range(TURNS):
                _tile_products()

    return peak


INT8: tuple[str, ...] = tuple(
    dict.fromkeys([*(["amx"] if cpu.AMX else []), cpu.DOT, *(["avx2"] if "avx2" in cpu.FEATURES else []), "portable"])
)
"""The ways to multiply int8 on this CPU; the one for single rows is first, or second if there is a matrix unit."""

PATHS: tuple[str, ...] = (*INT8, "f32")


@cache
def peak(path: str) -> tuple[Kernel, int]:
    """Return the kernel of one of PATHS, and the multiply-adds of an item."""
    if path == "amx":
        return _amx(), TURNS * _TILE_MACS
    if path == "f32":
        return _f32(), TURNS * 16 * _F32_ROWS
    return _int8(path), TURNS * 64 * _DOT_ROWS[path]
