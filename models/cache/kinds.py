"""Kinds of layers, by the tokens that they keep: each kind has its own page tables and its own pool of pages.

Layers of one kind number their pages alike, so a sequence has one page table for each kind of its model. A model whose
layers all keep every token has one kind; each size of window adds another.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...kernels.shapes import MAX_TABLES, PAGE, pages
from ..config import Config
from .segments import Borders

SLACK = 512
"""Tokens by which a sequence can be rewound without losing what a window needs, if batches are no larger than that."""


@dataclass(frozen=True)
class Kind:
    """Layers that keep the same tokens of a sequence."""

    window: int  # tokens that a row attends to, itself included; 0: all
    layers: tuple[int, ...]

    def kept_pages(self, n_batch: int) -> int:
        """Return the pages that a sequence keeps, enough for what a batch sees and stores; 0: all."""
        return pages(self.window + max(n_batch, SLACK)) + 1 if self.window else 0

    def pool_pages(self, n_ctx: int, n_batch: int, sequences: int) -> int:
        """Return the pages for n_ctx tokens of `sequences` sequences together, in batches of n_batch tokens."""
        whole = pages(n_ctx)
        return min(whole, self.kept_pages(n_batch) * sequences) if self.window else whole


def kinds(config: Config) -> tuple[Kind, ...]:
    """Return the kinds of a model's layers, the one that keeps all tokens first; there is always that one.

    A model has that kind even if none of its layers keeps all: its page table says which tokens there are.
    """
    windows = [0, *sorted({layer.window for layer in config.layers} - {0})]
    assert len(windows) <= MAX_TABLES  # a file names one size of window
    return tuple(Kind(w, tuple(i for i, layer in enumerate(config.layers) if layer.window == w)) for w in windows)


def kind_of(config: Config, i: int) -> int:
    """Return the number of the kind of layer i."""
    return next(n for n, kind in enumerate(kinds(config)) if i in kind.layers)


@dataclass(frozen=True)
class TablePages:
    """The pages that a table of each sequence numbers: those of one kind of layers, or of one of their segments."""

    pool: int  # pages of all sequences together
    kept: int  # pages that a sequence keeps, its last ones; 0: all
    window: int  # tokens that a row attends to, itself included; 0: all
    first: int = 0  # the page of a sequence that the table begins with
    behind: int = 0  # the last pages of a sequence, which are not in this table but in the tail
    most: int | None = None  # the page that the table ends before, at most

    def tokens(self, n: int) -> int:
        """Return the token that the table ends before in a sequence of n tokens."""
        if not self.behind:
            return n
        end = max(self.first, (n - 1) // PAGE + 1 - self.behind)
        return PAGE * (end if self.most is None else min(end, self.most))

    def held(self, n: int) -> int:
        """Return the pages that the table has in a sequence of n tokens, with those that a window lets go."""
        return pages(self.tokens(n)) - self.first


def step_rows(borders: Borders | None, n_batch: int) -> int:
    """Return the tokens of a step at most. With segments that is a page: rows leave sums of all parts that they see."""
    return n_batch if borders is None else min(n_batch, PAGE)


def tables(config: Config, borders: Borders | None, n_ctx: int, n_batch: int, sequences: int) -> list[TablePages]:
    """Return the tables of a sequence: one for each kind and, with segments, those of the tail and of the sink.

    With segments, the first table is the body's. n_ctx: tokens of all sequences together.
    """
    n_batch = step_rows(borders, n_batch)
    found = [
        TablePages(kind.pool_pages(n_ctx, n_batch, sequences), kind.kept_pages(n_batch), kind.window)
        for kind in kinds(config)
    ]
    if borders is None:
        return found
    b, whole = borders, pages(n_ctx)
    kept = b.tail + pages(n_batch) + 1  # for a step's rows, and to be rewound by a page
    seen = PAGE * (b.tail - 1) + 2  # the next row's pages in the tail, and those that it lets go
    rest = max(0, whole - b.tail - b.sink) if b.body else 0
    found[0] = TablePages(rest, 0, 0, b.sink, b.tail) if b.body else TablePages(0, 0, 0, 0, b.tail, 0)
    if b.most is not None:
        found[0] = TablePages(min(rest, b.most * sequences), 0, 0, b.sink, b.tail, b.sink + b.most)
    tail = TablePages(min(whole, kept) * sequences, kept, seen)
    sink = TablePages(min(whole, b.sink) * sequences, 0, 0, 0, b.tail, b.sink)
    assert len(found) + 2 <= MAX_TABLES
    return [*found, tail, sink]
