"""Between the projections and attention: RoPE, K and V into the cache, Q into the shape that attention reads.

Where K is rotated in the cache, Q is too; `combine` undoes V's rotation.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import load_f32, peek_f32, peek_i64, poke_f32, store_f32
from ..lang.simd import below, splat
from ..pages import store_k, store_v
from ..shapes import PAGE
from .activations import inverse_rms, quantize_row
from .hadamard import hadamard
from .tile_dot import META_BYTES

STORE = record(
    q="ptr", k="ptr", v="ptr", q_stride="int", k_stride="int", v_stride="int",  # from the projections, float32
    turns="ptr", rope_dim="int", scales="ptr", positions="ptr", slots="ptr",
    k_pool="ptr", v_pool="ptr", k_head="int", v_head="int", k_page="int", v_page="int",
    out="ptr", out_q="ptr", out_meta="ptr", max_rows="int",
    kv_heads="int", group="int", k_dim="int", v_dim="int", k_columns="int", v_columns="int",
    q_norm="ptr", k_norm="ptr", norm_rows="int", eps="float", k_rotation="int", v_rotation="int",
    scratch="ptr", scratch_bytes="int",
)  # fmt: skip


@inline
def _rotate(x, n, rope_dim, turn, apart, step, scale, out):
    """Rotate pairs of the first rope_dim of n numbers, number i * step with the one `apart` after it; times scale."""
    for i in range(rope_dim // 2):  # (a, b) by the angle whose cosine and sine are c and s
        c, s = peek_f32(turn + 8 * i), peek_f32(turn + 8 * i + 4)
        at = 4 * i * step
        a, b = peek_f32(x + at), peek_f32(x + at + 4 * apart)
        poke_f32(out + at, (a * c - b * s) * scale)
        poke_f32(out + at + 4 * apart, (a * s + b * c) * scale)
    for i in range(rope_dim, n):  # the others keep their angle
        poke_f32(out + 4 * i, peek_f32(x + 4 * i) * scale)


@inline
def _normed(row, head, heads, n, weight, whole_row, eps, out):
    """Return the address of a head of n numbers: in its row, or, if there are norm weights, normalized at `out`."""
    x = row + 4 * head * n
    if weight == 0:
        return x
    if whole_row != 0:
        scale = inverse_rms(row, heads * n, eps)
        weight += 4 * head * n
    else:
        scale = inverse_rms(x, n, eps)
    for i in range(0, 4 * n, 4):  # x * scale * weight
        poke_f32(out + i, peek_f32(x + i) * scale * peek_f32(weight + i))
    return out


@cache
def rope_store(k_type: str, v_type: str, neox: bool) -> Kernel:
    """Return the kernel for a pair of cache types. Items: rows x KV heads.

    q_norm, k_norm: weights of an RMSNorm before RoPE, or 0; of each head, or (norm_rows: 1) of all heads of a row at
    once. turns: (positions, rope_dim / 2, 2) float32, cosine and sine. neox: the numbers of a pair are half of rope_dim
    apart, else neighbours. scales: of Q, float32 by position. slots: page * PAGE + token in the page, int64 for each
    row. Q goes to `out` (float32) and, unless out_q is 0, to `out_q` and `out_meta` (int8 blocks), as [KV
    head][max_rows][group][k_columns]. k_rotation, v_rotation: size of the blocks that K and Q, and V, are rotated in
    (see hadamard.py); 0: they are not.
    """

    @kernel(STORE, f"rope_store_{k_type}_{v_type}")
    def rope_store(a, begin, end, thread):
        x = a.scratch + thread * a.scratch_bytes
        block = x + 4 * max(a.k_columns, a.v_columns)
        apart, step = (a.rope_dim // 2, 1) if neox else (1, 2)
        for item in range(begin, end):
            row, head = divmod(item, a.kv_heads)
            position = peek_i64(a.positions + 8 * row)
            scale = peek_f32(a.scales + 4 * position)
            turn = a.turns + position * a.rope_dim * 4
            page, slot = divmod(peek_i64(a.slots + 8 * row), PAGE)

            k = _normed(a.k + row * a.k_stride, head, a.kv_heads, a.k_dim, a.k_norm, a.norm_rows, a.eps, x)
            _rotate(k, a.k_dim, a.rope_dim, turn, apart, step, np.float32(1), x)
            if a.k_rotation:
                hadamard(x, a.k_dim, a.k_rotation)
            for i in range(a.k_dim, a.k_columns):  # padding
                poke_f32(x + 4 * i, np.float32(0))
            store_k(k_type, x, a.k_columns, a.k_pool + head * a.k_head + page * a.k_page, slot, block)

            heads = a.kv_heads * a.group
            for g in range(head * a.group, head * a.group + a.group):
                vector = (head * a.max_rows + row) * a.group + g - head * a.group
                out = a.out + vector * a.k_columns * 4
                q = _normed(a.q + row * a.q_stride, g, heads, a.k_dim, a.q_norm, a.norm_rows, a.eps, out)
                _rotate(q, a.k_dim, a.rope_dim, turn, apart, step, scale, out)
                if a.k_rotation:
                    hadamard(out, a.k_dim, a.k_rotation)
                for i in range(0, 4 * a.k_columns, 64):  # infinity becomes NaN, as in K: see pages.py
                    store_f32(out + i, below(load_f32(out + i), splat(np.inf)))
                if a.out_q != 0:
                    to, meta = a.out_q + vector * a.k_columns, a.out_meta + vector * (a.k_columns // 32 * META_BYTES)
                    quantize_row(out, a.k_columns, to, meta)

            v = a.v + row * a.v_stride + head * a.v_dim * 4
            for i in range(a.v_columns):  # V with its padding
                poke_f32(x + 4 * i, peek_f32(v + 4 * i) if i < a.v_dim else np.float32(0))
            if a.v_rotation:
                hadamard(x, a.v_dim, a.v_rotation)
            store_v(v_type, x, a.v_columns, a.v_pool + head * a.v_head + page * a.v_page, slot, block)

    return rope_store
