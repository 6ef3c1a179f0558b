"""Encodes whole pages of K and V anew, from one pool into another of any format; knows no sequence."""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types
from numba.extending import overload

from ..formats.encode import SCRATCH
from ..formats.table import FORMATS
from ..formats.tiles import ROWS
from ..lang.buffers import offsets
from ..lang.jit import Kernel, kernel, record
from ..lang.memory import load_bf16, load_f16, load_f32, peek_f32, peek_i64, poke_f32, store_f32
from ..pages import load_v, store_k, store_v
from ..shapes import PAGE

REENCODE = record(
    k_pool="ptr", v_pool="ptr", k_head="int", v_head="int", k_page="int", v_page="int",  # from
    k_pool_to="ptr", v_pool_to="ptr", k_head_to="int", v_head_to="int", k_page_to="int", v_page_to="int",
    moves="ptr", kv_heads="int", k_columns="int", v_columns="int", scratch="ptr", scratch_bytes="int",
)  # fmt: skip

MOVE = np.dtype([("page", "<i8"), ("to", "<i8")])
"""A page, and the one in the other pool that it becomes."""
_MOVE_PAGE, _MOVE_TO = offsets(MOVE)
_MOVE_BYTES = MOVE.itemsize

_LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16}


def scratch_bytes(k_columns: int, v_columns: int) -> int:
    """Return the bytes of scratch memory that a thread needs: a tile of K and a row as float32."""
    return 4 * (ROWS * k_columns + max(k_columns, v_columns)) + SCRATCH


def move_k(before, after, page, to, n, page_bytes, scratch):
    """Encode a K page of n columns in format `before` as `after`, or copy its page_bytes if the two are the same."""
    raise NotImplementedError("only inside of kernels")


def move_v(before, after, page, to, n, page_bytes, scratch):
    """Encode a V page likewise."""
    raise NotImplementedError("only inside of kernels")


def _copier():
    def copy(before, after, page, to, n, page_bytes, scratch):
        for i in range(0, page_bytes, 64):
            store_f32(to + i, load_f32(page + i))

    return copy


@overload(move_k, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _move_k(before, after, page, to, n, page_bytes, scratch):
    if not (isinstance(before, types.StringLiteral) and isinstance(after, types.StringLiteral)):
        return None  # Numba asks again with literals
    if before.literal_value == after.literal_value:
        return _copier()
    load, size, new = _LOADS[before.literal_value], FORMATS[before.literal_value].nbytes, after.literal_value

    def move(before, after, page, to, n, page_bytes, scratch):
        x = scratch + 4 * ROWS * n
        for t in range(0, PAGE, ROWS):
            for i in range(n):  # a tile, column by column, as float32
                store_f32(scratch + 64 * i, load(page + (t * n + ROWS * i) * size))
            for lane in range(ROWS):
                for i in range(n):
                    poke_f32(x + 4 * i, peek_f32(scratch + 64 * i + 4 * lane))
                store_k(new, x, n, to, t + lane, x + 4 * n)

    return move


@overload(move_v, prefer_literal=True, jit_options={"forceinline": True, "error_model": "numpy"})
def _move_v(before, after, page, to, n, page_bytes, scratch):
    if not (isinstance(before, types.StringLiteral) and isinstance(after, types.StringLiteral)):
        return None
    if before.literal_value == after.literal_value:
        return _copier()
    old, size, new = before.literal_value, FORMATS[before.literal_value].nbytes, after.literal_value

    def move(before, after, page, to, n, page_bytes, scratch):
        for t in range(PAGE):
            for i in range(0, n, 32):
                left, right = load_v(old, page + (t * n + i) * size)
                store_f32(scratch + 4 * i, left)
                store_f32(scratch + 4 * i + 64, right)
            store_v(new, scratch, n, to, t, scratch + 4 * n)

    return move


@cache
def reencode(k_type: str, v_type: str, k_new: str, v_new: str) -> Kernel:
    """Return the kernel that moves pages; its items are moves x KV heads.

    k_type, v_type: floats, or the same as the new types. moves: MOVE records.
    """
    assert all(a == b or a in _LOADS for a, b in ((k_type, k_new), (v_type, v_new)))

    @kernel(REENCODE, f"reencode_{k_type}_{v_type}_as_{k_new}_{v_new}")
    def reencode(a, begin, end, thread):
        scratch = a.scratch + thread * a.scratch_bytes
        for item in range(begin, end):
            move, head = divmod(item, a.kv_heads)
            pair = a.moves + _MOVE_BYTES * move
            page, to = peek_i64(pair + _MOVE_PAGE), peek_i64(pair + _MOVE_TO)
            move_k(k_type, k_new, a.k_pool + head * a.k_head + page * a.k_page,
                   a.k_pool_to + head * a.k_head_to + to * a.k_page_to, a.k_columns, a.k_page, scratch)  # fmt: skip
            move_v(v_type, v_new, a.v_pool + head * a.v_head + page * a.v_page,
                   a.v_pool_to + head * a.v_head_to + to * a.v_page_to, a.v_columns, a.v_page, scratch)  # fmt: skip

    return reencode
