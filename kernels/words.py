"""The integers of a block in a tile (see tiles.py) as vectors of bytes for the dot product, for each format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import cpu
from .dot import STORED_BIAS, halves, joined
from .formats import FORMATS
from .memory import read
from .simd import I8, I16, I64, Vec, call, constant, i8x64, pack
from .tiles import planes

_SHUFFLES = {"avx512vnni": (64, "llvm.x86.avx512.pshuf.b.512"), "avx2": (32, "llvm.x86.avx2.pshuf.b"),
             "neon": (16, "llvm.aarch64.neon.tbl1.v16i8")}  # fmt: skip


def bits_of(b: ir.IRBuilder, v: ir.Value, shift: int, mask: int) -> ir.Value:
    """Bytes v >> shift (or << -shift) & mask. Shifted as 16-bit words, which x86 has."""
    wide = ir.VectorType(I16, v.type.count // 2)
    if shift:
        turn = b.lshr if shift > 0 else b.shl
        v = b.bitcast(turn(b.bitcast(v, wide), constant(wide, abs(shift))), v.type)
    return b.and_(v, constant(v.type, mask))


def looked_up(b: ir.IRBuilder, index: ir.Value, table: Sequence[int], shuffle: tuple[int, str] | None) -> ir.Value:
    """table[index] for bytes below 16: by an instruction, or by choosing between constants bit by bit."""
    if shuffle is None:
        found = [constant(index.type, value) for value in table]
        for bit in range(4):
            is_set = b.icmp_unsigned("!=", b.and_(index, constant(index.type, 1 << bit)), constant(index.type, 0))
            found = [b.select(is_set, odd, even) for even, odd in zip(found[::2], found[1::2], strict=True)]
        return found[0]
    lanes, name = shuffle
    vector = ir.VectorType(I8, lanes)
    values = ir.Constant(vector, list(table) * (lanes // 16))
    return joined(b, [call(b, name, vector, values, part) for part in halves(b, index, index.type.count // lanes)])


@intrinsic(prefer_literal=True)
def load_words(typingctx: Any, fmt: Any, address: Any) -> Any:
    """The integers of 32 columns of 16 rows at an address in a tile of format `fmt` (a constant): 8 vectors i8x64, of
    4 columns each, as `dot_words` takes them. Where the format says what they stand for, that, plus STORED_BIAS."""
    layout = FORMATS[fmt.literal_value].layout
    assert layout is not None
    out = Vec("i8", 64, 8)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        vectors: list[ir.Value] = [None] * 8
        line = left = 0
        for bits in planes(layout.integers.width):
            lines = [read(builder, builder.add(args[1], I64(64 * (line + j))), i8x64.ir) for j in range(bits)]
            for j in range(8):
                field = lines[j % bits]
                if bits < 8:
                    field = bits_of(builder, field, bits * (j // bits) - left, ((1 << bits) - 1) << left)
                vectors[j] = builder.or_(vectors[j], field) if line else field
            line, left = line + bits, left + bits
        if layout.values:
            table = [(value + STORED_BIAS) & 255 for value in layout.values]
            vectors = [looked_up(builder, v, table, _SHUFFLES.get(cpu.DOT)) for v in vectors]
        return pack(builder, vectors, out)

    return out(fmt, types.int64), codegen
