"""Linear layers over tiles: y = W x, a few rows at once, or many on the matrix unit."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..formats.widen import widen
from ..lang import amx, cpu
from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import load_f32, load_rows, peek_i64, store_f32, store_rows
from ..lang.simd import below, splat
from ..shapes import DEFAULTS, Shape
from .tile_dot import AHEAD, tile_dot

SHAPE: Shape = DEFAULTS[cpu.DOT]
"""The shape of products of many rows where none was measured; see Shape."""

LINEAR = record(weights="ptr", x="ptr", meta="ptr", y="ptr", rows="ptr", chunk="int", tiles="int", tile_bytes="int",
                columns="int", x_stride="int", meta_stride="int", y_stride="int", bias="ptr", scale="float",
                add="int")  # fmt: skip


@cache
def linear(fmt: str, rows: int) -> Kernel:
    """Return the kernel for weights of a format, `rows` rows at once: y = scale * (W x + bias).

    Items: chunks x tiles. rows (operand): address of the number of rows; chunk: rows of a chunk, see Shape; x, meta and
    y have room for a multiple of the rows taken at once. bias: float32 for all rows of the tiles, or 0. add: 1 adds to
    y instead of setting it. Strides in bytes.
    """

    @kernel(LINEAR, f"linear_{fmt}_x{rows}")
    def linear(a, begin, end, thread):
        for item in range(begin, end):
            chunk, tile = divmod(item, a.tiles)
            weights = a.weights + tile * a.tile_bytes
            start, stop = chunk * a.chunk, min((chunk + 1) * a.chunk, peek_i64(a.rows))
            for r in range(start, stop, rows):  # 16 outputs of a few rows
                x, meta = a.x + r * a.x_stride, a.meta + r * a.meta_stride
                total = tile_dot(fmt, rows, AHEAD, weights, a.columns, x, a.x_stride, meta, a.meta_stride)
                y = a.y + r * a.y_stride + tile * 64
                if a.bias != 0:
                    total = total + load_f32(a.bias + tile * 64)
                total = below(total * a.scale, splat(np.inf))  # infinity becomes NaN: no logit hides as -infinity
                if a.add != 0:
                    total = total + load_rows(y, a.y_stride, rows)
                store_rows(y, a.y_stride, total)

    return linear


WIDE_CHUNK = 512
"""Rows of activations, as bfloat16 in the core's second-level cache, for which weights are converted once."""

WIDE = record(weights="ptr", x="ptr", y="ptr", rows="ptr", tiles="int", tile_bytes="int", columns="int", y_stride="int",
              bias="ptr", scale="float", add="int", scratch="ptr", scratch_bytes="int")  # fmt: skip


@inline
def _begin(a, y, first, second):
    """Start the sums from the numbers at y, from the bias of tiles `first` and `second`, from both or from 0."""
    if a.bias != 0:
        left, right = load_f32(a.bias + first * 64) * a.scale, load_f32(a.bias + second * 64) * a.scale
        for at in range(y, y + amx.BLOCK * a.y_stride, a.y_stride):
            store_f32(at, left + load_f32(at) if a.add != 0 else left)
            store_f32(at + 64, right + load_f32(at + 64) if a.add != 0 else right)
    if a.bias != 0 or a.add != 0:
        amx.load_sums(y, a.y_stride)
    else:
        amx.clear()


@cache
def linear_wide(fmt: str) -> Kernel:
    """Return the same for many rows, on the matrix unit. Items: (chunk of WIDE_CHUNK rows) x pairs of tiles.

    x: tiles of activations (see amx.py). Sums are of 32 rows by 32 outputs, so x and y have room for multiples of 32
    rows, and a row of y for a multiple of 32. scratch: two tiles as bfloat16 for each thread.
    """

    @kernel(WIDE, f"linear_wide_{fmt}")
    def linear_wide(a, begin, end, thread):
        amx.configure()
        size = a.columns // 32 * amx.TILE
        w, pairs = a.scratch + thread * a.scratch_bytes, (a.tiles + 1) // 2
        for item in range(begin, end):
            chunk, pair = divmod(item, pairs)
            first, second = 2 * pair, min(2 * pair + 1, a.tiles - 1)  # the same tile where there is no second
            widen(fmt, a.weights + first * a.tile_bytes, a.columns, a.scale, w)
            widen(fmt, a.weights + second * a.tile_bytes, a.columns, a.scale, w + size)
            for r in range(chunk * WIDE_CHUNK, min(chunk * WIDE_CHUNK + WIDE_CHUNK, peek_i64(a.rows)), amx.BLOCK):
                x, y = a.x + r // 16 * size, a.y + r * a.y_stride + pair * 128
                _begin(a, y, first, second)
                for i in range(0, size, amx.TILE):  # 32 rows by 32 outputs, 32 columns at a time
                    amx.add_products(x + i, x + size + i, w + i, w + size + i)
                amx.store_sums(y, a.y_stride)

    return linear_wide
