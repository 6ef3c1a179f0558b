"""The table of number formats: what a block holds, how it is encoded and decoded. NumPy only, no Numba.

A row describes ggml's block byte for byte (source: ggml's ggml-common.h, as documented with GGUF); where a block
lies in memory is the business of `tiles.py`, how it is multiplied that of `linear.py` and `attention.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Format:
    """How numbers are stored: blocks of `size` values in `dtype.itemsize` bytes."""

    name: str  # ggml's spelling, "q4_0"
    ggml_id: int  # the tensor type's number in a GGUF file
    size: int  # values in a block
    dtype: np.dtype[np.void]  # one block
    encode: Callable[[F32Array], U8Array]  # (..., n) float32 -> (..., n / size * itemsize) bytes, ggml's to the bit
    decode: Callable[[U8Array], F32Array]  # and back
    max_error: float  # RMS error of a round trip over standard normal values, with some margin
    bits: int = 0  # of an integer; 0: the values are floating-point numbers
    zero: int = 0  # the stored integer that means 0
    has_min: bool = False  # value = d * q + m, else d * (q - zero)
    for_cache: bool = False  # K and V may be kept in it

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return self.dtype.itemsize

    @property
    def bits_per_value(self) -> float:
        return 8 * self.nbytes / self.size

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of n values; n must be a multiple of `size`."""
        assert n % self.size == 0, (self.name, n)
        return n // self.size * self.nbytes


def _quiet(convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """What leaves a format's range becomes inf or NaN, as in ggml; NumPy need not warn of it."""

    @functools.wraps(convert)
    def quietly(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with np.errstate(all="ignore"):
            return convert(x)

    return quietly


def _blocks(x: F32Array) -> F32Array:
    return np.ascontiguousarray(x, dtype=np.float32).reshape(*x.shape[:-1], -1, 32)


def _bytes(blocks: npt.NDArray[np.void]) -> U8Array:
    return np.ascontiguousarray(blocks).view(np.uint8).reshape(*blocks.shape[:-1], -1)


def _inverse(d: F32Array) -> F32Array:
    """1 / d, and 0 where that is not finite: for d = 0, and where d is so small that it is 0 in float16 anyway."""
    inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _integers(x: F32Array, low: int, high: int) -> F32Array:
    """Whole numbers within bounds, 0 for what is no number: a cast of others depends on the processor."""
    return np.clip(np.nan_to_num(x), low, high)


def _half_away(x: F32Array) -> F32Array:
    """C's roundf: halves away from zero, where NumPy's rint takes the even one."""
    whole = np.trunc(x)
    return whole + np.copysign(np.abs(x - whole) >= np.float32(0.5), x)


_Q8_0 = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
_Q4_0 = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)])


@_quiet
def _encode_q8_0(x: F32Array) -> U8Array:
    v = _blocks(x)
    d = np.abs(v).max(axis=-1, keepdims=True) / np.float32(127)
    out = np.empty(v.shape[:-1], _Q8_0)
    out["d"] = d[..., 0]
    out["qs"] = _integers(_half_away(v * _inverse(d)), -127, 127)
    return _bytes(out)


@_quiet
def _decode_q8_0(raw: U8Array) -> F32Array:
    b = raw.view(_Q8_0)
    d: F32Array = b["d"].astype(np.float32)[..., None]
    return (d * b["qs"].astype(np.float32)).reshape(*raw.shape[:-1], -1)


def _nibbles(q: U8Array) -> U8Array:
    """(..., 32) integers below 16 -> (..., 16) bytes: value i in the low half of byte i, value i + 16 in the high."""
    return q[..., :16] | (q[..., 16:] << np.uint8(4))


def _unnibble(qs: U8Array) -> U8Array:
    return np.concatenate([qs & np.uint8(15), qs >> np.uint8(4)], axis=-1)


@_quiet
def _encode_q4_0(x: F32Array) -> U8Array:
    v = _blocks(x)
    at = np.abs(v).argmax(axis=-1, keepdims=True)
    d = np.take_along_axis(v, at, axis=-1) / np.float32(-8)
    out = np.empty(v.shape[:-1], _Q4_0)
    out["d"] = d[..., 0]
    out["qs"] = _nibbles(_integers(np.trunc(v * _inverse(d) + np.float32(8.5)), 0, 15).astype(np.uint8))
    return _bytes(out)


@_quiet
def _decode_q4_0(raw: U8Array) -> F32Array:
    b = raw.view(_Q4_0)
    q = _unnibble(b["qs"]).astype(np.float32) - np.float32(8)
    return (b["d"].astype(np.float32)[..., None] * q).reshape(*raw.shape[:-1], -1)


@_quiet
def _encode_q4_1(x: F32Array) -> U8Array:
    v = _blocks(x)
    low, high = v.min(axis=-1, keepdims=True), v.max(axis=-1, keepdims=True)
    d = (high - low) / np.float32(15)
    out = np.empty(v.shape[:-1], _Q4_1)
    out["d"], out["m"] = d[..., 0], low[..., 0]
    out["qs"] = _nibbles(_integers(np.trunc((v - low) * _inverse(d) + np.float32(0.5)), 0, 15).astype(np.uint8))
    return _bytes(out)


@_quiet
def _decode_q4_1(raw: U8Array) -> F32Array:
    b = raw.view(_Q4_1)
    d, m = b["d"].astype(np.float32)[..., None], b["m"].astype(np.float32)[..., None]
    return (d * _unnibble(b["qs"]).astype(np.float32) + m).reshape(*raw.shape[:-1], -1)


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


def _float(name: str, ggml_id: int, encode: Callable[[F32Array], U8Array], decode: Callable[[U8Array], F32Array],
           dtype: str, max_error: float) -> Format:  # fmt: skip
    return Format(name, ggml_id, 1, np.dtype([("x", dtype)]), encode, decode, max_error, for_cache=True)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        _float("f32", 0, _encode_f32, _decode_f32, "<f4", 0.0),
        _float("f16", 1, _encode_f16, _decode_f16, "<f2", 3e-4),
        _float("bf16", 30, _encode_bf16, _decode_bf16, "<u2", 3e-3),
        Format("q8_0", 8, 32, _Q8_0, _encode_q8_0, _decode_q8_0, 0.008, bits=8, for_cache=True),
        Format("q4_0", 2, 32, _Q4_0, _encode_q4_0, _decode_q4_0, 0.12, bits=4, zero=8, for_cache=True),
        Format("q4_1", 3, 32, _Q4_1, _encode_q4_1, _decode_q4_1, 0.10, bits=4, has_min=True),
    )
}
BY_GGML_ID: dict[int, Format] = {f.ggml_id: f for f in FORMATS.values()}
CACHE_TYPES: tuple[str, ...] = tuple(f.name for f in FORMATS.values() if f.for_cache)
