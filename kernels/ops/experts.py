"""Mixtures of experts: which experts a row goes to, its products with their matrices, and their weighted sum.

The matrices of a layer's experts follow each other as the tiles of one matrix. A single row reads the tiles of its own
experts (`project_one`, `sum_one`). Many rows are first gathered by expert (`group`, `gather`), so that each matrix is
read once for all of its rows (`project_many`, `sum_many`). A row and one of its experts are a pair.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..lang.buffers import offsets
from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import load_f32, load_rows, peek_f32, peek_i64, poke_f32, poke_i64, store_f32, store_rows
from ..lang.simd import fma, splat
from .tile_dot import AHEAD, tile_dot

ROUTE = record(logits="ptr", stride="int", experts="int", used="int", chosen="ptr", shares="ptr")


@kernel(ROUTE)
def route(a, begin, end, thread):
    """Choose the `used` experts of the largest logits, of equal ones the first, and take the softmax over them.

    Items are rows. chosen: int64, shares: float32, both [row][used]. This is the same as a softmax over all experts
    whose chosen parts are then normalized to a sum of 1. If a logit is NaN or infinite, the experts are valid all the
    same and the shares are NaN.
    """
    for row in range(begin, end):
        logits = a.logits + row * a.stride
        chosen, shares = a.chosen + 8 * row * a.used, a.shares + 4 * row * a.used
        total = np.float32(0)
        for e in range(a.experts):  # insert each expert into the sorted list of the best
            x = peek_f32(logits + 4 * e)
            total += x - x  # NaN unless x is finite
            at = min(e, a.used)
            while at > 0 and x > peek_f32(logits + 4 * peek_i64(chosen + 8 * (at - 1))):
                if at < a.used:
                    poke_i64(chosen + 8 * at, peek_i64(chosen + 8 * (at - 1)))
                at -= 1
            if at < a.used:
                poke_i64(chosen + 8 * at, e)
        top = peek_f32(logits + 4 * peek_i64(chosen))
        for j in range(a.used):  # e^(logit - top)
            share = np.exp(peek_f32(logits + 4 * peek_i64(chosen + 8 * j)) - top)
            poke_f32(shares + 4 * j, share)
            total += share
        for j in range(a.used):
            poke_f32(shares + 4 * j, peek_f32(shares + 4 * j) / total)


SPAN = np.dtype([("expert", "<i8"), ("first", "<i8"), ("rows", "<i8")])
"""The rows of an expert, which `group` puts next to each other: its number, its first place, its number of rows."""
SPAN_EXPERT, SPAN_FIRST, SPAN_ROWS = offsets(SPAN)
SPAN_BYTES = SPAN.itemsize

GROUP = record(chosen="ptr", rows="ptr", used="int", experts="int", spans="ptr", places="ptr")


@kernel(GROUP)
def group(a, begin, end, thread):
    """Give each pair a place, the pairs of an expert next to each other. There is one item.

    spans: `experts` SPAN, first those of the experts that were chosen, then empty ones. places: int64 by pair.
    """
    pairs = peek_i64(a.rows) * a.used
    for e in range(a.experts):
        poke_i64(a.spans + SPAN_BYTES * e + SPAN_ROWS, 0)
    for pair in range(pairs):  # count the pairs of each expert
        count = a.spans + SPAN_BYTES * peek_i64(a.chosen + 8 * pair) + SPAN_ROWS
        poke_i64(a.places + 8 * pair, peek_i64(count))  # from the expert's first
        poke_i64(count, peek_i64(count) + 1)
    first = 0
    for e in range(a.experts):  # the running sum of the counts
        poke_i64(a.spans + SPAN_BYTES * e + SPAN_FIRST, first)
        first += peek_i64(a.spans + SPAN_BYTES * e + SPAN_ROWS)
    for pair in range(pairs):
        start = peek_i64(a.spans + SPAN_BYTES * peek_i64(a.chosen + 8 * pair) + SPAN_FIRST)
        poke_i64(a.places + 8 * pair, start + peek_i64(a.places + 8 * pair))
    to = a.spans
    for e in range(a.experts):  # move the spans that are not empty to the front
        span = a.spans + SPAN_BYTES * e
        first, count = peek_i64(span + SPAN_FIRST), peek_i64(span + SPAN_ROWS)
        if count > 0:
            poke_i64(to + SPAN_EXPERT, e)
            poke_i64(to + SPAN_FIRST, first)
            poke_i64(to + SPAN_ROWS, count)
            to += SPAN_BYTES
    while to < a.spans + SPAN_BYTES * a.experts:
        poke_i64(to + SPAN_ROWS, 0)
        to += SPAN_BYTES


GATHER = record(places="ptr", used="int", x="ptr", meta="ptr", x_bytes="int", meta_bytes="int", to="ptr",
                to_meta="ptr")  # fmt: skip


@kernel(GATHER)
def gather(a, begin, end, thread):
    """Copy the activations and META records of rows to the places of their pairs. Items are rows; bytes are per row."""
    for row in range(begin, end):
        for pair in range(row * a.used, row * a.used + a.used):
            place = peek_i64(a.places + 8 * pair)
            for i in range(0, a.x_bytes, 8):  # the activations
                poke_i64(a.to + place * a.x_bytes + i, peek_i64(a.x + row * a.x_bytes + i))
            for i in range(0, a.meta_bytes, 8):  # and their META
                poke_i64(a.to_meta + place * a.meta_bytes + i, peek_i64(a.meta + row * a.meta_bytes + i))


@inline
def _bias(a, expert, tile):
    """Return the bias of a tile's 16 rows, or zeros if there is none."""
    return splat(0.0) if a.bias == 0 else load_f32(a.bias + (expert * a.tiles + tile) * 64)


PROJECT_ONE = record(weights="ptr", bias="ptr", x="ptr", meta="ptr", y="ptr", y_stride="int", chosen="ptr",
                     tiles="int", tile_bytes="int", columns="int")  # fmt: skip


@cache
def project_one(fmt: str) -> Kernel:
    """Return the kernel for a single row: row j of y is its product with its expert j's matrix in a format, plus bias.

    Items: experts used x tiles of an expert. bias: float32 [expert][16 * tiles], or 0.
    """

    @kernel(PROJECT_ONE, f"project_one_{fmt}")
    def project_one(a, begin, end, thread):
        for item in range(begin, end):
            j, tile = divmod(item, a.tiles)
            expert = peek_i64(a.chosen + 8 * j)
            weights = a.weights + (expert * a.tiles + tile) * a.tile_bytes
            total = tile_dot(fmt, 1, AHEAD, weights, a.columns, a.x, 0, a.meta, 0)
            store_rows(a.y + j * a.y_stride + tile * 64, 0, total + _bias(a, expert, tile))

    return project_one


SUM_ONE = record(weights="ptr", bias="ptr", x="ptr", meta="ptr", x_stride="int", meta_stride="int", y="ptr",
                 chosen="ptr", shares="ptr", used="int", tiles="int", tile_bytes="int", columns="int")  # fmt: skip


@cache
def sum_one(fmt: str) -> Kernel:
    """Return the kernel that adds to a single row y its experts' products with one row of x each, in `chosen`'s order.

    Items: tiles of an expert.
    """

    @kernel(SUM_ONE, f"sum_one_{fmt}")
    def sum_one(a, begin, end, thread):
        for tile in range(begin, end):
            y = load_rows(a.y + tile * 64, 0, 1)
            for j in range(a.used):  # y += share * (W_expert x + bias)
                expert = peek_i64(a.chosen + 8 * j)
                weights = a.weights + (expert * a.tiles + tile) * a.tile_bytes
                x, meta = a.x + j * a.x_stride, a.meta + j * a.meta_stride
                part = tile_dot(fmt, 1, AHEAD, weights, a.columns, x, 0, meta, 0) + _bias(a, expert, tile)
                y = fma(part, peek_f32(a.shares + 4 * j), y)
            store_rows(a.y + tile * 64, 0, y)

    return sum_one


SCRATCH = 1024
"""Bytes that a thread needs in `project_many`."""

PROJECT_MANY = record(weights="ptr", bias="ptr", x="ptr", meta="ptr", y="ptr", x_stride="int", meta_stride="int",
                      y_stride="int", spans="ptr", chunk="int", tiles="int", tile_bytes="int", columns="int",
                      scratch="ptr")  # fmt: skip


@cache
def project_many(fmt: str, n: int) -> Kernel:
    """Return the kernel for rows sorted by expert: each row times its expert's matrix in a format, plus bias.

    n: rows at once. Items: spans x tiles of an expert; empty spans take no time. A thread goes through the tiles that
    it took for `chunk` rows after `chunk` rows: the tiles stay in the core's second-level cache, and the rows in its
    first. x and meta have room for n rows more.
    """
    few = n // 2  # rows that take less time one by one than as a part of n

    @kernel(PROJECT_MANY, f"project_many_{fmt}_x{n}")
    def project_many(a, begin, end, thread):
        scratch = a.scratch + thread * SCRATCH
        while begin < end:
            at, first = divmod(begin, a.tiles)
            tiles = min(a.tiles - first, end - begin)
            begin += tiles
            span = a.spans + SPAN_BYTES * at
            expert, place, rows = peek_i64(span + SPAN_EXPERT), peek_i64(span + SPAN_FIRST), peek_i64(span + SPAN_ROWS)
            for chunk in range(place, place + rows, a.chunk):
                for tile in range(first, first + tiles):
                    row, last = chunk, min(chunk + a.chunk, place + rows)
                    weights, bias = a.weights + (expert * a.tiles + tile) * a.tile_bytes, _bias(a, expert, tile)
                    y = a.y + tile * 64
                    while last - row > few:  # n rows at once
                        x, meta = a.x + row * a.x_stride, a.meta + row * a.meta_stride
                        total = tile_dot(fmt, n, AHEAD, weights, a.columns, x, a.x_stride, meta, a.meta_stride)
                        store_rows(scratch, 64, total + bias)
                        for i in range(min(n, last - row)):  # the rows after them belong to another expert
                            store_f32(y + (row + i) * a.y_stride, load_f32(scratch + 64 * i))
                        row += min(n, last - row)
                    while row < last:  # one by one
                        x, meta = a.x + row * a.x_stride, a.meta + row * a.meta_stride
                        total = tile_dot(fmt, 1, AHEAD, weights, a.columns, x, 0, meta, 0)
                        store_rows(y + row * a.y_stride, 0, total + bias)
                        row += 1

    return project_many


SUM_MANY = record(parts="ptr", stride="int", places="ptr", shares="ptr", used="int", y="ptr", n="int")


@kernel(SUM_MANY)
def sum_many(a, begin, end, thread):
    """Add to y the parts of its pairs times their shares, in the order of `chosen`. Items are rows of n columns."""
    for row in range(begin, end):
        for i in range(0, 4 * a.n, 64):
            y = load_f32(a.y + row * a.n * 4 + i)
            for pair in range(row * a.used, row * a.used + a.used):  # y += share * part
                part = load_f32(a.parts + peek_i64(a.places + 8 * pair) * a.stride + i)
                y = fma(part, peek_f32(a.shares + 4 * pair), y)
            store_f32(a.y + row * a.n * 4 + i, y)
