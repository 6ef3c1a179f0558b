"""Attention of single query rows, in decode: all query heads of a group share one read of K and V."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import types
from numba.extending import overload

from ..formats.table import FORMATS
from ..formats.tiles import ROWS
from ..lang.buffers import LINE
from ..lang.jit import Kernel, inline, kernel
from ..lang.memory import load_f16, load_rows, peek_i64, prefetch, splat_floats, store_rows
from ..lang.simd import first_lanes, fma, splat, spread_sum, zeros_f32
from ..ops.tile_dot import tile_dot
from ..pages import TILES, V_SCALES, block_bytes, load_v
from ..shapes import PAGE
from .softmax import ATTEND, SCORE_ROW, SPAN_BYTES, SPAN_POSITION, SPAN_ROW, SUMS, TAIL, WEIGHTS, start, weigh


def add_page(fmt, group, a, v, first, tokens, weights, sums, stride, k_next, v_next):
    """Add a V page's tokens `first` to `tokens` - 1 times their weights to the sums of a group of heads.

    fmt, group: constants. a: the ATTEND record. v: the page. weights: [head][PAGE] float32, then as much room for more.
    sums: `stride` bytes apart. k_next, v_next: pages to prefetch while the sums keep the core busy; the hardware cannot
    guess them.
    """
    raise NotImplementedError("only inside of kernels")


@overload(add_page, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _add_page(fmt, group, a, v, first, tokens, weights, sums, stride, k_next, v_next):
    if not isinstance(fmt, types.StringLiteral) or not isinstance(group, types.IntegerLiteral):
        return None  # Numba asks again with literals
    return _adder(fmt.literal_value, group.literal_value)


def _adder(name: str, n: int) -> Callable[..., Any]:
    layout, size = FORMATS[name].layout, block_bytes(FORMATS[name])
    scaled, has_min = layout is not None, layout is not None and layout.has_min

    def add(fmt, group, a, v, first, tokens, weights, sums, stride, k_next, v_next):
        blocks = a.v_columns // 32
        for b in range(blocks):
            use = weights
            if scaled:
                use = weights + n * SCORE_ROW
                for t in range(TILES):  # weights times the scales of the block
                    d = load_f16(v + b * V_SCALES + t * 2 * ROWS)
                    store_rows(use + 64 * t, SCORE_ROW, load_rows(weights + 64 * t, SCORE_ROW, n) * d)
            o = sums + 128 * b
            low, high = load_rows(o, stride, n), load_rows(o + 64, stride, n)
            if has_min:  # the same for all columns of a block
                share = zeros_f32(n)
                for t in range(TILES):  # share += weights * minima of the tokens that are seen
                    m = load_f16(v + (blocks + b) * V_SCALES + t * 2 * ROWS)
                    m = first_lanes(tokens - ROWS * t, m, splat(0.0))
                    m = first_lanes(first - ROWS * t, splat(0.0), m)
                    share = fma(load_rows(weights + 64 * t, SCORE_ROW, n), m, share)
                share = spread_sum(share)
                low, high = low + share, high + share
            numbers = v + a.v_scales + b * size
            for t in range(first, tokens):  # sums += weight * 32 columns of the token
                prefetch(k_next + t * a.k_step)
                prefetch(v_next + t * a.v_step)
                left, right = load_v(name, numbers + t * a.v_row)
                w = splat_floats(use + 4 * t, SCORE_ROW, n)
                low, high = fma(w, left, low), fma(w, right, high)
            k_next, v_next = k_next + PAGE * a.k_step, v_next + PAGE * a.v_step
            store_rows(o, stride, low)
            store_rows(o + 64, stride, high)

    return add


@inline
def fetch(tile, nbytes):
    """Prefetch a tile."""
    for i in range(0, nbytes, LINE):
        prefetch(tile + i)


@cache
def attend_one(k_type: str, v_type: str, group: int) -> Kernel:
    """Return the kernel for spans of one row and `group` query heads per KV head. Items: spans x KV heads x splits."""

    @kernel(ATTEND, f"attend_one_{k_type}_{v_type}_x{group}")
    def attend_one(a, begin, end, thread):
        scores = a.scratch + thread * a.scratch_bytes
        splits, split_pages = peek_i64(a.splits), peek_i64(a.split_pages)
        size = (a.v_columns + TAIL) * 4
        for item in range(begin, end):
            rest, split = divmod(item, splits)
            at, head = divmod(rest, a.kv_heads)
            span = a.spans + SPAN_BYTES * at
            row, length, table = peek_i64(span + SPAN_ROW), peek_i64(span + SPAN_POSITION) + 1, peek_i64(span + a.table)
            first = max(0, length - a.window)
            vector = (head * a.max_rows + row) * group
            q, meta = a.q + vector * a.q_bytes, a.meta + vector * a.meta_bytes
            stride = splits * size
            sums = a.sums + ((row * a.kv_heads + head) * group * splits + split) * size
            for g in range(group):
                start(sums + g * stride, a.v_columns)
            k_pool, v_pool = a.k_pool + head * a.k_head, a.v_pool + head * a.v_head
            page = first // PAGE + split * split_pages
            last = min(page + split_pages, (length + PAGE - 1) // PAGE)
            for p in range(page, last):
                k = k_pool + peek_i64(table + 8 * p) * a.k_page
                v = v_pool + peek_i64(table + 8 * p) * a.v_page
                follower = peek_i64(table + 8 * min(p + 1, last - 1))
                k_next, v_next = k_pool + follower * a.k_page, v_pool + follower * a.v_page
                hidden, tokens = max(0, first - PAGE * p), min(PAGE, length - PAGE * p)
                for t in range(hidden // ROWS, (tokens + ROWS - 1) // ROWS):  # scores of 16 tokens
                    if a.upto < SUMS:  # otherwise `add_page` does it
                        fetch(k_next + t * a.k_tile, a.k_tile)
                    s = tile_dot(k_type, group, k + t * a.k_tile, a.k_columns, q, a.q_bytes, meta, a.meta_bytes)
                    store_rows(scores + 64 * t, SCORE_ROW, s)
                for g in range(group if a.upto >= WEIGHTS else 0):
                    weigh(a, scores + g * SCORE_ROW, length - PAGE * p, sums + g * stride)
                if a.upto >= SUMS:
                    add_page(v_type, group, a, v, hidden, tokens, scores, sums, stride, k_next, v_next)

    return attend_one
