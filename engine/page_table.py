"""Which pages of the KV cache belong to which sequence; knows page numbers, no bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..kernels.shapes import PAGE
from ..models.errors import PyllmError


class PoolFull(PyllmError):
    """No page is left for a sequence's next token."""


class PagePool:
    """The page numbers of a cache. A page can have several owners: sequences with a common beginning share it.

    The prefix cache can be one of the owners. A page that only it owns is idle: `make_room` gives it back when needed.
    """

    def __init__(self, n_pages: int) -> None:
        self._free = list(range(n_pages - 1, -1, -1))
        self._owners = [0] * n_pages
        self._kept = [False] * n_pages  # whether the prefix cache is an owner
        self.idle = 0  # pages that only the prefix cache owns
        self.make_room: Callable[[], bool] = lambda: False  # called when it is full; True: a page was given back

    @property
    def size(self) -> int:
        """Return the number of pages."""
        return len(self._owners)

    @property
    def free(self) -> int:
        """Return the number of pages that nobody owns."""
        return len(self._free)

    def owners(self, page: int) -> int:
        """Return how many share a page."""
        return self._owners[page]

    def take(self) -> int:
        """Return a free page, which the caller then owns alone; raises PoolFull if there is none."""
        while not self._free:
            if not self.make_room():
                raise PoolFull("the KV cache is full: every page is taken; use a larger -c or fewer sequences")
        page = self._free.pop()
        self._owners[page] = 1
        return page

    def share(self, page: int) -> None:
        """Add an owner to a page."""
        if self._kept[page] and self._owners[page] == 1:
            self.idle -= 1
        self._owners[page] += 1

    def give_back(self, page: int) -> None:
        """Take an owner from a page, which is free when it was the last."""
        self._owners[page] -= 1
        if self._owners[page] == 0:
            self._free.append(page)
        elif self._kept[page] and self._owners[page] == 1:
            self.idle += 1

    def keep(self, page: int) -> None:
        """Make the prefix cache an owner of a page that somebody owns."""
        self._owners[page] += 1
        self._kept[page] = True

    def drop(self, page: int) -> None:
        """Let the prefix cache own a page no more."""
        if self._owners[page] == 1:
            self.idle -= 1
        self._kept[page] = False
        self.give_back(page)


class PageTable:
    """The pages of one sequence, in order: all of them, or the last `keep`."""

    def __init__(self, pool: PagePool, max_tokens: int, keep: int = 0) -> None:
        """max_tokens: tokens that the sequence can have. keep: pages to keep; 0: all."""
        self._pool, self._keep = pool, keep
        self.pages = np.zeros(-(-max_tokens // PAGE), np.int64)  # kernels read it by address, so it never moves
        self.first = 0  # index of the first page that is kept
        self.count = 0  # pages of the sequence, those that were given back included

    def holds(self, position: int) -> bool:
        """Return whether the tokens from a position on are kept."""
        return self.first * PAGE <= position

    def reserve(self, n_tokens: int) -> None:
        """Take pages until n tokens have room, give back those before the last `keep`; raises PyllmError if full."""
        while self.count * PAGE < n_tokens:
            if self._keep and self.count - self.first == self._keep:
                self._pool.give_back(int(self.pages[self.first]))
                self.first += 1
            self.pages[self.count] = self._pool.take()
            self.count += 1

    def truncate(self, n_tokens: int) -> None:
        """Give back the pages after the first n tokens; n must be 0 or a position that `holds`."""
        assert n_tokens == 0 or self.holds(n_tokens)
        while (self.count - 1) * PAGE >= n_tokens and self.count > self.first:
            self.count -= 1
            self._pool.give_back(int(self.pages[self.count]))
        if n_tokens == 0:
            self.first = self.count = 0

    def adopt(self, first: int, pages: Sequence[int]) -> None:
        """Begin an empty table with pages that others hold too: those from index `first` on; those before are gone."""
        assert self.count == 0
        self.first, self.count = first, first + len(pages)
        self.pages[first : self.count] = pages
        for page in pages:
            self._pool.share(page)

    def replace(self, i: int, page: int) -> None:
        """Give page i back and hold another with the same content instead."""
        if self.pages[i] != page:
            self._pool.share(page)
            self._pool.give_back(int(self.pages[i]))
            self.pages[i] = page

    def fork(self, n_tokens: int) -> PageTable:
        """Return a table that shares the full pages of the first n tokens with this one, and takes its own after them.

        Only pages that are kept are shared: they must hold what the next token sees.
        """
        other = PageTable(self._pool, len(self.pages) * PAGE, self._keep)
        other.count = n_tokens // PAGE
        other.first = min(self.first, other.count)
        other.pages[: other.count] = self.pages[: other.count]
        for page in other.pages[other.first : other.count]:
            self._pool.share(int(page))
        return other
