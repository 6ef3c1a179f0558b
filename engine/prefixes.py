"""The prefix cache: pages of sequences, kept under their tokens, for sequences that begin alike; runs nothing.

A full page is known by its tokens and those of all pages before it. Sequences share its memory, and what nobody uses
stays until room is needed: then the pages that were used least recently go, the tails of prefixes first. Layers with a
window give pages back while a sequence grows, so a prefix can be used where all pages that its next token sees are
still there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from ..kernels.shapes import PAGE
from .page_table import PagePool
from .sequence import Sequence

Key = int
_ROOT: Key = 0


@dataclass
class Node:
    """A full page: its tokens, the page before it, and its number in each pool; None: not kept there any more."""

    before: Key
    tokens: tuple[int, ...]
    pages: list[int | None]
    followers: int = 0


@dataclass
class Published:
    """How much of a sequence is in the cache: the key of its last page there."""

    key: Key
    pages: int = 0


@dataclass(frozen=True)
class Hit:
    """A prefix that is in the cache."""

    n: int = 0  # tokens, a multiple of PAGE
    keys: tuple[Key, ...] = field(default=())


class Prefixes:
    """The pages of one model and one CacheSpec that are kept for others; owns one share of each."""

    def __init__(self, pools: Tokens[PagePool], windows: Tokens[int]) -> None:
        """windows: of each pool's kind of layers, in tokens; 0: they keep all. The pools ask for room when full."""
        self._pools, self._windows = pools, windows
        self._nodes: OrderedDict[Key, Node] = OrderedDict()  # used least recently first; a page after its followers
        for kind, pool in enumerate(pools):
            pool.make_room = lambda kind=kind: self._evict(kind)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._nodes)

    def reclaimable(self, keep: Tokens[Key] = ()) -> int:
        """Return the pages, of layers that keep all tokens, that only this cache holds, besides those in `keep`."""
        pool, kept = self._pools[0], set(keep)
        return sum(pool.owners(node.pages[0]) == 1 for key, node in self._nodes.items() if key not in kept)  # type: ignore[arg-type]

    def find(self, tokens: Tokens[int], salt: int = 0) -> Hit:
        """Return the longest prefix of the tokens, but not all of them, that is there; salt: keeps callers apart."""
        keys: list[Key] = []
        before = _start(salt)
        for page in _pages(tokens[:-1]):
            key = hash((before, page))
            node = self._nodes.get(key)
            if node is None or node.before != before or node.tokens != page:
                break
            keys.append(key)
            before = key
        while keys and not self._sees_all(keys):
            keys.pop()
        return Hit(len(keys) * PAGE, tuple(keys))

    def _sees_all(self, keys: Tokens[Key]) -> bool:
        """Return whether the token after these pages sees only pages that are still there."""
        n = len(keys) * PAGE
        return all(
            self._nodes[key].pages[kind] is not None
            for kind, window in enumerate(self._windows)
            for key in (keys[max(0, n + 1 - window) // PAGE :] if window else keys)
        )

    def lend(self, hit: Hit, sequence: Sequence, known: Published) -> None:
        """Give an empty sequence the pages and the tokens of a prefix; `known` is set to that."""
        if not hit.keys:
            return
        nodes = [self._nodes[key] for key in hit.keys]
        for kind, (table, window) in enumerate(zip(sequence.tables, self._windows, strict=True)):
            first = max(0, hit.n + 1 - window) // PAGE if window else 0
            table.adopt(first, [page for node in nodes[first:] if (page := node.pages[kind]) is not None])
        sequence.extend([token for node in nodes for token in node.tokens])
        known.key, known.pages = hit.keys[-1], len(hit.keys)
        self._touch(known.key)

    def publish(self, sequence: Sequence, known: Published) -> None:
        """Keep the pages that a sequence has filled since the last call; `known` says how far that came."""
        full = sequence.n_past // PAGE
        if known.pages >= full:
            return
        for i in range(known.pages, full):
            page = tuple(sequence.tokens[i * PAGE : (i + 1) * PAGE])
            key = hash((known.key, page))
            node = self._nodes.get(key)
            if node is None:
                held = [int(t.pages[i]) if t.first <= i else None for t in sequence.tables]
                self._nodes[key] = Node(known.key, page, held)
                for pool, number in zip(self._pools, held, strict=True):
                    if number is not None:
                        pool.share(number)
                if known.key in self._nodes:
                    self._nodes[known.key].followers += 1
            elif (node.before, node.tokens) != (known.key, page):
                return  # two pages have the same hash: the second is not kept
            known.key, known.pages = key, i + 1
        self._touch(known.key)

    def _touch(self, key: Key) -> None:
        """Count a page and all before it as just used."""
        while key in self._nodes:
            self._nodes.move_to_end(key)
            key = self._nodes[key].before

    def _evict(self, kind: int) -> bool:
        """Give a page back to the pool of a kind of layers; return False if none is left that only this cache holds."""
        pool = self._pools[kind]
        for key, node in self._nodes.items():
            page = node.pages[kind]
            if page is None or pool.owners(page) > 1:
                continue
            if self._windows[kind]:
                node.pages[kind] = None
                pool.give_back(page)
                return True
            if not node.followers:
                self._drop(key)
                return True
        return False

    def _drop(self, key: Key) -> None:
        node = self._nodes.pop(key)
        for pool, page in zip(self._pools, node.pages, strict=True):
            if page is not None:
                pool.give_back(page)
        if node.before in self._nodes:
            self._nodes[node.before].followers -= 1

    def clear(self) -> None:
        """Forget all prefixes."""
        for key in reversed(list(self._nodes)):
            self._drop(key)


def start(salt: int = 0) -> Published:
    """Return what is known of a sequence that nothing of is in the cache yet."""
    return Published(_start(salt))


def _start(salt: int) -> Key:
    return hash((_ROOT, salt))


def _pages(tokens: Tokens[int]) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of each full page."""
    for i in range(0, len(tokens) - PAGE + 1, PAGE):
        yield tuple(tokens[i : i + PAGE])
