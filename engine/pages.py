"""Which pages of the KV cache belong to which sequence; knows no bytes."""

from __future__ import annotations

import numpy as np

from ..kernels.cache import PAGE
from ..models.errors import PyllmError


class PagePool:
    """Pages by number. A page can have several owners: sequences with a common beginning share it."""

    def __init__(self, n_pages: int) -> None:
        self._free = list(range(n_pages - 1, -1, -1))
        self._owners = [0] * n_pages

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A page of one's own."""
        if not self._free:
            raise PyllmError("the KV cache is full: every page is taken; use a larger -c or fewer sequences")
        page = self._free.pop()
        self._owners[page] = 1
        return page

    def share(self, page: int) -> None:
        self._owners[page] += 1

    def give_back(self, page: int) -> None:
        self._owners[page] -= 1
        if self._owners[page] == 0:
            self._free.append(page)


class PageTable:
    """The pages of one sequence, in order."""

    def __init__(self, pool: PagePool, max_tokens: int) -> None:
        self._pool = pool
        self.pages = np.zeros(-(-max_tokens // PAGE), np.int64)  # kernels read it by address: it never moves
        self.count = 0

    def reserve(self, n_tokens: int) -> None:
        """Have room for so many tokens."""
        while self.count * PAGE < n_tokens:
            self.pages[self.count] = self._pool.take()
            self.count += 1

    def truncate(self, n_tokens: int) -> None:
        """Give back the pages behind the first n tokens."""
        while (self.count - 1) * PAGE >= n_tokens and self.count:
            self.count -= 1
            self._pool.give_back(int(self.pages[self.count]))

    def fork(self, n_tokens: int) -> PageTable:
        """A table that begins with the full pages of the first n tokens, shared; the rest is its own to fill."""
        other = PageTable(self._pool, len(self.pages) * PAGE)
        other.count = n_tokens // PAGE
        other.pages[: other.count] = self.pages[: other.count]
        for page in other.pages[: other.count]:
            self._pool.share(int(page))
        return other
