"""KVQuant (Hooper et al. 2024, arXiv 2401.18079): a codebook instead of even steps, and 1 % outliers in 16 bits.

K is normalized by channel, V by token; the first tokens stay in 16 bits. Codebook, ranges and outliers are those of
the page here, and are counted. In the paper ranges of K and codebooks are calibrated on other texts, with Fisher
information as weights, and cost nothing in the cache; and K is stored before RoPE. Both are left out.
"""

from __future__ import annotations

import numpy as np

from ....kernels.shapes import PAGE
from ..rounding import SCALES, F32Array

BITS, SINK, TAIL = (3, 4, 2), 1, 0
OUTLIERS, ROUNDS = 0.01, 12


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its code, and its share of ranges, codebook and outliers (value and index)."""
    values = heads * head_dim
    ranges = SCALES / (PAGE if side == "k" else values)
    return n + ranges + (1 << n) * 16 / (PAGE * values) + _outliers(PAGE * values) * 32 / (PAGE * values)


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    return coded(k, (0,), n), coded(v, (1, 2), n)


def coded(x: F32Array, axes: tuple[int, ...], n: int) -> F32Array:
    """Return x after normalizing along the axes and rounding to 2**n values; the outliers stay as they are."""
    off = np.abs(x - x.mean(axes, keepdims=True)) / np.maximum(x.std(axes, keepdims=True), 1e-9)
    outlier = off > np.sort(off, axis=None)[-_outliers(x.size) - 1]
    low = np.where(outlier, np.inf, x).min(axes, keepdims=True)
    size = np.maximum(np.where(outlier, -np.inf, x).max(axes, keepdims=True) - low, 1e-9)
    unit = (x - low) / size
    book = codebook(unit[~outlier], 2**n)
    found: F32Array = np.where(outlier, x, book[nearest(unit, book)] * size + low).astype(np.float32)
    return found


def codebook(x: F32Array, size: int) -> F32Array:
    """Return the `size` values, in order, that stand for x with a small squared error: k-means from quantiles on."""
    book = np.quantile(x, (np.arange(size) + 0.5) / size)
    for _ in range(ROUNDS):
        at = nearest(x, book)
        counts = np.bincount(at, minlength=size)
        book = np.where(counts > 0, np.bincount(at, x, size) / np.maximum(counts, 1), book)
    return book.astype(np.float32)


def nearest(x: F32Array, book: F32Array) -> np.ndarray:
    """Return the index of the nearest value of a codebook that is in order."""
    return np.searchsorted((book[1:] + book[:-1]) / 2, x)


def _outliers(values: int) -> int:
    return round(OUTLIERS * values)
