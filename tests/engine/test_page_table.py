"""Which sequence owns which page."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from pyllm.engine.page_table import PAGE, PagePool, PageTable
from pyllm.kernels import pages
from pyllm.models.errors import PyllmError


def test_pages_are_those_of_the_kernels() -> None:
    assert PAGE == pages.PAGE


def test_a_table_takes_what_it_needs_and_gives_it_back() -> None:
    pool = PagePool(4)
    table = PageTable(pool, 4 * PAGE)
    for tokens, n in ((0, 0), (1, 1), (PAGE, 1), (PAGE + 1, 2), (4 * PAGE, 4)):
        table.reserve(tokens)
        assert (table.count, pool.free) == (n, 4 - n)
    for tokens, n in ((3 * PAGE + 1, 4), (3 * PAGE, 3), (1, 1), (0, 0)):
        table.truncate(tokens)
        assert (table.count, pool.free) == (n, 4 - n)


def test_a_full_pool_says_so_and_loses_nothing() -> None:
    pool = PagePool(3)
    one, other = PageTable(pool, 3 * PAGE), PageTable(pool, 3 * PAGE)
    one.reserve(2 * PAGE)
    with pytest.raises(PyllmError, match="full"):
        other.reserve(2 * PAGE)
    one.truncate(0)
    other.reserve(2 * PAGE)
    other.truncate(0)
    assert pool.free == 3


def test_a_table_that_keeps_some() -> None:
    pool = PagePool(3)
    table = PageTable(pool, 10 * PAGE, keep=3)
    table.reserve(3 * PAGE)
    assert table.holds(0)
    table.reserve(5 * PAGE + 1)
    assert (table.first, table.count, pool.free) == (3, 6, 0)
    assert table.holds(3 * PAGE)
    assert not table.holds(3 * PAGE - 1)
    table.truncate(4 * PAGE)
    assert (table.first, table.count, pool.free) == (3, 4, 2)
    table.truncate(0)
    assert (table.first, table.count, pool.free) == (0, 0, 3)


def test_the_prefix_cache_as_an_owner() -> None:
    pool = PagePool(2)
    page = pool.take()
    pool.keep(page)
    assert (pool.owners(page), pool.idle) == (2, 0)
    pool.give_back(page)
    assert (pool.owners(page), pool.idle, pool.free) == (1, 1, 1)
    pool.share(page)
    assert pool.idle == 0
    pool.drop(page)
    assert (pool.owners(page), pool.idle, pool.free) == (1, 0, 1)
    pool.give_back(page)
    assert (pool.owners(page), pool.idle, pool.free) == (0, 0, 2)
    pool.take()
    pool.share(pool.take())
    assert pool.idle == 0  # it holds neither of them


def test_a_full_pool_asks_for_room() -> None:
    pool = PagePool(2)
    kept = [pool.take(), pool.take()]
    for page in kept:
        pool.keep(page)
        pool.give_back(page)

    def make_room() -> bool:
        if kept:
            pool.drop(kept.pop(0))
            return True
        return False

    pool.make_room = make_room
    assert [pool.take(), pool.take()] == [0, 1]
    with pytest.raises(PyllmError, match="full"):
        pool.take()


def test_a_page_is_replaced_by_one_with_the_same_content() -> None:
    pool = PagePool(4)
    one, other = PageTable(pool, 4 * PAGE), PageTable(pool, 4 * PAGE)
    for table in (one, other):
        table.reserve(2 * PAGE)
    for _ in range(2):  # the second time it is there already
        other.replace(0, int(one.pages[0]))
        assert (pool.owners(int(one.pages[0])), pool.free) == (2, 1)
    one.truncate(0)
    other.truncate(0)
    assert pool.free == 4


@pytest.mark.parametrize("keep", [0, 2])
def test_a_table_that_begins_later(keep: int) -> None:
    pool = PagePool(4)
    table = PageTable(pool, 8 * PAGE, keep)
    table.begin(3)
    table.reserve(5 * PAGE)
    assert (table.first, table.count, pool.free) == (3, 5, 2)
    table.truncate(0)
    assert (table.first, table.count, pool.free) == (0, 0, 4)


class Sequences(RuleBasedStateMachine):
    """Sequences begin, grow, shrink, fork and end: a page is free, or belongs to the sequences that list it."""

    tables = Bundle("tables")

    @initialize()
    def start(self) -> None:
        self.pool, self.live = PagePool(40), []  # type: list[PageTable]

    def _keep(self, table: PageTable) -> PageTable:
        self.live.append(table)
        return table

    @rule(target=tables)
    def new(self) -> PageTable:
        return self._keep(PageTable(self.pool, 10 * PAGE))

    @rule(target=tables, keep=st.integers(1, 4))
    def new_window(self, keep: int) -> PageTable:
        return self._keep(PageTable(self.pool, 10 * PAGE, keep))

    @rule(table=tables, tokens=st.integers(0, 10 * PAGE))
    def grow(self, table: PageTable, tokens: int) -> None:
        needed = -(-tokens // PAGE) - table.count
        if needed <= self.pool.free:
            table.reserve(tokens)

    @rule(table=tables, tokens=st.integers(0, 10 * PAGE))
    def cut(self, table: PageTable, tokens: int) -> None:
        table.truncate(tokens if table.holds(tokens) else 0)

    @rule(target=tables, table=tables, tokens=st.integers(0, 10 * PAGE))
    def fork(self, table: PageTable, tokens: int) -> PageTable:
        tokens = min(tokens, table.count * PAGE)
        other = self._keep(table.fork(tokens))
        assert other.count == tokens // PAGE
        assert other.pages[other.first : other.count].tolist() == table.pages[other.first : other.count].tolist()
        return other

    @rule(table=consumes(tables))
    def end(self, table: PageTable) -> None:
        table.truncate(0)
        self.live.remove(table)

    @invariant()
    def pages_add_up(self) -> None:
        owned = {int(p) for t in self.live for p in t.pages[t.first : t.count]}
        assert len(owned) + self.pool.free == 40
        assert all(len(set(t.pages[t.first : t.count])) == t.count - t.first for t in self.live)
        assert all(t.count - t.first <= (t._keep or 10) for t in self.live)


TestSequences = Sequences.TestCase
