"""Operations on rows of activations between the products: norms, quantization, activations, soft caps."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..formats.widen import widen_row
from ..lang import amx
from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import load_f32, peek_i64, poke_f32, poke_i32, store_f32, store_low_bytes
from ..lang.simd import (
    absolute,
    all_finite,
    divide,
    exp,
    first_lanes,
    fma,
    max_lanes,
    maximum,
    minimum,
    round_half_away,
    splat,
    sum_lanes,
    sum_lanes_i32,
    to_i32,
)
from .tile_dot import META_BYTES, META_D, META_DSUM, META_SECOND, META_SUM


@inline
def quantize_row(x, n, q, meta):
    """Quantize n float32 at x to int8 at q in blocks of 32, with a META record per block (see tile_dot.py).

    A block with NaN or infinity gets NaN for its scales, so that every product over it is NaN.
    """
    for b in range(n // 32):  # d = max |x| / 127, q = round(x / d)
        lo, hi = load_f32(x + 128 * b), load_f32(x + 128 * b + 64)
        to = meta + META_BYTES * b
        if not all_finite(lo, hi):
            poke_f32(to + META_D, np.float32(np.nan))
            poke_f32(to + META_DSUM, np.float32(np.nan))
            continue
        top = max_lanes(maximum(absolute(lo), absolute(hi)))
        inverse = np.float32(127) / top
        inverse = inverse if inverse < np.inf else np.float32(0)
        ints_lo, ints_hi = to_i32(round_half_away(lo * inverse)), to_i32(round_half_away(hi * inverse))
        store_low_bytes(q + 32 * b, ints_lo)
        store_low_bytes(q + 32 * b + 16, ints_hi)
        second = -sum_lanes_i32(ints_hi)
        sum_all = second - sum_lanes_i32(ints_lo)
        d = top / np.float32(127)
        poke_f32(to + META_D, d)
        poke_f32(to + META_DSUM, d * np.float32(sum_all))
        poke_i32(to + META_SUM, sum_all)
        poke_i32(to + META_SECOND, second)


@inline
def hand_over(y, row, first, n, columns, q, meta, half):
    """Prepare n float32 of row number `row`, from column `first` on, for the products that follow: as int8 blocks at q
    and `meta`, as tiles of bfloat16 at `half`, unless these are 0. y: address of the rows, of `columns` each."""
    at = row * columns + first
    if meta != 0:
        quantize_row(y + 4 * at, n, q + at, meta + at // 32 * META_BYTES)
    if half != 0:
        widen_row(y + 4 * at, n, half + first // 32 * amx.TILE, 0, row, columns)


@inline
def inverse_rms(x, n, eps):
    """Return 1 / sqrt(mean(x²) + eps) of n float32, NaN if the mean is; the 15 numbers after them may be read."""
    squares = splat(0.0)
    for i in range(0, n, 16):  # 16 sums of squares
        v = first_lanes(n - i, load_f32(x + 4 * i), splat(0.0))
        squares = fma(v, v, squares)
    return inverse_root(sum_lanes(squares) / np.float32(n) + eps)


@inline
def inverse_root(x):
    """Return 1 / sqrt(x), but NaN for infinity: values that it scales to 0 would hide it."""
    return np.float32(1) / np.sqrt(x) + (x - x)


@inline
def soft_cap(x, cap):
    """Return cap * tanh(x / cap) of a vector, NaN for NaN and infinity."""
    return (divide(splat(-2.0), exp(x * (np.float32(2) / cap)) + 1.0) + 1.0) * cap + (x - x)


HAND_OVER = record(x="ptr", q="ptr", meta="ptr", half="ptr", n="int")


@kernel(HAND_OVER)
def hand_over_rows(a, begin, end, thread):
    """Prepare rows of n columns for the products that follow. Items are rows."""
    for row in range(begin, end):
        hand_over(a.x, row, 0, a.n, a.n, a.q, a.meta, a.half)


NORM = record(x="ptr", weight="ptr", rows="ptr", y="ptr", q="ptr", meta="ptr", half="ptr", n="int", x_stride="int",
              eps="float")  # fmt: skip


@kernel(NORM)
def rms_norm(a, begin, end, thread):
    """Set y = x / sqrt(mean(x²) + eps) * weight, n columns, as float32 and as products take it. Items are rows of y.

    rows: the row of x for each item, int64; 0: item i is row i.
    """
    n = a.n
    for item in range(begin, end):
        source = a.x + (peek_i64(a.rows + 8 * item) if a.rows != 0 else item) * a.x_stride
        scale = inverse_rms(source, n, a.eps)
        y = a.y + item * n * 4
        for i in range(0, n, 16):  # y = x * scale * weight
            store_f32(y + 4 * i, load_f32(source + 4 * i) * scale * load_f32(a.weight + 4 * i))
        hand_over(a.y, item, 0, n, n, a.q, a.meta, a.half)


LAYER_NORM = record(x="ptr", weight="ptr", bias="ptr", rows="ptr", y="ptr", q="ptr", meta="ptr", half="ptr", n="int",
                    x_stride="int", eps="float")  # fmt: skip


@kernel(LAYER_NORM)
def layer_norm(a, begin, end, thread):
    """Items are rows: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, n columns, kept as in rms_norm.

    bias: 0 where there is none. rows: as in rms_norm.
    """
    n = a.n
    for item in range(begin, end):
        source = a.x + (peek_i64(a.rows + 8 * item) if a.rows != 0 else item) * a.x_stride
        sums = splat(0.0)
        for i in range(0, n, 16):
            sums = sums + first_lanes(n - i, load_f32(source + 4 * i), splat(0.0))
        mean = sum_lanes(sums) / np.float32(n)
        squares = splat(0.0)  # of the distances from the mean: E[x²] - E[x]² would cancel
        for i in range(0, n, 16):
            v = first_lanes(n - i, load_f32(source + 4 * i) - mean, splat(0.0))
            squares = fma(v, v, squares)
        scale = inverse_root(sum_lanes(squares) / np.float32(n) + a.eps)
        y = a.y + item * n * 4
        for i in range(0, 4 * n, 64):
            bias = load_f32(a.bias + i) if a.bias != 0 else splat(0.0)
            store_f32(y + i, fma((load_f32(source + i) - mean) * scale, load_f32(a.weight + i), bias))
        hand_over(a.y, item, 0, n, n, a.q, a.meta, a.half)


ADD_NORM = record(x="ptr", weight="ptr", y="ptr", n="int", x_stride="int", y_stride="int", eps="float")


@kernel(ADD_NORM)
def add_norm(a, begin, end, thread):
    """Add x / sqrt(mean(x²) + eps) * weight to y, n columns of float32. Items are rows."""
    for row in range(begin, end):
        x, y = a.x + row * a.x_stride, a.y + row * a.y_stride
        scale = inverse_rms(x, a.n, a.eps)
        for i in range(0, 4 * a.n, 64):  # y += x * scale * weight
            store_f32(y + i, fma(load_f32(x + i) * scale, load_f32(a.weight + i), load_f32(y + i)))


GATE = record(gate="ptr", up="ptr", y="ptr", q="ptr", meta="ptr", half="ptr", n="int", piece="int", gate_stride="int",
              up_stride="int")  # fmt: skip


@inline
def _silu(x):
    """Return x / (1 + e^-x)."""
    return divide(x, exp(x * -1.0) + 1.0)


@inline
def _gelu(x):
    """Return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x³)))."""
    return divide(x, exp(x * fma(x * x, splat(-0.07135481627), splat(-1.5957691216))) + 1.0)


@inline
def _swiglu_oai(gate, up):
    """Return OpenAI's SwiGLU: gate is clamped to at most 7, up to between -7 and 7; NaN for NaN and infinity."""
    x, broken = minimum(splat(7.0), gate), (gate - gate) + (up - up)  # 0 or NaN
    return divide(x, exp(x * -1.702) + 1.0) * (maximum(splat(-7.0), minimum(splat(7.0), up)) + 1.0 + broken)


@cache
def gate(activation: str) -> Kernel:
    """Return the kernel for "silu", "gelu" or "swiglu_oai": y = activation(gate) * up, as float32 and as products take
    it. Items are pieces of `piece` columns of rows of n."""
    gelu, oai = activation == "gelu", activation == "swiglu_oai"

    @kernel(GATE, f"gate_{activation}")
    def gate(a, begin, end, thread):
        pieces = a.n // a.piece
        for item in range(begin, end):
            row, piece = divmod(item, pieces)
            first = piece * a.piece
            gate, up = a.gate + row * a.gate_stride + 4 * first, a.up + row * a.up_stride + 4 * first
            y = a.y + 4 * (row * a.n + first)
            for i in range(0, 4 * a.piece, 64):  # y = activation(gate) * up
                g, u = load_f32(gate + i), load_f32(up + i)
                store_f32(y + i, _swiglu_oai(g, u) if oai else (_gelu(g) if gelu else _silu(g)) * u)
            hand_over(a.y, row, first, a.piece, a.n, a.q, a.meta, a.half)

    return gate


ACTIVATE = record(x="ptr", y="ptr", q="ptr", meta="ptr", half="ptr", n="int", piece="int", x_stride="int")


@cache
def activate(activation: str) -> Kernel:
    """Return the kernel for "gelu" or "relu2" (max(x, 0)²), without a gate. Items are pieces of `piece` columns of rows
    of n: y = activation(x) as float32 and as products take it."""
    gelu = activation == "gelu"

    @kernel(ACTIVATE, f"activate_{activation}")
    def activate(a, begin, end, thread):
        pieces = a.n // a.piece
        for item in range(begin, end):
            row, piece = divmod(item, pieces)
            first = piece * a.piece
            x, y = a.x + row * a.x_stride + 4 * first, a.y + 4 * (row * a.n + first)
            for i in range(0, 4 * a.piece, 64):
                v = load_f32(x + i)
                above = maximum(splat(0.0), v)  # in this order a NaN stays one
                store_f32(y + i, _gelu(v) if gelu else above * above + (v - v))  # NaN for -infinity
            hand_over(a.y, row, first, a.piece, a.n, a.q, a.meta, a.half)

    return activate


CAP = record(x="ptr", n="int", piece="int", cap="float")


@kernel(CAP)
def cap_rows(a, begin, end, thread):
    """Apply `soft_cap` in place. Items are pieces of `piece` columns of rows of n; the last of a row may be shorter."""
    pieces = (a.n + a.piece - 1) // a.piece
    for item in range(begin, end):
        row, piece = divmod(item, pieces)
        x = a.x + row * a.n * 4
        for i in range(piece * a.piece, min((piece + 1) * a.piece, a.n), 16):
            store_f32(x + 4 * i, soft_cap(load_f32(x + 4 * i), a.cap))
