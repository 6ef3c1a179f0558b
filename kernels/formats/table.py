"""The table of number formats: what a block holds, how it is encoded and decoded. NumPy only, no Numba.

A row describes ggml's block byte for byte (source: ggml's ggml-common.h, as documented with GGUF). How blocks are laid
out in memory is in `tiles.py`, how they are multiplied in `ops/` and `attention/`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import super_blocks
from .layout import Bits, F32Array, Layout, Part, U8Array, plane
from .quantizers import Quantizer, among, around_zero, from_minimum, keeping_norm, powers, to_bytes


@dataclass(frozen=True, eq=False)
class Format:
    """A number format: blocks of `size` values in `nbytes` bytes."""

    name: str  # ggml's spelling, "q4_0"
    ggml_id: int | None  # the tensor type's number in a GGUF file; None: not for files
    size: int  # values in a block
    nbytes: int  # of a block
    encode: Callable[[F32Array], U8Array]  # (..., n) float32 -> (..., n / size * nbytes) bytes
    decode: Callable[[U8Array], F32Array]  # and back
    max_error: float  # RMS error of a round trip over standard normal values, with some margin
    layout: Layout | None = None  # of a block of integers; None: the values are floating-point numbers
    for_cache: bool = False  # K and V may be kept in it
    instead: str = ""  # the format of rows that are no multiple of `size`, by llama.cpp's choice

    @property
    def bits(self) -> int:
        """The bits of an integer; 0: the values are floating-point numbers."""
        return self.layout.integers.width if self.layout else 0

    @property
    def bits_per_value(self) -> float:
        return 8 * self.nbytes / self.size

    def row_bytes(self, n: int) -> int:
        """Return the bytes of a row of n values; n must be a multiple of `size`."""
        assert n % self.size == 0, (self.name, n)
        return n // self.size * self.nbytes

    def fitting(self, n: int) -> Format:
        """Return this format, or the one to use instead where n is no multiple of `size`."""
        return self if n % self.size == 0 or not self.instead else FORMATS[self.instead]


def _quiet(convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Silence NumPy's warnings: what leaves a format's range becomes inf or NaN, as in ggml."""

    @functools.wraps(convert)
    def quietly(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with np.errstate(all="ignore"):
            return convert(x)

    return quietly


def _encode_f32(x: F32Array) -> U8Array:
    return np.ascontiguousarray(x, dtype="<f4").view(np.uint8)


def _decode_f32(raw: U8Array) -> F32Array:
    return raw.view("<f4").astype(np.float32)


@_quiet
def _encode_f16(x: F32Array) -> U8Array:
    return np.ascontiguousarray(x).astype("<f2").view(np.uint8)


@_quiet
def _decode_f16(raw: U8Array) -> F32Array:
    return raw.view("<f2").astype(np.float32)


def _encode_bf16(x: F32Array) -> U8Array:
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    nearest_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(nan, (bits >> 16) | 64, nearest_even).astype("<u2").view(np.uint8)


def _decode_bf16(raw: U8Array) -> F32Array:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


_CHUNK = 1 << 16
"""Values encoded at once, so that intermediate results stay in the core's cache."""


def _blocks(name: str, ggml_id: int | None, layout: Layout, quantize: Quantizer, max_error: float, *,
            for_cache: bool = False, instead: str = "") -> Format:  # fmt: skip
    """Return the row of the table for blocks of integers."""

    @_quiet
    def encode(x: F32Array) -> U8Array:
        values = np.ascontiguousarray(x, dtype=np.float32).reshape(-1, layout.size)
        step = _CHUNK // layout.size
        chunks = [layout.join(quantize(values[i : i + step])) for i in range(0, max(1, len(values)), step)]
        return np.concatenate(chunks).reshape(*x.shape[:-1], -1)

    decode = _quiet(layout.decode)
    return Format(name, ggml_id, layout.size, layout.nbytes, encode, decode, max_error, layout, for_cache, instead)


def _floats(name: str, ggml_id: int, nbytes: int, encode: Callable[[F32Array], U8Array],
            decode: Callable[[U8Array], F32Array], max_error: float) -> Format:  # fmt: skip
    """Return the row of the table for floating-point numbers, which are blocks of one value."""
    return Format(name, ggml_id, 1, nbytes, encode, decode, max_error, for_cache=True)


def _nibbles(at: int) -> Part:
    """Return the part of 4 bits of 32 integers from byte `at` on."""
    return plane(4, at, 16, 32)


def _normal(layout: Layout) -> Quantizer:
    return keeping_norm(layout.values, layout.deviation)


def _scales_k4() -> Bits:
    """Return eight s and eight t of 6 bits in 12 bytes; those of the first four hold high bits of the others."""
    i, last = np.arange(4), np.full(4, 4)
    low = np.concatenate([i, i + 8, i + 4, i + 8]), np.concatenate([0 * i, 0 * i, 0 * i, last])
    high = np.concatenate([i, i, i + 4, i + 4]), np.concatenate([last, last + 2, last, last + 2])
    return Bits((Part(4, low[0] + 4, low[1]), Part(2, high[0] + 4, high[1])))


_VALUES_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_VALUES_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice those of FP4 (E2M1)

_Q4_0 = Layout(32, 18, Bits((_nibbles(2),)), zero=8)
_Q4_1 = Layout(32, 20, Bits((_nibbles(4),)), m=2)
_Q5_0 = Layout(32, 22, Bits((_nibbles(6), plane(1, 2, 1, 32))), zero=16)
_Q5_1 = Layout(32, 24, Bits((_nibbles(8), plane(1, 4, 1, 32))), m=2)
_Q8_0 = Layout(32, 34, Bits((plane(8, 2, 1, 32),)))
_Q4_K = Layout(256, 144, Bits((plane(4, 16, 32, 256),)), m=2, scales=_scales_k4())
_Q5_K = Layout(256, 176, Bits((plane(4, 48, 32, 256), plane(1, 16, 32, 256))), m=2, scales=_scales_k4())
_Q6_K = Layout(256, 210, Bits((plane(4, 0, 64, 256), plane(2, 128, 32, 256))), d=208, zero=32,
               scales=Bits((plane(8, 192, 1, 16),)))  # fmt: skip

_Q3_K = Layout(256, 110, Bits((plane(2, 32, 32, 256), plane(1, 0, 32, 256))), d=108, zero=4, scale_zero=32,
               scales=Bits((plane(4, 96, 8, 16), plane(2, 104, 4, 16))))  # fmt: skip
_Q2_K = Layout(256, 84, Bits((plane(2, 16, 32, 256),)), d=80, m=82, scales=Bits((plane(4, 0, 16, 32),)))
_IQ4_NL = Layout(32, 18, Bits((_nibbles(2),)), values=_VALUES_IQ4)
_IQ4_XS = Layout(256, 136, Bits((plane(4, 8, 16, 256),)), values=_VALUES_IQ4, scale_zero=32,
                 scales=Bits((plane(4, 4, 1, 8), plane(2, 2, 1, 8))))  # fmt: skip
_MXFP4 = Layout(32, 17, Bits((_nibbles(1),)), values=_VALUES_FP4, exponent=True)
# Our own, for the cache: affine like q4_1, laid out like the tiles' planes. With scales they take 4 and 3 bits a value.
_Q3_1 = Layout(32, 16, Bits((plane(2, 4, 8, 32), plane(1, 12, 4, 32))), m=2)
_Q2_1 = Layout(32, 12, Bits((plane(2, 4, 8, 32),)), m=2)
# Ours too: the values of least square error (Lloyd-Max) for normally distributed numbers, as bytes.
_TURBO4 = Layout(32, 18, Bits((_nibbles(2),)), deviation=127 / 2.7326,
                 values=(-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127))  # fmt: skip
_TURBO3 = Layout(32, 14, Bits((plane(2, 2, 8, 32), plane(1, 10, 4, 32))), deviation=127 / 2.1520,
                 values=(-127, -79, -45, -14, 14, 45, 79, 127))  # fmt: skip
_TURBO2 = Layout(32, 10, Bits((plane(2, 2, 8, 32),)), deviation=127 / 1.5104, values=(-127, -38, 38, 127))

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        _floats("f32", 0, 4, _encode_f32, _decode_f32, 0.0),
        _floats("f16", 1, 2, _encode_f16, _decode_f16, 3e-4),
        _floats("bf16", 30, 2, _encode_bf16, _decode_bf16, 3e-3),
        _blocks("q8_0", 8, _Q8_0, to_bytes, 0.008, for_cache=True),
        _blocks("q5_1", 7, _Q5_1, from_minimum(5), 0.05, for_cache=True),
        _blocks("q5_0", 6, _Q5_0, around_zero(5), 0.06, for_cache=True),
        _blocks("q4_1", 3, _Q4_1, from_minimum(4), 0.10, for_cache=True),
        _blocks("q4_0", 2, _Q4_0, around_zero(4), 0.12, for_cache=True),
        _blocks("iq4_nl", 20, _IQ4_NL, among(_VALUES_IQ4), 0.11, for_cache=True),
        _blocks("turbo4", None, _TURBO4, _normal(_TURBO4), 0.10, for_cache=True),
        _blocks("q3_1", None, _Q3_1, from_minimum(3), 0.2, for_cache=True),
        _blocks("turbo3", None, _TURBO3, _normal(_TURBO3), 0.19, for_cache=True),
        _blocks("turbo2", None, _TURBO2, _normal(_TURBO2), 0.35, for_cache=True),
        _blocks("q2_1", None, _Q2_1, from_minimum(2), 0.5, for_cache=True),
        _blocks("mxfp4", 39, _MXFP4, powers(_VALUES_FP4), 0.15),
        _blocks("q6_k", 14, _Q6_K, super_blocks.around_zero(6, 8, 16), 0.03, instead="q8_0"),
        _blocks("q5_k", 13, _Q5_K, super_blocks.with_minimum(5, 6, 8, range(-5, 11), 0.1), 0.05, instead="q5_1"),
        _blocks("q4_k", 12, _Q4_K, super_blocks.with_minimum(4, 6, 8, range(-10, 11), 0.1), 0.1, instead="q5_0"),
        _blocks("iq4_xs", 23, _IQ4_XS, super_blocks.among(_VALUES_IQ4, 6, 8), 0.11, instead="iq4_nl"),
        _blocks("q3_k", 11, _Q3_K, super_blocks.around_zero(3, 6, 16), 0.2, instead="q4_0"),
        _blocks("q2_k", 10, _Q2_K, super_blocks.with_minimum(2, 4, 16, range(-5, 11), 0.1), 0.4, instead="q4_0"),
    )
}
WEIGHT_TYPES: tuple[str, ...] = tuple(f.name for f in FORMATS.values() if f.ggml_id is not None)
CACHE_TYPES: tuple[str, ...] = tuple(f.name for f in FORMATS.values() if f.for_cache)
