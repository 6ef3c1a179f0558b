"""Rows of an embedding table, decoded from the canonical blocks as they lie in the file."""

from __future__ import annotations

from functools import cache

from .cache import load_v
from .formats import FORMATS
from .jit import Kernel, kernel, record
from .memory import peek_f16, peek_i64, store_f32
from .simd import splat

EMBED = record(raw="ptr", row_bytes="int", tokens="ptr", x="ptr", n="int")


@cache
def embed(fmt: str) -> Kernel:
    """The kernel for a format. Items are rows: x[i] = row tokens[i] (int64) of the table, n float32."""
    f = FORMATS[fmt]
    size, is_block, has_min = (f.nbytes if f.bits else 32 * f.nbytes), f.bits > 0, f.has_min
    start = f.nbytes - f.bits * 4 if f.bits else 0

    @kernel(EMBED, f"embed_{fmt}")
    def embed(a, begin, end, thread):
        for item in range(begin, end):
            block = a.raw + peek_i64(a.tokens + 8 * item) * a.row_bytes
            x = a.x + item * a.n * 4
            for i in range(0, 4 * a.n, 128):
                low, high = load_v(fmt, block + start)
                if is_block:
                    d = peek_f16(block)
                    low, high = low * d, high * d
                if has_min:
                    m = splat(peek_f16(block + 2))
                    low, high = low + m, high + m
                store_f32(x + i, low)
                store_f32(x + i + 64, high)
                block += size

    return embed
