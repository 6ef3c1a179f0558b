"""Cuts the attention of a step into jobs that threads take in turn; knows positions and parts, no memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...kernels.attention import softmax
from ...kernels.shapes import PAGE, PART

Job = tuple[int, int, int]
"""A span, and the parts or rows from one to before another: see softmax.JOB."""


class Seen(NamedTuple):
    """The parts of the tokens that a decode row sees, from the first on."""

    first: int
    parts: int


def seen(position: int, window: int) -> Seen:
    """Return the parts that a row at a position sees; window: tokens that it sees, itself included; 0: all."""
    first = max(0, position + 1 - window) // (PAGE * PART) if window else 0
    return Seen(first, position // (PAGE * PART) + 1 - first)


def job_parts(parts: int, threads: int, kv_heads: int) -> int:
    """Return how many parts to take at once, of all that there are for a KV head.

    Each job waits for its first page, which nobody fetched ahead; the last job leaves other threads idle for half a
    job. The sum is least at a square root.
    """
    if threads == 1:
        return max(1, parts)
    best = math.sqrt(2 * parts * kv_heads / (threads * PART))
    return max(1, min(round(best), parts * kv_heads // threads))


def by_tokens(rows: Sequence[tuple[int, Seen]], threads: int, kv_heads: int) -> Iterator[Job]:
    """Yield the jobs of decode rows, given the span of each and what it sees."""
    size = job_parts(sum(row.parts for _, row in rows), threads, kv_heads)
    for span, row in rows:
        end = row.first + row.parts
        for begin in range(row.first, end, size):
            yield span, begin, min(begin + size, end)


def by_rows(spans: Sequence[tuple[int, int]], group: int) -> Iterator[Job]:
    """Yield the jobs of spans of prompts: blocks of rows. spans: the number and the rows of each."""
    size = softmax.block_rows(group)
    for span, rows in spans:
        for begin in range(0, rows, size):
            yield span, begin, min(begin + size, rows)
