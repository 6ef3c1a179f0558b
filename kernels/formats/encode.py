"""Blocks of 32 encoded inside of kernels, for the cache, with the same bits as quantizers.py.

The layout of a format decides how: by a table of values, from a minimum, or around a zero point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from ..lang.jit import inline
from ..lang.memory import load_f32, peek_f32, store_f32, store_low_bytes
from ..lang.simd import (
    Vec,
    absolute,
    all_finite,
    constant,
    f32x16,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    pack,
    round_half_away,
    row,
    splat,
    to_i32,
)
from .layout import Layout
from .quantizers import midpoints
from .table import FORMATS

_ALONG, _SQUARE = 64, 64 + 4 * 32
SCRATCH = _SQUARE + 4 * 32
"""Bytes that `encode_block` uses: 32 integers, and from _ALONG and _SQUARE on 32 float32 each to add up."""


HALF_LIMIT = np.float32(65520)
"""The least number that float16 rounds to infinity."""


def encode_block(fmt, x, scratch):
    """Encode 32 float32 at x as a block of the integer format `fmt` (a constant).

    The integers go to `scratch` as bytes, signed if they have 8 bits. Return d and m (0 if the format has none). d is
    NaN if a number is NaN or infinite, or if d or m is too large for float16.
    """
    raise NotImplementedError("only inside of kernels")


@inline
def inverse(d):
    """Return 1 / d, or 0 where that is not finite; see quantizers.py."""
    inverse = np.float32(1) / d
    return inverse if abs(inverse) < np.inf else np.float32(0)


@inline
def carried(d, m, x):
    """Return d, or NaN if one of the 32 float32 at x is not finite or if float16 does not hold d and m."""
    if all_finite(load_f32(x), load_f32(x + 64)) and abs(d) < HALF_LIMIT and abs(m) < HALF_LIMIT:
        return d
    return np.float32(np.nan)


@inline
def extreme(x):
    """Return the first of 32 float32 of the largest magnitude, with its sign."""
    top = np.float32(0)
    for i in range(32):  # the largest so far
        v = peek_f32(x + 4 * i)
        if abs(v) > abs(top):
            top = v
    return top


@inline
def sum_in_order(x):
    """Return the sum of the 32 float32 at x, added one after the other, as in ggml."""
    total = np.float32(0)
    for i in range(32):  # the sum so far
        total += peek_f32(x + 4 * i)
    return total


@overload(encode_block, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _encode_block(fmt, x, scratch):
    if not isinstance(fmt, types.StringLiteral):
        return None  # Numba asks again with a literal
    layout = FORMATS[fmt.literal_value].layout
    assert layout is not None and layout.size == 32
    if layout.deviation:
        return _keeping_norm(fmt.literal_value, layout)
    if layout.values:
        return _nearest_values(fmt.literal_value, layout)
    if layout.integers.width == 8:
        return _to_bytes
    return _from_minimum(layout) if layout.has_min else _around_zero(layout)


def _to_bytes(fmt, x, scratch):
    """Encode as signed bytes; see quantizers.py for this and the other ways."""
    lo, hi = load_f32(x), load_f32(x + 64)
    d = max_lanes(maximum(absolute(lo), absolute(hi))) / np.float32(127)
    per_d = inverse(d)
    store_low_bytes(scratch, to_i32(round_half_away(lo * per_d)))
    store_low_bytes(scratch + 16, to_i32(round_half_away(hi * per_d)))
    return carried(d, np.float32(0), x), np.float32(0)


def _around_zero(layout: Layout) -> Any:
    zero, high = layout.zero, 2.0 * layout.zero - 1

    def encode(fmt, x, scratch):
        d = extreme(x) / np.float32(-zero)
        per_d = inverse(d)  # the line below rounds twice, as ggml does
        store_low_bytes(scratch, to_i32(minimum(load_f32(x) * per_d + (zero + 0.5), splat(high))))
        store_low_bytes(scratch + 16, to_i32(minimum(load_f32(x + 64) * per_d + (zero + 0.5), splat(high))))
        return carried(d, np.float32(0), x), np.float32(0)

    return encode


def _from_minimum(layout: Layout) -> Any:
    high = (1 << layout.integers.width) - 1

    def encode(fmt, x, scratch):
        lo, hi = load_f32(x), load_f32(x + 64)
        low = min_lanes(minimum(lo, hi))
        d = (max_lanes(maximum(lo, hi)) - low) / np.float32(high)
        per_d = inverse(d)
        store_low_bytes(scratch, to_i32(minimum((lo - low) * per_d + 0.5, splat(high))))
        store_low_bytes(scratch + 16, to_i32(minimum((hi - low) * per_d + 0.5, splat(high))))
        return carried(d, low, x), low

    return encode


def _nearest_values(name: str, layout: Layout) -> Any:
    first = layout.values[0]

    def encode(fmt, x, scratch):
        per_d = inverse(extreme(x) / np.float32(first))
        for half in range(2):
            v = load_f32(x + 64 * half)
            found = nearest(name, v * per_d)
            store_low_bytes(scratch + 16 * half, to_i32(row(found, 0)))
            weighted = (v * v) * row(found, 1)
            store_f32(scratch + _ALONG + 64 * half, weighted * v)
            store_f32(scratch + _SQUARE + 64 * half, weighted * row(found, 1))
        along, square = sum_in_order(scratch + _ALONG), sum_in_order(scratch + _SQUARE)
        d = along / square if square > 0 else along * np.float32(0)
        return carried(d, np.float32(0), x), np.float32(0)

    return encode


def _keeping_norm(name: str, layout: Layout) -> Any:
    unit = np.float32(layout.deviation * 32**0.5)

    def encode(fmt, x, scratch):
        for half in range(2):
            v = load_f32(x + 64 * half)
            store_f32(scratch + _SQUARE + 64 * half, v * v)
        norm = np.sqrt(sum_in_order(scratch + _SQUARE))
        per_d = inverse(norm / unit)
        for half in range(2):
            found = nearest(name, load_f32(x + 64 * half) * per_d)
            store_low_bytes(scratch + 16 * half, to_i32(row(found, 0)))
            store_f32(scratch + _SQUARE + 64 * half, row(found, 1) * row(found, 1))
        return carried(norm / np.sqrt(sum_in_order(scratch + _SQUARE)), np.float32(0), x), np.float32(0)

    return encode


@intrinsic(prefer_literal=True)
def nearest(typingctx: Any, fmt: Any, x: Any) -> Any:
    """Return two f32x16: the index of the value of a format (a constant) nearest to each x, and that value."""
    layout = FORMATS[fmt.literal_value].layout
    assert layout is not None
    out = Vec("f32", 16, 2)
    values, between = layout.values, midpoints(layout.values)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        index, value = constant(f32x16.ir, 0.0), constant(f32x16.ir, float(values[0]))
        for i, middle in enumerate(between):
            above = builder.fcmp_ordered(">=", args[1], constant(f32x16.ir, float(middle)))
            index = builder.select(above, constant(f32x16.ir, float(i + 1)), index)
            value = builder.select(above, constant(f32x16.ir, float(values[i + 1])), value)
        return pack(builder, [index, value], out)

    return out(fmt, x), codegen
