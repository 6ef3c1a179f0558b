"""Columns of a tile in any format as float32: the numbers that the file or the cache has, whatever the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ..lang.dot import STORED_BIAS
from ..lang.memory import load_bf16, load_f16, store_f32
from ..lang.simd import I64, call, constant, i32x16
from .layout import Layout
from .scales import integers_at, load_minimum, load_scale
from .table import FORMATS
from .words import load_words


@intrinsic(prefer_literal=True)
def store_numbers(typingctx: Any, words: Any, first: Any, count: Any, signed: Any, d: Any, low: Any, to: Any) -> Any:
    """Store d * byte + low, rounded once, for the bytes of `count` of the words (see words.py) from number `first` on:
    four columns of 16 float32 for each word. first, count, signed: constants."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        d, low, to = args[4:]
        ints, left = i32x16.ir, constant(i32x16.ir, 24)
        for j in range(count.literal_value):
            word = builder.bitcast(builder.extract_value(args[0], first.literal_value + j), ints)
            for c in range(4):
                top = builder.shl(word, constant(ints, 24 - 8 * c)) if c < 3 else word
                byte = (builder.ashr if signed.literal_value else builder.lshr)(top, left)
                number = call(builder, "llvm.fma.v16f32", d.type, builder.sitofp(byte, d.type), d, low)
                where = builder.add(to, I64(64 * (4 * j + c)))
                builder.store(number, builder.inttoptr(where, number.type.as_pointer()), align=64)
        return context.get_dummy_value()

    return types.none(words, first, count, signed, d, low, types.int64), codegen


def floats_of(fmt, tile, columns, first, n, room):
    """Return the address of columns `first` to first + n - 1 of a tile as float32 [n][16 rows]: in the tile itself if
    its format `fmt` (a constant) is f32, else decoded to `room`. columns: of the tile; first and n: multiples of 32."""
    raise NotImplementedError("only inside of kernels")


@overload(floats_of, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _floats_of(fmt, tile, columns, first, n, room):
    if not isinstance(fmt, types.StringLiteral):
        return None  # Numba asks again with a literal
    f = FORMATS[fmt.literal_value]
    if f.name == "f32":
        return lambda fmt, tile, columns, first, n, room: tile + 64 * first
    if f.layout is None:
        return _halves({"f16": load_f16, "bf16": load_bf16}[f.name])
    return (_by_32 if f.layout.group == 32 else _by_16)(f.name, f.layout)


def _halves(load: Any) -> Callable[..., int]:
    """Return `floats_of` for numbers of 16 bits."""

    def numbers(fmt, tile, columns, first, n, room):
        for c in range(n):
            store_f32(room + 64 * c, load(tile + 32 * (first + c)))
        return room

    return numbers


def _meaning(layout: Layout) -> tuple[int, bool]:
    """Return the byte of `load_words` that means 0, and whether bytes are signed."""
    if layout.integers.width == 8 or layout.values:
        return STORED_BIAS, STORED_BIAS == 0
    return layout.zero, False


def _by_32(name: str, layout: Layout) -> Callable[..., int]:
    """Return `floats_of` for formats with a scale for 32 columns: d * q - minimum, or d * (q - zero)."""
    (zero, signed), has_min, step = _meaning(layout), layout.has_min, 64 * layout.integers.width

    def numbers(fmt, tile, columns, first, n, room):
        w, block = integers_at(name, tile, columns) + first // 32 * step, first // 32
        for b in range(n // 32):
            d = load_scale(name, tile, columns, block + b)
            low = load_minimum(name, tile, columns, block + b) * -1.0 if has_min else d * -zero
            store_numbers(load_words(name, w + step * b), 0, 8, signed, d, low, room + 2048 * b)
        return room

    return numbers


def _by_16(name: str, layout: Layout) -> Callable[..., int]:
    """Return `floats_of` for formats with a scale for 16 columns: the same for each half of 32."""
    (zero, signed), has_min, step = _meaning(layout), layout.has_min, 64 * layout.integers.width

    def numbers(fmt, tile, columns, first, n, room):
        w, group = integers_at(name, tile, columns) + first // 32 * step, first // 16
        for b in range(n // 32):
            words, to = load_words(name, w + step * b), room + 2048 * b
            d = load_scale(name, tile, columns, group + 2 * b)
            low = load_minimum(name, tile, columns, group + 2 * b) * -1.0 if has_min else d * -zero
            store_numbers(words, 0, 4, signed, d, low, to)
            d = load_scale(name, tile, columns, group + 2 * b + 1)
            low = load_minimum(name, tile, columns, group + 2 * b + 1) * -1.0 if has_min else d * -zero
            store_numbers(words, 4, 4, signed, d, low, to + 1024)
        return room

    return numbers
