"""The prefix cache: pages of sequences, kept under their tokens, for sequences that begin alike; runs nothing.

A full page is known by the page before it and by its own tokens, so a prefix is found page by page, and only where all
tokens are equal. Sequences share its memory. What nobody uses stays until room is needed: then the pages that were
used least recently go, the tails of prefixes first. Layers with a window give pages back while a sequence grows, so a
prefix can be used where all pages that its next token sees are still there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from ..kernels.shapes import PAGE
from .page_table import PagePool
from .sequence import Sequence

Page = tuple[int, ...]
"""The tokens of a full page."""


@dataclass(eq=False)
class Node:
    """A full page: its tokens, and its number in each pool; None: it is not kept there any more."""

    before: Node | int  # the page before it; for a first page, the salt
    tokens: Page
    pages: list[int | None]
    followers: int = 0


@dataclass
class Published:
    """How much of a sequence is in the cache: its last page there; none: the salt."""

    last: Node | int
    pages: int = 0


@dataclass(frozen=True)
class Hit:
    """A prefix that is in the cache."""

    nodes: tuple[Node, ...] = field(default=())

    @property
    def n(self) -> int:
        """Return the number of its tokens, a multiple of PAGE."""
        return len(self.nodes) * PAGE


class Prefixes:
    """The pages of one model and one CacheSpec that are kept for others; owns one share of each."""

    def __init__(self, pools: Tokens[PagePool], windows: Tokens[int], *, keep: bool = True) -> None:
        """windows: of each pool's kind of layers, in tokens; 0: they keep all. The pools ask for room when full.

        The first kind keeps all. keep: False keeps nothing and finds nothing.
        """
        self._pools, self._windows, self._keep = pools, windows, keep
        self._known: dict[tuple[Node | int, Page], Node] = {}
        self._used: OrderedDict[Node, None] = OrderedDict()  # the least recently first; a page after its followers
        for kind, pool in enumerate(pools):
            pool.make_room = lambda kind=kind: self._evict(kind)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._used)

    def room(self, hit: Hit) -> int:
        """Return the pages, of layers that keep all tokens, that can be had while a prefix is used."""
        pool = self._pools[0]
        return pool.free + pool.idle - sum(pool.owners(_whole(node)) == 1 for node in hit.nodes)

    def find(self, tokens: Tokens[int], salt: int = 0) -> Hit:
        """Return the longest prefix of the tokens, but not all of them, that is there; salt: keeps callers apart."""
        nodes: list[Node] = []
        before: Node | int = salt
        for i in range((len(tokens) - 1) // PAGE):
            node = self._known.get((before, _page(tokens, i)))
            if node is None:
                break
            nodes.append(node)
            before = node
        while nodes and not self._sees_all(nodes):
            nodes.pop()
        return Hit(tuple(nodes))

    def _sees_all(self, nodes: Tokens[Node]) -> bool:
        """Return whether the token after these pages sees only pages that are still there."""
        n = len(nodes) * PAGE
        return all(
            node.pages[kind] is not None
            for kind, window in enumerate(self._windows)
            if window
            for node in nodes[_first(n, window) :]
        )

    def next(self, tokens: Tokens[int], known: Published) -> tuple[Node | int, Page] | None:
        """Return the name of the page that a sequence fills next with these tokens; None: they do not fill another."""
        if not self._keep or (known.pages + 1) * PAGE >= len(tokens):  # the last token is always taken in
            return None
        return known.last, _page(tokens, known.pages)

    def __contains__(self, name: tuple[Node | int, Page] | None) -> bool:
        return name in self._known

    def lend(self, hit: Hit, sequence: Sequence, known: Published) -> None:
        """Give an empty sequence the pages and the tokens of a prefix; `known` is set to that."""
        if not hit.nodes:
            return
        for kind, (table, window) in enumerate(zip(sequence.tables, self._windows, strict=True)):
            first = _first(hit.n, window)
            table.adopt(first, [page for node in hit.nodes[first:] if (page := node.pages[kind]) is not None])
        sequence.extend([token for node in hit.nodes for token in node.tokens])
        known.last, known.pages = hit.nodes[-1], len(hit.nodes)
        self.touch(known)

    def publish(self, sequence: Sequence, known: Published) -> bool:
        """Keep the pages that a sequence has filled since the last call; `known` says how far that came.

        Where another sequence has published a page with the same tokens, this one takes it over, so that the pages
        before a page in use are in use too. Returns whether there were any.
        """
        full = sequence.n_past // PAGE
        if known.pages >= full or not self._keep:
            return False
        for i in range(known.pages, full):
            name = known.last, _page(sequence.tokens, i)
            node = self._known.get(name)
            if node is None:
                node = self._known[name] = Node(*name, [None] * len(self._pools))
                self._used[node] = None
                if isinstance(known.last, Node):
                    known.last.followers += 1
            self._join(node, sequence, i)
            known.last, known.pages = node, i + 1
        self.touch(known)
        return True

    def _join(self, node: Node, sequence: Sequence, i: int) -> None:
        """Let a node and a sequence hold the same page i, in each pool where the sequence holds one."""
        for kind, table in enumerate(sequence.tables):
            if table.first > i:
                continue
            page = node.pages[kind]
            if page is not None:
                table.replace(i, page)
            else:
                node.pages[kind] = int(table.pages[i])
                self._pools[kind].keep(int(table.pages[i]))

    def touch(self, known: Published) -> None:
        """Count the pages of a sequence as just used."""
        node = known.last
        while isinstance(node, Node) and node in self._used:  # not after `clear`
            self._used.move_to_end(node)
            node = node.before

    def _evict(self, kind: int) -> bool:
        """Give a page back to the pool of a kind of layers; return False if none is left that only this cache holds."""
        pool = self._pools[kind]
        if not pool.idle:
            return False
        for node in self._used:
            page = node.pages[kind]
            if page is None or pool.owners(page) > 1:
                continue
            if self._windows[kind]:
                node.pages[kind] = None
                pool.drop(page)
                return True
            if not node.followers:
                self._drop(node)
                return True
        return False

    def _drop(self, node: Node) -> None:
        del self._used[node], self._known[node.before, node.tokens]
        for pool, page in zip(self._pools, node.pages, strict=True):
            if page is not None:
                pool.drop(page)
        if isinstance(node.before, Node):
            node.before.followers -= 1

    def clear(self) -> None:
        """Forget all prefixes."""
        for node in list(self._used):
            self._drop(node)


def start(salt: int = 0) -> Published:
    """Return what is known of a sequence that nothing of is in the cache yet."""
    return Published(salt)


def _whole(node: Node) -> int:
    """Return the number of a page in the pool of the layers that keep all tokens."""
    page = node.pages[0]
    assert page is not None
    return page


def _first(n: int, window: int) -> int:
    """Return the index of the first page that token n sees; window 0: it sees all."""
    return max(0, n + 1 - window) // PAGE if window else 0


def _page(tokens: Tokens[int], i: int) -> Page:
    return tuple(tokens[i * PAGE : (i + 1) * PAGE])
