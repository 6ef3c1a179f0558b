"""The matrix unit of server CPUs (AMX): products of bfloat16 numbers, summed in float32, 32 rows with 32 rows at once.

It has eight tile registers of 16 rows of 64 bytes. Four of them hold sums here, of two tiles of activations with two
tiles of weights. In memory the tiles are laid out as the unit reads them, 1024 bytes for 32 columns:

    activations   [16 rows][32 columns]
    weights       [16 pairs of columns][16 rows][2 columns]

Only `configure` may be called where `cpu.AMX` is false; it then does nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import cpu
from .simd import I8, I64, call

TILE = 1024
"""Bytes of a tile: 16 rows by 32 columns of bfloat16, or by 16 of float32."""
BLOCK = 32
"""Rows of activations, and of weights, in one `add_products`."""

# Palette 1; bytes per row of each of the 8 tile registers (16 bits), then their rows (8 bits).
_CONFIG = struct.pack("<BB14x8H16x8B8x", 1, 0, *[64] * 8, *[16] * 8)
_SUMS = tuple((I8(2 * x + w), x, w) for x in range(2) for w in range(2))  # register, tile of activations, of weights
_X, _W = (I8(4), I8(5)), (I8(6), I8(7))
_NONE = ir.VoidType()


@intrinsic
def configure(typingctx: Any) -> Any:
    """Set the shapes of this thread's tile registers; a kernel must do this first."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if cpu.AMX:
            config = cgutils.global_constant(
                builder, "amx_config", ir.Constant(ir.ArrayType(I8, 64), bytearray(_CONFIG))
            )
            call(builder, "llvm.x86.ldtilecfg", _NONE, builder.bitcast(config, I8.as_pointer()))
        return context.get_dummy_value()

    return types.none(), codegen


def _verb(parameters: int, emit: Callable[[ir.IRBuilder, Sequence[ir.Value]], None]) -> Any:
    """Make a verb on addresses and strides, all int64, that returns nothing."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        emit(builder, [context.cast(builder, a, t, types.int64) for a, t in zip(args, sig.args, strict=True)])
        return context.get_dummy_value()

    forms = {
        0: lambda ctx: (types.none(), codegen),
        2: lambda ctx, a, b: (types.none(types.int64, b), codegen),
        4: lambda ctx, a, b, c, d: (types.none(*[types.int64] * 4), codegen),
    }
    return intrinsic(forms[parameters])


def _load(b: ir.IRBuilder, register: ir.Value, address: ir.Value, stride: ir.Value) -> None:
    call(b, "llvm.x86.tileloadd64", _NONE, register, b.inttoptr(address, I8.as_pointer()), stride)


def _emit_clear(b: ir.IRBuilder, args: Sequence[ir.Value]) -> None:
    for sums, _, _ in _SUMS:
        call(b, "llvm.x86.tilezero", _NONE, sums)


def _sums_at(b: ir.IRBuilder, y: ir.Value, stride: ir.Value, x: int, w: int) -> ir.Value:
    """Emit the address of the sums of tile x of activations with tile w of weights."""
    return b.add(b.add(y, b.mul(stride, I64(16 * x))), I64(64 * w))


def _emit_load_sums(b: ir.IRBuilder, args: Sequence[ir.Value]) -> None:
    for sums, x, w in _SUMS:
        _load(b, sums, _sums_at(b, args[0], args[1], x, w), args[1])


def _emit_store_sums(b: ir.IRBuilder, args: Sequence[ir.Value]) -> None:
    for sums, x, w in _SUMS:
        where = b.inttoptr(_sums_at(b, args[0], args[1], x, w), I8.as_pointer())
        call(b, "llvm.x86.tilestored64", _NONE, sums, where, args[1])


def _emit_add_products(b: ir.IRBuilder, args: Sequence[ir.Value]) -> None:
    for register, address in zip((*_X, *_W), args, strict=True):
        _load(b, register, address, I64(64))
    for sums, x, w in _SUMS:
        call(b, "llvm.x86.tdpbf16ps", _NONE, sums, _X[x], _W[w])


clear = _verb(0, _emit_clear)  # (): set the sums to 0
load_sums = _verb(2, _emit_load_sums)  # (y, stride): set them to 32 rows of 32 float32 at y, stride bytes apart
store_sums = _verb(2, _emit_store_sums)  # (y, stride): write the sums to y
add_products = _verb(4, _emit_add_products)  # (x0, x1, w0, w1): add the products of tiles x with tiles w
