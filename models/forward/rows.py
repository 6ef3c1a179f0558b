"""The activations of a step, in buffers that its operations share; knows sizes, records nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ...kernels.attention import attend_exact, prefill_amx, softmax
from ...kernels.lang import amx, cpu
from ...kernels.lang.buffers import aligned
from ...kernels.ops import exact as exact_products
from ...kernels.ops import tile_dot
from ...kernels.shapes import MOST_ROWS, columns
from ..config import Config

T = TypeVar("T")
F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]


def floats(*shape: int) -> F32Array:
    """Return zeroed float32 that begin at a multiple of 64 bytes."""
    return aligned(int(np.prod(shape)) * 4).view(np.float32).reshape(shape)


def padded(rows: int) -> int:
    """Return the rows in memory: products take rows in groups, and the last group may go beyond the end."""
    return max(rows + MOST_ROWS, -(-rows // amx.BLOCK) * amx.BLOCK)


def padded_columns(n: int) -> int:
    """Return the columns in memory of a product of n columns: whole blocks of the matrix unit."""
    return -(-n // amx.BLOCK) * amx.BLOCK


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of activations, (rows, n): as float32 and, if they enter products, in the forms that those take."""

    x: F32Array
    q: npt.NDArray[np.int8]  # blocks of 32
    meta: npt.NDArray[np.uint8]
    half: npt.NDArray[np.uint8]  # tiles of bfloat16, if there is a matrix unit

    @property
    def n(self) -> int:
        return int(self.x.shape[1])

    @staticmethod
    def plain(rows: int, n: int) -> Rows:
        """Return rows of float32 only."""
        return Rows(floats(rows, n), np.empty((0, 0), np.int8), np.empty(0, np.uint8), np.empty(0, np.uint8))

    @staticmethod
    def blocks(rows: int, n: int) -> Rows:
        """Return rows in all forms."""
        q = aligned(rows * n).view(np.int8).reshape(rows, n)
        return Rows(floats(rows, n), q, aligned(rows * n // 2), aligned(rows * n * 2 if cpu.AMX else 0))


class Buffers:
    """The activations of a step, which all layers and all plans of a model share."""

    def __init__(
        self, config: Config, max_rows: int, max_logits: int, threads: int, places: int = 0, exact: bool = False
    ) -> None:
        """places: for sums of attention, see Step; at least max_rows. exact: see Model."""
        c = config
        self.max_rows, self.max_logits = max_rows, max_logits
        self.x = Rows.blocks(padded(max_rows), c.n_embd)
        self._inputs: dict[tuple[str, int], Rows] = {}
        self._outputs: dict[str, Rows] = {}
        self._threads = threads
        self._wide: dict[int, U8Array] = {}
        self._queries: dict[tuple[int, int], Rows] = {}
        self._others: dict[object, Any] = {}
        self.logits = Rows.plain(padded(max_logits), padded_columns(c.n_vocab))
        columns_v = columns(c.head_dim_v)
        self.sums = floats(max(max_rows, places) * c.n_head, columns_v + softmax.TAIL)
        group, columns_k = c.n_head // c.n_head_kv, columns(c.head_dim_k)
        wide = prefill_amx.scratch_bytes(group, columns_k, columns_v) if cpu.AMX else 0
        plain = softmax.scratch_bytes(group, columns_v)
        self.scratch_bytes = max(attend_exact.scratch_bytes(group, columns_k, columns_v) if exact else plain, wide)
        self.scratch = aligned(threads * self.scratch_bytes)

    def input(self, role: str, n: int) -> Rows:
        """Return the buffer for rows of n columns that enter products as `role`; layers take turns with it."""
        if (role, n) not in self._inputs:
            self._inputs[role, n] = Rows.blocks(padded(self.max_rows), n)
        return self._inputs[role, n]

    def output(self, role: str, n: int) -> Rows:
        """Return the buffer for the products named `role`, of n columns; layers take turns with it."""
        if role not in self._outputs:
            self._outputs[role] = Rows.plain(padded(self.max_rows), padded_columns(n))
        return self._outputs[role]

    def wide(self, columns: int) -> U8Array:
        """Return scratch for two tiles of weights as bfloat16, for each thread; matrices of equal columns share it."""
        if columns not in self._wide:
            self._wide[columns] = aligned(self._threads * amx.BLOCK * columns * 2).reshape(self._threads, -1)
        return self._wide[columns]

    @property
    def exact(self) -> U8Array:
        """The scratch of exact products, for all threads."""
        return self.once("exact", lambda: aligned(self._threads * exact_products.SCRATCH))

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return the buffers named by `key`, made when they are first asked for."""
        if key not in self._others:
            self._others[key] = make()
        found: T = self._others[key]
        return found

    def queries(self, heads: int, columns: int) -> Rows:
        """Return the buffer for queries; each head of each row has a row of its own."""
        if (heads, columns) not in self._queries:
            self._queries[heads, columns] = Rows.blocks(self.max_rows * heads + tile_dot.MANY, columns)
        return self._queries[heads, columns]
