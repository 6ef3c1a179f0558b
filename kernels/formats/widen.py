"""Numbers as bfloat16 in the tiles that the matrix unit reads (see amx.py): weights of any format, and activations.

With many rows, converting the weights once costs little compared with the products, and one product is enough for all
formats. bfloat16 keeps 8 bits of a number: an error of 0.2 % at most, below that of activations in 8-bit blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ..lang import amx
from ..lang.dot import STORED_BIAS
from ..lang.jit import inline
from ..lang.memory import load_bf16, load_f16, load_f32, store_bf16, store_f32
from ..lang.simd import binary, call, constant, f32x16, i32x16, unary
from .scales import integers_at, load_minimum, load_scale
from .table import FORMATS
from .words import load_words


@unary
def quiet(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Replace each NaN by the one that survives rounding to bfloat16 by an addition."""
    return b.select(b.fcmp_unordered("uno", x, x), constant(x.type, float("nan")), x)


def _paired(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Emit two vectors f32x16 as 16 pairs of bfloat16, rounded to nearest."""
    ints = i32x16.ir
    half = constant(ints, 0x8000)
    low, high = (b.add(b.bitcast(v, ints), half) for v in (low, high))
    return b.or_(b.and_(high, constant(ints, 0xFFFF0000)), b.lshr(low, constant(ints, 16)))


@unary
def rounded(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Round to the nearest bfloat16, as f32; NaN stays NaN."""
    ints = i32x16.ir
    up = b.and_(b.add(b.bitcast(x, ints), constant(ints, 0x8000)), constant(ints, 0xFFFF0000))
    nan = b.fcmp_unordered("uno", x, x)
    return b.select(nan, constant(x.type, float("nan")), b.bitcast(up, x.type))


@inline
def rest(x):
    """Return what `rounded` takes from x; the two together keep 16 bits of x."""
    return x - rounded(x)


@binary
def pair(b: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    """Put low[i] and high[i] as bfloat16 into lane i, seen as one f32."""
    return b.bitcast(_paired(b, low, high), f32x16.ir)


@intrinsic(prefer_literal=True)
def store_scaled(typingctx: Any, words: Any, first: Any, count: Any, d: Any, low: Any, address: Any) -> Any:
    """Store d * byte + low for the bytes of `count` of the words (see words.py) from number `first` on, as tile rows:
    two for each word. first, count: constants."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        d, low, address = args[3:]
        ints = i32x16.ir
        for j in range(count.literal_value):
            word = builder.bitcast(builder.extract_value(args[0], first.literal_value + j), ints)
            columns = []
            for c in range(4):
                byte = builder.and_(builder.lshr(word, constant(ints, 8 * c)), constant(ints, 255))
                columns.append(call(builder, "llvm.fma.v16f32", d.type, builder.uitofp(byte, d.type), d, low))
            for c in range(2):
                where = builder.add(address, ir.Constant(address.type, 64 * (2 * j + c)))
                pairs = _paired(builder, columns[2 * c], columns[2 * c + 1])
                builder.store(pairs, builder.inttoptr(where, pairs.type.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.none(words, first, count, d, low, types.int64), codegen


def widen(fmt, tile, columns, scale, out):
    """Write a tile of 16 rows in format `fmt` (a constant), times scale, as tiles of the matrix unit of 32 columns."""
    raise NotImplementedError("only inside of kernels")


@overload(widen, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _widen(fmt, tile, columns, scale, out):
    if not isinstance(fmt, types.StringLiteral):
        return None  # Numba asks again with a literal
    f = FORMATS[fmt.literal_value]
    if f.layout is None:
        return {"f32": _widen_f32, "bf16": _widen_bf16}[f.name]
    zero = STORED_BIAS if f.bits == 8 or f.layout.values else f.layout.zero
    return (_by_32 if f.layout.group == 32 else _by_16)(f.name, f.bits, f.layout.has_min, zero)


def _by_32(name: str, lines: int, has_min: bool, zero: int) -> Callable[..., None]:
    """Return `widen` for formats with a scale for 32 columns: d * q - minimum, or d * (q - zero)."""

    def blocks(fmt, tile, columns, scale, out):
        w = integers_at(name, tile, columns)
        for b in range(columns // 32):
            d = quiet(load_scale(name, tile, columns, b) * scale)
            low = quiet(load_minimum(name, tile, columns, b) * -scale if has_min else d * -zero)
            store_scaled(load_words(name, w + 64 * lines * b), 0, 8, d, low, out + amx.TILE * b)

    return blocks


def _by_16(name: str, lines: int, has_min: bool, zero: int) -> Callable[..., None]:
    """Return `widen` for formats with a scale for 16 columns: the same for each half of 32."""

    def blocks(fmt, tile, columns, scale, out):
        w = integers_at(name, tile, columns)
        for b in range(columns // 32):
            words, to = load_words(name, w + 64 * lines * b), out + amx.TILE * b
            d = quiet(load_scale(name, tile, columns, 2 * b) * scale)
            low = quiet(load_minimum(name, tile, columns, 2 * b) * -scale if has_min else d * -zero)
            store_scaled(words, 0, 4, d, low, to)
            d = quiet(load_scale(name, tile, columns, 2 * b + 1) * scale)
            low = quiet(load_minimum(name, tile, columns, 2 * b + 1) * -scale if has_min else d * -zero)
            store_scaled(words, 4, 4, d, low, to + amx.TILE // 2)

    return blocks


def _widen_f32(fmt, tile, columns, scale, out):
    for c in range(0, columns, 2):
        low, high = load_f32(tile + 64 * c) * scale, load_f32(tile + 64 * c + 64) * scale
        store_f32(out + 32 * c, pair(quiet(low), quiet(high)))


def _widen_bf16(fmt, tile, columns, scale, out):
    for c in range(0, columns, 2):
        low, high = load_bf16(tile + 32 * c) * scale, load_bf16(tile + 32 * c + 32) * scale
        store_f32(out + 32 * c, pair(quiet(low), quiet(high)))


@inline
def widen_f16(tile, columns, out, rests):
    """Write a tile of float16 numbers as two bfloat16 each, whose sum they are: at `out` and at `rests`."""
    for c in range(0, columns, 2):
        low, high = load_f16(tile + 32 * c), load_f16(tile + 32 * c + 32)
        store_f32(out + 32 * c, pair(rounded(low), rounded(high)))
        store_f32(rests + 32 * c, pair(rest(low), rest(high)))


@inline
def widen_row(x, n, out, rests, row, columns):
    """Write n float32 at x into row number `row` of the tiles of activations at `out`, which are `columns` wide, and
    what rounding took from them into those at `rests`, unless that is 0."""
    at = row // 16 * (columns // 32) * amx.TILE + row % 16 * 64
    for i in range(0, n, 32):
        low, high = load_f32(x + 4 * i), load_f32(x + 4 * i + 64)
        store_bf16(out + at, rounded(low))
        store_bf16(out + at + 32, rounded(high))
        if rests != 0:
            store_bf16(rests + at, rest(low))
            store_bf16(rests + at + 32, rest(high))
        at += amx.TILE
