"""Which pages of the KV cache belong to which sequence; knows no bytes."""

from __future__ import annotations

import numpy as np

from ..kernels.shapes import PAGE
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
    """The pages of one sequence, in order: all of them, or the last `keep`."""

    def __init__(self, pool: PagePool, max_tokens: int, keep: int = 0) -> None:
        """keep: 0 is all."""
        self._pool, self._keep = pool, keep
        self.pages = np.zeros(-(-max_tokens // PAGE), np.int64)  # kernels read it by address: it never moves
        self.first = 0  # the first page that is kept
        self.count = 0  # with those that were not kept

    def holds(self, position: int) -> bool:
        """Whether the tokens from a position on are kept."""
        return self.first * PAGE <= position

    def reserve(self, n_tokens: int) -> None:
        """Have room for so many tokens; what comes before the pages to keep is given back."""
        while self.count * PAGE < n_tokens:
            if self._keep and self.count - self.first == self._keep:
                self._pool.give_back(int(self.pages[self.first]))
                self.first += 1
            self.pages[self.count] = self._pool.take()
            self.count += 1

    def truncate(self, n_tokens: int) -> None:
        """Give back the pages behind the first n tokens, none or such as are kept."""
        assert n_tokens == 0 or self.holds(n_tokens)
        while (self.count - 1) * PAGE >= n_tokens and self.count > self.first:
            self.count -= 1
            self._pool.give_back(int(self.pages[self.count]))
        if n_tokens == 0:
            self.first = self.count = 0

    def fork(self, n_tokens: int) -> PageTable:
        """A table that begins with the full pages of the first n tokens, shared; the rest is its own to fill.

        Only what is kept is shared: what a token behind it sees must be held.
        """
        other = PageTable(self._pool, len(self.pages) * PAGE, self._keep)
        other.count = n_tokens // PAGE
        other.first = min(self.first, other.count)
        other.pages[: other.count] = self.pages[: other.count]
        for page in other.pages[other.first : other.count]:
            self._pool.share(int(page))
        return other
