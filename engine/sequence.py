"""The state of one sequence: its tokens, and the pages that hold their K and V; steps nothing."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from ..models.cache.store import KVCache
from ..models.forward.step import Span
from .page_table import PagePool, PageTable


def pools(kv: KVCache) -> list[PagePool]:
    """Return a pool of free pages for each kind of layers of a cache."""
    return [PagePool(pages.pool) for pages in kv.tables]


class Sequence:
    """Tokens in the cache, and a page table for each kind of layers (see models/cache/kinds.py)."""

    def __init__(self, pools: Tokens[PagePool], kv: KVCache, n_ctx: int) -> None:
        """n_ctx: tokens that it can hold."""
        self.n_ctx = n_ctx
        self.tables = [PageTable(pool, n_ctx, pages.kept) for pool, pages in zip(pools, kv.tables, strict=True)]
        self._windows = [pages.window for pages in kv.tables]
        self.tokens: list[int] = []

    @property
    def n_past(self) -> int:
        """Tokens in the cache."""
        return len(self.tokens)

    def span(self, tokens: Tokens[int]) -> Span:
        """Take the pages for these tokens and describe them to a step; `extend` counts them when it is done."""
        self.reserve(self.n_past + len(tokens))
        return Span(tokens, self.n_past, [table.pages for table in self.tables])

    def extend(self, tokens: Tokens[int]) -> None:
        """Count tokens that a step has taken in."""
        self.tokens.extend(tokens)

    def reserve(self, n: int) -> None:
        """Have pages for n tokens; raises PyllmError where the pool has none left."""
        for table in self.tables:
            table.reserve(n)

    def can_truncate(self, n: int) -> bool:
        """Return whether all that token n would see is there, in layers of every kind."""
        each = zip(self.tables, self._windows, strict=True)
        return all(not window or table.holds(max(0, n + 1 - window)) for table, window in each)

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens: none, or as many as `can_truncate` allows."""
        del self.tokens[n:]
        for table in self.tables:
            table.truncate(n)
