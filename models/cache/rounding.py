"""Rounds K and V in NumPy, for the formats of papers/ and for studies; stores nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]

SCALES = 32
"""Bits of a scale and a zero point, float16 each. They are counted as that, but not rounded."""


def by_range(x: F32Array, axis: int, bits: int, clip: float = 1.0) -> F32Array:
    """Return x as integers of n bits between the least and the largest value along an axis would give it back.

    clip: a factor on both; values beyond them become one of them.
    """
    low, high = clip * x.min(axis, keepdims=True), clip * x.max(axis, keepdims=True)
    step, most = np.maximum(high - low, 1e-9) / (2**bits - 1), 2**bits - 1
    found: F32Array = np.clip(np.rint((x - low) / step), 0, most) * step + low
    return found


def rotated(x: F32Array, size: int) -> F32Array:
    """Apply the Walsh-Hadamard transform, its own inverse, to each block of `size` values (0: change nothing)."""
    if not size:
        return x
    y = x.reshape(*x.shape[:-1], -1, size)
    step = 1
    while step < size:
        pairs = y.reshape(*y.shape[:-1], -1, 2, step)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([low + high, low - high], axis=-2).reshape(y.shape)
        step *= 2
    return (y * np.float32(size**-0.5)).reshape(x.shape)
