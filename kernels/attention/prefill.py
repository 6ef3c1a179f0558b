"""Attention of many query rows: a block of them goes through the pages together; knows no splits."""

from __future__ import annotations

from functools import cache

from ..lang.jit import Kernel, inline, kernel
from ..lang.memory import load_f32, load_rows, peek_i64, splat_floats, store_rows
from ..lang.simd import fma
from ..ops.tile_dot import MANY, many, tile_dot
from ..pages import unpack_v
from .softmax import ATTEND, SUMS, TAIL, WEIGHTS, leave, row_block, rows_of_block, start, weigh


@inline
def _add_values(weights, values, first, tokens, columns, states, size):
    """Add to 8 sums, `size` bytes apart, what 8 rows of weights make of values float32 [tokens][columns]."""
    for b in range(0, 4 * columns, 128):
        o, value = states + b, values + b + first * columns * 4
        low, high = load_rows(o, size, 8), load_rows(o + 64, size, 8)
        for t in range(first, tokens):
            w = splat_floats(weights + 4 * t, 256, 8)
            low, high = fma(w, load_f32(value), low), fma(w, load_f32(value + 64), high)
            value += columns * 4
        store_rows(o, size, low)
        store_rows(o + 64, size, high)


@cache
def attend_many(k_type: str, v_type: str) -> Kernel:
    """The kernel for spans of many rows, a group of query vectors at a time. Items: spans x KV heads x row blocks.

    A block past its span's rows is empty. There is one split.
    """
    n = many(k_type)

    @kernel(ATTEND, f"attend_many_{k_type}_{v_type}")
    def attend_many(a, begin, end, thread):
        size = (a.v_columns + TAIL) * 4
        scores = a.scratch + thread * a.scratch_bytes
        values = scores + (rows_of_block(a) * a.group + MANY) * 256
        state = values + 64 * a.v_columns * 4
        for item in range(begin, end):
            head, row, rows, position, table = row_block(a, item)
            vectors = rows * a.group
            q = a.q + (head * a.max_rows + row) * a.group * a.q_bytes
            meta = a.meta + (head * a.max_rows + row) * a.group * a.meta_bytes
            for i in range(vectors + 7):  # the sums are taken in groups of 8
                start(state + i * size, a.v_columns)
            first = max(0, position + 1 - a.window)  # token that is seen
            for p in range(first // 64, (position + rows + 63) // 64 if rows > 0 else 0):
                page = peek_i64(table + 8 * p)
                k, v = a.k_pool + head * a.k_head + page * a.k_page, a.v_pool + head * a.v_head + page * a.v_page
                for i in range(0, vectors, n):
                    for t in range(4):
                        x, m = q + i * a.q_bytes, meta + i * a.meta_bytes
                        s = tile_dot(k_type, n, k + t * a.k_tile, a.k_columns, x, a.q_bytes, m, a.meta_bytes)
                        store_rows(scores + i * 256 + 64 * t, 256, s)
                for i in range(vectors if a.upto >= WEIGHTS else 0):
                    weigh(a, scores + i * 256, position + i // a.group + 1 - 64 * p, state + i * size)
                hidden, tokens = max(0, first - 64 * p), min(64, position + rows - 64 * p)
                if a.upto >= SUMS:
                    unpack_v(v_type, v, tokens, a.v_columns, values)
                    for i in range(0, vectors, 8):
                        _add_values(scores + i * 256, values, hidden, tokens, a.v_columns, state + i * size, size)
            leave(a, head, row, vectors, state)

    return attend_many
