"""Attention of many query rows on the matrix unit: as in attend_many.py, with products of bfloat16 (see amx.py).

K and V of a page are turned once for a block of query rows. Numbers of float16 become two of bfloat16, whose sum they
are, and so do the queries and weights that meet them: three products that lose nothing that float16 holds.
"""

from __future__ import annotations

from functools import cache

from ..formats.widen import pair, rest, rounded, widen, widen_f16, widen_row
from ..lang import amx
from ..lang.jit import Kernel, inline, kernel
from ..lang.memory import load_f32, peek_i64, store_f32
from ..lang.simd import splat
from ..pages import unpack_v
from ..shapes import PAGE
from .softmax import ATTEND, SUMS, TAIL, WEIGHTS, block_rows, leave, row_block, rows_of_block, start, weigh

HALVES = 2
"""As many bfloat16 numbers as a number may become; buffers have room for so many."""


def halves(fmt: str) -> int:
    return HALVES if fmt == "f16" else 1


def _rows(group: int) -> int:
    return -(-block_rows(group) * group // amx.BLOCK) * amx.BLOCK


def scratch_bytes(group: int, k_columns: int, v_columns: int) -> int:
    """Scratch memory that a thread needs."""
    rows, bf16 = _rows(group), 2 * HALVES
    turned = (rows * k_columns + PAGE * k_columns + rows * PAGE + PAGE * v_columns) * bf16
    return turned + rows * 4 * PAGE + PAGE * v_columns * 4 + rows * (v_columns + TAIL) * 4


@inline
def _widen_values(values, first, tokens, columns, out, rests):
    """A page of values float32 [PAGE][columns], of which those of the tokens from `first` to before `tokens` count, as
    tiles of the matrix unit at `out`, two for 16 columns; what rounding takes to `rests`, if that is not 0."""
    for t in range(PAGE):
        if t < first or t >= tokens:
            for c in range(0, 4 * columns, 64):
                store_f32(values + 4 * t * columns + c, splat(0.0))
    for c in range(0, columns, 16):
        for t in range(0, PAGE, 2):
            at = values + 4 * (t * columns + c)
            low, high = load_f32(at), load_f32(at + 4 * columns)
            to = c // 16 * 2 * amx.TILE + t * 32
            store_f32(out + to, pair(rounded(low), rounded(high)))
            if rests != 0:
                store_f32(rests + to, pair(rest(low), rest(high)))


@inline
def _add_products(parts, x, x_step, x_rest, w, w_step, w_rest, size):
    """To the sums: 32 rows at x times 32 at w, their tiles of 16 `step` bytes apart, `size` bytes of a tile row each;
    the rests of numbers of two parts `rest` bytes behind."""
    for i in range(0, size, amx.TILE):
        amx.add_products(x + i, x + x_step + i, w + i, w + w_step + i)
        if parts == 2:
            amx.add_products(x + x_rest + i, x + x_rest + x_step + i, w + i, w + w_step + i)
            amx.add_products(x + i, x + x_step + i, w + w_rest + i, w + w_rest + w_step + i)


@cache
def attend_wide(k_type: str, v_type: str) -> Kernel:
    """The kernel for spans of many rows. Items: spans x KV heads x row blocks. Takes queries as float32."""
    k_parts, v_parts = halves(k_type), halves(v_type)

    @kernel(ATTEND, f"attend_wide_{k_type}_{v_type}")
    def attend_wide(a, begin, end, thread):
        amx.configure()
        size, room = (a.v_columns + TAIL) * 4, (rows_of_block(a) * a.group + 31) // 32 * 32
        q_size, p_size = a.k_columns // 32 * amx.TILE, 2 * amx.TILE  # bytes of a tile row
        q_rest, k_rest = room // 16 * q_size, 4 * q_size
        p_rest, v_rest = room // 16 * p_size, a.v_columns // 16 * p_size
        scores = a.scratch + thread * a.scratch_bytes
        state = scores + room * 256
        values = state + room * size
        qx = values + 256 * a.v_columns
        kx, px, vx = qx + 2 * q_rest, qx + 2 * (q_rest + k_rest), qx + 2 * (q_rest + k_rest + p_rest)
        for item in range(begin, end):
            head, row, rows, position, table = row_block(a, item)
            vectors = rows * a.group
            for i in range(vectors):
                q = a.q + ((head * a.max_rows + row) * a.group + i) * a.q_bytes
                start(state + i * size, a.v_columns)
                widen_row(q, a.k_columns, qx, qx + q_rest if k_parts == 2 else 0, i, a.k_columns)
            first = max(0, position + 1 - a.window)  # token that is seen
            for p in range(first // 64, (position + rows + 63) // 64 if rows > 0 else 0):
                page = peek_i64(table + 8 * p)
                k, v = a.k_pool + head * a.k_head + page * a.k_page, a.v_pool + head * a.v_head + page * a.v_page
                for t in range(4):
                    if k_parts == 2:
                        widen_f16(k + t * a.k_tile, a.k_columns, kx + t * q_size, kx + k_rest + t * q_size)
                    else:
                        widen(k_type, k + t * a.k_tile, a.k_columns, 1.0, kx + t * q_size)
                for i in range(0, vectors, 32):
                    for t in range(0, 4, 2):
                        amx.clear()
                        x, w = qx + i // 16 * q_size, kx + t * q_size
                        _add_products(k_parts, x, q_size, q_rest, w, q_size, k_rest, q_size)
                        amx.store_sums(scores + i * 256 + t * 64, 256)
                for i in range(vectors if a.upto >= WEIGHTS else 0):
                    weigh(a, scores + i * 256, position + i // a.group + 1 - 64 * p, state + i * size)
                    widen_row(scores + i * 256, 64, px, px + p_rest if v_parts == 2 else 0, i, 64)
                if a.upto >= SUMS:
                    tokens = min(64, position + rows - 64 * p)
                    unpack_v(v_type, v, tokens, a.v_columns, values)
                    rests = vx + v_rest if v_parts == 2 else 0
                    _widen_values(values, max(0, first - 64 * p), tokens, a.v_columns, vx, rests)
                    for i in range(0, vectors, 32):
                        for c in range(0, a.v_columns, 32):
                            sums = state + i * size + 4 * c
                            amx.load_sums(sums, size)
                            x, w = px + i // 16 * p_size, vx + c // 16 * p_size
                            _add_products(v_parts, x, p_size, p_rest, w, p_size, v_rest, p_size)
                            amx.store_sums(sums, size)
            leave(a, head, row, vectors, state)

    return attend_wide
