"""The activations of a step, in buffers that its operations share; knows sizes, records nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..kernels import attention, cache, tile_dot, tiles
from ..kernels.buffers import aligned
from .config import Config
from .step import MAX_SPLITS

F32Array = npt.NDArray[np.float32]


def floats(*shape: int) -> F32Array:
    """Zeroed, at a multiple of 64 bytes."""
    return aligned(int(np.prod(shape)) * 4).view(np.float32).reshape(shape)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of activations, (rows, n): as float32, and as int8 blocks where they enter a product."""

    x: F32Array
    q: npt.NDArray[np.int8]
    meta: npt.NDArray[np.uint8]

    @property
    def n(self) -> int:
        return int(self.x.shape[1])

    @staticmethod
    def plain(rows: int, n: int) -> Rows:
        """With no room for int8 blocks."""
        return Rows(floats(rows, n), np.empty((0, 0), np.int8), np.empty(0, np.uint8))

    @staticmethod
    def blocks(rows: int, n: int) -> Rows:
        """With room for int8 blocks."""
        q = aligned(rows * n).view(np.int8).reshape(rows, n)
        return Rows(floats(rows, n), q, aligned(rows * n // 2))


class Buffers:
    """Activations of a step, shared by all layers and by the plans of a model."""

    def __init__(self, config: Config, max_rows: int, max_outs: int, threads: int) -> None:
        c = config
        self.max_rows, self.max_outs = max_rows, max_outs
        self.x = Rows.blocks(max_rows + tile_dot.MANY, c.n_embd)
        self._inputs: dict[tuple[str, int], Rows] = {}
        self._outputs: dict[str, Rows] = {}
        self._queries: dict[tuple[int, int], Rows] = {}
        self.logits = Rows.plain(max_outs + tile_dot.MANY, -(-c.n_vocab // tiles.ROWS) * tiles.ROWS)
        columns_v = cache.columns(c.head_dim_v)
        self.sums = floats(max(max_rows, MAX_SPLITS) * c.n_head, columns_v + attention.TAIL)
        self.scratch_bytes = attention.scratch_bytes(c.n_head // c.n_head_kv, columns_v)
        self.scratch = aligned(threads * self.scratch_bytes)

    def input(self, role: str, n: int) -> Rows:
        """The buffer for what enters products and is called `role`: layers take turns with it."""
        if (role, n) not in self._inputs:
            self._inputs[role, n] = Rows.blocks(self.max_rows + tile_dot.MANY, n)
        return self._inputs[role, n]

    def output(self, role: str, n: int) -> Rows:
        """The buffer for what comes from products and is called `role`."""
        if role not in self._outputs:
            self._outputs[role] = Rows.plain(self.max_rows + tile_dot.MANY, -(-n // tiles.ROWS) * tiles.ROWS)
        return self._outputs[role]

    def queries(self, heads: int, columns: int) -> Rows:
        """The buffer for the queries of all heads, each a row of its own."""
        if (heads, columns) not in self._queries:
            self._queries[heads, columns] = Rows.blocks(self.max_rows * heads + tile_dot.MANY, columns)
        return self._queries[heads, columns]
