"""How numbers are chosen for super-blocks of 256 values: a search for the scales with the least error.

For each group the quantizers try some scales around the obvious one, fit scale (and minimum) to the resulting integers
by least squares, and keep the best. Then the groups' scales become integers themselves and the values are rounded once
more. The idea, the weights and the ranges are ggml's, and so are the errors; the bits may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .layout import F32Array, Numbers, U8Array
from .quantizers import Quantizer, extreme, integers, inverse, nearest

_TINY = np.float32(1e-15)


def _stored(d: F32Array) -> F32Array:
    """Return d rounded to float16."""
    return d.astype(np.float16).astype(np.float32)


def with_minimum(bits: int, scale_bits: int, groups: int, steps: range, step: float) -> Quantizer:
    """Return a quantizer for value = d * s * q - m * t.

    It tries scales that put (2^bits - 1 + i * step) steps between the lowest and the highest value, for i in `steps`.
    Errors are weighted by |x|, plus the group's root mean square where groups have 32 values.
    """
    high, most = (1 << bits) - 1, np.float32((1 << scale_bits) - 1)

    def quantize(v: F32Array) -> Numbers:
        x = v.reshape(*v.shape[:-1], groups, -1)
        columns = _columns(x)
        weight = np.abs(columns)
        if len(columns) == 32:
            weight += np.sqrt(np.mean(columns * columns, axis=0))
        scale, low = (found.reshape(x.shape[:-1]) for found in _fit_affine(columns, weight, high, steps, step))
        d, s = _shared(scale, most)
        m, t = _shared(-low, most)
        scale, low = (_stored(d) * s)[..., None], (_stored(m) * t)[..., None]
        q = integers(np.rint((x + low) * inverse(scale)), 0, high)
        scales = np.concatenate([s, t], axis=-1).astype(np.uint8)
        return Numbers(d[..., 0], q.astype(np.uint8).reshape(v.shape), m[..., 0], scales)

    return quantize


def _columns(x: F32Array) -> F32Array:
    """Return groups (..., n) as (n, groups): sums over a group are then sums of long rows, which NumPy does fast."""
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)


def _shared(scale: F32Array, most: np.float32) -> tuple[F32Array, F32Array]:
    """Return scales of 0 and above as d times integers up to `most`: (d, integers)."""
    d = scale.max(axis=-1, keepdims=True) / most
    return d, integers(np.rint(scale * inverse(d)), 0, int(most))


def _fit_affine(x: F32Array, weight: F32Array, high: int, steps: range, step: float) -> tuple[F32Array, F32Array]:
    """Return, for groups (n, groups), the scale and the minimum (0 or below) of the least weighted square error."""
    low = np.minimum(x.min(axis=0), np.float32(0))
    span = x.max(axis=0) - low
    above, per_span = x - low, inverse(span)
    sum_w, sum_x = weight.sum(axis=0), (weight * x).sum(axis=0)
    best_scale, best_low, best = span / np.float32(high), low, np.full_like(low, -np.inf)
    q, weighted, product = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for i in steps:
        np.rint(np.multiply(above, np.float32(high + i * step) * per_span, out=q), out=q)
        np.minimum(q, np.float32(high), out=q)
        np.multiply(weight, q, out=weighted)
        sum_q = weighted.sum(axis=0)
        sum_qq, sum_qx = (
            np.multiply(weighted, q, out=product).sum(axis=0),
            np.multiply(weighted, x, out=product).sum(axis=0),
        )
        per_d = inverse(sum_w * sum_qq - sum_q * sum_q)
        scale = (sum_w * sum_qx - sum_x * sum_q) * per_d
        fit_low = (sum_qq * sum_x - sum_q * sum_qx) * per_d
        positive = fit_low > 0
        scale, fit_low = np.where(positive, sum_qx * inverse(sum_qq), scale), np.where(positive, np.float32(0), fit_low)
        gain = scale * sum_qx + fit_low * sum_x  # by how much the fit reduces the sum of weight * x²
        better = (gain > best) & (per_d > 0) & (scale > 0)
        best = np.where(better, gain, best)
        best_scale, best_low = np.where(better, scale, best_scale), np.where(better, fit_low, best_low)
    return best_scale, best_low


def around_zero(bits: int, scale_bits: int, groups: int) -> Quantizer:
    """Return a quantizer for value = d * s * (q - zero). It tries scales that bring the largest magnitude of a group to
    -zero - i / 10, for i from -9 to 9."""
    zero = 1 << (bits - 1)
    low, high = np.float32(-zero), np.float32(zero - 1)

    def number(x: F32Array) -> F32Array:
        np.rint(x, out=x)
        return np.minimum(np.maximum(x, low, out=x), high, out=x)

    def stored(x: F32Array) -> U8Array:
        return (integers(np.rint(x), -zero, zero - 1) - low).astype(np.uint8)

    return _centred(number, stored, [-zero - i / 10 for i in range(-9, 10)], scale_bits, groups)


def among(values: Sequence[int], scale_bits: int, groups: int) -> Quantizer:
    """Return a quantizer for value = d * s * values[q]. It tries scales that bring the largest magnitude of a group
    near the first value, or to its negative."""
    table = np.array(values, np.float32)

    def number(x: F32Array) -> F32Array:
        return table[nearest(x, values)]

    def stored(x: F32Array) -> U8Array:
        return nearest(x, values)

    return _centred(number, stored, [-values[0], *range(values[0] - 7, values[0] + 8)], scale_bits, groups)


Number = Callable[[F32Array], F32Array]
"""Returns the representable values nearest to values / scale; may reuse their memory."""


def _centred(number: Number, stored: Callable[[F32Array], U8Array], tops: Sequence[float], scale_bits: int,
             groups: int) -> Quantizer:  # fmt: skip
    """Return a quantizer without a minimum; stored: the bits of values / scale; tops: see `around_zero`, `among`."""
    lowest = 1 << (scale_bits - 1)

    def quantize(v: F32Array) -> Numbers:
        x = v.reshape(*v.shape[:-1], groups, -1)
        per_top = inverse(extreme(x)).reshape(-1)
        scale = _fit_centred(_columns(x), per_top, number, tops).reshape(x.shape[:-1])
        top = extreme(scale)
        d = np.where(np.abs(top) < _TINY, np.float32(0), top / np.float32(-lowest))
        s = integers(np.rint(scale * inverse(d)), -lowest, lowest - 1)
        q = stored(x * inverse(_stored(d) * s)[..., None])
        bits = (s.astype(np.int16) + (0 if scale_bits == 8 else lowest)).astype(np.uint8)
        return Numbers(d[..., 0], q.reshape(v.shape), None, bits)

    return quantize


def _fit_centred(x: F32Array, per_top: F32Array, number: Number, tops: Sequence[float]) -> F32Array:
    """Return, for groups (n, groups), the scale of the least error, weighted by x²."""
    weight = x * x
    weighted_x, product = weight * x, np.empty_like(x)
    best_scale = best = np.zeros(x.shape[1], np.float32)
    for top in tops:
        q = number(x * (np.float32(top) * per_top))
        sum_qx = np.multiply(weighted_x, q, out=product).sum(axis=0)
        np.multiply(weight, q, out=product)
        per_qq = inverse(np.multiply(product, q, out=product).sum(axis=0))
        gain = sum_qx * sum_qx * per_qq
        better = ~(gain <= best)  # true for NaN, which stays
        best, best_scale = np.where(better, gain, best), np.where(better, sum_qx * per_qq, best_scale)
    return best_scale
