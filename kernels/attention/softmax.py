"""Attention over the paged cache: softmax(Q K') V with an online softmax, a page at a time.

Three kernels share the steps that are here. decode.py has the one for single query rows: the tokens are split between
threads, and all query heads of a group share one read of K and V. prefill.py and prefill_amx.py have those for blocks
of rows, which decode V once per block. All of them leave unnormalized sums with their maxima; combine.py finishes them.

Decode and prefill take the same sums in the same order, to the bit: each part of the tokens (see PART) on its own, from
its first token to its last, and then the parts one after the other (`merge`). On the matrix unit sums differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..lang.buffers import offsets
from ..lang.jit import inline, record
from ..lang.memory import load_f32, peek_i64, store_f32
from ..lang.simd import any_above, exp, first_lanes, fma, max_lanes, maximum, splat
from ..ops.activations import soft_cap
from ..ops.tile_dot import MANY
from ..shapes import MAX_TABLES, PAGE

BLOCK = 96
"""Query vectors (rows x heads of a group) that go through the pages together in prefill, at most; or one row."""

EACH = 8
"""Query vectors whose sums are taken at once in prefill."""

SCORE_ROW = 4 * PAGE
"""Bytes of a query vector's scores of a page, and of the weights that they become."""

_TAIL = np.dtype([("top", "<f4", 16), ("weight", "<f4", 16)])
TAIL_TOP, TAIL_WEIGHT = offsets(_TAIL)
TAIL = _TAIL.itemsize // 4
"""float32 after a head's sums: the maximum, 16 times, and the sum of weights in 16 parts."""

SPAN = np.dtype([("row", "<i8"), ("rows", "<i8"), ("position", "<i8"), ("tables", "<i8", MAX_TABLES)])
"""Consecutive tokens of a sequence in the step: the first row, the number of rows, the position of the first, and the
addresses of the sequence's page tables, one for each kind of layer."""
SPAN_ROW, SPAN_ROWS, SPAN_POSITION, SPAN_TABLES = offsets(SPAN)
SPAN_BYTES = SPAN.itemsize


JOB = np.dtype([("span", "<i8"), ("row", "<i8"), ("rows", "<i8"), ("part", "<i8"), ("parts", "<i8")])
"""What a thread does at once for one KV head: of a span the rows from `row` on, over some parts of the tokens (see
PART). Where these parts are a prefix that several decode rows share, the rows are those of the spans from `span` on.
parts 0: in prefill, all parts that the rows see."""
JOB_SPAN, JOB_ROW, JOB_ROWS, JOB_PART, JOB_PARTS = offsets(JOB)
JOB_BYTES = JOB.itemsize


def table_at(kind: int) -> int:
    """Return the bytes of a span before the address of its page table for a kind of layers."""
    return SPAN_TABLES + 8 * kind


ATTEND = record(
    spans="ptr", table="int", jobs="ptr", n_jobs="ptr", window="int", softcap="float",
    q="ptr", meta="ptr", q_bytes="int", meta_bytes="int", max_rows="int",
    k_pool="ptr", v_pool="ptr", k_head="int", v_head="int", k_page="int", v_page="int", k_tile="int", v_scales="int",
    v_row="int", k_step="int", v_step="int", kv_heads="int", group="int", k_columns="int", v_columns="int",
    sums="ptr", sums_at="ptr", scratch="ptr", scratch_bytes="int", upto="int",
)  # fmt: skip
"""spans: SPAN records. table: see `table_at`. jobs: JOB records, n_jobs: address of their number; a kernel's items are
KV heads x jobs. window: the number of tokens that a row sees, itself the last, or ALL. softcap: of the scores, or 0.
q: vectors of q_bytes, [KV head][max_rows][group]. k_step, v_step: see `fetch_steps`. sums: [place][head] of v_columns +
TAIL float32: the weighted sum of V, then the tail. sums_at: int64 for each row, the place of its first part; those of
its other parts follow. In prefill a row has one place. upto: SCORES, WEIGHTS or SUMS."""

SCORES, WEIGHTS, SUMS = 1, 2, 3
"""How far attention goes: Q K' only, its softmax too, or all of it. A profile measures the parts with it."""

ALL = (1 << 31) - 1
"""A window larger than any sequence."""

_LOWEST = -1e30
"""Below every score, so that a hidden score (-inf) has no weight even before any other was seen."""


def block_rows(group: int) -> int:
    """Return the rows of a block in prefill."""
    return max(1, BLOCK // group)


def fetch_steps(k_page: int, v_page: int, v_columns: int) -> dict[str, Any]:
    """Return the bytes of the next page to prefetch at a time, so that all of it is there when this page is done."""
    times = PAGE * v_columns // 32
    return {"k_step": k_page // times, "v_step": v_page // times}


@inline
def start(state, columns):
    """Set sums to zero, the maximum to the lowest and the weight to none."""
    for i in range(0, columns, 16):
        store_f32(state + 4 * i, splat(0.0))
    tail = state + 4 * columns
    store_f32(tail + TAIL_TOP, splat(_LOWEST))
    store_f32(tail + TAIL_WEIGHT, splat(0.0))


@inline
def merge(state, part, columns):
    """Add the sums of a later part to those of the parts before it, relative to the larger maximum."""
    tail, other = state + 4 * columns, part + 4 * columns
    top, new = load_f32(tail + TAIL_TOP), load_f32(other + TAIL_TOP)
    highest = maximum(top, new)
    mine, its = exp(top - highest), exp(new - highest)
    for i in range(0, columns, 16):
        store_f32(state + 4 * i, fma(load_f32(part + 4 * i), its, load_f32(state + 4 * i) * mine))
    weight = fma(load_f32(other + TAIL_WEIGHT), its, load_f32(tail + TAIL_WEIGHT) * mine)
    store_f32(tail + TAIL_TOP, highest)
    store_f32(tail + TAIL_WEIGHT, weight)


@inline
def soften(scores, state, columns):
    """Turn the scores of a page into weights relative to the running maximum; if that grows, scale the earlier sums."""
    a, b, c, d = load_f32(scores), load_f32(scores + 64), load_f32(scores + 128), load_f32(scores + 192)
    tail = state + 4 * columns
    top, weight = load_f32(tail + TAIL_TOP), load_f32(tail + TAIL_WEIGHT)
    highest = maximum(maximum(a, b), maximum(c, d))
    if any_above(highest, top):
        new = splat(max_lanes(maximum(highest, top)))
        factor = exp(top - new)
        weight, top = weight * factor, new
        store_f32(tail + TAIL_TOP, top)
        for i in range(0, columns, 16):  # sums *= e^(old maximum - new maximum)
            store_f32(state + 4 * i, load_f32(state + 4 * i) * factor)
    a, b, c, d = exp(a - top), exp(b - top), exp(c - top), exp(d - top)
    store_f32(scores, a)
    store_f32(scores + 64, b)
    store_f32(scores + 128, c)
    store_f32(scores + 192, d)
    store_f32(tail + TAIL_WEIGHT, weight + ((a + b) + (c + d)))


@inline
def cap_scores(scores, cap):
    """Apply the soft cap to the scores of a page."""
    for t in range(0, SCORE_ROW, 64):
        store_f32(scores + t, soft_cap(load_f32(scores + t), cap))


@inline
def hide(scores, first, end):
    """Set the scores of a page to -inf but for those of the tokens `first` to `end` - 1."""
    for t in range(0, PAGE, 16):
        seen = first_lanes(end - t, load_f32(scores + 4 * t), splat(-np.inf))
        store_f32(scores + 4 * t, first_lanes(first - t, splat(-np.inf), seen))


@inline
def weigh(a, scores, seen, state):
    """Turn the scores of a page into weights, for a row that sees `seen` tokens from the page's first on."""
    if a.softcap != 0:
        cap_scores(scores, a.softcap)
    if seen < PAGE or seen > a.window:
        hide(scores, max(0, seen - a.window), seen)
    soften(scores, state, a.v_columns)


@inline
def sums_of(a, row, head):
    """Return the address of a row's sums for the first query head of a KV head, in the row's first part."""
    return a.sums + (peek_i64(a.sums_at + 8 * row) * a.kv_heads + head) * a.group * (a.v_columns + TAIL) * 4


@inline
def row_block(a, item):
    """Return an item over a block of rows: its job, KV head, first row, number of rows, position and page table."""
    head, at = divmod(item, peek_i64(a.n_jobs))
    job = a.jobs + JOB_BYTES * at
    span, begin = a.spans + SPAN_BYTES * peek_i64(job + JOB_SPAN), peek_i64(job + JOB_ROW)
    row, position = peek_i64(span + SPAN_ROW) + begin, peek_i64(span + SPAN_POSITION) + begin
    return job, head, row, peek_i64(job + JOB_ROWS), position, peek_i64(span + a.table)


@inline
def leave(a, head, row, vectors, state, place, later):
    """Copy the sums of a block's query vectors to a.sums, or add those of a later part to what is there.

    place: counted from the first of each row.
    """
    size = (a.v_columns + TAIL) * 4
    for i in range(vectors):
        in_block, g = divmod(i, a.group)
        out = sums_of(a, row + in_block, head) + (place * a.kv_heads * a.group + g) * size
        if later:
            merge(out, state + i * size, a.v_columns)
        else:
            for j in range(0, size, 64):
                store_f32(out + j, load_f32(state + i * size + j))


def scratch_bytes(group: int, v_columns: int) -> int:
    """Return the bytes of scratch memory that a thread needs in decode.py and prefill.py."""
    vectors = max(BLOCK, group) + MANY
    return (vectors + v_columns + max(group, EACH) * v_columns // 32) * SCORE_ROW + vectors * (v_columns + TAIL) * 4
