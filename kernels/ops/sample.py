"""Which tokens may come next, and one of them by chance; knows logits and bounds, neither texts nor flags.

A vocabulary has up to 262,144 tokens and a few dozen of them matter, so nothing is sorted: each filter keeps a start of
the order by falling logit, and needs to find only where it ends. That it does by the bits of the distances to the
largest logit, which order like the distances: three rounds of counting, eleven bits a round, whatever the distances.
"""

from __future__ import annotations

import math

import numpy as np

from ..lang.jit import jit
from ..lang.memory import load_f32, store_f32
from ..lang.simd import exp

__all__ = ["Scratch", "draw", "narrow"]

_BINS = 1 << 11
_INF = 0x7F800000  # the bits of infinity, the distance of a token that is ruled out


class Scratch:
    """The memory of `narrow`: its candidates, and what it counts with. Of n candidates, entries from n on are stale."""

    def __init__(self, n_vocab: int) -> None:
        padded = -(-n_vocab // 16) * 16  # vectors of 16 run over the end
        self.ids = np.zeros(padded, np.int32)
        self.distance = np.zeros(padded, np.float32)  # largest logit - logit, 0 or more, in nats
        self.weight = np.zeros(padded, np.float32)  # probability / that of the likeliest token
        self.counts = np.zeros(1 << 13, np.int32)
        self.bins = np.zeros(_BINS, np.float64)


def narrow(
    logits: np.ndarray, peak: float, scratch: Scratch, *, top_k: int, top_p: float, min_p: float, temp: float
) -> int:
    """llama.cpp's filters top-k, top-p, min-p and then the temperature; returns how many candidates are left.

    logits: (n_vocab,) float32, `peak` the largest of them and finite; temp above 0. The candidates' ids and weights are
    then in `scratch`, in the order of the vocabulary. top_k 0, top_p 1 and min_p 0 keep all.
    """
    farthest = -math.log(min_p) if min_p > 0 else math.inf
    # Within what a float32 holds, so that 0 and infinite distances stay numbers when multiplied by it.
    scale = min(max(1 / temp, 1e-30), 1e30)
    s = scratch
    return int(
        _narrow(
            logits, np.float32(peak), top_k if 0 < top_k < len(logits) else 0, top_p, np.float32(farthest),
            np.float32(scale), s.ids, s.distance, s.weight, s.counts, s.bins,
        )
    )  # fmt: skip


@jit
def draw(ids, weight, n, chance):
    """The id among the first n where the running sum of weights passes `chance`, in [0, 1), of their total."""
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
def _narrow(logits, peak, top_k, top_p, farthest, scale, ids, distance, weight, counts, bins):
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
    """Makes candidates of all tokens, or, where top_k is not 0, of not many more than these."""
    limit = np.float32(np.inf)
    if top_k > 0:
        counts[:] = 0
        for i in range(len(logits)):
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
    """Keeps the nearest of n candidates until their weights reach the budget; of equal ones those that come first.

    Returns how many they are. Their order stays as it was.
    """
    bits = distance.view(np.int32)
    cut, before = 0, 0.0  # candidates with smaller bits are kept, and weigh that much
    for shift in (22, 11, 0):
        bins[:] = 0
        for i in range(n):
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
    """weight = e^(-scale * distance) of the first n candidates."""
    source, target = distance.ctypes.data, weight.ctypes.data
    for i in range(0, n, 16):
        store_f32(target + 4 * i, exp(load_f32(source + 4 * i) * -scale))
