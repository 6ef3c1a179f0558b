"""The memory of the KV cache: each layer has a format for K, one for V, and a pool of pages for each KV head.

It does not know which pages belong to which sequence (see engine/page_table.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels import pages
from ...kernels.formats.table import Format
from ...kernels.lang.buffers import aligned
from ...kernels.shapes import PAGE
from ..config import Config, Layer
from . import rotation
from .kinds import kind_of, kinds
from .sizes import check_cache_type
from .spec import CacheSpec

U8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LayerCache:
    """The K and V of one layer: pools of bytes, [KV head][page].

    Heads of K and V may differ in size. Layers that share K and V have the same LayerCache; V may be a view of K.
    """

    kind: int  # index of the page tables that number its pages
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


@dataclass(frozen=True)
class TablePages:
    """The pages of the layers of one kind."""

    pool: int  # pages of all sequences together
    kept: int  # pages that a sequence keeps, its last ones; 0: all
    window: int  # tokens that a row attends to, itself included; 0: all


class KVCache:
    """Pages of PAGE tokens for every layer and KV head; page number p means page p in each pool of its kind."""

    def __init__(self, config: Config, spec: CacheSpec, n_ctx: int, *, n_batch: int, sequences: int = 1) -> None:
        """Make room for n_ctx tokens of `sequences` sequences together; a step takes in n_batch tokens at most."""
        rotation.check(config, spec.rotate)
        self.spec, self.n_pages = spec, -(-n_ctx // PAGE)
        self.tables = [
            TablePages(kind.pool_pages(n_ctx, n_batch, sequences), kind.kept_pages(n_batch), kind.window)
            for kind in kinds(config)
        ]
        self.layers = [
            self._layer(layer, kind_of(config, i), check_cache_type(config, "k", k), check_cache_type(config, "v", v))
            for i, (layer, (k, v)) in enumerate(zip(config.layers, spec.layers(config.n_layer), strict=True))
        ]

    def _layer(self, layer: Layer, kind: int, k: Format, v: Format) -> LayerCache:
        k_page, v_page = pages.k_page_bytes(k, layer.head_dim_k), pages.v_page_bytes(v, layer.head_dim_v)
        n_pages = self.tables[kind].pool
        k_head, v_head = n_pages * k_page, n_pages * v_page
        pools = [aligned(layer.n_head_kv * head) for head in (k_head, v_head)]
        rotated = rotation.sizes(self.spec.rotate, layer, k, v)
        return LayerCache(kind, k, v, pools[0], pools[1], k_page, v_page, k_head, v_head, *rotated)

    def copy_page(self, kind: int, source: int, to: int) -> None:
        """Copy page `source` to page `to` in all layers of a kind."""
        for layer in self.layers:
            if layer.kind != kind:
                continue
            for pool, page in ((layer.k_pool, layer.k_page), (layer.v_pool, layer.v_page)):
                held = pool.reshape(-1, self.tables[kind].pool, page)
                held[:, to] = held[:, source]

    @property
    def nbytes(self) -> int:
        """Return the bytes of all pools, which sizes.cache_bytes computes in advance."""
        return sum(layer.k_pool.nbytes + layer.v_pool.nbytes for layer in self.layers)

    @property
    def tokens(self) -> int:
        """Return how many tokens the pages hold."""
        return self.n_pages * PAGE
