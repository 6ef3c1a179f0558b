"""Bare loops over memory: what the bus and the caches deliver to these threads when almost nothing is computed."""

from __future__ import annotations

from ..lang.jit import kernel, record
from ..lang.memory import load_f32, load_rows, peek_f32, poke_f32, store_f32, store_rows
from ..lang.simd import fma, row, splat, sum_lanes, zeros_f32

STEP = 512
"""Bytes of one turn of a loop: eight loads and eight independent sums."""

STREAM = record(data="ptr", chunk="int", passes="int", sums="ptr")
MOVE = record(data="ptr", chunk="int", passes="int", apart="int")
"""Arrays are `apart` bytes from each other. The first is written; the second, or the second and the third, are read."""


@kernel(STREAM)
def read(a, begin, end, thread):
    """Read chunks of `chunk` bytes (a multiple of STEP) `passes` times each; add their float32 to sums[16 * thread].

    Items are chunks.
    """
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
    """Copy the second array to the first. Items as in `read`."""
    for item in range(begin, end):
        to = a.data + item * a.chunk
        for _ in range(a.passes):
            for i in range(0, a.chunk, STEP):
                store_rows(to + i, 64, load_rows(to + a.apart + i, 64, 8))


@kernel(MOVE)
def triad(a, begin, end, thread):
    """Set the first array to the second plus three times the third, as in STREAM. Items as in `read`."""
    three = splat(3.0)
    for item in range(begin, end):
        to = a.data + item * a.chunk
        for _ in range(a.passes):
            for i in range(0, a.chunk, 64):
                store_f32(to + i, fma(load_f32(to + 2 * a.apart + i), three, load_f32(to + a.apart + i)))


@kernel(STREAM)
def fill(a, begin, end, thread):
    """Write ones. Items as in `read`. A page of memory is placed near the thread that writes it first."""
    ones = splat(1.0)
    for item in range(begin, end):
        for i in range(0, a.chunk, 64):
            store_f32(a.data + item * a.chunk + i, ones)
