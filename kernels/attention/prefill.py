"""Attention of many query rows, in prefill: a block of them goes through the pages together; knows no splits."""

from __future__ import annotations

from functools import cache

from ..lang.jit import Kernel, inline, kernel
from ..lang.memory import load_f32, load_rows, peek_i64, splat_floats, store_rows
from ..lang.simd import fma
from ..ops.tile_dot import MANY, many, tile_dot
from ..pages import TILES, unpack_v
from ..shapes import PAGE
from .softmax import ATTEND, SCORE_ROW, SUMS, TAIL, WEIGHTS, leave, row_block, rows_of_block, start, weigh


@inline
def _add_values(weights, values, first, tokens, columns, states, size):
    """Add values, float32 [tokens][columns], times 8 rows of weights to 8 sums, `size` bytes apart."""
    for b in range(0, 4 * columns, 128):
        o, value = states + b, values + b + first * columns * 4
        low, high = load_rows(o, size, 8), load_rows(o + 64, size, 8)
        for t in range(first, tokens):  # sums += weight * 32 columns of the token
            w = splat_floats(weights + 4 * t, SCORE_ROW, 8)
            low, high = fma(w, load_f32(value), low), fma(w, load_f32(value + 64), high)
            value += columns * 4
        store_rows(o, size, low)
        store_rows(o + 64, size, high)


@cache
def attend_many(k_type: str, v_type: str) -> Kernel:
    """Return the kernel for spans of many rows, a few query vectors at a time. Items: spans x KV heads x row blocks.

    A block past its span's rows is empty. There is one split.
    """
    n = many(k_type)

    @kernel(ATTEND, f"attend_many_{k_type}_{v_type}")
    def attend_many(a, begin, end, thread):
        size = (a.v_columns + TAIL) * 4
        scores = a.scratch + thread * a.scratch_bytes
        values = scores + (rows_of_block(a) * a.group + MANY) * SCORE_ROW
        state = values + PAGE * a.v_columns * 4
        for item in range(begin, end):
            head, row, rows, position, table = row_block(a, item)
            vectors = rows * a.group
            q = a.q + (head * a.max_rows + row) * a.group * a.q_bytes
            meta = a.meta + (head * a.max_rows + row) * a.group * a.meta_bytes
            for i in range(vectors + 7):  # the sums are taken in groups of 8
                start(state + i * size, a.v_columns)
            first = max(0, position + 1 - a.window)  # token that a row sees
            for p in range(first // PAGE, (position + rows + PAGE - 1) // PAGE if rows > 0 else 0):
                page = peek_i64(table + 8 * p)
                k, v = a.k_pool + head * a.k_head + page * a.k_page, a.v_pool + head * a.v_head + page * a.v_page
                for i in range(0, vectors, n):
                    for t in range(TILES):  # scores of n vectors with 16 tokens
                        x, m = q + i * a.q_bytes, meta + i * a.meta_bytes
                        s = tile_dot(k_type, n, k + t * a.k_tile, a.k_columns, x, a.q_bytes, m, a.meta_bytes)
                        store_rows(scores + i * SCORE_ROW + 64 * t, SCORE_ROW, s)
                for i in range(vectors if a.upto >= WEIGHTS else 0):
                    seen = position + i // a.group + 1 - PAGE * p
                    weigh(a, scores + i * SCORE_ROW, seen, state + i * size)
                hidden, tokens = max(0, first - PAGE * p), min(PAGE, position + rows - PAGE * p)
                if a.upto >= SUMS:
                    unpack_v(v_type, v, tokens, a.v_columns, values)
                    for i in range(0, vectors, 8):
                        w = scores + i * SCORE_ROW
                        _add_values(w, values, hidden, tokens, a.v_columns, state + i * size, size)
            leave(a, head, row, vectors, state)

    return attend_many
