"""The numbers that differ from step to step, in memory that a plan's operations read; Python fills it before a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ...kernels.attention import softmax
from ...kernels.ops import linear
from ...kernels.shapes import PAGE

I64Array = npt.NDArray[np.int64]

MAX_SPLITS = 64
"""Parts that the cached tokens of a decode step are split into, at most."""


def split(pages: int, threads: int, kv_heads: int) -> int:
    """Return into how many parts to split the pages of a decode step. Each part waits for its first page, which nobody
    fetched ahead; the last part leaves other threads idle for half a part. The sum is least at a square root."""
    best = round(math.sqrt(pages * threads / (2 * kv_heads)))
    return min(max(best, -(-threads // kv_heads)), pages, MAX_SPLITS) if threads > 1 else 1


class PlanKind(Enum):
    """Kinds of steps, each with a plan of its own."""

    DECODE = "decode"  # one row: threads share the tokens before it
    PREFILL = "prefill"  # several rows, of a prompt or of several sequences: threads share blocks of rows

    @staticmethod
    def of(rows: int) -> PlanKind:
        """Return the kind of a step of `rows` tokens."""
        return PlanKind.DECODE if rows == 1 else PlanKind.PREFILL

    def parts(self, n_batch: int) -> int:
        """Return how many sums a head's attention leaves at most: one for each row and each split of its tokens."""
        return MAX_SPLITS if self is PlanKind.DECODE else n_batch


def max_parts(n_batch: int) -> int:
    """Return how many sums a head's attention leaves at most, in a step of any kind."""
    return max(kind.parts(n_batch) for kind in PlanKind)


@dataclass(frozen=True)
class Span:
    """Tokens of one sequence that a step takes in, the first at `position`; they attend to all before.

    tables: the sequence's pages in the layers of each kind (see models/cache/kinds.py), int64, each long enough for
    position + len(tokens) and kept alive by the caller; pages that left a window are not read.
    """

    tokens: Sequence[int]
    position: int
    tables: Sequence[I64Array]


class Step:
    """The numbers of a step: int64, in arrays whose addresses never change."""

    def __init__(
        self, max_rows: int, threads: int, kv_heads: int, *, kinds: int = 1, experts: int = 0, experts_used: int = 0
    ) -> None:
        """kv_heads: those of the layer that has the fewest. kinds: kinds of layers, each with its own page tables."""
        self.max_rows, self.threads, self._experts, self._experts_used = max_rows, threads, experts, experts_used
        self._kv_heads = kv_heads
        self._numbers = np.zeros(16, np.int64)
        self.rows = self._numbers[0:1]  # tokens taken in
        self.chunks = self._numbers[1:2]  # chunks of linear.CHUNK rows
        self.wide_chunks = self._numbers[2:3]  # chunks of linear.WIDE_CHUNK rows
        self.n_logits = self._numbers[3:4]  # rows whose logits are wanted
        self.logits_chunks = self._numbers[4:5]
        self.wide_logits_chunks = self._numbers[5:6]
        self.splits = self._numbers[6:7]  # parts of the tokens in decode
        self.split_pages = self._numbers[7:8]
        self.span_splits = self._numbers[8:9]  # spans x splits
        self.blocks = self._numbers[9:10]  # row blocks of the longest span in prefill
        self.span_blocks = self._numbers[10:11]  # spans x blocks
        self.pairs = self._numbers[11:12]  # pairs of a token and an expert that it goes to
        self.expert_spans = self._numbers[12:13]  # upper bound of the experts that are chosen
        self.tokens = np.zeros(max_rows, np.int64)
        self.positions = np.zeros(max_rows, np.int64)
        self.slots = np.zeros((kinds, max_rows), np.int64)  # by kind of layer: page * PAGE + index in the page
        self.logits_rows = np.zeros(max_rows, np.int64)
        self.spans = np.zeros(max_rows, softmax.SPAN)

    def fill(self, spans: Sequence[Span], logits_rows: Sequence[int], group: int) -> None:
        """Set the numbers for a step of these spans, with logits of `logits_rows`; group: query heads per KV head."""
        self._spans_now = tuple(spans)  # kernels read their tables by address, also in a repeated step
        row = longest = 0
        pages = 1
        for i, span in enumerate(spans):
            n = len(span.tokens)
            positions = np.arange(span.position, span.position + n)
            self.tokens[row : row + n] = span.tokens
            self.positions[row : row + n] = positions
            record = self.spans[i]
            record["row"], record["rows"], record["position"] = row, n, span.position
            for kind, table in enumerate(span.tables):
                self.slots[kind, row : row + n] = table[positions // PAGE] * PAGE + positions % PAGE
                record["tables"][kind] = table.ctypes.data
            longest = max(longest, n)
            pages = max(pages, (span.position + n + PAGE - 1) // PAGE)
            row += n
        self.rows[0], self.chunks[0] = row, -(-row // linear.CHUNK)
        self.pairs[0] = row * self._experts_used
        self.expert_spans[0] = min(self.pairs[0], self._experts)
        n_logits = len(logits_rows)
        self.n_logits[0], self.logits_chunks[0] = n_logits, -(-n_logits // linear.CHUNK)
        self.wide_chunks[0], self.wide_logits_chunks[0] = (-(-n // linear.WIDE_CHUNK) for n in (row, n_logits))
        self.logits_rows[:n_logits] = logits_rows
        splits = split(pages, self.threads, self._kv_heads) if PlanKind.of(row) is PlanKind.DECODE else 1
        per_split = -(-pages // splits)
        self.splits[0] = -(-pages // per_split)
        self.split_pages[0] = per_split
        self.span_splits[0] = len(spans) * self.splits[0]
        assert row * self.splits[0] <= max_parts(self.max_rows), "attention leaves more sums than there is room for"
        self.blocks[0] = -(-longest // softmax.block_rows(group))
        self.span_blocks[0] = len(spans) * self.blocks[0]
