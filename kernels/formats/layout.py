"""Where the numbers of a block lie among its bytes, as data for all code that reads or writes ggml's blocks.

A block holds `size` small integers q, a scale d and in some formats a minimum m. Each group of 16 or 32 values of a
super-block has its own integer scale s, and where there is an m its own integer minimum t:

    value = d * (q - zero)      value = d * q + m      value = d * values[q]
    value = d * s * (q - zero)  value = d * s * q - m * t                         (super-blocks)

NumPy only; knows nothing of tiles (see tiles.py) or of how numbers are chosen (see quantizers.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..lang.buffers import offsets

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


class Part(NamedTuple):
    """Some bits of each of n integers; for number i they are in byte[i], from bit shift[i] on."""

    bits: int
    byte: IntArray
    shift: IntArray


def plane(bits: int, at: int, span: int, n: int) -> Part:
    """Return a part of n integers: from byte `at` on, each byte has bits of 8 / bits numbers that are `span` apart."""
    i, each = np.arange(n), 8 // bits
    return Part(bits, at + i // (span * each) * span + i % span, bits * (i // span % each))


BITS = np.dtype([("byte", "<i8"), ("shift", "<i8"), ("mask", "<i8"), ("left", "<i8")])
"""A part of one integer for kernels: (block[byte] >> shift & mask) << left."""
BITS_BYTE, BITS_SHIFT, BITS_MASK, BITS_LEFT = offsets(BITS)
BITS_BYTES = BITS.itemsize


@dataclass(frozen=True, eq=False)
class Bits:
    """n unsigned integers among the bytes of a block, in parts of some bits, the lowest first."""

    parts: tuple[Part, ...]

    @property
    def width(self) -> int:
        """The bits of a number."""
        return sum(part.bits for part in self.parts)

    @property
    def n(self) -> int:
        return len(self.parts[0].byte)

    def read(self, raw: U8Array) -> U8Array:
        """Return the integers (..., n) of blocks (..., bytes of a block)."""
        out, left = np.zeros((*raw.shape[:-1], self.n), np.uint8), 0
        for bits, byte, shift in self.parts:
            out |= (raw[..., byte] >> shift.astype(np.uint8) & np.uint8((1 << bits) - 1)) << np.uint8(left)
            left += bits
        return out

    def write(self, raw: U8Array, numbers: U8Array) -> None:
        """Write integers (..., n) into blocks whose bits are 0."""
        left = 0
        for bits, byte, shift in self.parts:
            field = numbers >> np.uint8(left) & np.uint8((1 << bits) - 1)
            for s in np.unique(shift):
                at = shift == s
                raw[..., byte[at]] |= field[..., at] << np.uint8(s)
            left += bits

    @cached_property
    def table(self) -> IntArray:
        """Two BITS for each integer, as kernels read them: int64 (n, 8)."""
        out, left = np.zeros((self.n, 2), BITS), 0
        for i, (bits, byte, shift) in enumerate(self.parts):
            out["byte"][:, i], out["shift"][:, i] = byte, shift
            out["mask"][:, i], out["left"][:, i] = (1 << bits) - 1, left
            left += bits
        return out.view(np.int64)


class Numbers(NamedTuple):
    """The numbers of blocks, unscaled: arrays over (..., blocks)."""

    d: F32Array
    q: U8Array  # (..., blocks, size)
    m: F32Array | None = None
    scales: U8Array | None = None  # (..., blocks, groups): s of each group, then t of each where there is an m


@dataclass(frozen=True, eq=False)
class Layout:
    """A block of `size` values in `nbytes` bytes."""

    size: int
    nbytes: int
    integers: Bits
    d: int = 0  # its byte: f16 or, with `exponent`, a byte e that means 2^(e - 128)
    m: int = -1  # its byte, f16; -1: there is none
    scales: Bits | None = None  # a super-block's integers: all s, then all t
    scale_zero: int = 0  # s as stored minus this
    zero: int = 0
    values: tuple[int, ...] = ()  # ascending
    deviation: float = 0.0  # what of `values` stands for a block's root mean square, whose norm is kept; 0: it is not
    exponent: bool = False

    @property
    def has_min(self) -> bool:
        return self.m >= 0

    @property
    def groups(self) -> int:
        """The number of groups, each with its own scale."""
        return 1 if self.scales is None else self.scales.n // (2 if self.has_min else 1)

    @property
    def group(self) -> int:
        """The values of a group."""
        return self.size // self.groups

    @property
    def d_bytes(self) -> int:
        """The bytes of a block's d in a tile."""
        return 1 if self.exponent else 2

    @property
    def group_bytes(self) -> int:
        """The bytes of a group's s, or s and t, in a tile (see tiles.py)."""
        if self.scales is None:
            return 0
        return 2 if self.has_min and self.scales.width > 4 else 1

    @property
    def scale_bytes(self) -> int:
        """The bytes of a block in a tile besides its integers, for one row."""
        return self.d_bytes + 2 * self.has_min + self.groups * self.group_bytes

    @cached_property
    def meaning(self) -> F32Array:
        """The value of each stored integer q; those of 8 bits are signed."""
        if self.values:
            return np.array(self.values, np.float32)
        return _meaning(self.integers.width, self.zero)

    @cached_property
    def scale_meaning(self) -> F32Array:
        """The value of each stored integer s."""
        assert self.scales is not None
        return _meaning(self.scales.width, self.scale_zero)

    def split(self, raw: U8Array) -> Numbers:
        """Return the numbers of the blocks of rows (..., bytes of a row)."""
        blocks = np.ascontiguousarray(raw).reshape(*raw.shape[:-1], -1, self.nbytes)
        d = _powers(blocks[..., self.d]) if self.exponent else _halves(blocks, self.d)
        m = _halves(blocks, self.m) if self.has_min else None
        scales = None if self.scales is None else self.scales.read(blocks)
        return Numbers(d, self.integers.read(blocks), m, scales)

    def join(self, numbers: Numbers) -> U8Array:
        """Return the rows (..., bytes of a row) of blocks of numbers, with d and m rounded to what can be stored."""
        raw = np.zeros((*numbers.d.shape, self.nbytes), np.uint8)
        self.integers.write(raw, numbers.q)
        if self.scales is not None and numbers.scales is not None:
            self.scales.write(raw, numbers.scales)
        if self.exponent:
            raw[..., self.d] = np.clip(np.frexp(numbers.d)[1] + 127, 0, 255)
        else:
            raw[..., self.d : self.d + 2] = numbers.d.astype("<f2")[..., None].view(np.uint8)
        if numbers.m is not None:
            raw[..., self.m : self.m + 2] = numbers.m.astype("<f2")[..., None].view(np.uint8)
        return raw.reshape(*numbers.d.shape[:-1], -1)

    def decode(self, raw: U8Array) -> F32Array:
        """Return the values (..., n) of rows (..., bytes of a row), computed in ggml's order of operations."""
        d, q, m, scales = self.split(raw)
        number = self.meaning[q].reshape(*d.shape, self.groups, self.group)
        scale = d[..., None]
        if scales is not None:
            scale = scale * self.scale_meaning[scales[..., : self.groups]]
        out = scale[..., None] * number
        if m is not None and scales is None:
            out = out + m[..., None, None]
        elif m is not None and scales is not None:
            out = out - (m[..., None] * scales[..., self.groups :].astype(np.float32))[..., None]
        return out.reshape(*raw.shape[:-1], -1)


def _meaning(width: int, zero: int) -> F32Array:
    """Return the value of each stored integer of `width` bits."""
    stored = np.arange(1 << width)
    return (stored.astype(np.uint8).view(np.int8) if width == 8 else stored - zero).astype(np.float32)


def _halves(blocks: U8Array, at: int) -> F32Array:
    """Return the f16 at byte `at` of each block."""
    found: npt.NDArray[Any] = np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0]
    return found.astype(np.float32)


def _powers(e: U8Array) -> F32Array:
    """Return 2^(e - 128); the first two are denormal."""
    return np.ldexp(np.float32(1), e.astype(np.int32) - 128)
