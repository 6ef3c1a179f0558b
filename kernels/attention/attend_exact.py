"""Attention of float32 queries with K as it is stored: a page is decoded once for a block of rows, in any step."""

from __future__ import annotations

from functools import cache

from ..formats.floats import floats_of
from ..lang.jit import Kernel, kernel
from ..lang.memory import peek_i64, store_rows
from ..ops.exact import ROWS, pair_dot
from ..ops.tile_dot import MANY
from ..pages import TILES
from ..shapes import PAGE, PART
from . import softmax
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
from .values import add_floats, load_floats


def scratch_bytes(group: int, k_columns: int, v_columns: int) -> int:
    """Return the bytes of scratch memory that a thread needs."""
    return softmax.scratch_bytes(group, v_columns) + PAGE * k_columns * 4


@cache
def attend_exact(k_type: str, v_type: str) -> Kernel:
    """Return the kernel for blocks of rows, in decode too; a job is a block. Sums are those of prefill.py, to the bit,
    but for the scores. Where a job has parts, all its rows see the whole pages before the first row's position."""
    n = ROWS

    @kernel(ATTEND, f"attend_exact_{k_type}_{v_type}")
    def attend_exact(a, begin, end, thread):
        size, k_floats = (a.v_columns + TAIL) * 4, a.k_columns * 64
        keys = a.scratch + thread * a.scratch_bytes
        scores = keys + TILES * k_floats
        for item in range(begin, end):
            job, head, row, rows, position, table = row_block(a, item)
            vectors, part, parts = rows * a.group, peek_i64(job + JOB_PART), peek_i64(job + JOB_PARTS)
            q = a.q + (head * a.max_rows + row) * a.group * a.q_bytes
            room = scores + (vectors + MANY) * SCORE_ROW
            values = room + EACH * SCORE_ROW
            state = values + PAGE * a.v_columns * 4
            first = max(0, position + 1 - a.window)  # token that a row sees
            begin_page, last = first // PAGE, (position + rows - 1) // PAGE
            if parts > 0:
                begin_page, last = part * PART, min((part + parts) * PART, (position + 1) // PAGE) - 1
                position = PAGE * (last + 1)
            for p in range(begin_page, last + 1):
                if p % PART == 0 or p == begin_page:
                    for i in range(vectors + EACH - 1):  # the sums are taken in groups of EACH
                        start(state + i * size, a.v_columns)
                page = peek_i64(table + 8 * p)
                k, v = a.k_pool + head * a.k_head + page * a.k_page, a.v_pool + head * a.v_head + page * a.v_page
                seen = position + 1 - PAGE * p  # tokens of the page and after it, by the first row
                for t in range(0, TILES, 2):  # scores of all vectors with 32 tokens
                    at, to = k + t * a.k_tile, keys + t * k_floats
                    left_k = floats_of(k_type, at, a.k_columns, 0, a.k_columns, to)
                    right_k = floats_of(k_type, at + a.k_tile, a.k_columns, 0, a.k_columns, to + k_floats)
                    for i in range(0, vectors, n):
                        left, right = pair_dot(n, left_k, right_k, a.k_columns, q + i * a.q_bytes, a.q_bytes)
                        store_rows(scores + i * SCORE_ROW + 64 * t, SCORE_ROW, left)
                        store_rows(scores + i * SCORE_ROW + 64 * t + 64, SCORE_ROW, right)
                for i in range(vectors if a.upto >= WEIGHTS else 0):
                    weigh(a, scores + i * SCORE_ROW, seen + i // a.group, state + i * size)
                if a.upto >= SUMS:
                    tokens = min(PAGE, seen + rows - 1)
                    load_floats(v_type, a, v, tokens, values)
                    for i in range(0, vectors, EACH):
                        weights, sums = scores + i * SCORE_ROW, state + i * size
                        add_floats(v_type, EACH, True, a, v, values, seen, i, tokens, weights, room, sums, size, 0, 0)
                if (p + 1) % PART == 0 or p == last:
                    if parts > 0:
                        leave(a, head, row, vectors, state, p // PART, False)
                    else:
                        leave(a, head, row, vectors, state, 0, p // PART > begin_page // PART)

    return attend_exact
