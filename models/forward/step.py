"""What differs from step to step, in memory that the plan's operations point to: Python fills it and says go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...kernels.attention import softmax
from ...kernels.ops import linear
from ...kernels.pages import PAGE

I64Array = npt.NDArray[np.int64]

MAX_SPLITS = 64
"""Parts that the tokens of a decode step are split in, at most."""


def split(pages: int, threads: int, kv_heads: int) -> int:
    """Parts for the tokens of a decode step. The first page of each has to be waited for, as nobody fetched it before;
    the last part to end leaves others idle for half a part. Together this is least at a square root."""
    best = round(math.sqrt(pages * threads / (2 * kv_heads)))
    return min(max(best, -(-threads // kv_heads)), pages, MAX_SPLITS) if threads > 1 else 1


@dataclass(frozen=True)
class Span:
    """Tokens of one sequence that a step takes in: they stand at `position` and after, and attend to all before.

    table: the sequence's pages, int64, long enough for position + len(tokens) and kept alive by the caller.
    window_table: those in layers that keep only a window, likewise by position; what left the window is not read.
    """

    tokens: Sequence[int]
    position: int
    table: I64Array
    window_table: I64Array


class Step:
    """The numbers of a step: int64 each, in arrays whose addresses stay."""

    def __init__(self, max_rows: int, threads: int, kv_heads: int, *, experts: int = 0, experts_used: int = 0) -> None:
        """kv_heads: of a layer, the fewest."""
        self.max_rows, self.threads, self._experts, self._experts_used = max_rows, threads, experts, experts_used
        self._kv_heads = kv_heads
        self._numbers = np.zeros(16, np.int64)
        self.rows = self._numbers[0:1]  # tokens taken in
        self.chunks = self._numbers[1:2]  # of linear.CHUNK rows
        self.wide_chunks = self._numbers[2:3]  # of linear.WIDE_CHUNK rows
        self.outs = self._numbers[3:4]  # rows whose logits are wanted
        self.out_chunks = self._numbers[4:5]
        self.wide_out_chunks = self._numbers[5:6]
        self.splits = self._numbers[6:7]  # parts of the tokens in decode
        self.split_pages = self._numbers[7:8]
        self.span_splits = self._numbers[8:9]  # spans x splits
        self.blocks = self._numbers[9:10]  # row blocks of the longest span in prefill
        self.span_blocks = self._numbers[10:11]  # spans x blocks
        self.pairs = self._numbers[11:12]  # of a token and an expert that it goes to
        self.expert_spans = self._numbers[12:13]  # experts that are chosen, at most
        self.tokens = np.zeros(max_rows, np.int64)
        self.positions = np.zeros(max_rows, np.int64)
        self.places = np.zeros(max_rows, np.int64)  # page * PAGE + slot
        self.window_places = np.zeros(max_rows, np.int64)
        self.out_rows = np.zeros(max_rows, np.int64)
        self.spans = np.zeros(max_rows, softmax.SPAN)

    def fill(self, spans: Sequence[Span], outs: Sequence[int], group: int) -> None:
        """Describe a step of these spans, with logits for the rows `outs`; group: query heads per KV head."""
        self._spans_now = tuple(spans)  # their tables are read by address, also where the step is done again
        row = longest = 0
        pages = 1
        for i, span in enumerate(spans):
            n = len(span.tokens)
            positions = np.arange(span.position, span.position + n)
            self.tokens[row : row + n] = span.tokens
            self.positions[row : row + n] = positions
            self.places[row : row + n] = span.table[positions // PAGE] * PAGE + positions % PAGE
            self.window_places[row : row + n] = span.window_table[positions // PAGE] * PAGE + positions % PAGE
            self.spans[i] = row, n, span.position, span.table.ctypes.data, span.window_table.ctypes.data
            longest = max(longest, n)
            pages = max(pages, (span.position + n + PAGE - 1) // PAGE)
            row += n
        self.rows[0], self.chunks[0] = row, -(-row // linear.CHUNK)
        self.pairs[0] = row * self._experts_used
        self.expert_spans[0] = min(self.pairs[0], self._experts)
        self.outs[0], self.out_chunks[0] = len(outs), -(-len(outs) // linear.CHUNK)
        self.wide_chunks[0], self.wide_out_chunks[0] = -(-row // linear.WIDE_CHUNK), -(-len(outs) // linear.WIDE_CHUNK)
        self.out_rows[: len(outs)] = outs
        decode = row == 1  # several rows, also of as many sequences, are for attend_many: no splits
        per_split = -(-pages // split(pages, self.threads, self._kv_heads)) if decode else pages
        self.splits[0] = -(-pages // per_split)
        self.split_pages[0] = per_split
        self.span_splits[0] = len(spans) * self.splits[0]
        self.blocks[0] = -(-longest // softmax.block_rows(group))
        self.span_blocks[0] = len(spans) * self.blocks[0]
