"""Encodes single tokens of K and V anew, from a pool of floats into another of any format; knows no sequence."""

from __future__ import annotations

from functools import cache

import numpy as np

from ..formats.encode import SCRATCH
from ..formats.table import FORMATS
from ..formats.tiles import ROWS
from ..lang.buffers import offsets
from ..lang.jit import Kernel, kernel, record
from ..lang.memory import load_bf16, load_f16, load_f32, peek_f32, peek_i64, poke_f32, store_f32
from ..pages import load_v, store_k, store_v
from ..shapes import PAGE

MOVE_TOKENS = record(
    k_pool="ptr", v_pool="ptr", k_head="int", v_head="int", k_page="int", v_page="int",  # from
    k_pool_to="ptr", v_pool_to="ptr", k_head_to="int", v_head_to="int", k_page_to="int", v_page_to="int",
    moves="ptr", k_columns="int", v_columns="int", scratch="ptr",
)  # fmt: skip

TOKEN = np.dtype([("head", "<i8"), ("slot", "<i8"), ("to", "<i8")])
"""A token of a KV head, and the one in the other pool whose place it takes: page * PAGE + index in the page."""
_HEAD, _SLOT, _TO = offsets(TOKEN)
_BYTES = TOKEN.itemsize

_LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16}


def scratch_bytes(k_columns: int, v_columns: int) -> int:
    """Return the bytes of scratch memory: a column of 16 tokens, a row as float32, and the encoder's."""
    return 64 + 4 * max(k_columns, v_columns) + SCRATCH


@cache
def move_tokens(k_type: str, v_type: str, k_new: str, v_new: str) -> Kernel:
    """Return the kernel that moves tokens, for one thread; its items are TOKEN records. k_type, v_type: floats."""
    k_load, k_size, v_size = _LOADS[k_type], FORMATS[k_type].nbytes, FORMATS[v_type].nbytes

    @kernel(MOVE_TOKENS, f"move_tokens_{k_type}_{v_type}_as_{k_new}_{v_new}")
    def move_tokens(a, begin, end, thread):
        column, x = a.scratch, a.scratch + 64
        for item in range(begin, end):
            move = a.moves + _BYTES * item
            head = peek_i64(move + _HEAD)
            page, at = divmod(peek_i64(move + _SLOT), PAGE)
            page_to, at_to = divmod(peek_i64(move + _TO), PAGE)
            k = a.k_pool + head * a.k_head + page * a.k_page + (at // ROWS) * ROWS * a.k_columns * k_size
            for i in range(a.k_columns):  # one lane of the tile
                store_f32(column, k_load(k + ROWS * i * k_size))
                poke_f32(x + 4 * i, peek_f32(column + 4 * (at % ROWS)))
            n = a.k_columns
            store_k(k_new, x, n, a.k_pool_to + head * a.k_head_to + page_to * a.k_page_to, at_to, x + 4 * n)
            v, n = a.v_pool + head * a.v_head + page * a.v_page + at * a.v_columns * v_size, a.v_columns
            for i in range(0, n, 32):
                left, right = load_v(v_type, v + i * v_size)
                store_f32(x + 4 * i, left)
                store_f32(x + 4 * i + 64, right)
            store_v(v_new, x, n, a.v_pool_to + head * a.v_head_to + page_to * a.v_page_to, at_to, x + 4 * n)

    return move_tokens
