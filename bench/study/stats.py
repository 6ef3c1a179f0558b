"""Statistics of a study: the frontier, the bits that K needs more than V, and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def frontier(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return, by size, those points (size, loss, name) that none of the same or a smaller size beats."""
    best: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def more_bits(k: float, v: float, noise: float) -> float | None:
    """Return how many bits per value K needs more than V for an equal loss, from both losses in the same type.

    A bit divides the squared rounding error, and so the divergence, by 4. None if noise hides one of the losses.
    """
    if min(k, v) <= 1.2 * noise:
        return None
    return 0.5 * math.log2((k - noise) / (v - noise))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation: 1 if both put things in the same order."""
    a, b = (np.argsort(np.argsort(values)).astype(np.float64) for values in (x, y))
    return float(np.corrcoef(a, b)[0, 1])
