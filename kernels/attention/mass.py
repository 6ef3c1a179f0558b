"""How much attention each token draws: its weights in softmax, summed over the rows of a step; changes no output."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..formats.floats import floats_of
from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import load_f32, peek_i64, store_f32, store_rows
from ..lang.simd import exp, splat, sum_lanes
from ..ops.exact import ROWS, pair_dot
from ..pages import TILES
from ..shapes import PAGE
from .softmax import (
    SCORE_ROW,
    SPAN_BYTES,
    SPAN_POSITION,
    TAIL,
    TAIL_TOP,
    TAIL_WEIGHT,
    cap_scores,
    hide,
    sums_of,
)

MASS = record(
    spans="ptr", table="int", rows="ptr", softcap="float", q="ptr", q_bytes="int", max_rows="int",
    k_pool="ptr", k_head="int", k_page="int", k_tile="int", kv_heads="int", group="int", k_columns="int",
    v_columns="int", sums="ptr", sums_at="ptr", mass="ptr", mass_head="int", scratch="ptr", scratch_bytes="int",
)  # fmt: skip
"""spans: a SPAN record for each row of the step. rows: address of their number. q: float32, as in ATTEND. sums: as
combine.py leaves them, with the maximum and the sum of weights of all that a row sees in its first place. mass: float32
[KV head][page][PAGE], mass_head bytes a head."""


def scratch_bytes(k_columns: int) -> int:
    """Return the bytes of scratch memory that a thread needs: a page of K as float32, and scores of some vectors."""
    return PAGE * k_columns * 4 + ROWS * SCORE_ROW


SLICES = 4
"""Items of a KV head; each takes every fourth page of a sequence, as there are few heads."""


@inline
def _together(a, row):
    """Return how many rows from `row` on are of one sequence and see the same pages, and the table of these."""
    first = a.spans + SPAN_BYTES * row
    table, n = peek_i64(first + a.table), 1
    while row + n < peek_i64(a.rows) and peek_i64(first + SPAN_BYTES * n + a.table) == table:
        n += 1
    return n, table


@inline
def _add_row(a, head, row, g, page, scores, mass):
    """Add the weights of a query vector to the sums of the tokens of the sequence's page `page`, 64 numbers each."""
    seen = peek_i64(a.spans + SPAN_BYTES * row + SPAN_POSITION) + 1 - PAGE * page
    if a.softcap != 0:
        cap_scores(scores, a.softcap)
    if seen < PAGE:
        hide(scores, 0, seen)
    tail = sums_of(a, row, head) + (g * (a.v_columns + TAIL) + a.v_columns) * 4
    top, share = load_f32(tail + TAIL_TOP), splat(np.float32(1) / sum_lanes(load_f32(tail + TAIL_WEIGHT)))
    for t in range(0, SCORE_ROW, 64):  # mass += e^(score - maximum) / sum of weights
        store_f32(mass + t, load_f32(mass + t) + exp(load_f32(scores + t) - top) * share)


@inline
def _add_page(n, a, head, row, vectors, page, keys, scores, mass):
    """Add the weights of `vectors` query vectors from `row` on, `n` (a constant) together, to those of a page."""
    q = a.q + (head * a.max_rows + row) * a.group * a.q_bytes
    for i in range(0, vectors, n):
        for t in range(0, TILES, 2):  # scores of some vectors with 32 tokens
            at = keys + t * a.k_columns * 64
            left, right = pair_dot(n, at, at + a.k_columns * 64, a.k_columns, q + i * a.q_bytes, a.q_bytes)
            store_rows(scores + 64 * t, SCORE_ROW, left)
            store_rows(scores + 64 * t + 64, SCORE_ROW, right)
        for j in range(i, min(i + n, vectors)):
            _add_row(a, head, row + j // a.group, j % a.group, page, scores + (j - i) * SCORE_ROW, mass)


@cache
def add_mass(k_type: str, group: int) -> Kernel:
    """Return the kernel that adds the weights of a step's rows to those of the tokens; items: KV heads x SLICES.

    They are added row by row, so a sum does not depend on how rows were cut into steps.
    """
    few = min(group, ROWS)

    @kernel(MASS, f"add_mass_{k_type}_{group}")
    def add_mass(a, begin, end, thread):
        room, k_floats = a.scratch + thread * a.scratch_bytes, a.k_columns * 64
        scores = room + TILES * k_floats
        for item in range(begin, end):
            head, slice, row = item // SLICES, item % SLICES, 0
            while row < peek_i64(a.rows):
                rows, table = _together(a, row)
                last = peek_i64(a.spans + SPAN_BYTES * (row + rows - 1) + SPAN_POSITION)
                for p in range(slice, (last + PAGE) // PAGE, SLICES):
                    page = peek_i64(table + 8 * p)
                    k, mass = a.k_pool + head * a.k_head + page * a.k_page, a.mass + head * a.mass_head
                    keys = floats_of(k_type, k, a.k_columns, 0, a.k_columns, room)
                    for t in range(1, TILES):
                        floats_of(k_type, k + t * a.k_tile, a.k_columns, 0, a.k_columns, room + t * k_floats)
                    if rows == 1:
                        _add_page(few, a, head, row, a.group, p, keys, scores, mass + page * SCORE_ROW)
                    else:
                        _add_page(ROWS, a, head, row, rows * a.group, p, keys, scores, mass + page * SCORE_ROW)
                row += rows

    return add_mass
