"""The last step of attention: the parts of each head put together and normalized; knows no pages."""

from __future__ import annotations

import numpy as np

from ..lang.jit import kernel, record
from ..lang.memory import load_f32, peek_f32, peek_i64, store_f32, store_first
from ..lang.simd import exp, first_lanes, fma, maximum, splat, sum_lanes
from ..ops.activations import hand_over
from ..ops.hadamard import hadamard
from .softmax import TAIL, TAIL_TOP, TAIL_WEIGHT

COMBINE = record(sums="ptr", splits="ptr", heads="int", v_dim="int", v_columns="int", v_rotation="int", sinks="ptr",
                 y="ptr", q="ptr", meta="ptr", half="ptr")  # fmt: skip


@kernel(COMBINE)
def combine(a, begin, end, thread):
    """Combine the parts of each head and normalize: [heads * v_dim] float32 and as products take it. Items are rows.

    sinks: a score of each head that has weight but no value, float32, or 0. v_rotation: size of the blocks that V is
    rotated in (see hadamard.py), which is undone here; 0: it is not rotated.
    """
    splits, size, n = peek_i64(a.splits), (a.v_columns + TAIL) * 4, a.heads * a.v_dim
    for row in range(begin, end):
        y = a.y + row * n * 4
        for head in range(a.heads):
            part = a.sums + (row * a.heads + head) * splits * size
            tail = part + 4 * a.v_columns
            top = load_f32(tail + TAIL_TOP)
            for s in range(1, splits):  # the maximum of all parts
                top = maximum(top, load_f32(tail + s * size + TAIL_TOP))
            total = splat(0.0)
            if a.sinks != 0:
                sink = splat(peek_f32(a.sinks + 4 * head))
                top = maximum(top, sink)
                total = first_lanes(1, exp(sink - top) + (sink - sink), total)  # NaN where it is infinite
            for s in range(splits):  # the factor of each part, and the sum of all weights
                factor = exp(load_f32(tail + s * size + TAIL_TOP) - top)
                total = fma(factor, load_f32(tail + s * size + TAIL_WEIGHT), total)
                store_f32(tail + s * size + TAIL_TOP, factor)  # in place of its maximum
            share = splat(np.float32(1) / sum_lanes(total))
            out = y + head * a.v_dim * 4
            for i in range(0, a.v_dim, 16):  # y = sum of factor * part / sum of weights
                value = splat(0.0)
                for s in range(splits):
                    value = fma(load_f32(tail + s * size + TAIL_TOP), load_f32(part + s * size + 4 * i), value)
                store_first(out + 4 * i, value * share, a.v_dim - i)
            if a.v_rotation:
                hadamard(out, a.v_dim, a.v_rotation)
        hand_over(a.y, row, 0, n, n, a.q, a.meta, a.half)
