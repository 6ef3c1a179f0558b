"""Rows of an embedding table, decoded from the canonical blocks of the file."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..formats.table import FORMATS
from ..formats.tiles import INTEGER_BYTES, bits_at
from ..lang.jit import Kernel, kernel, record
from ..lang.memory import peek_e8m0, peek_f16, peek_i64, poke_f32, store_f32
from ..pages import load_v

EMBED = record(raw="ptr", row_bytes="int", tokens="ptr", x="ptr", n="int", scale="float")


@cache
def embed(fmt: str) -> Kernel:
    """Return the kernel for a format. Items are rows: x[i] = scale * row tokens[i] (int64) of the table, n float32."""
    return _floats(fmt) if FORMATS[fmt].layout is None else _blocks(fmt)


def _floats(fmt: str) -> Kernel:
    size = 32 * FORMATS[fmt].nbytes

    @kernel(EMBED, f"embed_{fmt}")
    def embed(a, begin, end, thread):
        for item in range(begin, end):
            source = a.raw + peek_i64(a.tokens + 8 * item) * a.row_bytes
            x = a.x + item * a.n * 4
            for i in range(0, 4 * a.n, 128):  # x = scale * 32 numbers of the row
                low, high = load_v(fmt, source)
                store_f32(x + i, low * a.scale)
                store_f32(x + i + 64, high * a.scale)
                source += size

    return embed


def _blocks(fmt: str) -> Kernel:
    """Return a kernel that decodes value by value, by the layout as data: rows are short, and the code is the same for
    all formats."""
    layout = FORMATS[fmt].layout
    assert layout is not None
    size, nbytes, groups, group, has_min = layout.size, layout.nbytes, layout.groups, layout.group, layout.has_min
    exponent, d_at, m_at = layout.exponent, layout.d, layout.m  # not verbs: their pickles, part of the key, differ
    integers, meaning = layout.integers.table, layout.meaning
    scaled = layout.scales is not None
    scales = layout.scales.table if layout.scales else integers
    scale_meaning = layout.scale_meaning if scaled else meaning

    @kernel(EMBED, f"embed_{fmt}")
    def embed(a, begin, end, thread):
        for item in range(begin, end):
            block = a.raw + peek_i64(a.tokens + 8 * item) * a.row_bytes
            x = a.x + item * a.n * 4
            for _ in range(a.n // size):
                for g in range(groups):
                    scale = peek_e8m0(block + d_at) if exponent else peek_f16(block + d_at)
                    minimum = np.float32(0)
                    if scaled:
                        scale = scale * scale_meaning[bits_at(block, scales.ctypes.data + INTEGER_BYTES * g)]
                    if has_min and scaled:
                        t = bits_at(block, scales.ctypes.data + INTEGER_BYTES * (groups + g))
                        minimum = peek_f16(block + m_at) * np.float32(t)
                    elif has_min:
                        minimum = -peek_f16(block + m_at)
                    for i in range(g * group, (g + 1) * group):  # x = scale * (d * s * q - minimum)
                        number = scale * meaning[bits_at(block, integers.ctypes.data + INTEGER_BYTES * i)]
                        poke_f32(x, (number - minimum) * a.scale)
                        x += 4
                block += nbytes

    return embed
