"""KIVI (Liu et al. 2024, arXiv 2402.02750): K by channel over 32 tokens, V by token over 32 channels, 2 bits.

The paper keeps the last 128 tokens in 16 bits, and reads a prompt's K and V unrounded while it is taken in; pyllm reads
what is stored.
"""

from __future__ import annotations

from math import gcd

from ..rounding import SCALES, F32Array, by_range

BITS, SINK, TAIL, GROUP = (2, 4), 0, 128, 32


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its integer, and its share of a scale and a minimum for each group."""
    return n + SCALES / (GROUP if side == "k" else gcd(head_dim, GROUP))


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    tokens, heads, head_dim = k.shape
    by_channel = by_range(k.reshape(-1, GROUP, heads, head_dim), 1, n).reshape(k.shape)
    by_token = by_range(v.reshape(tokens, heads, -1, gcd(v.shape[2], GROUP)), 3, n).reshape(v.shape)
    return by_channel, by_token
