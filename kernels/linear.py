"""Linear layers over tiles: y = W x for a format and a number of rows at once."""

from __future__ import annotations

from functools import cache

from . import amx
from .jit import Kernel, kernel, record
from .memory import load_f32, load_rows, peek_i64, store_rows
from .tile_dot import tile_dot

CHUNK = 32
"""Rows of activations that stay in the core's cache while the tiles pass by."""

LINEAR = record(weights="ptr", x="ptr", meta="ptr", y="ptr", rows="ptr", tiles="int", tile_bytes="int", columns="int",
                x_stride="int", meta_stride="int", y_stride="int", bias="ptr", scale="float", add="int")  # fmt: skip


@cache
def linear(fmt: str, rows: int) -> Kernel:
    """The kernel for weights of a format, `rows` rows at once. Items: (chunk of CHUNK rows) x tiles.

    rows (operand): address of the number of rows; the last ones are computed in groups, so x, meta and y have room
    for a multiple of the group. y = scale * (W x + bias); bias: float32 for all rows of the tiles, or 0. add: 1 adds to
    y instead of setting it. Strides in bytes.
    """

    @kernel(LINEAR, f"linear_{fmt}_x{rows}")
    def linear(a, begin, end, thread):
        amx.configure()
        for item in range(begin, end):
            chunk, tile = divmod(item, a.tiles)
            weights = a.weights + tile * a.tile_bytes
            for r in range(chunk * CHUNK, min(chunk * CHUNK + CHUNK, peek_i64(a.rows)), rows):
                x, meta = a.x + r * a.x_stride, a.meta + r * a.meta_stride
                total = tile_dot(fmt, rows, weights, a.columns, x, a.x_stride, meta, a.meta_stride)
                y = a.y + r * a.y_stride + tile * 64
                if a.bias != 0:
                    total = total + load_f32(a.bias + tile * 64)
                total = total * a.scale
                if a.add != 0:
                    total = total + load_rows(y, a.y_stride, rows)
                store_rows(y, a.y_stride, total)

    return linear
