"""Shapes of the KV cache and of the kernels, which all floors agree on; needs no Numba."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Shape:
    """How products of many rows are cut up. It changes their speed, and never a bit of their results."""

    rows: int  # of activations whose sums are taken at once
    chunk: int  # rows of activations that stay in a core's cache while it goes through the tiles: a multiple of `rows`

    @property
    def valid(self) -> bool:
        return 1 <= self.rows <= MOST_ROWS and self.rows <= self.chunk <= 4096 and self.chunk % self.rows == 0


MOST_ROWS = 16
"""Rows at once in any shape: rows of activations are followed by room for that number of rows."""

CHUNK = 32
"""Rows of a chunk where nothing was measured."""

DEFAULTS = {
    "avx512vnni": Shape(8, CHUNK),
    "avx2": Shape(8, CHUNK),
    "neon": Shape(8, CHUNK),
    "portable": Shape(8, CHUNK),
}
"""By instruction set of the int8 dot product (`lang.cpu.DOT`). `pyllm tune` measures others."""
