"""Attention of many query rows: a block of them goes through the pages together, and each page is decoded once.

In prefill the rows follow each other in one sequence. In decode they are of sequences that share a prefix.
"""

from __future__ import annotations

from functools import cache

from ..lang.jit import Kernel, kernel
from ..lang.memory import peek_i64, store_rows
from ..ops.tile_dot import MANY, tile_dot
from ..pages import TILES
from ..shapes import PAGE, PART
from .softmax import (
    ATTEND,
    EACH,
    JOB_PART,
    JOB_PARTS,
    SCORE_ROW,
    SUMS,
    TAIL,
    WEIGHTS,
    leave,
    row_block,
    start,
    weigh,
)
from .values import add_page, load_page


@cache
def attend_many(k_type: str, v_type: str) -> Kernel:
    """Return the kernel for blocks of rows, a few query vectors at a time; a job is a block."""
    n = MANY

    @kernel(ATTEND, f"attend_many_{k_type}_{v_type}")
    def attend_many(a, begin, end, thread):
        size = (a.v_columns + TAIL) * 4
        for item in range(begin, end):
            job, head, row, rows, position, table = row_block(a, item)
            vectors, part, parts = rows * a.group, peek_i64(job + JOB_PART), peek_i64(job + JOB_PARTS)
            if parts > 0:  # a shared prefix, which lies before all rows
                position = PAGE * PART * (part + parts)
            q = a.q + (head * a.max_rows + row) * a.group * a.q_bytes
            meta = a.meta + (head * a.max_rows + row) * a.group * a.meta_bytes
            scores = a.scratch + thread * a.scratch_bytes
            room = scores + (vectors + MANY) * SCORE_ROW
            values = room + EACH * a.v_columns // 32 * SCORE_ROW
            state = values + PAGE * a.v_columns * 4
            first = max(0, position + 1 - a.window)  # token that a row sees
            begin_page = max(first // PAGE, part * PART)
            last = (part + parts) * PART - 1 if parts > 0 else (position + rows - 1) // PAGE
            for p in range(begin_page, last + 1):
                if p % PART == 0 or p == begin_page:
                    for i in range(vectors + EACH - 1):  # the sums are taken in groups of EACH
                        start(state + i * size, a.v_columns)
                page = peek_i64(table + 8 * p)
                k, v = a.k_pool + head * a.k_head + page * a.k_page, a.v_pool + head * a.v_head + page * a.v_page
                seen = position + 1 - PAGE * p  # tokens of the page and after it, by the first row
                for i in range(0, vectors, n):
                    for t in range(TILES):  # scores of n vectors with 16 tokens
                        x, m = q + i * a.q_bytes, meta + i * a.meta_bytes
                        s = tile_dot(k_type, n, 0, k + t * a.k_tile, a.k_columns, x, a.q_bytes, m, a.meta_bytes)
                        store_rows(scores + i * SCORE_ROW + 64 * t, SCORE_ROW, s)
                for i in range(vectors if a.upto >= WEIGHTS else 0):
                    weigh(a, scores + i * SCORE_ROW, seen + i // a.group, state + i * size)
                if a.upto >= SUMS:
                    tokens = min(PAGE, seen + rows - 1)
                    load_page(v_type, a, v, tokens, values)
                    for i in range(0, vectors, EACH):
                        weights, sums = scores + i * SCORE_ROW, state + i * size
                        add_page(v_type, EACH, True, a, v, values, seen, i, tokens, weights, room, sums, size, 0, 0)
                if (p + 1) % PART == 0 or p == last:
                    if parts > 0:
                        leave(a, head, row, vectors, state, p // PART, False)
                    else:
                        leave(a, head, row, vectors, state, 0, p // PART > begin_page // PART)

    return attend_many
