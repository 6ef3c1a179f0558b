"""The one inner product: a tile of 16 rows with a few rows of activations, for each format.

Linear layers call it with weights, attention with K. Activations for integer formats are int8 in blocks of 32, each
with a META record; floating-point formats take them as float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from ..formats.layout import Layout
from ..formats.scales import integers_at, load_minimum, load_scale
from ..formats.table import FORMATS, Format
from ..formats.tiles import ROWS
from ..formats.words import load_words
from ..lang.buffers import LINE, offsets
from ..lang.dot import STORED_BIAS, dot_words
from ..lang.memory import load_bf16, load_f16, load_f32, prefetch, splat_floats, splat_words
from ..lang.simd import fma, to_f32, zeros_f32, zeros_i32

MANY = 8
"""Rows to take at once where there are many: on Zen 4 and Zen 5 more of them spill, and cost a quarter of the speed
(bench/LOG.md). Linear layers have shapes of their own (see Shape)."""

META = np.dtype([("d", "<f4"), ("d_sum", "<f4"), ("sum", "<i4"), ("second", "<i4")])
"""A block of activations: its scale d, d * -sum of its int8, that -sum, and the one of their second half."""
META_D, META_DSUM, META_SUM, META_SECOND = offsets(META)
META_BYTES = META.itemsize

AHEAD = 8192
"""How far ahead weights are prefetched, in bytes, across tiles. Every line is, also those of the scales: the core waits
for each that is left out, and reads at half the speed (bench/LOG.md)."""


def tile_dot(fmt, rows, ahead, tile, columns, x, x_stride, meta, meta_stride):
    """Return a group of `rows` f32x16: lane i of row r is the product of row i of the tile with row r of x.

    fmt, rows: constants. ahead: the tile is prefetched these bytes before their use, if not 0. tile: address; columns:
    its width. x: address of int8 (or float32) activations, rows x_stride bytes apart; meta: their META records, rows
    meta_stride bytes apart.
    """
    raise NotImplementedError("only inside of kernels")


@overload(tile_dot, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _tile_dot(fmt, rows, ahead, tile, columns, x, x_stride, meta, meta_stride):
    if not isinstance(fmt, types.StringLiteral) or not isinstance(rows, types.IntegerLiteral):
        return None  # Numba asks again with literals
    f, n = FORMATS[fmt.literal_value], rows.literal_value
    if f.layout is None:
        return _floats(f, n)
    return (_by_32 if f.layout.group == 32 else _by_16)(f.name, f.layout, n)


def zero_of(layout: Layout) -> int:
    """Return the byte of `load_words` that means 0."""
    return STORED_BIAS if layout.integers.width == 8 or layout.values else layout.zero


@register_jitable(forceinline=True)
def _fetch(at, nbytes):
    """Prefetch the cache lines of some bytes."""
    for i in range(0, nbytes, LINE):
        prefetch(at + i)


def _by_columns(layout: Layout) -> int:
    """Return the bytes of a tile for 32 columns, with their scales."""
    return LINE * layout.integers.width + ROWS * layout.scale_bytes * 32 // layout.size


def _by_32(name: str, layout: Layout, n: int) -> Callable[..., Any]:
    """Return the product for formats with a scale for 32 columns."""
    lines, nbytes, zero, has_min = layout.integers.width, _by_columns(layout), zero_of(layout), layout.has_min

    def dot(fmt, rows, ahead, tile, columns, x, x_stride, meta, meta_stride):
        w, later = integers_at(name, tile, columns), tile + ahead
        total = zeros_f32(n)
        for b in range(columns // 32):  # total += d_x * d_w * (q_w - zero) · q_x - minimum * d_x * sum
            if ahead:
                _fetch(later, nbytes)
                later += nbytes
            s = splat_words(meta + META_SUM, meta_stride, n) * zero if zero else zeros_i32(n)
            s = dot_words(s, load_words(name, w), 0, 8, x, x_stride)
            scaled = to_f32(s) * splat_floats(meta + META_D, meta_stride, n)
            total = fma(scaled, load_scale(name, tile, columns, b), total)
            if has_min:
                minimum = load_minimum(name, tile, columns, b)
                total = fma(splat_floats(meta + META_DSUM, meta_stride, n), minimum, total)
            w += 64 * lines
            x += 32
            meta += META_BYTES
        return total

    return dot


def _by_16(name: str, layout: Layout, n: int) -> Callable[..., Any]:
    """Return the product for formats with a scale for 16 columns: each half of a block has its own."""
    lines, nbytes, zero, has_min = layout.integers.width, _by_columns(layout), zero_of(layout), layout.has_min

    def dot(fmt, rows, ahead, tile, columns, x, x_stride, meta, meta_stride):
        w, later = integers_at(name, tile, columns), tile + ahead
        total = zeros_f32(n)
        for b in range(columns // 32):  # for each half: total += d_x * d_w * (q_w - zero) · q_x - minimum * d_x * sum
            if ahead:
                _fetch(later, nbytes)
                later += nbytes
            words, d = load_words(name, w), splat_floats(meta + META_D, meta_stride, n)
            second = splat_words(meta + META_SECOND, meta_stride, n)
            first = splat_words(meta + META_SUM, meta_stride, n) - second
            s = dot_words(first * zero, words, 0, 4, x, x_stride)
            total = fma(to_f32(s) * d, load_scale(name, tile, columns, 2 * b), total)
            s = dot_words(second * zero, words, 4, 4, x, x_stride)
            total = fma(to_f32(s) * d, load_scale(name, tile, columns, 2 * b + 1), total)
            if has_min:
                total = fma(to_f32(first) * d, load_minimum(name, tile, columns, 2 * b), total)
                total = fma(to_f32(second) * d, load_minimum(name, tile, columns, 2 * b + 1), total)
            w += 64 * lines
            x += 32
            meta += META_BYTES
        return total

    return dot


_LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16}


def _floats(f: Format, n: int) -> Callable[..., Any]:
    """Return the product for floating-point formats."""
    load, step = _LOADS[f.name], 16 * f.nbytes

    def dot(fmt, rows, ahead, tile, columns, x, x_stride, meta, meta_stride):
        even, odd = zeros_f32(n), zeros_f32(n)
        for _ in range(columns // 2):  # x * w of an even and of an odd column
            if ahead:
                _fetch(tile + ahead, 2 * step)
            even = fma(splat_floats(x, x_stride, n), load(tile), even)
            odd = fma(splat_floats(x + 4, x_stride, n), load(tile + step), odd)
            tile += 2 * step
            x += 8
        return even + odd

    return dot
