"""Runs many requests at once: which tokens of which sequence go into each step; computes nothing, knows no server.

There are no phases. Every step takes in one token of each sequence that generates, and as many tokens of prompts as its
budget allows, prompts in turn. A request is admitted when the pages that it may need are there, so that it can finish.
With overcommit more are admitted; when no page is left then, the newest request waits and is computed again later.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate, count
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from ..kernels.shapes import PAGE
from ..models.errors import NumberError, PyllmError, UsageError
from . import prefixes
from .budget import Budget
from .choices import Choices
from .page_table import PagePool, PoolFull
from .request import Request, Running, Update
from .results import Piece, Stop, Timings
from .sampler import Sampler, SamplingParams
from .sequence import Sequence
from .stepper import Stepper, Take

if TYPE_CHECKING:
    from ..models.text.tokenizer import Tokenizer


class Engine(Protocol):
    """What the scheduler needs of an LLM."""

    stepper: Stepper
    pools: list[PagePool]
    tokenizer: Tokenizer
    sequence_ctx: int
    n_sequences: int

    def sequence(self) -> Sequence: ...
    def sampler(self, params: SamplingParams | None = None) -> Sampler: ...


class QueueFull(PyllmError):
    """As many requests wait as may."""


class Scheduler:
    """Requests in, pieces of answers out, a step at a time."""

    def __init__(
        self,
        llm: Engine,
        *,
        max_step: float | None = 2.0,
        max_queue: int | None = None,
        overcommit: bool = False,
    ) -> None:
        """max_step: how many times as long as a step without prompts one with prompts may take; None: any.

        max_queue: requests that may wait. overcommit: admit more requests than are sure to finish without waiting.
        """
        self.llm, self.max_queue, self.overcommit = llm, max_queue, overcommit
        self.budget = Budget(max_step)
        windows = [pages.window for pages in llm.stepper.model.kv.tables]
        self.prefixes = prefixes.Prefixes(llm.pools, windows)
        self._choices = Choices(llm.stepper.model.team, llm.n_sequences)
        self._ids = count()
        self.waiting: list[Running] = []
        self.running: list[Running] = []
        self._turn: deque[Running] = deque()  # those whose prompts are taken in, the next first
        self._cancelled: list[Running] = []

    # Requests --------------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> int:
        """Queue a request and return its number; raises UsageError for what can never run, QueueFull."""
        if not request.prompt:
            raise UsageError("the prompt is empty: there is no token to continue from")
        most = self.llm.sequence_ctx
        if len(request.prompt) > most:
            raise UsageError(f"the prompt has {len(request.prompt)} tokens, a sequence at most {most}; use a larger -c")
        if self.max_queue is not None and len(self.waiting) >= self.max_queue:
            raise QueueFull(f"{len(self.waiting)} requests are waiting, as many as may: try again later")
        from ..models.text.tokenizer import StreamDecoder

        made = Running(next(self._ids), request, self.llm.sampler(request.params), StreamDecoder(self.llm.tokenizer))
        for token in request.prompt:
            made.sampler.accept(token)
        self.waiting.append(made)
        self.waiting.sort(key=lambda r: r.order)
        return made.id

    def cancel(self, id: int) -> None:
        """End a request before the next step; one that has ended, or never was, is left alone."""
        for group in (self.waiting, self.running):
            for r in group:
                if r.id == id:
                    group.remove(r)
                    self._cancelled.append(r)
                    return

    def close(self) -> None:
        """Forget all requests and prefixes, and give their pages back."""
        for r in self.running:
            self._release(r)
        for group in (self.running, self.waiting, self._cancelled):
            group.clear()
        self.prefixes.clear()

    @property
    def idle(self) -> bool:
        """Return whether nothing is left to do."""
        return not (self.waiting or self.running or self._cancelled)

    def timings(self, id: int) -> Timings | None:
        """Return the timings of a request under way."""
        return next((r.timings for r in [*self.running, *self.waiting] if r.id == id), None)

    # Steps -----------------------------------------------------------------------------------------------------------

    def step(self) -> list[Update]:
        """Run one step and return what it gave, at least the ends of cancelled requests."""
        updates = [self._end(r, "interrupt") for r in self._cancelled]
        self._cancelled.clear()
        updates += self._admit()
        begin = perf_counter()
        takes = self._compose()
        if not takes:
            return updates
        ends = accumulate(len(take.tokens) for _, take in takes)
        wanted = [(r, end - 1) for (r, take), end in zip(takes, ends, strict=True) if len(take.tokens) == r.left]
        logits = self.llm.stepper.take([take for _, take in takes], [row for _, row in wanted])
        tokens = self._choices([r.sampler for r, _ in wanted], logits)
        self._count(takes, perf_counter() - begin)
        for r, take in takes:
            self.prefixes.publish(take.sequence, r.published)
        return updates + [self._next(r, token) for (r, _), token in zip(wanted, tokens, strict=True)]

    def _compose(self) -> list[tuple[Running, Take]]:
        """Return what goes into the next step: rows of those who generate, then prompts in turn."""
        chosen = [(r, 1) for r in sorted(self.running, key=_by_prefix) if r.decodes]
        left = self.budget.tokens(len(chosen), self.llm.stepper.model.n_batch - len(chosen))
        for r in list(self._turn):
            if left > 0:
                self._turn.rotate(-1)
                chosen.append((r, min(left, r.left)))
                left -= chosen[-1][1]
        for r, n in sorted(chosen, key=lambda each: each[0].order):
            self._reserve(r, n)
        return [(r, r.take(n)) for r, n in chosen if r in self.running]  # the others lost their pages

    def _reserve(self, r: Running, n: int) -> None:
        """Take the pages for n more tokens of a request; where none is left, the newest request waits."""
        while r in self.running and not r.own.try_reserve(r.own.n_past + n):
            self._park(max(self.running, key=lambda other: other.order))

    def _park(self, r: Running) -> None:
        """Take the pages of a request away; it is computed again from its tokens, which are all kept."""
        self._release(r)
        self.running.remove(r)
        self.waiting.append(r)
        self.waiting.sort(key=lambda other: other.order)

    def _release(self, r: Running) -> None:
        if r.sequence is not None:
            r.sequence.rewind(0)
            r.sequence = None
        r.published = prefixes.start(r.request.salt)
        if r in self._turn:
            self._turn.remove(r)

    def _count(self, takes: list[tuple[Running, Take]], seconds: float) -> None:
        """Count a step's tokens and time for its requests and for the budget."""
        rows = sum(not take.prompt for _, take in takes)
        self.budget.measured(rows, sum(len(take.tokens) for _, take in takes if take.prompt), seconds)
        for r, take in takes:
            if take.prompt:
                r.timings.prompt_n += len(take.tokens)
            else:
                r.timings.decoded_n += 1
                r.timings.attended_n += take.sequence.n_past

    def _next(self, r: Running, token: int | NumberError) -> Update:
        """Give a request its next token, and end it where it ends."""
        times, now = r.timings, perf_counter()
        if r in self._turn:
            self._turn.remove(r)
        if r.request.params.max_tokens == 0:
            return self._end(r, "limit")
        if isinstance(token, NumberError):
            return self._end(r, None, token)
        r.sampler.accept(token)
        if not r.generated:
            times.first = now - r.arrived
            times.prompt = now - r.touched
        else:
            times.decode += now - r.last
        r.last = now
        if token in self.llm.tokenizer.eog:
            return self._end(r, "eog")
        times.generated_n += 1
        r.tokens.append(token)
        piece = Piece(r.decoder.feed(token), token=token)
        if r.generated == r.request.params.max_tokens:
            return self._end(r, "limit", piece=piece)
        if len(r.tokens) > self.llm.sequence_ctx:
            return self._end(r, "context", piece=piece)
        return Update(r.id, piece)

    def _end(
        self, r: Running, stop: Stop | None, error: PyllmError | None = None, piece: Piece | None = None
    ) -> Update:
        """End a request and free its pages, which the prefix cache may still hold."""
        self._release(r)
        for group in (self.running, self.waiting):
            if r in group:
                group.remove(r)
        text = (piece.text if piece else "") + r.decoder.flush()
        return Update(r.id, Piece(text, stop, piece.token if piece else None), error)

    # Admission -------------------------------------------------------------------------------------------------------

    def _admit(self) -> list[Update]:
        """Let requests in, in order, as long as their pages are there; return the ends of those that never can."""
        ends = []
        while self.waiting and len(self.running) < self.llm.n_sequences:
            r = self.waiting[0]
            hit = self.prefixes.find(r.tokens, r.request.salt)
            if not self._fits(r, hit):
                if self.running:
                    break
                pool, most = self.llm.pools[0], self._most(r) * PAGE
                full = f"room for {most} tokens is needed, but {pool.free * PAGE} of {pool.size * PAGE} are free"
                ends.append(self._end(r, None, PoolFull(f"the KV cache is full: {full}; use a larger -c")))
                continue
            self.waiting.pop(0)
            r.begin(self.llm.sequence())
            self.prefixes.lend(hit, r.own, r.published)
            r.timings.reused_n += hit.n
            self.running.append(r)
            if not r.decodes:
                self._turn.append(r)
        return ends

    def _fits(self, r: Running, hit: prefixes.Hit) -> bool:
        """Return whether the pages that a request may need are free, or will not be needed by those before it."""
        pool = self.llm.pools[0]
        free = pool.free + self.prefixes.reclaimable(hit.keys)
        if self.overcommit:
            return _pages(len(r.tokens)) - len(hit.keys) + len(self.running) <= free  # each will soon take another
        promised = sum(self._most(other) - other.own.tables[0].count for other in self.running)
        return self._most(r) - len(hit.keys) + promised <= free

    def _most(self, r: Running) -> int:
        """Return the pages that a request may come to need, those of layers that keep all tokens."""
        limit = r.request.params.max_tokens
        tokens = self.llm.sequence_ctx if limit < 0 else min(self.llm.sequence_ctx, len(r.request.prompt) + limit)
        return _pages(tokens)


def _by_prefix(r: Running) -> bytes:
    """Return a key that puts sequences which share pages beside each other."""
    table = r.own.tables[0]
    return table.pages[: table.count].tobytes()


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE)
