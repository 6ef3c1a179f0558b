"""Pages of K and V in a smaller format and back, for copies that wait outside of the cache; knows no pools.

A copy has canonical blocks, row by row. It is made and read with NumPy, since a request waits seldom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import pages
from .formats.table import Format
from .pages import U8Array
from .shapes import PAGE


@dataclass(frozen=True)
class SmallerCopy:
    """How pages of K or V, in `held`, are copied in the format `smaller`."""

    side: Literal["k", "v"]
    held: Format
    smaller: Format
    columns: int  # values of a row, in whole blocks

    @property
    def page_bytes(self) -> int:
        """Return the bytes of a page's copy."""
        return PAGE * self.smaller.row_bytes(self.columns)

    def shrink(self, found: U8Array) -> U8Array:
        """Return copies of pages (n, bytes of a page): (n, page_bytes)."""
        canonical = pages.canonical_k if self.side == "k" else pages.canonical_v
        rows = canonical(found, self.held, self.columns)
        return self.smaller.encode(self.held.decode(rows)).reshape(len(found), -1)

    def restore(self, copies: U8Array) -> U8Array:
        """Return the pages (n, bytes of a page) of copies (n, page_bytes)."""
        packed = pages.packed_k if self.side == "k" else pages.packed_v
        rows = self.held.encode(self.smaller.decode(copies.reshape(len(copies) * PAGE, -1)))
        return packed(rows, self.held, self.columns)
