"""Shapes of the KV cache that all floors agree on; needs no Numba."""

from __future__ import annotations

PAGE = 64
"""Tokens in a page."""

PART = 4
"""Pages whose sums attention takes on their own. Parts end at fixed positions, multiples of PART pages, and are put
together in order, so that the result of a row depends neither on the number of threads nor on how a prompt was cut."""

MAX_TABLES = 4
"""Page tables of a sequence at most: one for each kind of layer, by which tokens it keeps."""


def pages(tokens: int) -> int:
    """Return the pages that hold `tokens` tokens."""
    return -(-tokens // PAGE)


def parts(tokens: int) -> int:
    """Return the parts that `tokens` tokens have."""
    return -(-tokens // (PART * PAGE))


def columns(head_dim: int) -> int:
    """Return the head's size as the pages hold it: whole blocks of 32 values."""
    return -(-head_dim // 32) * 32
