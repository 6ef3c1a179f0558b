"""The memory of the KV cache: each layer has a format for K, one for V, and a pool of pages for each KV head.

It does not know which pages belong to which sequence (see engine/page_table.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels import pages
from ...kernels.formats.table import Format
from ...kernels.lang.buffers import aligned
from ...kernels.shapes import PAGE
from ..config import Config, Layer
from . import rotation
from .kinds import TablePages, kind_of, tables
from .marks import Marks
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


class KVCache:
    """Pages of PAGE tokens for every layer and KV head; page number p means page p in each pool of its kind."""

    def __init__(self, config: Config, spec: CacheSpec, n_ctx: int, *, n_batch: int, sequences: int = 1) -> None:
        """Make room for n_ctx tokens of `sequences` sequences together; a step takes in n_batch tokens at most."""
        rotation.check(config, spec.rotate)
        self.spec, self.n_pages = spec, -(-n_ctx // PAGE)
        segments = spec.segments
        self.borders = spec.borders
        self.tables: list[TablePages] = tables(config, self.borders, n_ctx, n_batch, sequences)
        self.layers: list[LayerCache] = []  # with segments, the body
        self.tails: dict[int, LayerCache] = {}  # of layers with segments
        self.sinks: dict[int, LayerCache] = {}
        self.marks: dict[int, tuple[Marks, Marks]] = {}  # of body and tail, in layers whose tokens are chosen
        kinds = len(self.tables) - (2 if segments else 0)
        for i, (layer, (k, v)) in enumerate(zip(config.layers, spec.layers(config.n_layer), strict=True)):
            kind = kind_of(config, i)
            if segments is None or kind:
                self.layers.append(self._layer(config, layer, [kind], [(k, v)])[0])
                continue
            types = [(k, v), segments.tail.types(k, v), segments.sink.types(k, v)]
            body, self.tails[i], self.sinks[i] = self._layer(config, layer, (0, kinds, kinds + 1), types)
            self.layers.append(body)
            if segments.keep is not None:
                pools = [self.tables[kind].pool for kind in (0, kinds)]
                self.marks[i] = Marks(layer.n_head_kv, pools[0]), Marks(layer.n_head_kv, pools[1])

    def _layer(
        self, config: Config, layer: Layer, kinds: Iterable[int], types: Sequence[tuple[str, str]]
    ) -> list[LayerCache]:
        """Return the pools of a layer, one for each pair of types; its queries are rotated alike for all of them."""
        formats = [(check_cache_type(config, "k", k), check_cache_type(config, "v", v)) for k, v in types]
        each = [rotation.sizes(self.spec.rotate, layer, k, v) for k, v in formats]
        rotated = max(k for k, _ in each), max(v for _, v in each)
        return [self._pools(layer, kind, *pair, rotated) for kind, pair in zip(kinds, formats, strict=True)]

    def _pools(self, layer: Layer, kind: int, k: Format, v: Format, rotated: tuple[int, int]) -> LayerCache:
        k_page, v_page = pages.k_page_bytes(k, layer.head_dim_k), pages.v_page_bytes(v, layer.head_dim_v)
        n_pages = self.tables[kind].pool
        k_head, v_head = n_pages * k_page, n_pages * v_page
        pools = [aligned(layer.n_head_kv * head) for head in (k_head, v_head)]
        return LayerCache(kind, k, v, pools[0], pools[1], k_page, v_page, k_head, v_head, *rotated)

    def stored(self, i: int) -> LayerCache:
        """Return where layer i stores the tokens of a step."""
        return self.tails.get(i, self.layers[i])

    def segments(self, i: int) -> tuple[LayerCache, ...]:
        """Return where the tokens of layer i lie: sink, body and tail, or the one place where all of them are."""
        if i not in self.tails:
            return (self.layers[i],)
        return self.sinks[i], self.layers[i], self.tails[i]

    def positions(self, held: LayerCache, tokens: int, first: int) -> range:
        """Return the positions, of a sequence of n tokens, that a place holds whose table begins with page `first`."""
        tail = self.borders is not None and held in self.tails.values()
        begin = self.borders.left(tokens) if self.borders and tail else first
        return range(PAGE * begin, min(tokens, self.tables[held.kind].tokens(tokens)))

    @property
    def every(self) -> list[LayerCache]:
        """Return the places of all layers and of all their segments."""
        return [*self.layers, *self.tails.values(), *self.sinks.values()]

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
        marks = sum(each.nbytes for pair in self.marks.values() for each in pair)
        return marks + sum(held.k_pool.nbytes + held.v_pool.nbytes for held in self.every)

    @property
    def tokens(self) -> int:
        """Return how many tokens the pages hold."""
        return self.n_pages * PAGE
