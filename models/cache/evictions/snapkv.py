"""SnapKV (Li et al. 2024, arXiv 2404.14469): tokens that the last rows attend to, with their neighbours.

The paper looks once, at the last rows of a whole prompt, and pools their weights over 5 or 7 tokens; here the last page
of rows looks each time that a page leaves the tail.
"""

from __future__ import annotations

import numpy as np

from ..seen import F32Array, Seen

KEEP, SINK, TAIL, ROWS = 960, 0, 64, "page"
POOL = 3  # neighbours on each side


def score(seen: Seen) -> F32Array:
    """Return what each token is worth: the largest mass of those that stand up to POOL tokens from it."""
    order = np.argsort(seen.positions, axis=1)
    positions, mass = np.take_along_axis(seen.positions, order, axis=1), np.take_along_axis(seen.mass, order, axis=1)
    pooled = mass.copy()
    for back in range(1, POOL + 1):  # neighbours are at most so many places away, as positions differ
        near = positions[:, back:] - positions[:, :-back] <= POOL
        np.maximum(pooled[:, back:], np.where(near, mass[:, :-back], 0), out=pooled[:, back:])
        np.maximum(pooled[:, :-back], np.where(near, mass[:, back:], 0), out=pooled[:, :-back])
    found = np.empty_like(pooled)
    np.put_along_axis(found, order, pooled, axis=1)
    return found
