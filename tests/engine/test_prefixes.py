"""Which pages are kept for others, found again, and given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pyllm.engine import prefixes
from pyllm.engine.page_table import PagePool, PoolFull
from pyllm.engine.prefixes import Prefixes
from pyllm.engine.sequence import Sequence
from pyllm.kernels.shapes import PAGE
from pyllm.models.cache.store import TablePages

TEXT = list(range(1000, 1000 + 10 * PAGE))


class Cache:
    """Pools with a prefix cache, and sequences that fill them."""

    def __init__(self, n_pages: int, windows: tuple[int, ...] = (0,), kept: int = 4) -> None:
        self.pools = [PagePool(n_pages) for _ in windows]
        tables = [TablePages(n_pages, kept if window else 0, window) for window in windows]
        self._kv: Any = SimpleNamespace(tables=tables, borders=None)
        self.prefixes = Prefixes(self.pools, windows)

    def sequence(self) -> Sequence:
        return Sequence(self.pools, self._kv, 20 * PAGE)

    def fill(self, tokens: list[int], salt: int = 0, step: int = PAGE) -> Sequence:
        """Take tokens in, a step after the other, as a scheduler does; return the sequence."""
        made, known = self.sequence(), prefixes.start(salt)
        self.prefixes.lend(self.prefixes.find(tokens, salt), made, known)
        while made.n_past < len(tokens):
            some = tokens[made.n_past : made.n_past + step]
            made.span(some, prompt=True)
            made.extend(some)
            self.prefixes.publish(made, known)
        return made

    def pages(self, sequence: Sequence, kind: int = 0) -> list[int]:
        table = sequence.tables[kind]
        held: list[int] = table.pages[table.first : table.count].tolist()
        return held


@pytest.mark.parametrize(
    ("n", "hit"),
    [(1, 0), (PAGE - 1, 0), (PAGE, 0), (PAGE + 1, 1), (2 * PAGE, 1), (2 * PAGE + 1, 2), (5 * PAGE, 3)],
)
def test_full_pages_are_found_but_never_the_last_token(n: int, hit: int) -> None:
    cache = Cache(12)
    first = cache.fill(TEXT[: 3 * PAGE + 10])
    assert cache.prefixes.find(TEXT[:n]).n == hit * PAGE
    second = cache.fill(TEXT[:n])
    assert cache.pages(second)[:hit] == cache.pages(first)[:hit]


def test_other_tokens_and_other_salts_share_nothing() -> None:
    cache = Cache(12)
    cache.fill(TEXT[: 3 * PAGE])
    other = [*TEXT[:PAGE], 7, *TEXT[PAGE + 1 : 4 * PAGE]]
    assert cache.prefixes.find(other).n == PAGE
    assert cache.prefixes.find([7, *TEXT[1:]]).n == 0
    assert cache.prefixes.find(TEXT[PAGE:]).n == 0
    assert cache.prefixes.find(TEXT, salt=1).n == 0


def test_tokens_of_equal_hash_are_told_from_each_other() -> None:
    """-1 and -2 have the same hash in CPython, and so have tuples of them."""
    cache = Cache(12)
    one, other = [-1] * 2 * PAGE, [-2] * 2 * PAGE
    assert hash(tuple(one)) == hash(tuple(other))
    cache.fill(one)
    assert cache.prefixes.find(other).n == 0
    cache.fill(other)
    assert len(cache.prefixes) == 4
    assert cache.prefixes.find([*one, 0]).n == cache.prefixes.find([*other, 0]).n == 2 * PAGE


def test_the_least_recently_used_goes_first_and_tails_before_heads() -> None:
    cache = Cache(6)
    a, b = TEXT[: 3 * PAGE], TEXT[3 * PAGE : 6 * PAGE]
    for text in (a, b):
        cache.fill(text).rewind(0)
    cache.prefixes.find([*a, 0])  # looking is not using
    cache.fill([*a[:PAGE], 5]).rewind(0)  # uses the first page of a, and needs one more
    assert cache.prefixes.find([*a, 0]).n == 2 * PAGE
    assert cache.prefixes.find([*b, 0]).n == 3 * PAGE
    held = cache.fill([*b[:PAGE], 5])
    for left in (1, 1, 1):
        pool = cache.pools[0]
        pool.give_back(pool.take())
        assert cache.prefixes.find([*b, 0]).n >= left * PAGE
    held.rewind(0)


def test_what_is_in_use_stays() -> None:
    cache = Cache(4)
    held = cache.fill(TEXT[: 3 * PAGE])
    other = cache.sequence()
    other.reserve(PAGE)
    with pytest.raises(PoolFull):
        other.reserve(2 * PAGE)
    assert cache.prefixes.find([*TEXT[: 3 * PAGE], 0]).n == 3 * PAGE
    held.rewind(0)
    other.reserve(4 * PAGE)
    assert len(cache.prefixes) == 0


def test_a_page_that_was_computed_twice_is_held_once() -> None:
    """Then the pages before a page in use are in use too, so that all idle pages can be given back."""
    cache = Cache(8)
    one, other = cache.sequence(), cache.sequence()
    known, also = prefixes.start(), prefixes.start()
    for sequence in (one, other):
        sequence.span(TEXT[: 2 * PAGE], prompt=True)
        sequence.extend(TEXT[: 2 * PAGE])
    assert cache.pools[0].free == 4
    cache.prefixes.publish(one, known)
    cache.prefixes.publish(other, also)
    assert cache.pages(one) == cache.pages(other)
    assert (cache.pools[0].free, cache.pools[0].idle) == (6, 0)
    one.rewind(0)
    assert cache.pools[0].idle == 0
    other.rewind(0)
    assert cache.pools[0].idle == 2
    assert cache.prefixes.room(prefixes.Hit()) == 8
    assert cache.prefixes.room(cache.prefixes.find(TEXT)) == 6


def test_windows_need_the_pages_that_the_next_token_sees() -> None:
    window = PAGE + 10
    cache = Cache(12, (0, window), kept=3)
    held = cache.fill(TEXT[: 6 * PAGE])  # its window's table has pages 3, 4 and 5; the others are only kept
    again = [*TEXT[: 6 * PAGE], 0]
    assert cache.prefixes.find(again).n == 6 * PAGE
    assert cache.pools[1].idle == 3
    taken = [cache.pools[1].take() for _ in range(9)]  # the window's pages 0 to 2 go
    with pytest.raises(PoolFull):
        cache.pools[1].take()
    assert cache.prefixes.find(again).n == 6 * PAGE
    assert cache.prefixes.find(TEXT[: 4 * PAGE]).n == 0  # page 2 is gone
    assert cache.prefixes.find(TEXT[: 5 * PAGE + 1]).n == 5 * PAGE
    second = cache.sequence()
    cache.prefixes.lend(cache.prefixes.find(again), second, prefixes.start())
    assert second.tables[1].first == 4
    assert cache.pages(second, 1) == cache.pages(held, 1)[1:]
    for page in taken:
        cache.pools[1].give_back(page)
    third = cache.fill([*TEXT[: 3 * PAGE], 0])  # computes them again, and they are kept again
    assert cache.pages(third)[:3] == cache.pages(held)[:3]
    assert cache.prefixes.find(TEXT[: 4 * PAGE]).n == 3 * PAGE


def test_a_window_that_no_page_begins_in() -> None:
    """A window of one page and a token: the next token sees that page from its first token on."""
    for window, pages in ((PAGE, 1), (PAGE + 1, 1), (PAGE + 2, 2), (1, 0)):
        cache = Cache(12, (0, window))
        cache.fill(TEXT[: 4 * PAGE]).rewind(0)
        made = cache.sequence()
        cache.prefixes.lend(cache.prefixes.find(TEXT[: 4 * PAGE + 1]), made, prefixes.start())
        assert made.n_past == 4 * PAGE
        assert len(cache.pages(made, 1)) == pages


def test_all_is_given_back_even_while_sequences_run() -> None:
    cache = Cache(12)
    made, known = cache.sequence(), prefixes.start()
    made.span(TEXT[: 4 * PAGE], prompt=True)
    made.extend(TEXT[: 2 * PAGE])
    cache.prefixes.publish(made, known)
    cache.prefixes.clear()
    made.extend(TEXT[2 * PAGE : 4 * PAGE])
    cache.prefixes.publish(made, known)  # after pages that are not kept: never found
    assert cache.prefixes.find(TEXT).n == 0
    made.rewind(0)
    cache.prefixes.clear()
    assert cache.pools[0].free == 12
