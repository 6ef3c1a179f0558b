"""Attention over the paged cache: softmax(Q K') V with an online softmax, a page of 64 tokens at a time.

Two kernels share their steps: `attend_one` for a few query rows (decode; tokens split between threads, one read of K
and V for all query heads of a group) and `attend_many` for prefill (blocks of rows; V decoded once per block). Both
leave unnormalized sums with their maxima, which `combine` puts together.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from . import amx
from .activations import quantize_row
from .cache import load_v, unpack_v
from .formats import FORMATS
from .hadamard import hadamard
from .jit import Kernel, inline, kernel, record
from .memory import (
    load_f16,
    load_f32,
    load_rows,
    peek_i64,
    prefetch,
    splat_floats,
    store_f32,
    store_first,
    store_rows,
)
from .simd import any_above, exp, first_lanes, fma, max_lanes, maximum, splat, sum_lanes, zeros_f32
from .tile_dot import MANY, many, tile_dot

BLOCK = 96
"""Query vectors (rows x heads of a group) that `attend_many` takes through the pages together, at most; or one row."""

TAIL = 32
"""float32 behind a head's sums: the maximum, 16 times, and the sum of weights in 16 parts."""

SPAN = 4
"""int64 per span in the step: first row, rows, position of the first row, address of the page table."""

ATTEND = record(
    spans="ptr", splits="ptr", split_pages="ptr", blocks="ptr",
    q="ptr", meta="ptr", q_bytes="int", meta_bytes="int", max_rows="int",
    k_pool="ptr", v_pool="ptr", k_head="int", v_head="int", k_page="int", v_page="int", k_tile="int", v_scales="int",
    v_row="int", kv_heads="int", group="int", k_columns="int", v_columns="int",
    sums="ptr", scratch="ptr", scratch_bytes="int",
)  # fmt: skip
"""spans: SPAN records. splits, split_pages: addresses of the number of parts the tokens are split in, and the pages of
a part. blocks: address of the number of row blocks (attend_many). q: vectors of q_bytes, [KV head][max_rows][group].
sums: [row][head][split] of v_columns + TAIL float32: the weighted sum of V, and what TAIL tells."""

_LOWEST = -np.inf


def block_rows(group: int) -> int:
    """Rows of a block of `attend_many`."""
    return max(1, BLOCK // group)


@inline
def _start(state, columns):
    """An empty sum: zeros, maximum -inf, no weight."""
    for i in range(0, columns, 16):
        store_f32(state + 4 * i, splat(0.0))
    store_f32(state + 4 * columns, splat(_LOWEST))
    store_f32(state + 4 * columns + 64, splat(0.0))


@inline
def _soften(scores, state, columns):
    """64 scores to weights relative to the running maximum; where that grows, the earlier sums are scaled to it."""
    a, b, c, d = load_f32(scores), load_f32(scores + 64), load_f32(scores + 128), load_f32(scores + 192)
    tail = state + 4 * columns
    top, weight = load_f32(tail), load_f32(tail + 64)
    highest = maximum(maximum(a, b), maximum(c, d))
    if any_above(highest, top):
        new = splat(max_lanes(maximum(highest, top)))
        factor = exp(top - new)
        weight, top = weight * factor, new
        store_f32(tail, top)
        for i in range(0, columns, 16):
            store_f32(state + 4 * i, load_f32(state + 4 * i) * factor)
    a, b, c, d = exp(a - top), exp(b - top), exp(c - top), exp(d - top)
    store_f32(scores, a)
    store_f32(scores + 64, b)
    store_f32(scores + 128, c)
    store_f32(scores + 192, d)
    store_f32(tail + 64, weight + ((a + b) + (c + d)))


@inline
def _hide(scores, seen):
    """Scores of tokens from number `seen` on become -inf, of 64."""
    for t in range(4):
        store_f32(scores + 64 * t, first_lanes(seen - 16 * t, load_f32(scores + 64 * t), splat(_LOWEST)))


@inline
def _add_values(weights, values, tokens, columns, states, size):
    """Add to 8 sums, `size` bytes apart, what 8 rows of weights make of values float32 [tokens][columns]."""
    for b in range(0, 4 * columns, 128):
        o, value = states + b, values + b
        low, high = load_rows(o, size, 8), load_rows(o + 64, size, 8)
        for t in range(tokens):
            w = splat_floats(weights + 4 * t, 256, 8)
            low, high = fma(w, load_f32(value), low), fma(w, load_f32(value + 64), high)
            value += columns * 4
        store_rows(o, size, low)
        store_rows(o + 64, size, high)


@cache
def attend_one(k_type: str, v_type: str, group: int) -> Kernel:
    """The kernel for spans of one row, `group` query heads sharing a KV head. Items: spans x KV heads x splits."""
    scaled = FORMATS[v_type].bits > 0

    @kernel(ATTEND, f"attend_one_{k_type}_{v_type}_x{group}")
    def attend_one(a, begin, end, thread):
        if group == amx.ROWS:
            amx.configure()
        scores = a.scratch + thread * a.scratch_bytes
        weights = scores + group * 256
        splits, split_pages = peek_i64(a.splits), peek_i64(a.split_pages)
        size = (a.v_columns + TAIL) * 4
        for item in range(begin, end):
            rest, split = divmod(item, splits)
            at, head = divmod(rest, a.kv_heads)
            row, length = peek_i64(a.spans + 32 * at), peek_i64(a.spans + 32 * at + 16) + 1
            table = peek_i64(a.spans + 32 * at + 24)
            vector = (head * a.max_rows + row) * group
            q, meta = a.q + vector * a.q_bytes, a.meta + vector * a.meta_bytes
            stride = splits * size
            sums = a.sums + ((row * a.kv_heads + head) * group * splits + split) * size
            k_step, v_step = a.k_page // 64 // (a.v_columns // 32), a.v_page // 64 // (a.v_columns // 32)
            for g in range(group):
                _start(sums + g * stride, a.v_columns)
            last = min((split + 1) * split_pages, (length + 63) // 64)
            for p in range(split * split_pages, last):
                page = peek_i64(table + 8 * p)
                tokens = min(64, length - 64 * p)
                k = a.k_pool + head * a.k_head + page * a.k_page
                for t in range(4):
                    if t * 16 < tokens:
                        s = tile_dot(k_type, group, k + t * a.k_tile, a.k_columns, q, a.q_bytes, meta, a.meta_bytes)
                        s = first_lanes(tokens - t * 16, s, splat(_LOWEST))
                        store_rows(scores + 64 * t, 256, s)
                    else:
                        store_rows(scores + 64 * t, 256, zeros_f32(group) + _LOWEST)
                for g in range(group):
                    _soften(scores + g * 256, sums + g * stride, a.v_columns)
                v = a.v_pool + head * a.v_head + page * a.v_page
                # While the sums keep the core busy, the next page is fetched: the hardware cannot guess where it is.
                follower = peek_i64(table + 8 * min(p + 1, last - 1))
                k_next = a.k_pool + head * a.k_head + follower * a.k_page
                v_next = a.v_pool + head * a.v_head + follower * a.v_page
                for b in range(a.v_columns // 32):
                    use = scores
                    if scaled:
                        use = weights
                        for t in range(4):
                            d = load_f16(v + b * 128 + t * 32)
                            store_rows(weights + 64 * t, 256, load_rows(scores + 64 * t, 256, group) * d)
                    o = sums + 128 * b
                    low, high = load_rows(o, stride, group), load_rows(o + 64, stride, group)
                    numbers = v + a.v_scales + b * (a.v_row // (a.v_columns // 32))
                    for t in range(tokens):
                        prefetch(k_next + t * k_step)
                        prefetch(v_next + t * v_step)
                        first, second = load_v(v_type, numbers + t * a.v_row)
                        w = splat_floats(use + 4 * t, 256, group)
                        low, high = fma(w, first, low), fma(w, second, high)
                    k_next, v_next = k_next + 64 * k_step, v_next + 64 * v_step
                    store_rows(o, stride, low)
                    store_rows(o + 64, stride, high)

    return attend_one


@cache
def attend_many(k_type: str, v_type: str) -> Kernel:
    """The kernel for spans of many rows, a group of query vectors at a time. Items: spans x KV heads x row blocks.

    A block past its span's rows is empty. There is one split.
    """
    n = many(k_type)

    @kernel(ATTEND, f"attend_many_{k_type}_{v_type}")
    def attend_many(a, begin, end, thread):
        size = (a.v_columns + TAIL) * 4
        block_rows = max(1, BLOCK // a.group)
        scores = a.scratch + thread * a.scratch_bytes
        values = scores + (block_rows * a.group + MANY) * 256
        amx.configure()
        state = values + 64 * a.v_columns * 4
        blocks = peek_i64(a.blocks)
        for item in range(begin, end):
            rest, block = divmod(item, blocks)
            at, head = divmod(rest, a.kv_heads)
            first, rows = peek_i64(a.spans + 32 * at), peek_i64(a.spans + 32 * at + 8)
            position, table = peek_i64(a.spans + 32 * at + 16), peek_i64(a.spans + 32 * at + 24)
            rows = min(block_rows, rows - block * block_rows)
            first, position = first + block * block_rows, position + block * block_rows
            vectors = rows * a.group
            q = a.q + (head * a.max_rows + first) * a.group * a.q_bytes
            meta = a.meta + (head * a.max_rows + first) * a.group * a.meta_bytes
            for i in range(vectors + 7):  # the sums are taken in groups of 8
                _start(state + i * size, a.v_columns)
            for p in range((position + rows + 63) // 64 if rows > 0 else 0):
                page = peek_i64(table + 8 * p)
                k = a.k_pool + head * a.k_head + page * a.k_page
                for i in range(0, vectors, n):
                    for t in range(4):
                        x, m = q + i * a.q_bytes, meta + i * a.meta_bytes
                        s = tile_dot(k_type, n, k + t * a.k_tile, a.k_columns, x, a.q_bytes, m, a.meta_bytes)
                        store_rows(scores + i * 256 + 64 * t, 256, s)
                for i in range(vectors):
                    seen = position + i // a.group + 1 - 64 * p
                    if seen < 64:
                        _hide(scores + i * 256, seen)
                    _soften(scores + i * 256, state + i * size, a.v_columns)
                v = a.v_pool + head * a.v_head + page * a.v_page
                tokens = min(64, position + rows - 64 * p)
                unpack_v(v_type, v, tokens, a.v_columns, values)
                for i in range(0, vectors, 8):
                    _add_values(scores + i * 256, values, tokens, a.v_columns, state + i * size, size)
            for i in range(vectors):
                row, g = divmod(i, a.group)
                out = a.sums + (((first + row) * a.kv_heads + head) * a.group + g) * size
                for j in range(0, a.v_columns + TAIL, 16):
                    store_f32(out + 4 * j, load_f32(state + i * size + 4 * j))

    return attend_many


def scratch_bytes(group: int, v_columns: int) -> int:
    """Scratch memory that a thread needs for either kernel."""
    vectors = max(BLOCK, group) + MANY
    return vectors * 256 + 256 * v_columns + vectors * (v_columns + TAIL) * 4 + 512 * group


COMBINE = record(sums="ptr", splits="ptr", heads="int", v_dim="int", v_columns="int", v_rotation="int",
                 y="ptr", q="ptr", meta="ptr")  # fmt: skip


@kernel(COMBINE)
def combine(a, begin, end, thread):
    """Items are rows: the parts of each head put together and normalized, [heads * v_dim] float32 and int8 blocks.

    v_rotation: values in the blocks that V is rotated in (see hadamard.py), undone here; 0: it is not.
    """
    splits, size, n = peek_i64(a.splits), (a.v_columns + TAIL) * 4, a.heads * a.v_dim
    for row in range(begin, end):
        y = a.y + row * n * 4
        for head in range(a.heads):
            part = a.sums + (row * a.heads + head) * splits * size
            tail = part + 4 * a.v_columns
            top = load_f32(tail)
            for s in range(1, splits):
                top = maximum(top, load_f32(tail + s * size))
            total = splat(0.0)
            for s in range(splits):
                factor = exp(load_f32(tail + s * size) - top)
                total = fma(factor, load_f32(tail + s * size + 64), total)
                store_f32(tail + s * size, factor)
            share = splat(np.float32(1) / sum_lanes(total))
            out = y + head * a.v_dim * 4
            for i in range(0, a.v_dim, 16):
                value = splat(0.0)
                for s in range(splits):
                    value = fma(load_f32(tail + s * size), load_f32(part + s * size + 4 * i), value)
                store_first(out + 4 * i, value * share, a.v_dim - i)
            if a.v_rotation:
                hadamard(out, a.v_dim, a.v_rotation)
        quantize_row(y, n, a.q + row * n, a.meta + row * (n // 2))
