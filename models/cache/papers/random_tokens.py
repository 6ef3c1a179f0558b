"""The control for any choice of tokens: `zipcache` with tokens chosen at random, by layer, page and head."""

from __future__ import annotations

import numpy as np

from ..rounding import F32Array
from .zipcache import BITS, MATTER, SINK, TAIL, bits, tiers

__all__ = ["BITS", "SINK", "TAIL", "bits", "policy"]


def policy(k: F32Array, v: F32Array, layer: int, position: int, n: int = BITS[0]) -> tuple[F32Array, F32Array]:
    """Return K and V of a page as they would be read back; the same choice whenever it is made."""
    drawn = np.random.default_rng([layer, position]).random(k.shape[:2])
    return tiers(k, v, drawn.argsort(axis=0).argsort(axis=0) < MATTER, n)
