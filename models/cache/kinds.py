"""Kinds of layers, by the tokens that they keep: each kind has its own page tables and its own pool of pages.

Layers of one kind number their pages alike, so a sequence has one page table for each kind of its model. A model whose
layers all keep every token has one kind; each size of window adds another.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...kernels.shapes import MAX_TABLES, PAGE
from ..config import Config

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


def pages(tokens: int) -> int:
    """Return the pages that hold `tokens` tokens."""
    return -(-tokens // PAGE)


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
