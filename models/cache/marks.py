"""What is noted of each token that may be evicted: its weight in attention and its position; knows no policy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...kernels.lang.buffers import aligned
from ...kernels.shapes import PAGE

MARK = 8
"""Bytes of a token's marks for a KV head."""


class Marks:
    """The marks of a layer's tokens in one pool, (KV heads, pages, PAGE) each, numbered as its pages are."""

    def __init__(self, heads: int, pages: int) -> None:
        shape = heads, pages, PAGE
        self.mass = aligned(4 * heads * pages * PAGE).view(np.float32).reshape(shape)
        """The sum of a token's weights in the softmax of all query heads of the group, over the rows that saw it."""
        self.positions: npt.NDArray[np.int32] = np.zeros(shape, np.int32)
        """Of the tokens in the body: these stand in no order."""

    @property
    def nbytes(self) -> int:
        return self.mass.nbytes + self.positions.nbytes
