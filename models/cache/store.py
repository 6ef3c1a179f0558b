"""The memory of the KV cache: for each layer a format for K and one for V, and a pool of pages per KV head.

Which pages belong to which sequence is not known here (see engine/pages.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels import pages
from ...kernels.formats.table import Format
from ...kernels.lang.buffers import aligned
from ..config import Config, Layer
from . import rotation
from .sizes import check_cache_type

U8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LayerCache:
    """K and V of one layer: pools of [KV head][page], bytes."""

    k_format: Format
    v_format: Format
    k_pool: U8Array
    v_pool: U8Array
    k_page: int  # bytes of a page
    v_page: int
    k_head: int  # bytes from one head's pages to the next head's
    v_head: int
    k_rotation: int  # values in a rotated block of K; 0: K is stored as it is
    v_rotation: int
    windowed: bool  # its pages are numbered apart


SLACK = 512
"""Tokens by which a sequence can be rewound, if batches are no larger, before a window has left what it needs again."""


def kept_pages(config: Config, n_batch: int) -> int:
    """Pages that a sequence keeps in layers with a window: what a batch sees and what it stores; 0: no such layers."""
    return -(-(config.window + max(n_batch, SLACK)) // pages.PAGE) + 1 if config.window else 0


class KVCache:
    """Pages of PAGE tokens for every layer and KV head; page number p means page p in each of the pools.

    Layers with a sliding window have a numbering of their own, for as many pages as their windows need.
    """

    def __init__(
        self,
        config: Config,
        n_pages: int,
        types: Sequence[tuple[str, str]],
        rotate: str = "auto",
        *,
        n_batch: int,
        sequences: int = 1,
    ) -> None:
        """types: the names of the formats of K and V for each layer. rotate: of rotation.MODES. n_batch: tokens that a
        step takes in at most."""
        rotation.check(config, rotate)
        self.n_pages = n_pages
        self.kept_pages = kept_pages(config, n_batch)
        self.n_window_pages = min(n_pages, self.kept_pages * sequences)
        self.layers = [
            self._layer(layer, check_cache_type(config, "k", k), check_cache_type(config, "v", v), rotate)
            for layer, (k, v) in zip(config.layers, types, strict=True)
        ]

    def _layer(self, layer: Layer, k: Format, v: Format, rotate: str) -> LayerCache:
        k_page, v_page = pages.k_page_bytes(k, layer.head_dim_k), pages.v_page_bytes(v, layer.head_dim_v)
        n_pages = self.n_window_pages if layer.window else self.n_pages
        k_head, v_head = n_pages * k_page, n_pages * v_page
        pools = [aligned(layer.n_head_kv * head) for head in (k_head, v_head)]
        rotated = rotation.sizes(rotate, layer, k, v)
        return LayerCache(k, v, pools[0], pools[1], k_page, v_page, k_head, v_head, *rotated, layer.window > 0)

    def copy_page(self, source: int, to: int) -> None:
        """What one page holds into another, in all layers that keep all tokens."""
        for layer in self.layers:
            if layer.windowed:
                continue
            for pool, page in ((layer.k_pool, layer.k_page), (layer.v_pool, layer.v_page)):
                held = pool.reshape(-1, self.n_pages, page)
                held[:, to] = held[:, source]

    @property
    def nbytes(self) -> int:
        return sum(layer.k_pool.nbytes + layer.v_pool.nbytes for layer in self.layers)

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return self.n_pages * pages.PAGE
