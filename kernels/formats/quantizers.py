"""How numbers are chosen for a block of 32, with the same bits as ggml. NumPy; encode.py does it inside of kernels.

A quantizer takes values (..., blocks, size) and returns the `Numbers` of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .layout import F32Array, Numbers, U8Array

Quantizer = Callable[[F32Array], Numbers]


def inverse(d: F32Array) -> F32Array:
    """Return 1 / d, or 0 where that is not finite: where d is 0, or so small that it is 0 in float16 anyway."""
    inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def integers(x: F32Array, low: int, high: int) -> F32Array:
    """Return whole numbers within bounds, 0 for NaN: the result of casting others would depend on the processor."""
    return np.where(np.isnan(x), np.float32(0), np.minimum(np.maximum(x, np.float32(low)), np.float32(high)))


def _half_away(x: F32Array) -> F32Array:
    """Round as C's roundf does: halves away from zero, where NumPy's rint rounds to even."""
    whole = np.trunc(x)
    return whole + np.copysign(np.abs(x - whole) >= np.float32(0.5), x)


def extreme(v: F32Array) -> F32Array:
    """Return the first value of the largest magnitude, with its sign: (..., 1)."""
    return np.take_along_axis(v, np.abs(v).argmax(axis=-1, keepdims=True), axis=-1)


def to_bytes(v: F32Array) -> Numbers:
    """Quantize to signed bytes: the largest magnitude becomes 127."""
    d = np.abs(v).max(axis=-1, keepdims=True) / np.float32(127)
    q: U8Array = integers(_half_away(v * inverse(d)), -127, 127).astype(np.int8).view(np.uint8)
    return Numbers(d[..., 0], q)


def around_zero(bits: int) -> Quantizer:
    """Return a quantizer that makes the value of the largest magnitude the lowest integer, whatever its sign."""
    zero = 1 << (bits - 1)

    def quantize(v: F32Array) -> Numbers:
        d = extreme(v) / np.float32(-zero)
        q = integers(np.trunc(v * inverse(d) + np.float32(zero + 0.5)), 0, 2 * zero - 1)
        return Numbers(d[..., 0], q.astype(np.uint8))

    return quantize


def from_minimum(bits: int) -> Quantizer:
    """Return an affine quantizer: the lowest value becomes 0, the highest the highest integer."""
    high = (1 << bits) - 1

    def quantize(v: F32Array) -> Numbers:
        low = v.min(axis=-1, keepdims=True)
        d = (v.max(axis=-1, keepdims=True) - low) / np.float32(high)
        q = integers(np.trunc((v - low) * inverse(d) + np.float32(0.5)), 0, high)
        return Numbers(d[..., 0], q.astype(np.uint8), low[..., 0])

    return quantize


def midpoints(values: Sequence[int]) -> F32Array:
    """Return the points between ascending values; at a midpoint the upper value is the nearest."""
    v = np.array(values, np.float32)
    return (v[1:] + v[:-1]) / np.float32(2)


def nearest(x: F32Array, values: Sequence[int]) -> U8Array:
    """Return the index of the value that is nearest to each x."""
    index = np.zeros(x.shape, np.uint8)
    for middle in midpoints(values):  # much faster than a binary search for each x
        index += x >= middle
    return index


def among(values: Sequence[int]) -> Quantizer:
    """Return a quantizer to ascending values: the largest magnitude becomes the first, then d is fitted by x²."""
    number = np.array(values, np.float32)

    def quantize(v: F32Array) -> Numbers:
        q = nearest(v * inverse(extreme(v) / number[0]), values)
        weighted = v * v * number[q]
        along, square = _sum_in_order(weighted * v), _sum_in_order(weighted * number[q])
        return Numbers(np.where(square > 0, along / square, np.abs(along) * np.float32(0)), q)

    return quantize


def keeping_norm(values: Sequence[int], deviation: float) -> Quantizer:
    """Return a quantizer to ascending values that takes a block's root mean square as `deviation`; d is such that the
    norm is kept. It suits values that are normally distributed, as they are after a rotation.

    Source: TurboQuant (arXiv 2504.19874), without the second stage, with the norm's correction of vLLM's form.
    """
    number = np.array(values, np.float32)

    def quantize(v: F32Array) -> Numbers:
        norm, unit = _norm(v), np.float32(deviation * v.shape[-1] ** 0.5)
        q = nearest(v * inverse(norm / unit)[..., None], values)
        return Numbers(norm / _norm(number[q]), q)

    return quantize


def _norm(v: F32Array) -> F32Array:
    """Return the norm of the last axis."""
    found: F32Array = np.sqrt(_sum_in_order(v * v))
    return found


def _sum_in_order(x: F32Array) -> F32Array:
    """Add up the last axis one after the other, as C does; NumPy would add pairs."""
    total = x[..., 0]
    for i in range(1, x.shape[-1]):
        total = total + x[..., i]
    return total


def powers(values: Sequence[int]) -> Quantizer:
    """Return a quantizer whose d is the power of two that scales the largest magnitude to between half of the highest
    value and all of it. values: 8 that ascend from 0, then the same with a minus."""
    between = midpoints(values[:8])

    def quantize(v: F32Array) -> Numbers:
        top = np.abs(v).max(axis=-1)
        e = np.where(np.isfinite(top), np.floor(np.log2(top)) - 2 + 127, 255)
        d = np.ldexp(np.float32(1), np.clip(np.nan_to_num(e), 0, 255).astype(np.int32) - 128)
        size = np.searchsorted(between, np.abs(v) / d[..., None], side="left")  # a midpoint goes to the lower value
        return Numbers(d, np.where((v < 0) & (size > 0), size + 8, size).astype(np.uint8))

    return quantize
