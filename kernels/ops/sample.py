"""Which tokens may come next, and a random choice of one; knows logits and bounds, neither texts nor flags.

A vocabulary has up to 262,144 tokens and a few dozen of them matter, so nothing is sorted. Each filter keeps the tokens
with the largest logits and only has to find the limit. It finds it by the bits of the distances to the largest logit,
which order like the distances themselves: three rounds of counting, eleven bits a round, whatever the distances.
"""

from __future__ import annotations

import math

import numpy as np

from ..lang.jit import jit
from ..lang.memory import load_f32, store_f32
from ..lang.simd import exp

__all__ = ["Scratch", "draw", "limits_of", "narrow", "narrowed"]

_BINS = 1 << 11
_INF = 0x7F800000  # the bits of infinity, the distance of an excluded token


class Scratch:
    """The memory of `narrow`: its candidates and counters. With n candidates, entries from n on are stale."""

    def __init__(self, n_vocab: int) -> None:
        padded = -(-n_vocab // 16) * 16  # vectors of 16 may run over the end
        self.ids = np.zeros(padded, np.int32)
        self.distance = np.zeros(padded, np.float32)  # largest logit - logit, 0 or more, in nats
        self.weight = np.zeros(padded, np.float32)  # probability / that of the likeliest token
        self.counts = np.zeros(1 << 13, np.int32)
        self.bins = np.zeros(_BINS, np.float64)


def limits_of(min_p: float, temp: float) -> tuple[float, float]:
    """Return the largest distance that min-p keeps, and 1 / temperature."""
    farthest = -math.log(min_p) if min_p > 0 else math.inf
    return farthest, min(max(1 / temp, 1e-30), 1e30)  # bounded: a distance of 0 or infinity times it is not NaN


def narrow(
    logits: np.ndarray, peak: float, scratch: Scratch, *, top_k: int, top_p: float, min_p: float, temp: float
) -> int:
    """Apply llama.cpp's filters top-k, top-p and min-p, then the temperature; return the number of candidates left.

    logits: (n_vocab,) float32; peak: the largest of them, finite; temp: above 0. The candidates' ids and weights are in
    `scratch` afterwards, in the order of the vocabulary. top_k 0, top_p 1 and min_p 0 keep all.
    """
    s, (farthest, scale) = scratch, limits_of(min_p, temp)
    return int(
        narrowed(
            logits, np.float32(peak), top_k if 0 < top_k < len(logits) else 0, top_p, np.float32(farthest),
            np.float32(scale), s.ids, s.distance, s.weight, s.counts, s.bins,
        )
    )  # fmt: skip


@jit
def draw(ids, weight, n, chance):
    """Return the first of n ids where the running sum of weights passes `chance`, in [0, 1), of their total."""
    total = 0.0
    for i in range(n):
        total += weight[i]
    threshold, running, last = chance * total, 0.0, 0
    for i in range(n):
        if weight[i] > 0:
            last = i
            running += weight[i]
            if running > threshold:
                break
    return ids[last]


@jit
def narrowed(logits, peak, top_k, top_p, farthest, scale, ids, distance, weight, counts, bins):
    """Do the work of `narrow`; farthest: the largest distance that min_p keeps; scale: 1 / temp."""
    n = _gather(logits, peak, top_k, ids, distance, counts)
    if top_k > 0:
        weight[:n] = 1
        n = _keep(ids, distance, weight, n, float(top_k), bins)
    if top_p < 1:
        _weigh(distance, n, np.float32(1), weight)
        total = 0.0
        for i in range(n):
            total += weight[i]
        n = _keep(ids, distance, weight, n, max(top_p * total, 1e-30), bins)  # at least one
    kept = 0
    for i in range(n):
        if distance[i] <= farthest:
            ids[kept], distance[kept] = ids[i], distance[i]
            kept += 1
    _weigh(distance, kept, scale, weight)
    return kept


@jit
def _gather(logits, peak, top_k, ids, distance, counts):
    """Make candidates of all tokens, or of at least the top_k nearest and few more; return their number."""
    limit = np.float32(np.inf)
    if top_k > 0:
        counts[:] = 0
        for i in range(len(logits)):  # a histogram of the distances
            counts[np.float32(peak - logits[i]).view(np.int32) >> 18] += 1
        seen, cut = np.int64(0), -1
        while seen < top_k:
            cut += 1
            seen += counts[cut]
        limit = np.int32(min(((cut + 1) << 18) - 1, _INF)).view(np.float32)  # the largest distance in the bin
    n = 0
    for i in range(len(logits)):
        d = peak - logits[i]
        if d <= limit:
            ids[n], distance[n] = i, d
            n += 1
    return n


@jit
def _keep(ids, distance, weight, n, budget, bins):
    """Keep the nearest of n candidates until their weights reach the budget, of equal ones the first.

    Return their number. Their order stays the same.
    """
    bits = distance.view(np.int32)
    cut, before = 0, 0.0  # candidates with bits below `cut` are kept; their weight
    for shift in (22, 11, 0):
        bins[:] = 0
        for i in range(n):  # the weight of each value of the next eleven bits
            if bits[i] >> shift >> 11 == cut >> shift >> 11:
                bins[(bits[i] >> shift) & (_BINS - 1)] += weight[i]
        b = 0
        while b < _BINS - 1 and before + bins[b] < budget:
            before += bins[b]
            b += 1
        cut |= b << shift
    kept = 0
    for i in range(n):
        if bits[i] < cut or (bits[i] == cut and before < budget):
            if bits[i] == cut:
                before += weight[i]
            ids[kept], distance[kept] = ids[i], distance[i]
            kept += 1
    return kept


@jit
def _weigh(distance, n, scale, weight):
    """Set weight = e^(-scale * distance) for the first n candidates."""
    source, target = distance.ctypes.data, weight.ctypes.data
    for i in range(0, n, 16):
        store_f32(target + 4 * i, exp(load_f32(source + 4 * i) * -scale))
