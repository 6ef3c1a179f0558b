"""The integers of 32 columns as vectors, from the planes of their bits (see tiles.py), for each format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..lang import cpu
from ..lang.dot import STORED_BIAS, halves, joined
from ..lang.memory import read
from ..lang.simd import F32, I8, I16, I32, I64, Vec, call, constant, i8x64, pack, splatted
from .table import FORMATS
from .tiles import planes

_SHUFFLES = {
    "avx512vnni": {64: "llvm.x86.avx512.pshuf.b.512", 16: "llvm.x86.ssse3.pshuf.b.128"},
    "avx2": {32: "llvm.x86.avx2.pshuf.b", 16: "llvm.x86.ssse3.pshuf.b.128"},
    "neon": {16: "llvm.aarch64.neon.tbl1.v16i8"},
    "portable": {},
}[cpu.DOT]
"""For n bytes, the instruction that looks up n of them in a table of 16."""


def bits_of(b: ir.IRBuilder, v: ir.Value, shift: int, mask: int) -> ir.Value:
    """Emit bytes v >> shift (or << -shift) & mask. They are shifted as 16-bit words: x86 has no shift of bytes."""
    wide = ir.VectorType(I16, v.type.count // 2)
    if shift:
        turn = b.lshr if shift > 0 else b.shl
        v = b.bitcast(turn(b.bitcast(v, wide), constant(wide, abs(shift))), v.type)
    return b.and_(v, constant(v.type, mask))


def looked_up(b: ir.IRBuilder, index: ir.Value, table: Sequence[int]) -> ir.Value:
    """Emit table[index] for a table of 4, 8 or 16 bytes, by an instruction or by choosing between constants."""
    if not _SHUFFLES:
        found = [constant(index.type, value) for value in table]
        for bit in range(len(table).bit_length() - 1):
            is_set = b.icmp_unsigned("!=", b.and_(index, constant(index.type, 1 << bit)), constant(index.type, 0))
            found = [b.select(is_set, odd, even) for even, odd in zip(found[::2], found[1::2], strict=True)]
        return found[0]
    lanes = max(n for n in _SHUFFLES if n <= index.type.count)
    values = ir.Constant(ir.VectorType(I8, lanes), list(table) * (lanes // len(table)))
    parts = halves(b, index, index.type.count // lanes)
    return joined(b, [call(b, _SHUFFLES[lanes], values.type, values, part) for part in parts])


@intrinsic(prefer_literal=True)
def load_words(typingctx: Any, fmt: Any, address: Any) -> Any:
    """Load the integers of 32 columns of 16 rows at an address in a tile of format `fmt` (a constant).

    Return 8 vectors i8x64, of 4 columns each, as `dot_words` takes them. Where the format has a table of values, they
    are looked up and STORED_BIAS is added.
    """
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
            vectors = [looked_up(builder, v, table) for v in vectors]
        return pack(builder, vectors, out)

    return out(fmt, types.int64), codegen


@intrinsic(prefer_literal=True)
def load_tokens(typingctx: Any, fmt: Any, address: Any, stride: Any) -> Any:
    """Load the integers of 32 columns of four rows of a V page, `stride` bytes apart, of format `fmt` (a constant).

    Return two vectors i8x64, of 16 columns each, as `dot_words` takes them where it sums over rows: byte 4 c + t is
    column c of row t. Values below 128, or with STORED_BIAS added, as in `load_words`.
    """
    layout = FORMATS[fmt.literal_value].layout
    assert layout is not None
    out, width = Vec("i8", 64, 2), layout.integers.width

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        step = context.cast(builder, args[2], sig.args[2], types.int64)
        rows = [builder.add(args[1], builder.mul(step, I64(t))) for t in range(4)]
        vectors: list[ir.Value] = [None] * 2
        at = left = 0
        for bits in planes(width):
            for half in range(2):
                field = _tokens(builder, [builder.add(row, I64(at)) for row in rows], bits, half, left)
                vectors[half] = builder.or_(vectors[half], field) if left else field
            at, left = at + 4 * bits, left + bits
        if layout.values:
            table = [(value + STORED_BIAS) & 255 for value in layout.values]
            vectors = [looked_up(builder, v, table) for v in vectors]
        elif width == 8 and STORED_BIAS:
            vectors = [builder.xor(v, constant(v.type, STORED_BIAS)) for v in vectors]
        return pack(builder, vectors, out)

    return out(fmt, types.int64, stride), codegen


def _tokens(b: ir.IRBuilder, rows: list[ir.Value], bits: int, half: int, left: int) -> ir.Value:
    """Emit 16 of the 32 columns of a plane of four rows, byte 4 c + t column c of row t, shifted left."""
    bytes_, lanes = ir.VectorType(I8, 64), range(64)
    if bits == 8 and "avx512vbmi" in cpu.FEATURES:  # any bytes of two vectors by one instruction
        loaded = [read(b, row, ir.VectorType(I8, 32)) for row in rows]
        index = [i % 4 * 32 + 16 * half + i // 4 for i in lanes]
        return b.shuffle_vector(
            joined(b, loaded[:2]), joined(b, loaded[2:]), ir.Constant(ir.VectorType(I32, 64), index)
        )
    n = min(16, 4 * bits)  # bytes of a row that hold these columns
    at = 16 * half if bits == 8 else 0
    loaded = joined(b, [read(b, b.add(row, I64(at)), ir.VectorType(I8, n)) for row in rows])
    if n == 16:  # first each four columns of all rows into 16 bytes, then those in order: two instructions on x86
        words = b.bitcast(loaded, ir.VectorType(I32, 16))
        order = ir.Constant(words.type, [4 * (i % 4) + i // 4 for i in range(16)])
        loaded = b.bitcast(b.shuffle_vector(words, words, order), bytes_)
        index = [i // 16 * 16 + i % 4 * 4 + i % 16 // 4 for i in lanes]
    else:
        index = [i % 4 * n + i // 4 % n for i in lanes]
    v = b.shuffle_vector(loaded, loaded, ir.Constant(ir.VectorType(I32, 64), index))
    if bits == 8:
        return v
    if n == 16:
        return bits_of(b, v, bits * half - left, ((1 << bits) - 1) << left)
    shifts = [bits * ((16 * half + i // 4) // n) for i in lanes]
    field = b.and_(v, ir.Constant(bytes_, [((1 << bits) - 1) << shift for shift in shifts]))
    if bits == 1:
        return b.select(
            b.icmp_unsigned("!=", field, constant(bytes_, 0)), constant(bytes_, 1 << left), constant(bytes_, 0)
        )
    field = b.lshr(field, ir.Constant(bytes_, shifts))
    return b.shl(field, constant(bytes_, left)) if left else field


@intrinsic(prefer_literal=True)
def load_numbers(typingctx: Any, fmt: Any, address: Any) -> Any:
    """Load the numbers of 32 columns of one row at an address in a V page of format `fmt` (a constant), before their
    scale: two vectors f32x16."""
    layout = FORMATS[fmt.literal_value].layout
    assert layout is not None
    out, width = Vec("f32", 16, 2), layout.integers.width
    numbers = [x - layout.zero for x in layout.values or range(1 << width)] if width <= 4 else []

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        ints = ir.VectorType(I32, 16)
        vectors: list[ir.Value] = [None] * 2
        at = left = 0
        for bits in planes(width):
            for half in range(2):
                field = _columns(builder, builder.add(args[1], I64(at)), bits, half)
                field = builder.shl(field, constant(ints, left)) if left else field
                vectors[half] = builder.or_(vectors[half], field) if left else field
            at, left = at + 4 * bits, left + bits
        if numbers:
            return pack(builder, [_number(builder, v, numbers) for v in vectors], out)
        zero = constant(ints, layout.zero)
        return pack(builder, [builder.sitofp(builder.sub(v, zero), out.ir) for v in vectors], out)

    return out(fmt, types.int64), codegen


def _number(b: ir.IRBuilder, index: ir.Value, numbers: Sequence[int]) -> ir.Value:
    """Emit numbers[index] as f32x16; there are at most 16 numbers."""
    floats = ir.VectorType(F32, 16)
    if cpu.DOT == "avx512vnni":  # one instruction, where converting takes two
        table = ir.Constant(floats, [float(x) for x in numbers] * (16 // len(numbers)))
        return call(b, "llvm.x86.avx512.permvar.sf.512", floats, table, index)
    if [*numbers] == [*range(numbers[0], numbers[0] + len(numbers))]:
        return b.sitofp(b.add(index, constant(index.type, numbers[0])), floats)
    bytes_ = looked_up(b, b.trunc(index, ir.VectorType(I8, 16)), [x & 255 for x in numbers])
    return b.sitofp(b.sext(bytes_, index.type), floats)


def _columns(b: ir.IRBuilder, address: ir.Value, bits: int, half: int) -> ir.Value:
    """Emit 16 of the 32 columns of a plane at an address as i32x16; those of 8 bits are signed."""
    bytes_, ints = ir.VectorType(I8, 16), ir.VectorType(I32, 16)
    if bits == 8:
        return b.sext(read(b, b.add(address, I64(16 * half)), bytes_), ints)
    columns = range(16 * half, 16 * half + 16)
    if bits == 1:  # all of them are in a word
        stored = splatted(b, read(b, address, I32), 16)
        shifts = [8 * (c % 4) + c // 4 for c in columns]
    else:
        n = 4 * bits
        small = read(b, address, ir.VectorType(I8, n))
        repeated = ir.Constant(ir.VectorType(I32, 16), [c % n for c in columns])
        stored = b.zext(small if n == 16 else b.shuffle_vector(small, small, repeated), ints)
        shifts = [bits * (c // n) for c in columns]
    return b.and_(b.lshr(stored, ir.Constant(ints, shifts)), constant(ints, (1 << bits) - 1))
