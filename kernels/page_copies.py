"""Pages of K and V in a smaller format and back, for copies that wait outside of the cache; knows no pools.

A copy has canonical blocks, row by row. It is made and read with NumPy; tiles of K are packed as weights are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from . import pages
from .formats import tiles
from .formats.table import Format
from .lang.buffers import address
from .shapes import PAGE

U8Array = npt.NDArray[np.uint8]


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
        if self.side == "k":
            rows = tiles.unpack(found, self.held, len(found) * PAGE, self.columns)
        else:
            rows = np.concatenate([pages.canonical_v(page, self.held, self.columns) for page in found])
        return self.smaller.encode(self.held.decode(rows)).reshape(len(found), -1)

    def restore(self, copies: U8Array) -> U8Array:
        """Return the pages (n, bytes of a page) of copies (n, page_bytes)."""
        rows = self.held.encode(self.smaller.decode(copies.reshape(len(copies) * PAGE, -1)))
        return (packed_k if self.side == "k" else packed_v)(rows, self.held, self.columns)


def packed_k(rows: U8Array, fmt: Format, columns: int) -> U8Array:
    """Return the K pages of canonical blocks (n * PAGE, bytes of a row): (n, bytes of a page)."""
    rows = np.ascontiguousarray(rows)
    out = np.zeros((len(rows) // PAGE, pages.k_page_bytes(fmt, columns)), np.uint8)
    pack = tiles.pack_blocks if fmt.bits else tiles.pack_floats
    args = np.zeros(1, pack.args)
    operands = {**tiles.pack_operands(fmt, len(rows), columns), "raw": rows, "tiles": out}
    for name, value in operands.items():
        args[name] = address(value) if isinstance(value, np.ndarray) else value
    pack.run(args, 0, len(rows) // tiles.ROWS)
    return out


def packed_v(rows: U8Array, fmt: Format, columns: int) -> U8Array:
    """Return the V pages of canonical blocks (n * PAGE, bytes of a row): (n, bytes of a page)."""
    n, blocks = len(rows) // PAGE, columns // 32
    if fmt.layout is None:
        return rows.reshape(n, -1)
    each = rows.reshape(n, PAGE, blocks, fmt.nbytes)
    scales = [each[..., at : at + 2].transpose(0, 2, 1, 3) for at in (fmt.layout.d, fmt.layout.m) if at >= 0]
    numbers = tiles.to_planes(fmt.layout.integers.read(each), fmt.bits)
    return np.concatenate([part.reshape(n, -1) for part in (*scales, numbers)], axis=1)
