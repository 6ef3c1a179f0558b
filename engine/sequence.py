"""The state of one sequence: its tokens, and the pages that hold their K and V; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

from ..kernels.shapes import PAGE
from ..models.cache.store import KVCache
from ..models.forward.span import Span
from .page_table import PagePool, PageTable, PoolFull


def pools(kv: KVCache) -> list[PagePool]:
    """Return a pool of free pages for each of a cache's kinds of layers."""
    return [PagePool(pages.pool) for pages in kv.tables]


class Sequence:
    """The tokens of one sequence, and a page table for each kind of layers (see models/cache/kinds.py)."""

    def __init__(self, pools: Tokens[PagePool], kv: KVCache, n_ctx: int) -> None:
        """n_ctx: tokens that the sequence can have."""
        self.n_ctx = n_ctx
        self.tables = [PageTable(pool, n_ctx, pages.kept) for pool, pages in zip(pools, kv.tables, strict=True)]
        self._pages = kv.tables
        self._chooses = kv.borders is not None and kv.borders.most is not None
        self.tokens: list[int] = []

    @property
    def n_past(self) -> int:
        """Return the number of tokens in the cache."""
        return len(self.tokens)

    def span(self, tokens: Tokens[int], *, prompt: bool) -> Span:
        """Take pages for these tokens and return the span for a step; call `extend` once the step is done.

        prompt: they are part of a prompt, not generated.
        """
        assert len(tokens) <= self.at_once(len(tokens))
        self.reserve(self.n_past + len(tokens))
        return Span(tokens, self.n_past, [table.pages for table in self.tables], prompt)

    def at_once(self, n: int) -> int:
        """Return how many of n tokens a step may take: where tokens are chosen, none after the end of a page.

        So the choice, which is made before a step, depends on no other way to cut a prompt.
        """
        return min(n, PAGE - self.n_past % PAGE) if self._chooses else n

    def extend(self, tokens: Tokens[int]) -> None:
        """Add tokens that a step has taken in."""
        self.tokens.extend(tokens)

    def reserve(self, n: int) -> None:
        """Take pages until n tokens have room; raises PyllmError if a pool has none left."""
        for table, pages in zip(self.tables, self._pages, strict=True):
            if not table.count:
                table.begin(pages.first)
            table.reserve(pages.tokens(n))

    def try_reserve(self, n: int) -> bool:
        """Take pages until n tokens have room; return False if a pool has none left."""
        try:
            self.reserve(n)
        except PoolFull:
            return False
        return True

    def rewind(self, n: int) -> int:
        """Forget all but the first n tokens, or all if a window gave back pages that token n sees; return what is left.

        Where tokens are chosen, those after the first n had a part in that, so all are forgotten. The caller takes in
        again what it still needs.
        """
        n = min(n, self.n_past)
        each = list(zip(self.tables, self._pages, strict=True))
        if self._chooses and n < self.n_past:
            n = 0
        if not all(not pages.window or table.holds(max(0, n + 1 - pages.window)) for table, pages in each):
            n = 0
        del self.tokens[n:]
        for table, pages in each:
            table.truncate(pages.tokens(n) if n else 0)
        return n
