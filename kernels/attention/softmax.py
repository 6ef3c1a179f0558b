"""Attention over the paged cache: softmax(Q K') V with an online softmax, a page of 64 tokens at a time.

Three kernels share the steps that are here: that of attend_one.py for single query rows (decode; tokens split between
threads, one read of K and V for all query heads of a group) and, for prefill, those of attend_many.py and
attend_wide.py (blocks of rows; V decoded once per block). All leave unnormalized sums with their maxima, which
`combine` puts together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..lang.jit import inline, kernel, record
from ..lang.memory import load_f32, peek_f32, peek_i64, store_f32, store_first
from ..lang.simd import any_above, exp, first_lanes, fma, max_lanes, maximum, splat, sum_lanes
from ..ops.activations import hand_over, soft_cap
from ..ops.hadamard import hadamard
from ..ops.tile_dot import MANY
from ..shapes import MAX_TABLES, PAGE

BLOCK = 96
"""Query vectors (rows x heads of a group) that `attend_many` takes through the pages together, at most; or one row."""

TAIL = 32
"""float32 behind a head's sums: the maximum, 16 times, and the sum of weights in 16 parts."""

TABLES = 3
SPAN = TABLES + MAX_TABLES
"""int64 per span in the step: first row, rows, position of the first row, and from TABLES on the addresses of its page
tables, one for each kind of layer."""

SPAN_BYTES = 8 * SPAN


def table_at(kind: int) -> int:
    """Return the bytes of a span record before the page table of a kind of layers."""
    return 8 * (TABLES + kind)


ATTEND = record(
    spans="ptr", table="int", splits="ptr", split_pages="ptr", blocks="ptr", window="int", softcap="float",
    q="ptr", meta="ptr", q_bytes="int", meta_bytes="int", max_rows="int",
    k_pool="ptr", v_pool="ptr", k_head="int", v_head="int", k_page="int", v_page="int", k_tile="int", v_scales="int",
    v_row="int", k_step="int", v_step="int", kv_heads="int", group="int", k_columns="int", v_columns="int",
    sums="ptr", scratch="ptr", scratch_bytes="int", upto="int",
)  # fmt: skip
"""spans: SPAN records. table: `table_at`. splits, split_pages: addresses of the number of parts that the
tokens are split in, and of the pages of a part, counted from the first that is seen. blocks: address of the number of
row blocks in prefill. window: a row sees so many tokens, itself the last; ALL sees every one. softcap: of the
scores, or 0. q: vectors of q_bytes, [KV head][max_rows][group]. k_step, v_step: as `fetch_steps`. sums:
[row][head][split] of v_columns + TAIL float32: the weighted sum of V, and what TAIL tells. upto: SCORES, WEIGHTS or
SUMS."""

SCORES, WEIGHTS, SUMS = 1, 2, 3
"""How far attention goes: Q K' only, its softmax too, or all of it. Less than all is for who asks what a part takes."""

ALL = (1 << 31) - 1
"""A window that no sequence leaves."""

_LOWEST = -1e30
"""Below every score, so that a hidden one (-inf) weighs nothing even where no other was seen yet."""


def block_rows(group: int) -> int:
    """Rows of a block of `attend_many`."""
    return max(1, BLOCK // group)


def fetch_steps(k_page: int, v_page: int, v_columns: int) -> dict[str, Any]:
    """What of the next page is fetched at a time, so that all of it is when this page's sums are done."""
    times = PAGE * v_columns // 32
    return {"k_step": k_page // times, "v_step": v_page // times}


@inline
def start(state, columns):
    """An empty sum: zeros, the lowest maximum, no weight."""
    for i in range(0, columns, 16):
        store_f32(state + 4 * i, splat(0.0))
    store_f32(state + 4 * columns, splat(_LOWEST))
    store_f32(state + 4 * columns + 64, splat(0.0))


@inline
def soften(scores, state, columns):
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
def cap_scores(scores, cap):
    """Soft cap of 64 scores."""
    for t in range(0, 256, 64):
        store_f32(scores + t, soft_cap(load_f32(scores + t), cap))


@inline
def hide(scores, first, end):
    """Of 64 scores only those of the tokens from `first` to before `end` stay; the others become -inf."""
    for t in range(0, 64, 16):
        seen = first_lanes(end - t, load_f32(scores + 4 * t), splat(-np.inf))
        store_f32(scores + 4 * t, first_lanes(first - t, splat(-np.inf), seen))


@inline
def weigh(a, scores, seen, state):
    """64 scores of a page to weights, of a row that sees `seen` tokens from the page's first on."""
    if a.softcap != 0:
        cap_scores(scores, a.softcap)
    if seen < 64 or seen > a.window:
        hide(scores, seen - a.window, seen)
    soften(scores, state, a.v_columns)


@inline
def rows_of_block(a):
    """`block_rows`, in a kernel."""
    return max(1, BLOCK // a.group)


@inline
def row_block(a, item):
    """What an item of many rows is: KV head, first row, how many (none past the span's), position, page table."""
    rest, block = divmod(item, peek_i64(a.blocks))
    at, head = divmod(rest, a.kv_heads)
    span, before = a.spans + SPAN_BYTES * at, block * rows_of_block(a)
    rows = max(0, min(rows_of_block(a), peek_i64(span + 8) - before))
    return head, peek_i64(span) + before, rows, peek_i64(span + 16) + before, peek_i64(span + a.table)


@inline
def leave(a, head, row, vectors, state):
    """The sums of a block's query vectors, in the one split that there is."""
    size = (a.v_columns + TAIL) * 4
    for i in range(vectors):
        in_block, g = divmod(i, a.group)
        out = a.sums + (((row + in_block) * a.kv_heads + head) * a.group + g) * size
        for j in range(0, size, 64):
            store_f32(out + j, load_f32(state + i * size + j))


def scratch_bytes(group: int, v_columns: int) -> int:
    """Scratch memory that a thread needs for either kernel."""
    vectors = max(BLOCK, group) + MANY
    return vectors * 256 + 256 * v_columns + vectors * (v_columns + TAIL) * 4 + 512 * group


COMBINE = record(sums="ptr", splits="ptr", heads="int", v_dim="int", v_columns="int", v_rotation="int", sinks="ptr",
                 y="ptr", q="ptr", meta="ptr", half="ptr")  # fmt: skip


@kernel(COMBINE)
def combine(a, begin, end, thread):
    """Items are rows: the parts of each head put together and normalized, [heads * v_dim] float32 and int8 blocks.

    sinks: a score of each head that weighs without a value, float32, or 0. v_rotation: values in the blocks that V is
    rotated in (see hadamard.py), undone here; 0: it is not.
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
            if a.sinks != 0:
                sink = splat(peek_f32(a.sinks + 4 * head))
                top = maximum(top, sink)
                total = first_lanes(1, exp(sink - top), total)
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
        hand_over(a.y, row, 0, n, n, a.q, a.meta, a.half)
