"""The weighted sums of a quantized V as products of bytes: weights become integers, V stays as it is.

Weights, which are at most 1, times the scales of a block of columns become integers of 16 bits, relative to the page's
largest scale, each as two signed bytes:

    sums += largest / STEPS * (256 * high · q_v + low · q_v)

so a weight is rounded by at most 1 / 65278 of the largest possible: on average this costs a fortieth of what rounding V
to 8 bits costs, and less for fewer bits. Four tokens t, t + 16, t + 32, t + 48 of a page are multiplied at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..formats.table import FORMATS
from ..formats.tiles import ROWS
from ..formats.words import load_tokens
from ..lang.buffers import LINE
from ..lang.dot import dot_words
from ..lang.jit import inline
from ..lang.memory import (
    load_f32,
    load_i8,
    load_rows,
    poke_f32,
    poke_i32,
    prefetch,
    splat_floats,
    splat_words,
    store_i8,
    store_i32,
    store_rows,
)
from ..lang.simd import (
    absolute,
    as_i32,
    fma,
    high_bytes_i32,
    larger_i32,
    row,
    splat,
    spread_sum,
    sum_lanes_i32,
    to_f32,
    top_of_bits,
    word_of,
    zeros_f32,
    zeros_i32,
)
from ..ops.tile_dot import zero_of
from ..pages import TILES, V_SCALES, block_bytes, seen_scales
from ..shapes import PAGE
from .softmax import SCORE_ROW

STEPS = 32639
"""The largest integer weight, 127 * 256 + 127."""

_MAGIC, _MAGIC_BITS = 12582912.0, 0x4B400000
"""1.5 * 2^23: added to a float, it leaves its whole number in the low bits, rounded to nearest even."""

_TINY = np.float32(1e-30)

_HALF = PAGE * 16
"""Bytes of 16 columns of a page as words of four tokens, [16][16 columns]."""

_LOW, _TAKEN, _FACTOR = PAGE, 2 * PAGE, 2 * PAGE + 4
"""A row of integer weights: the high bytes, the low bytes, what their zero adds to each sum (int32), and what the sums
are multiplied with (float32)."""


@inline
def _scales(scales, seen, window):
    """Return the scales of a block that a row sees, which are made at most STEPS, and the largest of them before that.

    The largest is NaN if one of them is. It must not depend on other rows, nor on tokens that come later.
    """
    first = max(0, seen - window)
    d0, d1 = seen_scales(scales, 0, first, seen), seen_scales(scales, 1, first, seen)
    d2, d3 = seen_scales(scales, 2, first, seen), seen_scales(scales, 3, first, seen)
    b0, b1, b2, b3 = as_i32(absolute(d0)), as_i32(absolute(d1)), as_i32(absolute(d2)), as_i32(absolute(d3))
    largest = top_of_bits(larger_i32(larger_i32(b0, b1), larger_i32(b2, b3)))
    f = splat(np.float32(STEPS) / max(largest, _TINY))
    return d0 * f, d1 * f, d2 * f, d3 * f, largest


@inline
def _round_weights(weights, d0, d1, d2, d3, zero, to):
    """Write a row's weights times scales, at most STEPS, as integers."""
    magic = splat(_MAGIC)
    q0, q1 = as_i32(fma(load_f32(weights), d0, magic)), as_i32(fma(load_f32(weights + 64), d1, magic))
    q2, q3 = as_i32(fma(load_f32(weights + 128), d2, magic)), as_i32(fma(load_f32(weights + 192), d3, magic))
    h0, h1, h2, h3 = q0 + 128, q1 + 128, q2 + 128, q3 + 128
    store_i32(to, word_of(high_bytes_i32(h0), high_bytes_i32(h1), high_bytes_i32(h2), high_bytes_i32(h3)))
    store_i32(to + _LOW, word_of(q0, q1, q2, q3))
    poke_i32(to + _TAKEN, zero * sum_lanes_i32(((q0 + q1) + (q2 + q3)) - 4 * _MAGIC_BITS))


def integer_adder(name: str, count: int, many: bool) -> Callable[..., Any]:
    """Return `add_page` (see values.py) for a quantized format."""
    layout = FORMATS[name].layout
    assert layout is not None
    has_min = layout.has_min
    fetched = 2 * block_bytes(FORMATS[name])  # bytes of V's next page for each word of this one
    zero = 1 << layout.integers.width - 1 if has_min else zero_of(layout)  # with a minimum, the middle: see `share`

    def add(fmt, n, many, a, v, numbers, seen, at, tokens, weights, room, sums, stride, k_next, v_next):
        first, last = seen + at // a.group, seen + (at + count - 1) // a.group
        blocks, apart = a.v_columns // 32, first < PAGE or last > a.window
        begin, end = max(0, first - a.window), min(tokens, last)  # tokens that any of the rows sees
        for b in range(blocks):  # all of them before they are needed: they take the core a while
            if not many:
                for i in range(0, a.v_scales // blocks, LINE):
                    prefetch(v_next + b * a.v_scales // blocks + i)
            to = room + b * count * SCORE_ROW
            for r in range(count):
                if r == 0 or apart:  # else all rows see all tokens
                    d0, d1, d2, d3, largest = _scales(v + b * V_SCALES, seen + (at + r) // a.group, a.window)
                _round_weights(weights + r * SCORE_ROW, d0, d1, d2, d3, zero, to)
                poke_f32(to + _FACTOR, largest / np.float32(STEPS))
                to += SCORE_ROW
        for b in range(blocks):
            share = zeros_f32(count)
            if has_min:  # the same for all columns of a block; of q_v from 0 on, roundings would add up in all of them
                for t in range(TILES):  # share += weights * (minima + zero * scales) of the tokens that are seen
                    d = seen_scales(v + b * V_SCALES, t, begin, end)
                    m = fma(d, splat(zero), seen_scales(v + (blocks + b) * V_SCALES, t, begin, end))
                    share = fma(load_rows(weights + 64 * t, SCORE_ROW, count), m, share)
                share = spread_sum(share)
            for o in range(sums + 128 * b, sums + 128 * b + 128, 64):  # 16 columns
                high, low = zeros_i32(count), zeros_i32(count)
                for t in range(min(end, ROWS)):  # weights * 16 columns of four tokens
                    if not many:
                        prefetch(v_next + a.v_scales + t * fetched)
                    word = load_i8(numbers + 64 * t)
                    high = dot_words(high, word, 0, 1, room + 4 * t, SCORE_ROW)
                    low = dot_words(low, word, 0, 1, room + _LOW + 4 * t, SCORE_ROW)
                whole = high * 256 + low - splat_words(room + _TAKEN, SCORE_ROW, count)
                y = load_rows(o, stride, count)
                y = fma(to_f32(whole), splat_floats(room + _FACTOR, SCORE_ROW, count), y + share if has_min else y)
                store_rows(o, stride, y)
                numbers += _HALF
                v_next += ROWS * fetched
            room += count * SCORE_ROW

    return add


def integer_loader(name: str) -> Callable[..., Any]:
    """Return `load_page` (see values.py) for a quantized format: [v_columns / 16] times 16 words of 16 columns."""
    size = block_bytes(FORMATS[name])

    def load(fmt, a, v, tokens, to):
        for b in range(a.v_columns // 32):
            numbers = v + a.v_scales + b * size
            for t in range(min(tokens, ROWS)):  # 32 columns of four tokens
                words = load_tokens(name, numbers + t * a.v_row, ROWS * a.v_row)
                store_i8(to + 64 * t, row(words, 0))
                store_i8(to + 64 * t + _HALF, row(words, 1))
            to += 2 * _HALF

    return load
