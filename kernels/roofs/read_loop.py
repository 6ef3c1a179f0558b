"""Bare loops over memory: what the bus and the caches give to these threads when next to nothing is computed."""

from __future__ import annotations

from ..lang.jit import kernel, record
from ..lang.memory import load_f32, load_rows, peek_f32, poke_f32, store_f32, store_rows
from ..lang.simd import fma, row, splat, sum_lanes, zeros_f32

STEP = 512
"""Bytes of one turn of a loop: eight loads and eight sums that do not wait for each other."""

STREAM = record(data="ptr", chunk="int", passes="int", sums="ptr")
MOVE = record(data="ptr", chunk="int", passes="int", apart="int")
"""Arrays lie `apart` bytes from each other: from the second into the first, or from the second and the third."""


@kernel(STREAM)
def read(a, begin, end, thread):
    """Items are chunks of `chunk` bytes, a multiple of STEP, each read `passes` times: their float32 are added to
    sums[16 * thread]."""
    total = zeros_f32(8)
    for item in range(begin, end):
        chunk = a.data + item * a.chunk
        for _ in range(a.passes):
            for i in range(0, a.chunk, STEP):
                total = total + load_rows(chunk + i, 64, 8)
    low = row(total, 0) + row(total, 1) + row(total, 2) + row(total, 3)
    high = row(total, 4) + row(total, 5) + row(total, 6) + row(total, 7)
    own = a.sums + 64 * thread
    poke_f32(own, peek_f32(own) + sum_lanes(low + high))


@kernel(MOVE)
def copy(a, begin, end, thread):
    """Items as in `read`: the first array becomes the second."""
    for item in range(begin, end):
        to = a.data + item * a.chunk
        for _ in range(a.passes):
            for i in range(0, a.chunk, STEP):
                store_rows(to + i, 64, load_rows(to + a.apart + i, 64, 8))


@kernel(MOVE)
def triad(a, begin, end, thread):
    """Items as in `read`: the first array becomes the second and three times the third, as in STREAM."""
    three = splat(3.0)
    for item in range(begin, end):
        to = a.data + item * a.chunk
        for _ in range(a.passes):
            for i in range(0, a.chunk, 64):
                store_f32(to + i, fma(load_f32(to + 2 * a.apart + i), three, load_f32(to + a.apart + i)))


@kernel(STREAM)
def fill(a, begin, end, thread):
    """Items as in `read`: ones everywhere. Whoever writes a page first has it near."""
    ones = splat(1.0)
    for item in range(begin, end):
        for i in range(0, a.chunk, 64):
            store_f32(a.data + item * a.chunk + i, ones)
