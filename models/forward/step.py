"""The numbers that differ from step to step, in memory that a plan's operations read; Python fills it before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from ...kernels.attention import softmax
from ...kernels.lang import cpu
from ...kernels.lang.buffers import address
from ...kernels.ops import tile_dot
from ...kernels.shapes import PAGE
from ..cache.segments import Borders
from . import jobs
from .segmented import Segmented
from .span import Span

I64Array = npt.NDArray[np.int64]


class PlanKind(Enum):
    """Kinds of steps, each with a plan of its own."""

    DECODE = "decode"  # one row
    TWO = "two"  # one row each of two sequences
    FOUR = "four"  # of three or four
    FEW = "few"  # of more
    PREFILL = "prefill"  # rows of prompts, and one row each of other sequences

    @staticmethod
    def of(spans: Sequence[Span]) -> PlanKind:
        """Return the kind of a step of these spans."""
        if not all(span.decode for span in spans):
            return PlanKind.PREFILL
        return PlanKind.of_rows(len(spans))

    @staticmethod
    def of_rows(rows: int) -> PlanKind:
        """Return the kind of a step of one row each of `rows` sequences."""
        return next((kind for kind, most in _AT_ONCE.items() if rows <= most), PlanKind.FEW)

    @property
    def at_once(self) -> int:
        """Return the rows that products take at once: with too many, some of them are for nothing."""
        return _AT_ONCE.get(self, tile_dot.MANY)

    @staticmethod
    def alone(rows: int) -> PlanKind:
        """Return the kind of a step of one sequence, of a token that was generated or of a prompt's `rows` tokens."""
        return PlanKind.DECODE if rows == 1 else PlanKind.PREFILL


_AT_ONCE = {PlanKind.DECODE: 1, PlanKind.TWO: 2, PlanKind.FOUR: 4}


class Step:
    """The numbers of a step: int64, in arrays whose addresses never change."""

    def __init__(
        self,
        max_rows: int,
        threads: int,
        kv_heads: int,
        *,
        windows: Sequence[int] = (0,),
        borders: Borders | None = None,
        places: int = 0,
        experts: int = 0,
        experts_used: int = 0,
        exact: bool = False,
    ) -> None:
        """kv_heads: those of the layer that has the fewest. windows: of each kind of layers, 0: all tokens.

        borders: of the segments of the layers that keep all tokens; None: they have none.
        places: for sums of attention, see `softmax.ATTEND`; at least max_rows. exact: see Model.
        """
        self.max_rows, self.threads, self._experts, self._experts_used = max_rows, threads, experts, experts_used
        self._kv_heads, self._windows, self.max_places = kv_heads, windows, max(max_rows, places)
        self.exact = exact
        self._numbers = np.zeros(16, np.int64)
        self.rows = self._numbers[0:1]  # tokens taken in
        self.n_logits = self._numbers[1:2]  # rows whose logits are wanted
        self.pairs = self._numbers[2:3]  # pairs of a token and an expert that it goes to
        self.expert_spans = self._numbers[3:4]  # upper bound of the experts that are chosen
        self.places = self._numbers[4:5]  # places for sums of attention that are used
        kinds, tables = len(windows), len(windows) + (2 if borders else 0)
        self._chunks: dict[tuple[int, bool], I64Array] = {}  # see `chunks`
        self.n_jobs = np.zeros((kinds, 1), np.int64)
        self.jobs = np.zeros((kinds, self.max_places), softmax.JOB)  # of decode rows, by kind of layer
        self.n_blocks = np.zeros((kinds, 1), np.int64)
        self.blocks = np.zeros((kinds, self.max_places + max_rows), softmax.JOB)  # of prompts and of shared prefixes
        self.tokens = np.zeros(max_rows, np.int64)
        self.positions = np.zeros(max_rows, np.int64)
        self.slots = np.zeros((tables, max_rows), np.int64)  # by page table: page * PAGE + index in the page
        self.sums_at = np.zeros(max_rows, np.int64)  # of each row's sums, the first place
        self.parts = np.zeros((kinds, max_rows), np.int64)  # by kind of layer: places that a row's sums take
        self.logits_rows = np.zeros(max_rows, np.int64)
        self.spans = np.zeros(max_rows, softmax.SPAN)
        self._span_records = self.spans.view(np.int64).reshape(max_rows, -1)
        places = self.max_places + max_rows
        self.segmented = Segmented(borders, max_rows, places, threads, kv_heads, exact) if borders else None

    def fill(self, spans: Sequence[Span], logits_rows: Sequence[int], group: int) -> None:
        """Set the numbers for a step of these spans, with logits of `logits_rows`; group: query heads per KV head."""
        self._spans_now = tuple(spans)  # kernels read their tables by address, also in a repeated step
        rows = 0
        for i, span in enumerate(spans):
            self._place(i, span, rows)
            rows += len(span.tokens)
        self.rows[0] = rows
        self.pairs[0] = rows * self._experts_used
        self.expert_spans[0] = min(rows * self._experts_used, self._experts)
        n_logits = len(logits_rows)
        self.n_logits[0] = n_logits
        self._count_chunks()
        self.logits_rows[:n_logits] = logits_rows
        self._share(spans, rows, group)

    def chunks(self, size: int, *, logits: bool) -> I64Array:
        """Return the number of chunks of `size` rows, of the tokens or of the wanted logits, which each step sets."""
        found = self._chunks.setdefault((size, logits), np.zeros(1, np.int64))
        self._count_chunks()  # a plan may be recorded when the step is filled already
        return found

    def _count_chunks(self) -> None:
        for (size, logits), count in self._chunks.items():
            count[0] = -(-int(self.n_logits[0] if logits else self.rows[0]) // size)

    def _place(self, i: int, span: Span, row: int) -> None:
        """Set the numbers of span i, whose first row is `row`."""
        n, position = len(span.tokens), span.position
        self._span_records[i, :3] = row, n, position
        if n == 1:  # the usual case in decode, where Python's own numbers are faster than arrays of one
            self.tokens[row], self.positions[row] = span.tokens[0], position
        else:
            self.tokens[row : row + n] = span.tokens
            self.positions[row : row + n] = np.arange(position, position + n)
        at = position if n == 1 else self.positions[row : row + n]
        for kind, table in enumerate(span.tables):
            self.slots[kind, row : row + n] = table[at // PAGE] * PAGE + at % PAGE
            self._span_records[i, 3 + kind] = address(table)

    def _share(self, spans: Sequence[Span], rows: int, group: int) -> None:
        """Set what attention does: the jobs, and the places where the sums of each row go."""
        wide = cpu.AMX and PlanKind.of(spans) is PlanKind.PREFILL  # then all rows go through the matrix unit
        wide = wide or self.exact  # or, in blocks too, through the exact kernel
        decode = [i for i, span in enumerate(spans) if span.decode and not wide]
        kinds = [n for n in range(len(self._windows)) if n or not self.segmented]  # the others
        seen = {n: [jobs.seen(i, spans[i].position, self._windows[n]) for i in decode] for n in kinds}
        self._set_places(spans, seen, rows)
        if self.segmented:
            self.segmented.share(spans, self.sums_at[:rows], group)
        prompts = list(jobs.by_rows([(i, len(s.tokens)) for i, s in enumerate(spans) if not s.decode or wide], group))
        prefixes = [] if self.segmented or len(decode) < jobs.SHARERS else list(jobs.shared_of(spans, decode))
        for kind in kinds:
            groups = [] if self._windows[kind] else prefixes  # rows of different lengths see different tokens
            own = jobs.without(seen[kind], groups)
            self.n_jobs[kind] = jobs.fill(self.jobs[kind], jobs.by_tokens(own, self.threads, self._kv_heads))
            blocks = [*prompts, *jobs.by_prefix(groups, group, self.threads, self._kv_heads)]
            self.n_blocks[kind] = jobs.fill(self.blocks[kind], blocks)

    def _set_places(self, spans: Sequence[Span], seen: Mapping[int, Sequence[jobs.Seen]], rows: int) -> None:
        """Give each row a place for its sums, and decode rows one for each part that they see, by kind of layer."""
        places = self.segmented.place(spans, self.positions[:rows]).tolist() if self.segmented else [1] * rows
        self.parts[:, :rows] = 1
        for kind, found in seen.items():
            for row in found:
                at = int(self._span_records[row.span, 0])
                self.parts[kind, at] = row.parts
                places[at] = max(places[at], row.parts)
        self.places[0] = sum(places)
        assert self.places[0] <= self.max_places, "attention leaves more sums than there is room for"
        self.sums_at[:rows] = [0, *accumulate(places[:-1])]
