"""Where blocks lie in memory: tiles of 16 rows side by side, so that one vector holds a column of 16 rows.

A tile of 16 rows by n columns is, for integer formats (see layout.py for the letters),

    d         for each block, [n / size][16 rows] f16, or bytes where d is a power of two
    m         likewise, if the format has one
    s, t      for each group of super-blocks, [n / group][16 rows]: s as a signed byte or, where there is an m, s and t
              in the low and the high half of a byte (4 bits each) or of two bytes
    padding   to a multiple of LINE bytes
    integers  for each 32 columns the planes of their bits, see below

and for floating-point formats the numbers themselves, [n][16 rows]. The 16 rows are output features (weights) or tokens
(K). A plane holds 8, 4, 2 or 1 bits of each integer; 5 bits are a plane of 4 and one of 1. A plane of b bits is
[b words][16 rows] of 4 bytes: byte c of word j has the bits of columns 4 j + c, 4 j + c + 4 b and so on, from the
lowest bit on. 8-bit integers have STORED_BIAS added. The values are ggml's to the bit; only their order differs, and
`unpack` returns the canonical blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..lang.buffers import LINE, offsets
from ..lang.dot import STORED_BIAS
from ..lang.jit import Kernel, inline, kernel, record
from ..lang.memory import peek_i32, peek_i64, peek_u8, peek_u16, poke_i32, poke_u8, poke_u16
from .layout import BITS_BYTE, BITS_BYTES, BITS_LEFT, BITS_MASK, BITS_SHIFT, Layout
from .table import Format

ROWS = 16
"""Rows of a tile."""
U8Array = npt.NDArray[np.uint8]


def planes(bits: int) -> tuple[int, ...]:
    """Return the bits of each plane of an integer, its low bits first."""
    return tuple(b for b in (8, 4, 2, 1) if bits & b)


def scale_bytes(fmt: Format, columns: int) -> int:
    """Return the bytes of a tile's scales, after which its integers begin."""
    return 0 if fmt.layout is None else -(-columns // fmt.size * ROWS * fmt.layout.scale_bytes // LINE) * LINE


def tile_bytes(fmt: Format, columns: int) -> int:
    """Return the bytes of a tile of 16 rows by `columns` columns."""
    assert columns % fmt.size == 0, (fmt.name, columns)
    if not fmt.bits:
        return ROWS * columns * fmt.nbytes
    return scale_bytes(fmt, columns) + ROWS * columns * fmt.bits // 8


PACK = record(raw="ptr", tiles="ptr", rows="int", blocks="int", block_bytes="int", tile_bytes="int", scales="int",
              d="int", d_bytes="int", m="int", groups="int", group_bytes="int", group_bits="ptr", group_zero="int",
              words="int", word_parts="ptr", parts="ptr", flip="int")  # fmt: skip
"""group_bits: `Bits.table`. words: the words of a block's integers. word_parts: the number of WORD_PART of each word.
parts: the WORD_PART of all of them. flip: XORed with each word, which adds STORED_BIAS."""

WORD_PART = np.dtype([("byte", "<i8"), ("shift", "<i8"), ("mask", "<i8"), ("factor", "<i8"), ("keep", "<i8")])
"""Some bits of a word of a tile: ((4 bytes of the block from `byte` on >> shift) & mask) * factor & keep."""
_BYTE, _SHIFT, _MASK, _FACTOR, _KEEP = offsets(WORD_PART)
_PART_BYTES = WORD_PART.itemsize
INTEGER_BYTES = 2 * BITS_BYTES
"""Bytes of a row of `Bits.table`."""


@inline
def bits_at(block, table):
    """Return an integer of a block by its row of `Bits.table`."""
    low = (peek_u8(block + peek_i64(table + BITS_BYTE)) >> peek_i64(table + BITS_SHIFT)) & peek_i64(table + BITS_MASK)
    table += BITS_BYTES
    high = (peek_u8(block + peek_i64(table + BITS_BYTE)) >> peek_i64(table + BITS_SHIFT)) & peek_i64(table + BITS_MASK)
    return low | high << peek_i64(table + BITS_LEFT)


@kernel(PACK)
def pack_blocks(a, begin, end, thread):
    """Pack the canonical blocks of 16 rows into a tile. Items are tiles."""
    m_at = a.blocks * a.d_bytes * ROWS
    groups_at = m_at + (a.blocks * ROWS * 2 if a.m >= 0 else 0)
    half = 4 * a.group_bytes
    for tile in range(begin, end):
        out = a.tiles + tile * a.tile_bytes
        for r in range(min(ROWS, a.rows - tile * ROWS)):
            block = a.raw + (tile * ROWS + r) * a.blocks * a.block_bytes
            for b in range(a.blocks):
                if a.d_bytes == 1:
                    poke_u8(out + b * ROWS + r, peek_u8(block + a.d))
                else:
                    poke_u16(out + (b * ROWS + r) * 2, peek_u16(block + a.d))
                if a.m >= 0:
                    poke_u16(out + m_at + (b * ROWS + r) * 2, peek_u16(block + a.m))
                for g in range(a.groups):  # s and t of each group
                    to = out + groups_at + ((b * a.groups + g) * ROWS + r) * a.group_bytes
                    s = bits_at(block, a.group_bits + g * INTEGER_BYTES)
                    t_bits = a.group_bits + (a.groups + g) * INTEGER_BYTES
                    if a.m < 0:
                        poke_u8(to, s - a.group_zero)
                    elif a.group_bytes == 1:
                        poke_u8(to, s | bits_at(block, t_bits) << half)
                    else:
                        poke_u16(to, s | bits_at(block, t_bits) << half)
                part = a.parts
                for w in range(a.words):  # a word of a plane, from its parts
                    word = 0
                    for _ in range(peek_i64(a.word_parts + 8 * w)):
                        found = peek_i32(block + peek_i64(part + _BYTE)) >> peek_i64(part + _SHIFT)
                        bits = found & peek_i64(part + _MASK)
                        word |= (bits * peek_i64(part + _FACTOR)) & peek_i64(part + _KEEP)
                        part += _PART_BYTES
                    poke_i32(out + a.scales + ((b * a.words + w) * ROWS + r) * 4, word ^ a.flip)
                block += a.block_bytes


@kernel(PACK)
def pack_floats(a, begin, end, thread):
    """Copy numbers of block_bytes (2 or 4) bytes, 16 rows side by side. Items are tiles."""
    size = a.block_bytes
    for tile in range(begin, end):
        for r in range(min(ROWS, a.rows - tile * ROWS)):
            source = a.raw + (tile * ROWS + r) * a.blocks * size
            target = a.tiles + tile * a.tile_bytes + r * size
            if size == 4:
                for i in range(a.blocks):
                    poke_i32(target + i * ROWS * 4, peek_i32(source + i * 4))
            else:
                for i in range(a.blocks):
                    poke_u16(target + i * ROWS * 2, peek_u16(source + i * 2))


def columns_of(bits: int, word: int, part: int) -> int:
    """Return the first of the 4 columns (of 32) whose bits are at bit part * bits of each byte of a plane's word."""
    return 4 * word + 4 * bits * part


@cache
def _word_parts(layout: Layout) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.void]]:
    """Return the number of parts of each word of a block's integers, and the WORD_PART of all words."""
    counts, parts = [], []
    for block in range(0, layout.size, 32):
        for (bits, byte, shift), b in zip(layout.integers.parts, planes(layout.integers.width), strict=True):
            assert bits == b, "a block's parts are the planes of a tile"
            ones = (1 << bits) - 1
            for word in range(b):
                counts.append(8 // b)
                for p in range(8 // b):
                    at, up = block + columns_of(b, word, p), b * p
                    keep = 0x01010101 * ones << up
                    if byte[at] == byte[at + 3]:  # one byte has the bits of all four columns: spread them
                        parts.append((byte[at], shift[at], 15, 0x00204081 << up, keep))
                    else:
                        parts.append((byte[at], shift[at], 0x01010101 * ones, 1 << up, keep))
    return np.array(counts), np.array(parts, WORD_PART)


def packer(fmt: Format) -> Kernel:
    """Return the kernel that packs a matrix of a format into tiles."""
    return pack_blocks if fmt.bits else pack_floats


def pack_operands(fmt: Format, rows: int, columns: int) -> dict[str, Any]:
    """Return the operands of the packing kernels without the two addresses."""
    common = {"rows": rows, "blocks": columns // fmt.size, "block_bytes": fmt.nbytes,
              "tile_bytes": tile_bytes(fmt, columns), "scales": scale_bytes(fmt, columns)}  # fmt: skip
    if fmt.layout is None:
        return {**dict.fromkeys(PACK.names[2:], 0), **common}  # type: ignore[index]
    layout = fmt.layout
    counts, parts = _word_parts(layout)
    return {
        **common,
        "d": layout.d,
        "d_bytes": layout.d_bytes,
        "m": layout.m,
        "groups": layout.groups if layout.scales else 0,
        "group_bytes": layout.group_bytes,
        "group_bits": layout.scales.table if layout.scales else 0,
        "group_zero": layout.scale_zero,
        "words": len(counts),
        "word_parts": counts,
        "parts": parts,
        "flip": 0x01010101 * STORED_BIAS if fmt.bits == 8 else 0,
    }


def pack(blocks: U8Array, fmt: Format, columns: int) -> U8Array:
    """Return the tiles (n, bytes of a tile) of canonical blocks (rows, bytes of a row)."""
    blocks = np.ascontiguousarray(blocks)
    out = np.zeros((-(-len(blocks) // ROWS), tile_bytes(fmt, columns)), np.uint8)
    kernel = packer(fmt)
    kernel.run(kernel.record(raw=blocks, tiles=out, **pack_operands(fmt, len(blocks), columns)), 0, len(out))
    return out


def unpack(tiles: U8Array, fmt: Format, rows: int, columns: int) -> U8Array:
    """Return the canonical blocks of tiles: (rows, bytes of a row)."""
    n = -(-rows // ROWS)
    tiles = tiles.reshape(n, tile_bytes(fmt, columns))
    if fmt.layout is None:
        numbers = tiles.reshape(n, columns, ROWS, fmt.nbytes)
        return numbers.transpose(0, 2, 1, 3).reshape(n * ROWS, -1)[:rows].copy()
    layout, blocks = fmt.layout, columns // fmt.size
    out = np.zeros((n, ROWS, blocks, fmt.nbytes), np.uint8)
    fields = [(layout.d, layout.d_bytes)] + ([(layout.m, 2)] if layout.has_min else [])
    at = 0
    for where, size in fields:
        found = tiles[:, at : at + blocks * ROWS * size].reshape(n, blocks, ROWS, size)
        out[..., where : where + size] = found.transpose(0, 2, 1, 3)
        at += blocks * ROWS * size
    if layout.scales:
        groups, size = layout.groups, layout.group_bytes
        found = tiles[:, at : at + blocks * groups * ROWS * size].copy().view(f"<u{size}")
        found = found.reshape(n, blocks, groups, ROWS).transpose(0, 3, 1, 2)
        if layout.has_min:
            found = np.concatenate([found & ((1 << 4 * size) - 1), found >> 4 * size], axis=-1)
        layout.scales.write(out, (found + layout.scale_zero).astype(np.uint8))
    layout.integers.write(out, _integers(tiles[:, scale_bytes(fmt, columns) :], fmt.bits).reshape(n, ROWS, blocks, -1))
    return out.reshape(n * ROWS, -1)[:rows].copy()


def _integers(tiles: U8Array, bits: int) -> U8Array:
    """Return the integers (n, 16 rows, columns) of tiles, given as their bytes from the integers on (n, bytes)."""
    lines = tiles.reshape(len(tiles), -1, bits, ROWS, 4).transpose(0, 3, 1, 2, 4)
    out = from_planes(lines, bits).reshape(len(tiles), ROWS, -1)
    return out ^ np.uint8(STORED_BIAS) if bits == 8 else out


def from_planes(words: U8Array, bits: int) -> U8Array:
    """Return 32 integers (..., 32) from their words (..., bits, 4 bytes)."""
    out = np.zeros((*words.shape[:-2], 32), np.uint8)
    for word, at, integers, to, mask in _fields(bits):
        out[..., integers] |= (words[..., word, :] >> at & mask) << to
    return out


def to_planes(integers: U8Array, bits: int) -> U8Array:
    """Return the words (..., bits, 4 bytes) of 32 integers (..., 32)."""
    out = np.zeros((*integers.shape[:-1], bits, 4), np.uint8)
    for word, to, chosen, at, mask in _fields(bits):
        out[..., word, :] |= (integers[..., chosen] >> at & mask) << to
    return out


def _fields(bits: int) -> Iterator[tuple[int, np.uint8, slice, np.uint8, np.uint8]]:
    """Yield, for each part of the words: word, its first bit there, the 4 integers it is of, its first bit there, mask.

    Bits are counted in each of the word's bytes, and in each of the integers.
    """
    at = left = 0
    for b in planes(bits):
        for word in range(b):
            for p in range(8 // b):
                first = columns_of(b, word, p)
                yield at + word, np.uint8(b * p), slice(first, first + 4), np.uint8(left), np.uint8((1 << b) - 1)
        at, left = at + b, left + b
