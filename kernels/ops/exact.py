"""Products with float32 activations: weights as the file has them, summed in float32 in an order that is always the
same, so that a row's result depends on no CPU, no number of threads and no other row.

A pair of tiles is decoded once for many rows, some columns at a time, which stay in the core's first-level cache.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..formats.floats import floats_of
from ..lang import cpu
from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import load_f32, load_rows, peek_i64, splat_floats, store_f32, store_rows
from ..lang.simd import below, fma, splat, zeros_f32
from .experts import SPAN_BYTES, SPAN_EXPERT, SPAN_FIRST, SPAN_ROWS

EXACT_CHUNK = 128
"""Rows of activations for which weights are decoded once: decoding takes some 4 % of the time."""

PIECE = 256
"""Columns whose products are summed on their own, and then added to those before them."""

ROWS = 8 if "avx512f" in cpu.FEATURES else 2
"""Rows to take at once at most: with two tiles, as many sums as the registers hold."""

_SUMS = EXACT_CHUNK * 128
SCRATCH = _SUMS + 2 * PIECE * 64
"""Bytes that a thread needs: two sums of 16 outputs for each row of a chunk, and the columns of two tiles."""


@inline
def pair_dot(rows, first, second, columns, x, x_stride):
    """Return two groups of `rows` (a constant) f32x16: the products of rows at x with two tiles of `columns` columns,
    which are float32 at `first` and `second`. Each sum is taken from the first column to the last."""
    left, right = zeros_f32(rows), zeros_f32(rows)
    for i in range(columns):  # x * w of a column, for 32 outputs
        numbers = splat_floats(x + 4 * i, x_stride, rows)
        left = fma(numbers, load_f32(first + 64 * i), left)
        right = fma(numbers, load_f32(second + 64 * i), right)
    return left, right


@inline
def _sum_pair(fmt, rows, first, second, columns, x, x_stride, count, scratch):
    """Leave the products of `count` rows at x with two tiles in a format at `scratch`, 128 bytes a row."""
    room = scratch + _SUMS
    for begin in range(0, columns, PIECE):
        n = min(PIECE, columns - begin)
        left_w = floats_of(fmt, first, columns, begin, n, room)
        right_w = floats_of(fmt, second, columns, begin, n, room + PIECE * 64)
        for r in range(0, count, rows):
            left, right = pair_dot(rows, left_w, right_w, n, x + r * x_stride + 4 * begin, x_stride)
            sums = scratch + 128 * r
            if begin > 0:
                left, right = load_rows(sums, 128, rows) + left, load_rows(sums + 64, 128, rows) + right
            store_rows(sums, 128, left)
            store_rows(sums + 64, 128, right)


LINEAR_EXACT = record(weights="ptr", x="ptr", y="ptr", rows="ptr", tiles="int", tile_bytes="int", columns="int",
                      x_stride="int", y_stride="int", bias="ptr", scale="float", add="int",
                      scratch="ptr")  # fmt: skip


@cache
def linear_exact(fmt: str, rows: int) -> Kernel:
    """Return the kernel for weights of a format, up to `rows` rows at once: y = scale * (W x + bias).

    Items: (chunk of EXACT_CHUNK rows) x pairs of tiles. x has room for a multiple of the rows taken at once, and a row
    of y for a multiple of 32 numbers. scratch: SCRATCH bytes for each thread. The others: see `linear`.
    """
    n = min(rows, ROWS)

    @kernel(LINEAR_EXACT, f"linear_exact_{fmt}_x{n}")
    def linear_exact(a, begin, end, thread):
        scratch, pairs = a.scratch + thread * SCRATCH, (a.tiles + 1) // 2
        for item in range(begin, end):
            chunk, pair = divmod(item, pairs)
            first, second = 2 * pair, min(2 * pair + 1, a.tiles - 1)  # the same tile where there is no second
            start = chunk * EXACT_CHUNK
            count = min(EXACT_CHUNK, peek_i64(a.rows) - start)
            left, right = a.weights + first * a.tile_bytes, a.weights + second * a.tile_bytes
            _sum_pair(fmt, n, left, right, a.columns, a.x + start * a.x_stride, a.x_stride, count, scratch)
            for half in range(2):
                tile = second if half else first
                bias = splat(0.0) if a.bias == 0 else load_f32(a.bias + tile * 64)
                for r in range(count):
                    y = a.y + (start + r) * a.y_stride + pair * 128 + half * 64
                    total = (load_f32(scratch + 128 * r + 64 * half) + bias) * a.scale
                    total = below(total, splat(np.inf))  # as in `linear`
                    store_f32(y, total + load_f32(y) if a.add != 0 else total)

    return linear_exact


PROJECT_EXACT = record(weights="ptr", bias="ptr", x="ptr", y="ptr", x_stride="int", y_stride="int", spans="ptr",
                       tiles="int", tile_bytes="int", columns="int", scratch="ptr")  # fmt: skip


@cache
def project_exact(fmt: str) -> Kernel:
    """Return the kernel for rows sorted by expert (see experts.py): each row times its expert's matrix, plus bias.

    Items: spans x pairs of an expert's tiles, whose number is even; empty spans take no time. scratch: as above.
    """

    @kernel(PROJECT_EXACT, f"project_exact_{fmt}")
    def project_exact(a, begin, end, thread):
        scratch, pairs = a.scratch + thread * SCRATCH, a.tiles // 2
        for item in range(begin, end):
            at, pair = divmod(item, pairs)
            span = a.spans + SPAN_BYTES * at
            expert, place, rows = peek_i64(span + SPAN_EXPERT), peek_i64(span + SPAN_FIRST), peek_i64(span + SPAN_ROWS)
            tile = expert * a.tiles + 2 * pair
            left = a.weights + tile * a.tile_bytes
            for start in range(place, place + rows, EXACT_CHUNK):
                count = min(EXACT_CHUNK, place + rows - start)
                x = a.x + start * a.x_stride
                _sum_pair(fmt, ROWS, left, left + a.tile_bytes, a.columns, x, a.x_stride, count, scratch)
                for half in range(2):
                    bias = splat(0.0) if a.bias == 0 else load_f32(a.bias + (tile + half) * 64)
                    for r in range(count):
                        y = a.y + (start + r) * a.y_stride + pair * 128 + half * 64
                        store_f32(y, load_f32(scratch + 128 * r + 64 * half) + bias)

    return project_exact
