"""Attention of many query rows on the matrix unit: as in prefill.py, with products of bfloat16 (see amx.py).

K and V of a page are converted once for a block of query rows. A float16 number becomes the sum of two bfloat16, and so
do the queries and weights that it is multiplied with: three products, which keep all bits of float16.
"""

from __future__ import annotations

from functools import cache

from ..formats.widen import pair, rest, rounded, widen, widen_f16, widen_row
from ..lang import amx
from ..lang.jit import Kernel, inline, kernel
from ..lang.memory import load_f32, peek_i64, store_f32
from ..lang.simd import splat
from ..pages import TILES, unpack_v
from ..shapes import PAGE
from .softmax import ATTEND, BLOCK, SCORE_ROW, SUMS, TAIL, WEIGHTS, block_rows, leave, row_block, start, weigh

HALVES = 2
"""The most bfloat16 numbers that a number becomes; buffers have room for them."""


def halves(fmt: str) -> int:
    """Return the number of bfloat16 that a number of a format becomes."""
    return HALVES if fmt == "f16" else 1


def _rows(group: int) -> int:
    """Return the query vectors of a block, rounded up to what the matrix unit takes."""
    return -(-block_rows(group) * group // amx.BLOCK) * amx.BLOCK


def scratch_bytes(group: int, k_columns: int, v_columns: int) -> int:
    """Return the bytes of scratch memory that a thread needs."""
    rows, bf16 = _rows(group), 2 * HALVES
    converted = (rows * k_columns + PAGE * k_columns + rows * PAGE + PAGE * v_columns) * bf16
    return converted + rows * SCORE_ROW + PAGE * v_columns * 4 + rows * (v_columns + TAIL) * 4


@inline
def _widen_values(values, first, tokens, columns, out, rests):
    """Write a page of values, float32 [PAGE][columns], as tiles of the matrix unit to `out`, two for 16 columns.

    Only the tokens `first` to `tokens` - 1 count; the others become 0. What rounding takes goes to `rests`, unless 0.
    """
    for t in range(PAGE):
        if t < first or t >= tokens:
            for c in range(0, 4 * columns, 64):  # 0 for a hidden token
                store_f32(values + 4 * t * columns + c, splat(0.0))
    for c in range(0, columns, 16):
        for t in range(0, PAGE, 2):  # pairs of two tokens
            at = values + 4 * (t * columns + c)
            low, high = load_f32(at), load_f32(at + 4 * columns)
            to = c // 16 * 2 * amx.TILE + t * 32
            store_f32(out + to, pair(rounded(low), rounded(high)))
            if rests != 0:
                store_f32(rests + to, pair(rest(low), rest(high)))


@inline
def _add_products(parts, x, x_step, x_rest, w, w_step, w_rest, size):
    """Add the products of 32 rows at x with 32 at w to the sums.

    size: bytes of a row of tiles, which are x_step and w_step bytes apart. The second parts of numbers of two `parts`
    are x_rest and w_rest bytes after the first.
    """
    for i in range(0, size, amx.TILE):  # 32 columns at a time: x w + rest of x * w + x * rest of w
        amx.add_products(x + i, x + x_step + i, w + i, w + w_step + i)
        if parts == 2:
            amx.add_products(x + x_rest + i, x + x_rest + x_step + i, w + i, w + w_step + i)
            amx.add_products(x + i, x + x_step + i, w + w_rest + i, w + w_rest + w_step + i)


@cache
def attend_wide(k_type: str, v_type: str) -> Kernel:
    """Return the kernel for spans of many rows, with queries as float32; a job is a block of rows."""
    k_parts, v_parts = halves(k_type), halves(v_type)

    @kernel(ATTEND, f"attend_wide_{k_type}_{v_type}")
    def attend_wide(a, begin, end, thread):
        amx.configure()
        size, most = (a.v_columns + TAIL) * 4, max(1, BLOCK // a.group) * a.group  # vectors of a block
        room = (most + amx.BLOCK - 1) // amx.BLOCK * amx.BLOCK
        q_size, p_size = a.k_columns // 32 * amx.TILE, 2 * amx.TILE  # bytes of a tile row
        q_rest, k_rest = room // 16 * q_size, TILES * q_size
        p_rest, v_rest = room // 16 * p_size, a.v_columns // 16 * p_size
        scores = a.scratch + thread * a.scratch_bytes
        state = scores + room * SCORE_ROW
        values = state + room * size
        qx = values + PAGE * a.v_columns * 4
        kx, px, vx = qx + 2 * q_rest, qx + 2 * (q_rest + k_rest), qx + 2 * (q_rest + k_rest + p_rest)
        for item in range(begin, end):
            _, head, row, rows, position, table = row_block(a, item)
            vectors = rows * a.group
            for i in range(vectors):
                q = a.q + ((head * a.max_rows + row) * a.group + i) * a.q_bytes
                start(state + i * size, a.v_columns)
                widen_row(q, a.k_columns, qx, qx + q_rest if k_parts == 2 else 0, i, a.k_columns)
            first = max(0, position + 1 - a.window)  # token that a row sees
            for p in range(first // PAGE, (position + rows + PAGE - 1) // PAGE):
                page = peek_i64(table + 8 * p)
                k, v = a.k_pool + head * a.k_head + page * a.k_page, a.v_pool + head * a.v_head + page * a.v_page
                for t in range(TILES):  # K of 16 tokens as bfloat16
                    if k_parts == 2:
                        widen_f16(k + t * a.k_tile, a.k_columns, kx + t * q_size, kx + k_rest + t * q_size)
                    else:
                        widen(k_type, k + t * a.k_tile, a.k_columns, 1.0, kx + t * q_size)
                for i in range(0, vectors, amx.BLOCK):
                    for t in range(0, TILES, 2):  # scores of 32 vectors with 32 tokens
                        amx.clear()
                        x, w = qx + i // 16 * q_size, kx + t * q_size
                        _add_products(k_parts, x, q_size, q_rest, w, q_size, k_rest, q_size)
                        amx.store_sums(scores + i * SCORE_ROW + t * 64, SCORE_ROW)
                for i in range(vectors if a.upto >= WEIGHTS else 0):
                    weights, seen = scores + i * SCORE_ROW, position + i // a.group + 1 - PAGE * p
                    weigh(a, weights, seen, state + i * size)
                    widen_row(weights, PAGE, px, px + p_rest if v_parts == 2 else 0, i, PAGE)
                if a.upto >= SUMS:
                    tokens = min(PAGE, position + rows - PAGE * p)
                    unpack_v(v_type, v, tokens, a.v_columns, values)
                    rests = vx + v_rest if v_parts == 2 else 0
                    _widen_values(values, max(0, first - PAGE * p), tokens, a.v_columns, vx, rests)
                    for i in range(0, vectors, amx.BLOCK):
                        for c in range(0, a.v_columns, amx.BLOCK):  # sums of 32 vectors and 32 columns
                            sums = state + i * size + 4 * c
                            amx.load_sums(sums, size)
                            x, w = px + i // 16 * p_size, vx + c // 16 * p_size
                            _add_products(v_parts, x, p_size, p_rest, w, p_size, v_rest, p_size)
                            amx.store_sums(sums, size)
            leave(a, head, row, vectors, state, 0, False)

    return attend_wide
