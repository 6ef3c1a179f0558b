"""Shapes of the KV cache that all floors agree on; needs no Numba."""

from __future__ import annotations

PAGE = 64
"""Tokens in a page."""

MAX_TABLES = 4
"""Page tables of a sequence at most: one for each kind of layer, by which tokens it keeps."""


def columns(head_dim: int) -> int:
    """Return the head's size as the pages hold it: whole blocks of 32 values."""
    return -(-head_dim // 32) * 32
