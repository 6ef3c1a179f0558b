"""What a study's figures add up to: the frontier, bits that one side needs more, how well one figure tells another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def frontier(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Of (size, loss, name) those that no other of the same or less size beats, by size."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def more_bits(k: float, v: float, noise: float) -> float | None:
    """Bits per value that K needs more than V for an equal loss, from the losses of both in the same type.

    A bit makes a rounding error's square, and with it the divergence, a quarter. None where the noise hides a loss.
    """
    if min(k, v) <= 1.2 * noise:
        return None
    return 0.5 * math.log2((k - noise) / (v - noise))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: 1 where both put things in the same order."""
    a, b = (np.argsort(np.argsort(values)).astype(np.float64) for values in (x, y))
    return float(np.corrcoef(a, b)[0, 1])
