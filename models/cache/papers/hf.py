"""The quantized cache of Hugging Face's transformers with quanto (its blog of May 2024; no paper): 4 bits.

K and V alike: groups of 64 channels of a token, a scale and a shift each; the last 128 tokens in 16 bits. transformers
rounds all tokens again whenever those 128 are full; as a group's least and largest values stay, that changes nothing.
"""

from __future__ import annotations

from math import gcd

from ..rounding import SCALES, F32Array, by_range

BITS, SINK, TAIL, GROUP = (4, 2), 0, 128, 64


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its integer, and its share of a scale and a shift for each group."""
    return n + SCALES / gcd(heads * head_dim, GROUP)


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    return _grouped(k, n), _grouped(v, n)


def _grouped(x: F32Array, n: int) -> F32Array:
    return by_range(x.reshape(len(x), -1, gcd(x[0].size, GROUP)), 2, n).reshape(x.shape)
