"""A bare loop that reads memory: what the bus gives to these threads when nothing is computed with the bytes."""

from __future__ import annotations

from .jit import kernel, record
from .memory import load_rows, peek_f32, poke_f32, store_f32
from .simd import row, splat, sum_lanes, zeros_f32

STEP = 512
"""Bytes of one turn of the loop: eight loads and eight sums that do not wait for each other."""

STREAM = record(data="ptr", chunk="int", sums="ptr")


@kernel(STREAM)
def read(a, begin, end, thread):
    """Items are chunks of `chunk` bytes, a multiple of STEP: their float32 are added to sums[16 * thread]."""
    total = zeros_f32(8)
    for item in range(begin, end):
        chunk = a.data + item * a.chunk
        for i in range(0, a.chunk, STEP):
            total = total + load_rows(chunk + i, 64, 8)
    low = row(total, 0) + row(total, 1) + row(total, 2) + row(total, 3)
    high = row(total, 4) + row(total, 5) + row(total, 6) + row(total, 7)
    own = a.sums + 64 * thread
    poke_f32(own, peek_f32(own) + sum_lanes(low + high))


@kernel(STREAM)
def fill(a, begin, end, thread):
    """Items as in `read`: ones everywhere. Whoever writes a page first has it near."""
    ones = splat(1.0)
    for item in range(begin, end):
        for i in range(0, a.chunk, 64):
            store_f32(a.data + item * a.chunk + i, ones)
