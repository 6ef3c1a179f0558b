"""What attention does in a step whose cache has segments: sink, body and tail, each with tables and jobs of its own.

Rows are stored in the tail, where a row sees what is before it. Of sink and body it sees whole pages. To the kernels
each segment is a sequence of its own, so each row has a span for each segment, at the row's number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...kernels.attention import softmax
from ...kernels.lang.buffers import address
from ...kernels.shapes import PAGE, PART
from ..cache.segments import Borders
from . import jobs
from .span import Span

I64Array = npt.NDArray[np.int64]
Move = tuple[int, int]
"""A page in the tail's pool, and the one in the pool that it goes to."""

SINK, BODY, TAIL = range(3)
"""The segments, in the order in which their sums are put together."""


def moves(span: Span, borders: Borders) -> tuple[list[Move], list[Move]]:
    """Return the pages that leave the tail when a span is taken in: those for the sink and those for the body."""
    body, (tail, sink) = span.tables[0], span.tables[-2:]
    found: tuple[list[Move], list[Move]] = [], []
    end = None if borders.most is None else borders.sink + borders.most  # of those after it, some tokens may stay
    for i in range(borders.left(span.position), borders.left(span.position + len(span.tokens))):
        if i < borders.sink:
            found[SINK].append((int(tail[i]), int(sink[i])))
        elif borders.body and (end is None or i < end):
            found[BODY].append((int(tail[i]), int(body[i])))
    return found


class Segmented:
    """The numbers of a step by segment: int64, in arrays whose addresses never change."""

    def __init__(
        self, borders: Borders, max_rows: int, max_places: int, threads: int, kv_heads: int, exact: bool
    ) -> None:
        """exact: all rows go in blocks, as `attend_exact` takes them."""
        self.borders, self._threads, self._kv_heads, self._exact = borders, threads, kv_heads, exact
        self.spans = np.zeros((3, max_rows), softmax.SPAN)
        self._records = self.spans.view(np.int64).reshape(3, max_rows, -1)
        self._records[:, :, 0], self._records[:, :, 1] = np.arange(max_rows), 1
        self.sums_at = np.zeros((3, max_rows), np.int64)
        self.parts = np.zeros((3, max_rows), np.int64)
        self.n_jobs = np.zeros((3, 1), np.int64)
        self.jobs = np.zeros((3, max_places), softmax.JOB)
        self.n_blocks = np.zeros((3, 1), np.int64)
        self.blocks = np.zeros((3, max_places), softmax.JOB)
        self.n_moves = np.zeros((2, 1), np.int64)  # of the sink and of the body
        self.moves = np.zeros((2, 2 * max_rows, 2), np.int64)
        self.changed = False  # whether a Changer fills the body

    def place(self, spans: Sequence[Span], positions: I64Array) -> I64Array:
        """Set spans and parts of a step's rows; return how many places the sums of each row take."""
        b, rows = self.borders, len(positions)
        left = np.maximum(positions // PAGE + 1 - b.tail, 0)
        sink = np.minimum(left, b.sink)
        body = left - sink if b.body else np.zeros_like(left)
        if b.most is not None:
            body = np.minimum(body, b.most)
        r, row = self._records, 0
        position, table = 2, 3
        r[SINK, :rows, position], r[BODY, :rows, position] = sink * PAGE - 1, body * PAGE - 1
        r[TAIL, :rows, position] = positions - left * PAGE
        self.parts[SINK, :rows], self.parts[BODY, :rows] = -(-sink // PART), -(-body // PART)
        self.parts[TAIL, :rows] = 1
        for span in spans:
            end = row + len(span.tokens)
            r[SINK, row:end, table] = address(span.tables[-1])
            r[BODY, row:end, table] = address(span.tables[0]) + 8 * b.sink
            r[TAIL, row:end, table] = address(span.tables[-2]) + 8 * left[row:end]
            if span.decode and not self._exact:
                self.parts[TAIL, row] = jobs.seen(row, int(r[TAIL, row, position]), 0).parts
            row = end
        places: I64Array = self.parts[:, :rows].sum(axis=0)
        return places

    def share(self, spans: Sequence[Span], sums_at: I64Array, group: int) -> None:
        """Set the jobs of each segment, and the pages to move. sums_at: the first place of each row."""
        rows = len(sums_at)
        self.sums_at[:, :rows] = sums_at
        self.sums_at[BODY:, :rows] += np.cumsum(self.parts[:TAIL, :rows], axis=0)
        decode, blocks, row = [], list[tuple[int, int]](), 0
        for span in spans:
            if span.decode and not self._exact:
                decode.append(row)
            else:
                blocks += _blocks(row, span, softmax.block_rows(group))
            row += len(span.tokens)
        for segment in (SINK, BODY, TAIL):
            seen = [jobs.Seen(i, 0, int(self.parts[segment, i])) for i in decode]
            own = list(jobs.by_tokens(seen, self._threads, self._kv_heads))
            if segment == TAIL:
                many: list[jobs.Job] = [(i, 0, n, 0, 0) for i, n in blocks]
            else:
                pages = (self._records[segment, :rows, 2] + 1) // PAGE
                many = list(self._parts(blocks, pages))
                own += [] if self._exact else _rests(blocks, pages)
            self.n_jobs[segment] = jobs.fill(self.jobs[segment], own)
            self.n_blocks[segment] = jobs.fill(self.blocks[segment], many)
        self._move(spans)

    def _parts(self, blocks: Sequence[tuple[int, int]], pages: I64Array) -> Iterator[jobs.Job]:
        """Yield the jobs of blocks of rows over the parts that they see, whole ones unless the step is exact."""
        parts = [-(-int(pages[i]) // PART) if self._exact else int(pages[i]) // PART for i, _ in blocks]
        size = jobs.job_parts(sum(parts), self._threads, self._kv_heads)
        for (i, n), whole in zip(blocks, parts, strict=True):
            for part in range(0, whole, size):
                yield i, 0, n, part, min(size, whole - part)

    def _move(self, spans: Sequence[Span]) -> None:
        found = [moves(span, self.borders) for span in spans]
        for to in (SINK, BODY):
            every = [] if to == BODY and self.changed else [move for each in found for move in each[to]]
            self.n_moves[to] = len(every)
            if every:
                self.moves[to, : len(every)] = every


def _blocks(row: int, span: Span, size: int) -> Iterator[tuple[int, int]]:
    """Yield blocks of a span's rows, the first and their number: rows of a block are in the same page."""
    at, end = span.position, span.position + len(span.tokens)
    while at < end:
        n = min(size, PAGE - at % PAGE, end - at)
        yield row + at - span.position, n
        at += n


def _rests(blocks: Iterable[tuple[int, int]], pages: I64Array) -> Iterator[jobs.Job]:
    """Yield the jobs of single rows over the pages after the last whole part."""
    for first, n in blocks:
        if pages[first] % PART:
            yield from ((i, 0, 1, int(pages[i]) // PART, 1) for i in range(first, first + n))
