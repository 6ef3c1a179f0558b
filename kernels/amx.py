"""The matrix unit of server CPUs (AMX): 16 rows of activations with a tile of 16 rows, 32 columns at once.

A tile's integers lie in memory as the unit wants its B operand, so nothing is repacked. Elsewhere `configure` does
nothing and `tile_product` must not be called (see `cpu.AMX`).
"""

from __future__ import annotations

import struct
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import cpu
from .simd import I8, I64, Vec, call

ROWS = 16

# Palette 1; bytes per row of each of 8 tile registers (16 bits), then their rows (8 bits): C, A, B.
_CONFIG = struct.pack("<BB14x8H16x8B8x", 1, 0, 64, 32, 64, 0, 0, 0, 0, 0, 16, 16, 8, 0, 0, 0, 0, 0)
_C, _A, _B = I8(0), I8(1), I8(2)


@intrinsic
def configure(typingctx: Any) -> Any:
    """Tell this thread's matrix unit the shapes: before the first `tile_product` of a kernel."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        if cpu.AMX:
            config = cgutils.global_constant(
                builder, "amx_config", ir.Constant(ir.ArrayType(I8, 64), bytearray(_CONFIG))
            )
            call(builder, "llvm.x86.ldtilecfg", ir.VoidType(), builder.bitcast(config, I8.as_pointer()))
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def tile_product(typingctx: Any, w: Any, x: Any, stride: Any) -> Any:
    """16 rows i32x16: the 32 signed bytes at x + r * stride with each of the 16 rows of unsigned bytes at w.

    w: the integers of a block in a tile, 512 bytes, [8 words][16 rows][4].
    """
    out = Vec("i32", 16, ROWS)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        none, pointer = ir.VoidType(), I8.as_pointer()
        step = context.cast(builder, args[2], sig.args[2], types.int64)
        room = cgutils.alloca_once(builder, ir.ArrayType(out.ir, ROWS))
        call(builder, "llvm.x86.tilezero", none, _C)
        call(builder, "llvm.x86.tileloadd64", none, _A, builder.inttoptr(args[1], pointer), step)
        call(builder, "llvm.x86.tileloadd64", none, _B, builder.inttoptr(args[0], pointer), I64(64))
        call(builder, "llvm.x86.tdpbsud", none, _C, _A, _B)
        call(builder, "llvm.x86.tilestored64", none, _C, builder.bitcast(room, pointer), I64(64))
        return builder.load(room)

    return out(types.int64, types.int64, stride), codegen
