"""Attention of single query rows, in decode: all query heads of a group share one read of K and V."""

from __future__ import annotations

from functools import cache

from ..formats.tiles import ROWS
from ..lang.buffers import LINE
from ..lang.jit import Kernel, inline, kernel
from ..lang.memory import peek_i64, prefetch, store_rows
from ..ops.tile_dot import tile_dot
from ..shapes import PAGE, PART
from .softmax import (
    ATTEND,
    JOB_BYTES,
    JOB_PART,
    JOB_PARTS,
    JOB_SPAN,
    SCORE_ROW,
    SPAN_BYTES,
    SPAN_POSITION,
    SPAN_ROW,
    SUMS,
    TAIL,
    WEIGHTS,
    start,
    sums_of,
    weigh,
)
from .values import add_page, as_integers, load_page


@inline
def fetch(tile, nbytes):
    """Prefetch a tile."""
    for i in range(0, nbytes, LINE):
        prefetch(tile + i)


@cache
def attend_one(k_type: str, v_type: str, group: int) -> Kernel:
    """Return the kernel for spans of one row and `group` query heads per KV head; a job is some parts of its tokens."""
    integers = as_integers(v_type)

    @kernel(ATTEND, f"attend_one_{k_type}_{v_type}_x{group}")
    def attend_one(a, begin, end, thread):
        scores = a.scratch + thread * a.scratch_bytes
        room, stride = scores + group * SCORE_ROW, (a.v_columns + TAIL) * 4
        for item in range(begin, end):
            head, at = divmod(item, peek_i64(a.n_jobs))
            job = a.jobs + JOB_BYTES * at
            span = a.spans + SPAN_BYTES * peek_i64(job + JOB_SPAN)
            row, length, table = peek_i64(span + SPAN_ROW), peek_i64(span + SPAN_POSITION) + 1, peek_i64(span + a.table)
            first = max(0, length - a.window)
            vector = (head * a.max_rows + row) * group
            q, meta = a.q + vector * a.q_bytes, a.meta + vector * a.meta_bytes
            k_pool, v_pool = a.k_pool + head * a.k_head, a.v_pool + head * a.v_head
            part, parts = peek_i64(job + JOB_PART), peek_i64(job + JOB_PARTS)
            page = max(first // PAGE, part * PART)
            last = min((part + parts) * PART, (length + PAGE - 1) // PAGE)
            sums = sums_of(a, row, head) + (page // PART - first // PAGE // PART) * a.kv_heads * group * stride
            for p in range(page, last):
                if p % PART == 0 and p > page:
                    sums += a.kv_heads * group * stride
                if p % PART == 0 or p == page:
                    for g in range(group):
                        start(sums + g * stride, a.v_columns)
                k = k_pool + peek_i64(table + 8 * p) * a.k_page
                v = v_pool + peek_i64(table + 8 * p) * a.v_page
                follower = peek_i64(table + 8 * min(p + 1, last - 1))
                k_next, v_next = k_pool + follower * a.k_page, v_pool + follower * a.v_page
                seen = length - PAGE * p  # tokens of the page and after it
                hidden, tokens = max(0, first - PAGE * p), min(PAGE, seen)
                for t in range(hidden // ROWS, (tokens + ROWS - 1) // ROWS):  # scores of 16 tokens
                    if integers or a.upto < SUMS:  # otherwise `add_page` does it
                        fetch(k_next + t * a.k_tile, a.k_tile)
                    s = tile_dot(k_type, group, 0, k + t * a.k_tile, a.k_columns, q, a.q_bytes, meta, a.meta_bytes)
                    store_rows(scores + 64 * t, SCORE_ROW, s)
                for g in range(group if a.upto >= WEIGHTS else 0):
                    weigh(a, scores + g * SCORE_ROW, seen, sums + g * stride)
                if a.upto >= SUMS:
                    numbers = v + a.v_scales
                    if integers:
                        numbers = room + group * a.v_columns // 32 * SCORE_ROW
                        load_page(v_type, a, v, tokens, numbers)
                    add_page(v_type, group, False, a, v, numbers, seen, 0, tokens, scores, room, sums, stride, k_next,
                             v_next)  # fmt: skip

    return attend_one
