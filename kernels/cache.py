"""Pages of the KV cache: where K and V of a token lie, and how they get there and back.

A page holds PAGE tokens of one KV head of one layer. K is contracted along the head, so its page is PAGE / 16 tiles
(see tiles.py) of 16 tokens. V is contracted along the tokens, so its page is row-major:

    scales   d of each block, [columns / 32][PAGE] f16; none for floating-point formats
    numbers  [PAGE][bytes of the integers or floats of a row]

`columns` is the head's size, padded to a multiple of 32 for floating-point formats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from . import tiles
from .dot import STORED_BIAS
from .formats import FORMATS, Format
from .jit import inline
from .memory import (
    load_bf16,
    load_f16,
    load_f32,
    load_i8_f32,
    load_u8_i32,
    peek_f16,
    peek_f32,
    peek_i32,
    peek_u16,
    poke_f16,
    poke_i32,
    poke_u16,
    store_bf16,
    store_f16,
    store_f32,
    store_low_bytes,
)
from .simd import (
    absolute,
    high_nibbles_i32,
    low_nibbles_i32,
    max_lanes,
    maximum,
    minimum,
    round_half_away,
    splat,
    to_f32,
    to_i32,
)

PAGE = 64
"""Tokens in a page."""

_INLINE = {"forceinline": True, "error_model": "numpy"}


def columns(head_dim: int) -> int:
    """The head's size as the pages hold it."""
    return -(-head_dim // 32) * 32


def k_page_bytes(fmt: Format, head_dim: int) -> int:
    return PAGE // tiles.ROWS * tiles.tile_bytes(fmt, columns(head_dim))


def v_scale_bytes(fmt: Format, head_dim: int) -> int:
    return columns(head_dim) // 32 * PAGE * 2 if fmt.bits else 0


def v_row_bytes(fmt: Format, head_dim: int) -> int:
    """Bytes of a token's numbers, without scales."""
    return columns(head_dim) * fmt.bits // 8 if fmt.bits else columns(head_dim) * fmt.nbytes


def v_page_bytes(fmt: Format, head_dim: int) -> int:
    return v_scale_bytes(fmt, head_dim) + PAGE * v_row_bytes(fmt, head_dim)


def canonical_k(page: npt.NDArray[np.uint8], fmt: Format, head_dim: int) -> npt.NDArray[np.uint8]:
    """A K page as canonical blocks: (PAGE, bytes of a row)."""
    return tiles.unpack(page, fmt, PAGE, columns(head_dim))


def canonical_v(page: npt.NDArray[np.uint8], fmt: Format, head_dim: int) -> npt.NDArray[np.uint8]:
    """A V page as canonical blocks: (PAGE, bytes of a row)."""
    start = v_scale_bytes(fmt, head_dim)
    numbers = page[start : start + PAGE * v_row_bytes(fmt, head_dim)].reshape(PAGE, -1)
    if not fmt.bits:
        return numbers.copy()
    blocks = columns(head_dim) // 32
    out = np.empty((PAGE, blocks, fmt.nbytes), np.uint8)
    out[..., :2] = page[:start].reshape(blocks, PAGE, 2).transpose(1, 0, 2)
    out[..., 2:] = numbers.reshape(PAGE, blocks, -1)
    return out.reshape(PAGE, -1)


# Into the pages and out of them: stubs that the kernels call with a constant `fmt`, and their code per format ---------


def encode_block(fmt, x, scale, numbers):
    """32 float32 at x as a block of an integer format: d to `scale`, integers to `numbers`, ggml's to the bit."""
    raise NotImplementedError("only inside of kernels")


def store_k(fmt, x, n, page, slot, scratch):
    """n float32 at x as token `slot` of a K page. scratch: 32 bytes."""
    raise NotImplementedError("only inside of kernels")


def store_v(fmt, x, n, page, slot):
    """n float32 at x as token `slot` of a V page."""
    raise NotImplementedError("only inside of kernels")


def unpack_v(fmt, page, tokens, n, out):
    """The first tokens of a V page as float32 [tokens][n] at `out`."""
    raise NotImplementedError("only inside of kernels")


def load_v(fmt, numbers):
    """Two f32x16: the 32 numbers of a V row at an address, before their scale."""
    raise NotImplementedError("only inside of kernels")


def _format(fmt: Any) -> Format | None:
    """The format that a stub is asked for; None: Numba shall ask again with a literal."""
    return FORMATS[fmt.literal_value] if isinstance(fmt, types.StringLiteral) else None


@inline
def _inverse(d):
    """1 / d, and 0 where that is not finite; see formats.py."""
    inverse = np.float32(1) / d
    return inverse if abs(inverse) < np.inf else np.float32(0)


@overload(encode_block, prefer_literal=True, jit_options=_INLINE)
def _encode_block(fmt, x, scale, numbers):
    f = _format(fmt)

    def q8_0(fmt, x, scale, numbers):
        lo, hi = load_f32(x), load_f32(x + 64)
        d = max_lanes(maximum(absolute(lo), absolute(hi))) / np.float32(127)
        inverse = _inverse(d)
        poke_f16(scale, d)
        store_low_bytes(numbers, to_i32(round_half_away(lo * inverse)))
        store_low_bytes(numbers + 16, to_i32(round_half_away(hi * inverse)))

    def q4_0(fmt, x, scale, numbers):
        extreme = np.float32(0)  # the first of the largest in size, with its sign
        for i in range(32):
            v = peek_f32(x + 4 * i)
            if abs(v) > abs(extreme):
                extreme = v
        d = extreme / np.float32(-8)
        inverse = _inverse(d)
        lo = to_i32(minimum(load_f32(x) * inverse + 8.5, splat(15.0)))  # rounded twice, as in ggml
        hi = to_i32(minimum(load_f32(x + 64) * inverse + 8.5, splat(15.0)))
        poke_f16(scale, d)
        store_low_bytes(numbers, lo + hi * 16)

    return {"q8_0": q8_0, "q4_0": q4_0}[f.name] if f else None


_STORES = {"f32": store_f32, "f16": store_f16, "bf16": store_bf16}
_LOADS = {"f32": load_f32, "f16": load_f16, "bf16": load_bf16}


@overload(store_k, prefer_literal=True, jit_options=_INLINE)
def _store_k(fmt, x, n, page, slot, scratch):
    f = _format(fmt)
    if f is None:
        return None
    name, words, flip, size = f.name, f.bits, (0x01010101 * STORED_BIAS if f.bits == 8 else 0), f.nbytes

    def integers(fmt, x, n, page, slot, scratch):
        blocks = n // 32
        start = (blocks * 32 + 63) // 64 * 64
        lane = slot % 16
        tile = page + slot // 16 * (start + blocks * words * 64)
        for b in range(blocks):
            encode_block(name, x + 128 * b, tile + (b * 16 + lane) * 2, scratch)
            for w in range(words):
                poke_i32(tile + start + ((b * words + w) * 16 + lane) * 4, peek_i32(scratch + 4 * w) ^ flip)

    if f.bits:
        return integers
    store = _STORES[name]

    def floats(fmt, x, n, page, slot, scratch):
        tile = page + slot // 16 * 16 * n * size + slot % 16 * size
        for i in range(0, n, 16):
            store(scratch, load_f32(x + 4 * i))
            for j in range(16):
                if size == 4:
                    poke_i32(tile + (i + j) * 64, peek_i32(scratch + 4 * j))
                else:
                    poke_u16(tile + (i + j) * 32, peek_u16(scratch + 2 * j))

    return floats


@overload(store_v, prefer_literal=True, jit_options=_INLINE)
def _store_v(fmt, x, n, page, slot):
    f = _format(fmt)
    if f is None:
        return None
    name, bits, size = f.name, f.bits, f.nbytes

    def integers(fmt, x, n, page, slot):
        blocks = n // 32
        row = page + blocks * 128 + slot * (n * bits // 8)
        for b in range(blocks):
            encode_block(name, x + 128 * b, page + b * 128 + slot * 2, row + b * 4 * bits)

    if f.bits:
        return integers
    store = _STORES[name]

    def floats(fmt, x, n, page, slot):
        row = page + slot * n * size
        for i in range(0, n, 16):
            store(row + i * size, load_f32(x + 4 * i))

    return floats


@overload(load_v, prefer_literal=True, jit_options=_INLINE)
def _load_v(fmt, numbers):
    f = _format(fmt)
    if f is None:
        return None

    zero = f.layout.zero if f.layout else 0

    def eight(fmt, numbers):
        return load_i8_f32(numbers), load_i8_f32(numbers + 16)

    def four(fmt, numbers):
        pairs = load_u8_i32(numbers)
        return to_f32(low_nibbles_i32(pairs) - zero), to_f32(high_nibbles_i32(pairs) - zero)

    if f.bits:
        return {8: eight, 4: four}[f.bits]
    load, half = _LOADS[f.name], 16 * f.nbytes

    def floats(fmt, numbers):
        return load(numbers), load(numbers + half)

    return floats


@overload(unpack_v, prefer_literal=True, jit_options=_INLINE)
def _unpack_v(fmt, page, tokens, n, out):
    f = _format(fmt)
    if f is None:
        return None
    name, scaled, step = f.name, f.bits > 0, (4 * f.bits if f.bits else 32 * f.nbytes)

    def rows(fmt, page, tokens, n, out):
        numbers = page + (n // 32 * 128 if scaled else 0)
        for t in range(tokens):
            for b in range(n // 32):
                low, high = load_v(name, numbers)
                if scaled:
                    d = peek_f16(page + b * 128 + t * 2)
                    low, high = low * d, high * d
                store_f32(out, low)
                store_f32(out + 64, high)
                numbers += step
                out += 128

    return rows
