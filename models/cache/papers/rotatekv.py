"""RotateKV (Su et al. 2025, arXiv 2501.16383): K rotated over up to four heads, channels reordered, clipped; 2 bits.

Groups of some 128 rotated channels, in order of their sums, have a scale and a zero point for each token; V is rotated
by head. The paper rotates K before RoPE, orders channels on other texts, and keeps tokens with extreme hidden states in
16 bits wherever they are. Here K is rotated after RoPE, the order is the page's, and counted, and the first 4 tokens
stand for those with extreme states. Heads of an odd number are rotated one by one.
"""

from __future__ import annotations

import math

import numpy as np

from ....kernels.shapes import PAGE
from ..rounding import SCALES, F32Array, by_range, rotated

BITS, SINK, TAIL = (2, 4, 3), 4, 0
GROUP, HEADS, CLIP = 128, 4, {2: 0.8}


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its integer, its share of scales and zero points, and its channel's place."""
    channels = heads * head_dim
    order = math.log2(channels) / PAGE if side == "k" else 0
    return n + SCALES * _groups(channels) / channels + order


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    size = math.gcd(k.shape[1], HEADS) * (k.shape[2] & -k.shape[2])
    flat = rotated(k.reshape(len(k), -1), size)
    order = np.argsort(flat.sum(0), kind="stable")
    back = np.argsort(order)
    new_k = rotated(_grouped(flat[:, order], n)[:, back], size).reshape(k.shape)
    size = v.shape[2] & -v.shape[2]
    return new_k, rotated(_grouped(rotated(v.reshape(len(v), -1), size), n), size).reshape(v.shape)


def _grouped(x: F32Array, n: int) -> F32Array:
    parts = np.array_split(x, _groups(x.shape[1]), axis=1)
    return np.concatenate([by_range(part, 1, n, CLIP.get(n, 1.0)) for part in parts], axis=1)


def _groups(channels: int) -> int:
    return max(1, round(channels / GROUP))
