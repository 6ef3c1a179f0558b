"""Where blocks lie in memory: tiles of 16 rows side by side, so that one vector holds a column of 16 rows.

A tile of 16 rows by n columns is, for integer formats,

    scales   d of each block, [n / 32][16 rows] f16, then m likewise where the format has one; padded to 64 bytes
    integers the blocks' 4-byte words, [n / 32][words of a block][16 rows], with STORED_BIAS added to 8-bit ones

and for floating-point formats the numbers themselves, [n][16 rows]. The values are ggml's to the bit; only their
place differs, and `unpack` gives the canonical blocks back. The 16 rows are output features (weights) or tokens (K).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .dot import STORED_BIAS
from .formats import Format
from .jit import kernel, record
from .memory import peek_i32, peek_u16, poke_i32, poke_u16

ROWS = 16
U8Array = npt.NDArray[np.uint8]


def scale_bytes(fmt: Format, columns: int) -> int:
    """Bytes of a tile's scales: where its integers begin."""
    if not fmt.bits:
        return 0
    return -(-columns // fmt.size * ROWS * (4 if fmt.has_min else 2) // 64) * 64


def tile_bytes(fmt: Format, columns: int) -> int:
    """Bytes of a tile of 16 rows of so many columns."""
    assert columns % fmt.size == 0, (fmt.name, columns)
    if not fmt.bits:
        return ROWS * columns * fmt.nbytes
    return scale_bytes(fmt, columns) + ROWS * columns * fmt.bits // 8


PACK = record(raw="ptr", tiles="ptr", rows="int", blocks="int", block_bytes="int", words="int", halves="int",
              scales="int", tile_bytes="int", flip="int")  # fmt: skip


@kernel(PACK)
def pack_blocks(a, begin, end, thread):
    """Items are tiles: copy the canonical blocks of 16 rows to their places. halves: scales of a block (1 or 2)."""
    for tile in range(begin, end):
        out = a.tiles + tile * a.tile_bytes
        for r in range(min(16, a.rows - tile * 16)):
            block = a.raw + (tile * 16 + r) * a.blocks * a.block_bytes
            for b in range(a.blocks):
                for h in range(a.halves):
                    poke_u16(out + ((h * a.blocks + b) * 16 + r) * 2, peek_u16(block + 2 * h))
                for w in range(a.words):
                    word = peek_i32(block + 2 * a.halves + 4 * w) ^ a.flip
                    poke_i32(out + a.scales + ((b * a.words + w) * 16 + r) * 4, word)
                block += a.block_bytes


@kernel(PACK)
def pack_floats(a, begin, end, thread):
    """Items are tiles: copy numbers of block_bytes (2 or 4) bytes, 16 rows side by side."""
    size = a.block_bytes
    for tile in range(begin, end):
        for r in range(min(16, a.rows - tile * 16)):
            source = a.raw + (tile * 16 + r) * a.blocks * size
            target = a.tiles + tile * a.tile_bytes + r * size
            if size == 4:
                for i in range(a.blocks):
                    poke_i32(target + i * 64, peek_i32(source + i * 4))
            else:
                for i in range(a.blocks):
                    poke_u16(target + i * 32, peek_u16(source + i * 2))


def pack_operands(fmt: Format, rows: int, columns: int) -> dict[str, Any]:
    """The operands of the packing kernels but for the two addresses."""
    return {
        "rows": rows,
        "blocks": columns // fmt.size,
        "block_bytes": fmt.nbytes,
        "words": fmt.size * fmt.bits // 32,
        "halves": 2 if fmt.has_min else 1,
        "scales": scale_bytes(fmt, columns),
        "tile_bytes": tile_bytes(fmt, columns),
        "flip": 0x01010101 * STORED_BIAS if fmt.bits == 8 else 0,
    }


def unpack(tiles: U8Array, fmt: Format, rows: int, columns: int) -> U8Array:
    """Tiles back to canonical blocks: (rows, bytes of a row)."""
    n = -(-rows // ROWS)
    tiles = tiles.reshape(n, tile_bytes(fmt, columns))
    if not fmt.bits:
        numbers = tiles.reshape(n, columns, ROWS, fmt.nbytes)
        return numbers.transpose(0, 2, 1, 3).reshape(n * ROWS, -1)[:rows].copy()
    blocks, halves, words = columns // fmt.size, 2 if fmt.has_min else 1, fmt.size * fmt.bits // 32
    start = scale_bytes(fmt, columns)
    scales = tiles[:, : halves * blocks * ROWS * 2].reshape(n, halves, blocks, ROWS, 2)
    integers = tiles[:, start:].reshape(n, blocks, words, ROWS, 4)
    if fmt.bits == 8:
        integers = integers ^ np.uint8(STORED_BIAS)
    out = np.empty((n, ROWS, blocks, fmt.nbytes), np.uint8)
    out[..., : 2 * halves] = scales.transpose(0, 3, 2, 1, 4).reshape(n, ROWS, blocks, 2 * halves)
    out[..., 2 * halves :] = integers.transpose(0, 3, 1, 2, 4).reshape(n, ROWS, blocks, 4 * words)
    return out.reshape(n * ROWS, -1)[:rows].copy()
