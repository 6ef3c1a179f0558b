"""The inner product of everything: a tile of 16 rows with a few rows of activations, for each format.

Linear layers call it with weights, attention with K. Activations for integer formats are int8 in blocks of 32, each
with a record of 16 bytes (META) that holds what the formats ask for; floating-point formats take them as float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import overload

from . import amx, cpu
from .dot import STORED_BIAS, dot_i8
from .formats import FORMATS, Format
from .memory import load_bf16, load_f16, load_f32, load_i8, prefetch, splat_floats, splat_words
from .simd import fma, high_nibbles, low_nibbles, to_f32, zeros_f32, zeros_i32


def many(fmt: str) -> int:
    """How many rows at once suit a format best where there are many: what the registers or the matrix unit hold."""
    return MANY if FORMATS[fmt].bits and cpu.DOT == "avx512vnni" else 8


MANY = 16
"""The most that `many` gives: rows of activations are followed by room for so many more."""

META = 16
"""Bytes per block of activations: f32 d (the scale), f32 d * sum, i32 -8 * sum, i32 -128 * sum; sum of the int8."""
AHEAD = 4096
"""Bytes ahead of which a single row fetches weights, across tiles and pages where the hardware starts anew each time:
reads 20 % more per second than without (bench/LOG.md)."""

META_D, META_DSUM, META_ZERO8, META_ZERO128 = 0, 4, 8, 12


def tile_dot(fmt, rows, tile, columns, x, x_stride, meta, meta_stride):
    """Group of `rows` f32x16: lane i of row r is the product of row i of the tile with row r of the activations.

    fmt, rows: constants. tile: address; columns: its width. x: address of int8 (or float32) activations, rows
    x_stride bytes apart; meta: their META records, rows meta_stride bytes apart.
    """
    raise NotImplementedError("only inside of kernels")


@overload(tile_dot, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _tile_dot(fmt, rows, tile, columns, x, x_stride, meta, meta_stride):
    if not isinstance(fmt, types.StringLiteral) or not isinstance(rows, types.IntegerLiteral):
        return None  # Numba asks again with literals
    f = FORMATS[fmt.literal_value]
    if f.bits == 8 and rows.literal_value == amx.ROWS and cpu.AMX:
        return _matrix_unit
    return (_integers if f.bits else _floats)(f, rows.literal_value)


def _integers(f: Format, n: int) -> Callable[..., Any]:
    bits, has_min = f.bits, f.has_min
    scale_row = 64 if has_min else 32
    zero = {0: -1, 8: META_ZERO8, 128: META_ZERO128}[f.zero + (STORED_BIAS if bits == 8 else 0)]

    def dot(fmt, rows, tile, columns, x, x_stride, meta, meta_stride):
        blocks = columns // 32
        w = tile + (blocks * scale_row + 63) // 64 * 64
        total = zeros_f32(n)
        for b in range(blocks):
            # The sum starts where the stored integers' zero point ends up.
            s = zeros_i32(n) if zero < 0 else splat_words(meta + zero, meta_stride, n)
            if bits == 8:
                for j in range(8):
                    if n == 1:
                        prefetch(w + 64 * j + AHEAD)
                    s = dot_i8(s, load_i8(w + 64 * j), splat_words(x + 4 * j, x_stride, n))
            else:
                for j in range(4):
                    if n == 1:
                        prefetch(w + 64 * j + AHEAD)
                    pair = load_i8(w + 64 * j)
                    s = dot_i8(s, low_nibbles(pair), splat_words(x + 4 * j, x_stride, n))
                    s = dot_i8(s, high_nibbles(pair), splat_words(x + 4 * j + 16, x_stride, n))
            d = load_f16(tile + 32 * b)
            total = fma(to_f32(s) * splat_floats(meta + META_D, meta_stride, n), d, total)
            if has_min:
                m = load_f16(tile + 32 * (blocks + b))
                total = fma(splat_floats(meta + META_DSUM, meta_stride, n), m, total)
            w += 64 * bits
            x += 32
            meta += 16
        return total

    return dot


def _matrix_unit(fmt, rows, tile, columns, x, x_stride, meta, meta_stride):
    """For 8-bit integers: the products of a block of 32 columns by AMX, their scales as everywhere."""
    blocks = columns // 32
    w = tile + (blocks * 32 + 63) // 64 * 64
    total = zeros_f32(16)
    for b in range(blocks):
        s = amx.tile_product(w, x, x_stride) + splat_words(meta + META_ZERO128, meta_stride, 16)
        total = fma(to_f32(s) * splat_floats(meta + META_D, meta_stride, 16), load_f16(tile + 32 * b), total)
        w += 512
        x += 32
        meta += 16
    return total


_LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16}


def _floats(f: Format, n: int) -> Callable[..., Any]:
    load, step = _LOADS[f.name], 16 * f.nbytes

    def dot(fmt, rows, tile, columns, x, x_stride, meta, meta_stride):
        even, odd = zeros_f32(n), zeros_f32(n)
        for _ in range(columns // 2):
            if n == 1:
                prefetch(tile + AHEAD)
            even = fma(splat_floats(x, x_stride, n), load(tile), even)
            odd = fma(splat_floats(x + 4, x_stride, n), load(tile + step), odd)
            tile += 2 * step
            x += 8
        return even + odd

    return dot
