"""The last step of attention: the parts of each head put together and normalized; knows no pages."""

from __future__ import annotations

import numpy as np

from ..lang.jit import kernel, record
from ..lang.memory import load_f32, peek_f32, peek_i64, store_first
from ..lang.simd import exp, first_lanes, fma, maximum, splat, sum_lanes
from ..ops.activations import hand_over
from ..ops.hadamard import hadamard
from .softmax import TAIL, TAIL_TOP, TAIL_WEIGHT, merge

COMBINE = record(sums="ptr", sums_at="ptr", parts="ptr", segments="int", parts_stride="int", heads="int", v_dim="int",
                 v_columns="int", v_rotation="int", sinks="ptr", y="ptr", q="ptr", meta="ptr", half="ptr")  # fmt: skip


@kernel(COMBINE)
def combine(a, begin, end, thread):
    """Combine the parts of each head and normalize: [heads * v_dim] float32 and as products take it. Items are rows.

    sums, sums_at: see ATTEND. parts: int64, how many each row has in each segment, parts_stride bytes from segment to
    segment; those of a segment are put together first, as a block of rows leaves them. sinks: a score of each head that
    has weight but no value, float32, or 0. v_rotation: size of the blocks that V is rotated in (see hadamard.py), which
    is undone here; 0: it is not rotated.
    """
    size, n = (a.v_columns + TAIL) * 4, a.heads * a.v_dim
    for row in range(begin, end):
        y, sums = a.y + row * n * 4, a.sums + peek_i64(a.sums_at + 8 * row) * a.heads * size
        for head in range(a.heads):
            state = sums + head * size
            part = state  # the first of the segment
            for segment in range(a.segments):
                parts = peek_i64(a.parts + segment * a.parts_stride + 8 * row)
                for s in range(1, parts):
                    merge(part, part + s * a.heads * size, a.v_columns)
                if parts > 0 and part != state:
                    merge(state, part, a.v_columns)
                part += parts * a.heads * size
            tail = state + 4 * a.v_columns
            top, total = load_f32(tail + TAIL_TOP), load_f32(tail + TAIL_WEIGHT)
            factor = splat(1.0)
            if a.sinks != 0:
                sink = splat(peek_f32(a.sinks + 4 * head))
                highest = maximum(top, sink)
                factor = exp(top - highest)
                rest = first_lanes(1, exp(sink - highest) + (sink - sink), splat(0.0))  # NaN where it is infinite
                total = fma(factor, total, rest)
            factor = factor * splat(np.float32(1) / sum_lanes(total))
            out = y + head * a.v_dim * 4
            for i in range(0, a.v_dim, 16):  # y = factor * sums / sum of weights
                store_first(out + 4 * i, load_f32(state + 4 * i) * factor, a.v_dim - i)
            if a.v_rotation:
                hadamard(out, a.v_dim, a.v_rotation)
        hand_over(a.y, row, 0, n, n, a.q, a.meta, a.half)
