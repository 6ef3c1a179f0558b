"""Cuts the attention of a step into jobs that threads take in turn; knows positions and parts, no memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...kernels.attention import softmax
from ...kernels.shapes import PAGE, PART
from .span import Span

Job = tuple[int, int, int, int, int]
"""A span, its first row and their number, a part of the tokens and the number of parts: see softmax.JOB."""

SHARERS = 8
"""Rows from which on it pays to read a shared prefix for all of them together."""


class Seen(NamedTuple):
    """Parts of the tokens that the decode row of a span sees."""

    span: int
    first: int
    parts: int


def seen(span: int, position: int, window: int) -> Seen:
    """Return all parts that a row at a position sees; window: tokens that it sees, itself included; 0: all."""
    first = max(0, position + 1 - window) // (PAGE * PART) if window else 0
    return Seen(span, first, position // (PAGE * PART) + 1 - first)


def job_parts(parts: int, threads: int, kv_heads: int) -> int:
    """Return how many parts to take at once, of all that there are for a KV head.

    Each job waits for its first page, which nobody fetched ahead; the last job leaves other threads idle for half a
    job. The sum is least at a square root.
    """
    if threads == 1:
        return max(1, parts)
    best = math.sqrt(2 * parts * kv_heads / (threads * PART))
    return max(1, min(round(best), parts * kv_heads // threads))


def by_tokens(rows: Sequence[Seen], threads: int, kv_heads: int) -> Iterator[Job]:
    """Yield the jobs of decode rows over what each of them sees."""
    size = job_parts(sum(row.parts for row in rows), threads, kv_heads)
    for row in rows:
        end = row.first + row.parts
        for part in range(row.first, end, size):
            yield row.span, 0, 1, part, min(size, end - part)


def by_rows(spans: Sequence[tuple[int, int]], group: int) -> Iterator[Job]:
    """Yield the jobs of spans of prompts: blocks of rows. spans: the number and the rows of each."""
    size = softmax.block_rows(group)
    for span, rows in spans:
        for row in range(0, rows, size):
            yield span, row, min(size, rows - row), 0, 0


def without(rows: Sequence[Seen], groups: Sequence[Shared]) -> list[Seen]:
    """Return what each row sees of its own, after the prefixes that it shares; rows see all tokens."""
    done: dict[int, int] = {}
    for g in groups:
        for span in range(g.span, g.span + g.rows):
            done[span] = max(done.get(span, 0), g.part + g.parts)
    return [Seen(row.span, done.get(row.span, row.first), row.parts - done.get(row.span, 0)) for row in rows]


class Shared(NamedTuple):
    """Parts that the rows of consecutive spans share."""

    span: int
    rows: int
    part: int
    parts: int


def shared(common: Sequence[int], begin: int = 0, part: int = 0) -> Iterator[Shared]:
    """Yield the parts that rows share, the largest groups first, of at least SHARERS rows.

    common: of each row but the last, how many parts it has in common with the next. begin: the number of the first row.
    part: parts that are done already.
    """
    rows = len(common) + 1
    if rows < SHARERS:
        return
    least = min(common)
    if least > part:
        yield Shared(begin, rows, part, least - part)
    at = 0
    for i in [*(i for i, n in enumerate(common) if n == least), rows - 1]:  # apart where no more is shared
        yield from shared(common[at:i], begin + at, max(part, least))
        at = i + 1


def shared_of(spans: Sequence[Span], decode: Sequence[int]) -> Iterator[Shared]:
    """Yield the prefixes that decode rows share, found by the pages of neighbours; `decode`: their spans, in order."""
    run: list[int] = []
    common: list[int] = []
    for i in decode:
        if run and i != run[-1] + 1:
            yield from shared(common, run[0])
            run, common = [], []
        if run:
            common.append(_common_parts(spans[i - 1], spans[i]))
        run.append(i)
    yield from shared(common, run[0] if run else 0)


def _common_parts(a: Span, b: Span) -> int:
    """Return the whole parts at the beginning whose pages are the same, and which both rows see as a whole."""
    size = PART * PAGE
    most = min(a.position, b.position) // size * PART
    one, other = a.tables[0][:most], b.tables[0][:most]
    if not most or one[0] != other[0]:
        return 0
    apart = np.flatnonzero(one != other)
    return int(apart[0] if len(apart) else most) // PART


def by_prefix(groups: Sequence[Shared], group: int, threads: int, kv_heads: int) -> Iterator[Job]:
    """Yield the jobs over prefixes that rows share; group: query heads per KV head."""
    most = softmax.block_rows(group)
    size = job_parts(sum(g.parts for g in groups), threads, kv_heads)
    for g in groups:
        for row in range(0, g.rows, most):
            for part in range(g.part, g.part + g.parts, size):
                yield g.span + row, 0, min(most, g.rows - row), part, min(size, g.part + g.parts - part)


def fill(records: npt.NDArray[np.void], found: Iterable[Job]) -> int:
    """Write jobs to records and return their number."""
    made = list(found)
    if made:
        records.view(np.int64).reshape(len(records), -1)[: len(made)] = made
    return len(made)
