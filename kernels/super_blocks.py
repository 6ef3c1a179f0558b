"""How numbers are chosen for super-blocks of 256 values: a search for the scales that leave the least error.

The quantizers try some scales around the obvious one for each group, fit scale (and minimum) to the integers that come
out by least squares, and keep the best; then the groups' scales become integers themselves and the values are rounded
once more. The idea, the weights and the ranges are ggml's, so the errors are too; the bits need not be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .blocks import F32Array, Numbers, U8Array
from .quantize import Quantizer, extreme, integers, inverse, nearest

_TINY = np.float32(1e-15)


def _stored(d: F32Array) -> F32Array:
    """As float16 keeps it."""
    return d.astype(np.float16).astype(np.float32)


def with_minimum(bits: int, scale_bits: int, groups: int, steps: range, step: float) -> Quantizer:
    """value = d * s * q - m * t. Tried are (2^bits - 1 + i * step) steps from the least to the largest value, i in
    `steps`; weights are |x| plus, where groups have 32 values, the group's root mean square."""
    high, most = (1 << bits) - 1, np.float32((1 << scale_bits) - 1)

    def quantize(v: F32Array) -> Numbers:
        x = v.reshape(*v.shape[:-1], groups, -1)
        weight = np.abs(x)
        if x.shape[-1] == 32:
            weight = weight + np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
        scale, low = _fit_affine(x, weight, high, steps, step)
        d, s = _shared(scale, most)
        m, t = _shared(-low, most)
        scale, low = (_stored(d) * s)[..., None], (_stored(m) * t)[..., None]
        q = integers(np.rint((x + low) * inverse(scale)), 0, high)
        scales = np.concatenate([s, t], axis=-1).astype(np.uint8)
        return Numbers(d[..., 0], q.astype(np.uint8).reshape(v.shape), m[..., 0], scales)

    return quantize


def _shared(scale: F32Array, most: np.float32) -> tuple[F32Array, F32Array]:
    """Scales that are not negative as d times integers up to `most`: (d, integers)."""
    d = scale.max(axis=-1, keepdims=True) / most
    return d, integers(np.rint(scale * inverse(d)), 0, int(most))


def _fit_affine(x: F32Array, weight: F32Array, high: int, steps: range, step: float) -> tuple[F32Array, F32Array]:
    """For groups (..., n): scale and minimum (not above 0) of the least weighted square error among those tried."""
    low = np.minimum(x.min(axis=-1, keepdims=True), np.float32(0))
    span = x.max(axis=-1, keepdims=True) - low
    sum_w, sum_x = weight.sum(axis=-1), (weight * x).sum(axis=-1)
    best_scale, best_low = span[..., 0] / np.float32(high), low[..., 0]
    q = integers(np.rint((x - low) * inverse(best_scale)[..., None]), 0, high)
    best = _error(x, weight, q, best_scale, best_low)
    per_span = inverse(span)
    for i in steps:
        q = integers(np.rint((x - low) * (np.float32(high + i * step) * per_span)), 0, high)
        wq = weight * q
        sum_q, sum_qq, sum_qx = wq.sum(axis=-1), (wq * q).sum(axis=-1), (wq * x).sum(axis=-1)
        per_d = inverse(sum_w * sum_qq - sum_q * sum_q)
        fit_scale = (sum_w * sum_qx - sum_x * sum_q) * per_d
        fit_low = (sum_qq * sum_x - sum_q * sum_qx) * per_d
        above = fit_low > 0
        fit_scale, fit_low = np.where(above, sum_qx * inverse(sum_qq), fit_scale), np.where(above, 0, fit_low)
        error = _error(x, weight, q, fit_scale, fit_low)
        better = (error < best) & (per_d > 0) & (fit_scale > 0)
        best = np.where(better, error, best)
        best_scale, best_low = np.where(better, fit_scale, best_scale), np.where(better, fit_low, best_low)
    return best_scale, best_low


def _error(x: F32Array, weight: F32Array, q: F32Array, scale: F32Array, low: F32Array) -> F32Array:
    difference = q * scale[..., None] + low[..., None] - x
    total: F32Array = (weight * difference * difference).sum(axis=-1)
    return total


def around_zero(bits: int, scale_bits: int, groups: int) -> Quantizer:
    """value = d * s * (q - zero). Tried are scales that bring the largest in size of a group to -zero - i / 10, i from
    -9 to 9."""
    zero = 1 << (bits - 1)

    def number(x: F32Array) -> tuple[F32Array, U8Array]:
        q = integers(np.rint(x), -zero, zero - 1)
        return q, (q + np.float32(zero)).astype(np.uint8)

    return _centred(number, [-zero - i / 10 for i in range(-9, 10)], scale_bits, groups)


def among(values: Sequence[int], scale_bits: int, groups: int) -> Quantizer:
    """value = d * s * values[q]. Tried are scales that bring the largest in size of a group near the first value, or to
    its opposite."""
    table = np.array(values, np.float32)

    def number(x: F32Array) -> tuple[F32Array, U8Array]:
        q = nearest(x, values)
        return table[q], q

    return _centred(number, [-values[0], *range(values[0] - 7, values[0] + 8)], scale_bits, groups)


def _centred(number: Callable[[F32Array], tuple[F32Array, U8Array]], tops: Sequence[float], scale_bits: int,
             groups: int) -> Quantizer:  # fmt: skip
    """number: of values over their scale, what is stored for them as a number and as bits."""
    lowest = 1 << (scale_bits - 1)

    def quantize(v: F32Array) -> Numbers:
        x = v.reshape(*v.shape[:-1], groups, -1)
        scale = _fit_centred(x, number, tops)
        top = extreme(scale)
        d = np.where(np.abs(top) < _TINY, np.float32(0), top / np.float32(-lowest))
        s = integers(np.rint(scale * inverse(d)), -lowest, lowest - 1)
        _, q = number(x * inverse(_stored(d) * s)[..., None])
        stored = (s.astype(np.int16) + (0 if scale_bits == 8 else lowest)).astype(np.uint8)
        return Numbers(d[..., 0], q.reshape(v.shape), None, stored)

    return quantize


def _fit_centred(x: F32Array, number: Callable[[F32Array], tuple[F32Array, U8Array]],
                 tops: Sequence[float]) -> F32Array:  # fmt: skip
    """For groups (..., n): the scale of the least error, weighted by x², among those tried."""
    per_top = inverse(extreme(x))
    weight = x * x
    best_scale = best = np.zeros(x.shape[:-1], np.float32)
    for top in tops:
        q, _ = number(x * (np.float32(top) * per_top))
        wq = weight * q
        sum_qx, per_qq = (wq * x).sum(axis=-1), inverse((wq * q).sum(axis=-1))
        gain = sum_qx * sum_qx * per_qq
        better = ~(gain <= best)  # NaN stays
        best, best_scale = np.where(better, gain, best), np.where(better, sum_qx * per_qq, best_scale)
    return best_scale
