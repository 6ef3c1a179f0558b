"""What happens to a row of activations between the products: norm, quantization, the gate of the feed-forward."""

from __future__ import annotations

import numpy as np

from .jit import inline, kernel, record
from .memory import load_f32, peek_i64, poke_f32, poke_i32, store_f32, store_low_bytes
from .simd import (
    absolute,
    divide,
    exp,
    fma,
    max_lanes,
    maximum,
    round_half_away,
    splat,
    sum_lanes,
    sum_lanes_i32,
    to_i32,
)

__all__ = ["GATE", "NORM", "gate_silu", "quantize_row", "rms_norm"]


@inline
def quantize_row(x, n, q, meta):
    """n float32 at x as int8 at q in blocks of 32, with a META record per block (see tile_dot.py)."""
    for b in range(n // 32):
        lo, hi = load_f32(x + 128 * b), load_f32(x + 128 * b + 64)
        top = max_lanes(maximum(absolute(lo), absolute(hi)))
        inverse = np.float32(127) / top
        inverse = inverse if inverse < np.inf else np.float32(0)
        ints_lo, ints_hi = to_i32(round_half_away(lo * inverse)), to_i32(round_half_away(hi * inverse))
        store_low_bytes(q + 32 * b, ints_lo)
        store_low_bytes(q + 32 * b + 16, ints_hi)
        sum_lo, sum_hi = sum_lanes_i32(ints_lo), sum_lanes_i32(ints_hi)
        total = sum_lo + sum_hi
        d = top / np.float32(127)
        poke_f32(meta + 16 * b, d)
        poke_f32(meta + 16 * b + 4, d * np.float32(-total))
        poke_i32(meta + 16 * b + 8, -total)
        poke_i32(meta + 16 * b + 12, (-sum_lo & 0xFFFF) | -sum_hi << 16)


NORM = record(x="ptr", weight="ptr", rows="ptr", y="ptr", q="ptr", meta="ptr", n="int", x_stride="int", eps="float")


@kernel(NORM)
def rms_norm(a, begin, end, thread):
    """Items are rows: y = x / sqrt(mean(x²) + eps) * weight, n columns, kept as float32 and as int8 blocks.

    rows: which row of x item i is, int64 each; 0 where it is row i.
    """
    n = a.n
    for item in range(begin, end):
        source = a.x + (peek_i64(a.rows + 8 * item) if a.rows != 0 else item) * a.x_stride
        squares = splat(0.0)
        for i in range(0, n, 16):
            v = load_f32(source + 4 * i)
            squares = fma(v, v, squares)
        scale = np.float32(1) / np.sqrt(sum_lanes(squares) / np.float32(n) + a.eps)
        y = a.y + item * n * 4
        for i in range(0, n, 16):
            store_f32(y + 4 * i, load_f32(source + 4 * i) * scale * load_f32(a.weight + 4 * i))
        quantize_row(y, n, a.q + item * n, a.meta + item * (n // 2))


GATE = record(gate="ptr", up="ptr", y="ptr", q="ptr", meta="ptr", n="int", piece="int", gate_stride="int",
              up_stride="int")  # fmt: skip


@kernel(GATE)
def gate_silu(a, begin, end, thread):
    """Items are pieces of `piece` columns: y = silu(gate) * up as float32 and as int8 blocks; n columns a row."""
    pieces = a.n // a.piece
    for item in range(begin, end):
        row, piece = divmod(item, pieces)
        first = piece * a.piece
        gate, up = a.gate + row * a.gate_stride + 4 * first, a.up + row * a.up_stride + 4 * first
        at = row * a.n + first
        y = a.y + 4 * at
        for i in range(0, 4 * a.piece, 64):
            g = load_f32(gate + i)
            store_f32(y + i, divide(g, exp(g * -1.0) + 1.0) * load_f32(up + i))
        quantize_row(y, a.piece, a.q + at, a.meta + at // 2)
