"""Pages of the KV cache: where K and V of a token are stored, and how they are written and read.

A page holds PAGE tokens of one KV head of one layer. K is contracted along the head, so its page is TILES tiles (see
tiles.py) of 16 tokens. V is contracted along the tokens, so its page is row-major:

    scales   d of each block, [columns / 32][PAGE] f16, then m likewise if the format has one; none for floats
    numbers  [PAGE][bytes of the integers or floats of a row]; the integers of a block are planes (see tiles.py)

`columns` is the head's size, padded to a multiple of 32 for floating-point formats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from .formats import tiles
from .formats.encode import HALF_LIMIT, encode_block
from .formats.table import FORMATS, Format
from .formats.words import load_numbers
from .lang.buffers import LINE
from .lang.dot import STORED_BIAS
from .lang.jit import inline
from .lang.memory import (
    load_bf16,
    load_f16,
    load_f32,
    peek_f16,
    peek_i32,
    peek_u16,
    poke_f16,
    poke_i32,
    poke_u16,
    store_bf16,
    store_f16,
    store_f32,
)
from .lang.simd import below, first_lanes, row, splat
from .shapes import PAGE, columns

TILES = PAGE // tiles.ROWS
"""Tiles in a K page."""
V_SCALES = 2 * PAGE
"""Bytes of the scales of one block of columns in a V page, and of its minima."""

U8Array = npt.NDArray[np.uint8]

_INLINE = {"forceinline": True, "error_model": "numpy"}


def k_page_bytes(fmt: Format, head_dim: int) -> int:
    """Return the bytes of a K page."""
    return TILES * tiles.tile_bytes(fmt, columns(head_dim))


def v_scale_bytes(fmt: Format, head_dim: int) -> int:
    """Return the bytes of a V page's scales, after which its numbers begin."""
    return columns(head_dim) // 32 * _scale_bytes(fmt)


def _scale_bytes(fmt: Format) -> int:
    """Return the bytes of the scales and minima of one block of columns in a V page."""
    return V_SCALES * (2 if fmt.layout.has_min else 1) if fmt.layout else 0


def block_bytes(fmt: Format) -> int:
    """Return the bytes of the numbers of 32 columns of a V row."""
    return 4 * fmt.bits if fmt.bits else 32 * fmt.nbytes


def v_row_bytes(fmt: Format, head_dim: int) -> int:
    """Return the bytes of a token's numbers in a V page, without scales."""
    return columns(head_dim) // 32 * block_bytes(fmt)


def v_page_bytes(fmt: Format, head_dim: int) -> int:
    """Return the bytes of a V page."""
    return v_scale_bytes(fmt, head_dim) + PAGE * v_row_bytes(fmt, head_dim)


def canonical_k(held: U8Array, fmt: Format, head_dim: int) -> U8Array:
    """Return K pages (..., bytes of a page) as canonical blocks: (tokens of all, bytes of a row)."""
    return tiles.unpack(held, fmt, PAGE * (held.size // k_page_bytes(fmt, head_dim)), columns(head_dim))


def canonical_v(held: U8Array, fmt: Format, head_dim: int) -> U8Array:
    """Return V pages likewise."""
    held, start = held.reshape(-1, v_page_bytes(fmt, head_dim)), v_scale_bytes(fmt, head_dim)
    if fmt.layout is None:
        return held.reshape(len(held) * PAGE, -1).copy()
    layout, blocks = fmt.layout, columns(head_dim) // 32
    out = np.zeros((len(held), PAGE, blocks, fmt.nbytes), np.uint8)
    fields = held[:, :start].reshape(len(held), -1, blocks, PAGE, 2)
    for i, at in enumerate(_scales_at(fmt)):
        out[..., at : at + 2] = fields[:, i].transpose(0, 2, 1, 3)
    numbers = held[:, start:].reshape(len(held), PAGE, blocks, fmt.bits, 4)
    layout.integers.write(out, tiles.from_planes(numbers, fmt.bits))
    return out.reshape(len(held) * PAGE, -1)


def packed_k(blocks: U8Array, fmt: Format, head_dim: int) -> U8Array:
    """Return the K pages (n, bytes of a page) of canonical blocks (n * PAGE, bytes of a row)."""
    return tiles.pack(blocks, fmt, columns(head_dim)).reshape(-1, k_page_bytes(fmt, head_dim))


def packed_v(blocks: U8Array, fmt: Format, head_dim: int) -> U8Array:
    """Return the V pages likewise."""
    n = len(blocks) // PAGE
    if fmt.layout is None:
        return blocks.reshape(n, -1)
    each = blocks.reshape(n, PAGE, columns(head_dim) // 32, fmt.nbytes)
    scales = [each[..., at : at + 2].transpose(0, 2, 1, 3) for at in _scales_at(fmt)]
    numbers = tiles.to_planes(fmt.layout.integers.read(each), fmt.bits)
    return np.concatenate([part.reshape(n, -1) for part in (*scales, numbers)], axis=1)


def _scales_at(fmt: Format) -> list[int]:
    """Return where the scale and the minimum of a canonical block lie."""
    return [at for at in (fmt.layout.d, fmt.layout.m) if at >= 0] if fmt.layout else []


@inline
def seen_scales(scales, t, first, end):
    """Return the scales (or minima) of 16 tokens of a block of a V page, from token 16 t on.

    They are 0 for tokens before `first`, which is not negative, and from `end` on: anything may be there.
    """
    d = first_lanes(end - tiles.ROWS * t, load_f16(scales + t * 2 * tiles.ROWS), splat(0.0))
    return first_lanes(first - tiles.ROWS * t, splat(0.0), d)


# Into the pages and out of them: stubs that kernels call with a constant `fmt`, and their code per format -------------


def store_k(fmt, x, n, page, slot, scratch):
    """Store n float32 at x as token `slot` of a K page. scratch: SCRATCH bytes (see encode.py)."""
    raise NotImplementedError("only inside of kernels")


def store_v(fmt, x, n, page, slot, scratch):
    """Store n float32 at x as token `slot` of a V page. scratch: SCRATCH bytes (see encode.py)."""
    raise NotImplementedError("only inside of kernels")


def unpack_v(fmt, page, tokens, n, out):
    """Write the first `tokens` tokens of a V page as float32 [tokens][n] to `out`."""
    raise NotImplementedError("only inside of kernels")


def load_v(fmt, numbers):
    """Return two f32x16: the 32 numbers of a V row at an address, before their scale."""
    raise NotImplementedError("only inside of kernels")


def _format(fmt: Any) -> Format | None:
    """Return the format that a stub is called with; None makes Numba ask again with a literal."""
    return FORMATS[fmt.literal_value] if isinstance(fmt, types.StringLiteral) else None


@inline
def _store_planes(bits, integers, to, step, flip):
    """Store 32 bytes of integers as the words of their planes, `step` bytes apart."""
    left = 0
    for b in (8, 4, 2, 1):
        if bits & b:
            mask = 0x01010101 * ((1 << b) - 1)
            for j in range(b):  # word j of the plane of b bits
                word = 0
                for part in range(8 // b):
                    word |= ((peek_i32(integers + 4 * (j + b * part)) >> left) & mask) << b * part
                poke_i32(to, word ^ flip)
                to += step
            left += b


_STORES = {"f32": store_f32, "f16": store_f16, "bf16": store_bf16}
_LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16}
_LIMITS = {"f32": np.float32(np.inf), "f16": HALF_LIMIT, "bf16": np.float32(3.3961776e38)}
"""The least numbers that become infinity. They are stored as NaN: a score of -infinity would only hide its token."""


@overload(store_k, prefer_literal=True, jit_options=_INLINE)
def _store_k(fmt, x, n, page, slot, scratch):
    f = _format(fmt)
    if f is None:
        return None
    name, bits, flip, size = f.name, f.bits, (0x01010101 * STORED_BIAS if f.bits == 8 else 0), f.nbytes
    has_min = f.layout is not None and f.layout.has_min
    scale_bytes, word_row = (4 if has_min else 2) * tiles.ROWS, 4 * tiles.ROWS

    def integers(fmt, x, n, page, slot, scratch):
        blocks = n // 32
        start = (blocks * scale_bytes + LINE - 1) // LINE * LINE
        lane = slot % tiles.ROWS
        tile = page + slot // tiles.ROWS * (start + blocks * bits * word_row)
        for b in range(blocks):  # d, m and the planes of 32 numbers
            d, m = encode_block(name, x + 128 * b, scratch)
            poke_f16(tile + (b * tiles.ROWS + lane) * 2, d)
            if has_min:
                poke_f16(tile + ((blocks + b) * tiles.ROWS + lane) * 2, m)
            _store_planes(bits, scratch, tile + start + b * bits * word_row + lane * 4, word_row, flip)

    if f.bits:
        return integers
    store, limit = _STORES[name], _LIMITS[name]

    def floats(fmt, x, n, page, slot, scratch):
        column = tiles.ROWS * size
        tile = page + slot // tiles.ROWS * n * column + slot % tiles.ROWS * size
        for i in range(0, n, 16):
            store(scratch, below(load_f32(x + 4 * i), splat(limit)))
            for j in range(16):  # one number to each column of the tile
                if size == 4:
                    poke_i32(tile + (i + j) * column, peek_i32(scratch + 4 * j))
                else:
                    poke_u16(tile + (i + j) * column, peek_u16(scratch + 2 * j))

    return floats


@overload(store_v, prefer_literal=True, jit_options=_INLINE)
def _store_v(fmt, x, n, page, slot, scratch):
    f = _format(fmt)
    if f is None:
        return None
    name, bits, size = f.name, f.bits, f.nbytes
    has_min, scale_bytes = f.layout is not None and f.layout.has_min, _scale_bytes(f)

    def integers(fmt, x, n, page, slot, scratch):
        blocks = n // 32
        row = page + blocks * scale_bytes + slot * (n * bits // 8)
        for b in range(blocks):  # d, m and the planes of 32 numbers
            d, m = encode_block(name, x + 128 * b, scratch)
            poke_f16(page + b * V_SCALES + slot * 2, d)
            if has_min:
                poke_f16(page + (blocks + b) * V_SCALES + slot * 2, m)
            _store_planes(bits, scratch, row + b * 4 * bits, 4, 0)

    if f.bits:
        return integers
    store, limit = _STORES[name], _LIMITS[name]

    def floats(fmt, x, n, page, slot, scratch):
        row = page + slot * n * size
        for i in range(0, n, 16):
            store(row + i * size, below(load_f32(x + 4 * i), splat(limit)))

    return floats


@overload(load_v, prefer_literal=True, jit_options=_INLINE)
def _load_v(fmt, numbers):
    f = _format(fmt)
    if f is None:
        return None

    if f.layout:
        name = f.name

        def integers(fmt, numbers):
            found = load_numbers(name, numbers)
            return row(found, 0), row(found, 1)

        return integers
    load, half = _LOADS[f.name], 16 * f.nbytes

    def floats(fmt, numbers):
        return load(numbers), load(numbers + half)

    return floats


@overload(unpack_v, prefer_literal=True, jit_options=_INLINE)
def _unpack_v(fmt, page, tokens, n, out):
    f = _format(fmt)
    if f is None:
        return None
    name, scaled, step = f.name, f.bits > 0, block_bytes(f)
    has_min, scale_bytes = f.layout is not None and f.layout.has_min, _scale_bytes(f)

    def rows(fmt, page, tokens, n, out):
        numbers = page + n // 32 * scale_bytes
        for t in range(tokens):
            for b in range(n // 32):  # d * number + m of 32 columns
                low, high = load_v(name, numbers)
                if scaled:
                    d = peek_f16(page + b * V_SCALES + t * 2)
                    low, high = low * d, high * d
                if has_min:
                    m = peek_f16(page + (n // 32 + b) * V_SCALES + t * 2)
                    low, high = low + m, high + m
                store_f32(out, low)
                store_f32(out + 64, high)
                numbers += step
                out += 128

    return rows
