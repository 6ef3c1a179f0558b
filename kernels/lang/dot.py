"""The int8 dot product, the one verb whose instruction is chosen by what the CPU offers.

One step adds to lane i of a sum the four products w[4 i + c] * x[c]: four columns of 16 rows at once.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import cpu
from .memory import read
from .simd import I8, I16, I32, I64, call, constant, i8x64, i32x16, pack, splatted

STORED_BIAS: int = 128 if cpu.DOT == "avx512vnni" else 0
"""Added to the signed weights in a tile. One side of `vpdpbusd` is unsigned, so weights are stored as q + 128 and
128 times the sum of x is taken off again; the other instruction sets take signed weights as they are."""


def _dot_avx512vnni(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    w32 = b.bitcast(w, acc.type)
    return call(b, "llvm.x86.avx512.vpdpbusd.512", acc.type, acc, w32, x)


def halves(b: ir.IRBuilder, v: ir.Value, parts: int) -> list[ir.Value]:
    """Emit a vector as `parts` shorter ones, in order."""
    if parts == 1:
        return [v]
    n = v.type.count // parts
    index = [ir.Constant(ir.VectorType(I32, n), [p * n + i for i in range(n)]) for p in range(parts)]
    return [b.shuffle_vector(v, v, i) for i in index]


def joined(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Emit the vectors (a power of two of them) as one long one."""
    while len(parts) > 1:
        n = 2 * parts[0].type.count
        index = ir.Constant(ir.VectorType(I32, n), list(range(n)))
        parts = [b.shuffle_vector(lo, hi, index) for lo, hi in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _dot_avx2(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    """Emit |w| * (x with w's sign). pmaddubsw adds two products in 16 bits, at most 2 * 128 * 127: none saturates."""
    bytes_, words, ints = ir.VectorType(I8, 32), ir.VectorType(I16, 16), ir.VectorType(I32, 8)
    sums = []
    for part_w, part_x in zip(halves(b, w, 2), halves(b, b.bitcast(x, i8x64.ir), 2), strict=True):
        negative = b.icmp_signed("<", part_w, constant(bytes_, 0))
        size = b.select(negative, b.neg(part_w), part_w)
        signed = b.select(negative, b.neg(part_x), part_x)
        pairs = call(b, "llvm.x86.avx2.pmadd.ub.sw", words, size, signed)
        sums.append(call(b, "llvm.x86.avx2.pmadd.wd", ints, pairs, constant(words, 1)))
    return b.add(acc, joined(b, sums))


def _dot_neon(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    parts = zip(halves(b, acc, 4), halves(b, w, 4), halves(b, b.bitcast(x, i8x64.ir), 4), strict=True)
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    return joined(b, [call(b, name, p[0].type, *p) for p in parts])


def _dot_portable(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    v = i32x16.ir
    w = b.bitcast(w, v)
    for c in range(4):
        left, right = constant(v, 24 - 8 * c), constant(v, 24)
        acc = b.add(acc, b.mul(b.ashr(b.shl(w, left), right), b.ashr(b.shl(x, left), right)))
    return acc


def _pairs_i8mm(
    b: ir.IRBuilder, sums: list[ir.Value], words: list[ir.Value], x: list[ir.Value]
) -> list[ir.Value]:  # fmt: skip
    """Emit the sums of two rows of x, given as addresses, with an even number of words: `smmla` multiplies 2 rows of w
    by 2 of x, 8 columns each, into [w0 x0, w0 x1, w1 x0, w1 x1]."""
    ints, bytes_ = ir.VectorType(I32, 4), ir.VectorType(I8, 16)

    def picked(first: ir.Value, second: ir.Value, *lanes: int) -> ir.Value:
        return b.shuffle_vector(first, second, ir.Constant(ints, lanes))

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    quads = [list(pair) for pair in zip(halves(b, sums[0], 4), halves(b, sums[1], 4), strict=True)]
    totals = [picked(first, second, *lanes) for first, second in quads for lanes in (low, high)]
    for j in range(0, len(words), 2):
        both = ir.Constant(ir.VectorType(I64, 2), ir.Undefined)
        for i in range(2):
            both = b.insert_element(both, read(b, b.add(x[i], I64(4 * j)), I64), I32(i))
        columns = b.bitcast(both, bytes_)
        parts = (halves(b, b.bitcast(word, i32x16.ir), 4) for word in words[j : j + 2])
        pairs = [picked(*quad, *lanes) for quad in zip(*parts, strict=True) for lanes in (low, high)]
        for i, pair in enumerate(pairs):
            name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
            totals[i] = call(b, name, ints, totals[i], b.bitcast(pair, bytes_), columns)
    even, odd = (0, 2, 4, 6), (1, 3, 5, 7)
    return [
        joined(b, [picked(*quad, *lanes) for quad in zip(totals[::2], totals[1::2], strict=True)])
        for lanes in (even, odd)
    ]


DOTS = {"avx512vnni": _dot_avx512vnni, "avx2": _dot_avx2, "neon": _dot_neon, "portable": _dot_portable}
_emit_dot = DOTS[cpu.DOT]


@intrinsic(prefer_literal=True)
def dot_words(typingctx: Any, acc: Any, words: Any, first: Any, count: Any, x: Any, stride: Any) -> Any:
    """Return acc + w · x, a group i32x16 of rows.

    words: w as a group i8x64, vector j with columns 4 j .. 4 j + 3 of 16 rows; `count` of them from `first` on
    (constants) are used; or one such vector. x: address of the signed bytes of all columns, rows `stride` bytes apart.

    AVX512-VNNI reads the bytes of w as unsigned, the others as signed. Bytes below 128 mean the same on both, and
    weights of 8 bits are stored with STORED_BIAS added.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        step = context.cast(builder, args[5], sig.args[5], types.int64)
        sums = [builder.extract_value(args[0], row) for row in range(acc.rows)]
        used = range(first.literal_value, first.literal_value + count.literal_value)
        paired = acc.rows // 2 * 2 if cpu.I8MM and len(used) % 2 == 0 else 0
        where = builder.add(args[4], I64(4 * used[0]))
        for row in range(0, paired, 2):
            x = [where, builder.add(where, step)]
            taken = [builder.extract_value(args[1], j) for j in used]
            sums[row : row + 2] = _pairs_i8mm(builder, sums[row : row + 2], taken, x)
            where = builder.add(x[1], step)
        beyond = where
        for j in used:
            word = builder.extract_value(args[1], j) if words.rows else args[1]
            where = builder.add(beyond, I64(4 * (j - used[0])))
            for row in range(paired, acc.rows):
                sums[row] = _emit_dot(builder, sums[row], word, splatted(builder, read(builder, where, I32), 16))
                where = builder.add(where, step)
        return pack(builder, sums, acc)

    return acc(acc, words, first, count, types.int64, stride), codegen
