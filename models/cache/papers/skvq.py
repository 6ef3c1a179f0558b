"""SKVQ (Duanmu et al. 2024, arXiv 2405.06219): channels of like ranges share a group, whose range is clipped; 2 bits.

The channels of all heads are put into groups of some 128 by k-means of their least and largest values, and each token
has a scale and a zero point for each group. The first 5 and the last 128 tokens stay in 16 bits. The paper finds groups
and clipping on other texts, by the error of attention, and keeps scales in 8 bits; here both are the page's, by the
error of the values, and the groups are counted. Its 1.5 bits for V are left out.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ....kernels.shapes import PAGE
from ..rounding import SCALES, F32Array, by_range

BITS, SINK, TAIL = (2, 3, 4), 5, 128
GROUP, ROUNDS, CLIPS = 128, 10, [1 - 0.05 * i for i in range(11)]


def bits(side: str, heads: int, head_dim: int, n: int = BITS[0]) -> float:
    """Return the bits of a value: its integer, its share of scales and zero points, and its channel's group."""
    groups = _groups(heads * head_dim)
    return n + SCALES * groups / (heads * head_dim) + math.log2(groups) / PAGE


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back."""
    return grouped(k, n), grouped(v, n)


def grouped(x: F32Array, n: int) -> F32Array:
    """Return x (tokens, heads, head_dim) rounded by token in groups of channels, each clipped as suits it best."""
    flat = x.reshape(len(x), -1)
    found = np.empty_like(flat)
    labels = alike(np.stack([flat.min(0), flat.max(0)], axis=1), _groups(flat.shape[1]))
    for label in np.unique(labels):
        part = flat[:, labels == label]
        clipped = [by_range(part, 1, n, clip) for clip in CLIPS]
        found[:, labels == label] = min(clipped, key=lambda y: float(((y - part) ** 2).sum()))
    return found.reshape(x.shape)


def alike(points: F32Array, count: int) -> npt.NDArray[np.intp]:
    """Return the number of each point's cluster: k-means, from points evenly spaced in order of their range."""
    order = np.argsort(points[:, 1] - points[:, 0], kind="stable")
    centers = points[order[(2 * np.arange(count) + 1) * len(points) // (2 * count)]]
    for _ in range(ROUNDS):
        labels: npt.NDArray[np.intp] = ((points[:, None] - centers) ** 2).sum(-1).argmin(1)
        centers = np.stack([points[labels == i].mean(0) if (labels == i).any() else centers[i] for i in range(count)])
    return labels


def _groups(channels: int) -> int:
    return max(1, round(channels / GROUP))
