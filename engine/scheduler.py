"""Runs many requests at once: which tokens of which sequence go into each step; computes nothing, knows no server.

There are no phases. Every step takes in one token of each sequence that generates, and as many tokens of prompts as its
budget allows, prompts in turn. A request is admitted when the pages that it may need are there, so that it can finish.
With overcommit more are admitted; when no page is left then, the newest request waits. What is neither in the prefix
cache nor parked is computed again later.
Of requests that begin alike one computes a page, and the others wait for it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence as Tokens
from itertools import accumulate, count
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from ..kernels.lang import cpu
from ..kernels.shapes import PAGE
from ..models.errors import NumberError, PyllmError, UsageError
from . import prefixes
from .budget import Budget
from .ending import Ending
from .page_table import PagePool, PoolFull
from .parking import Parking
from .request import Request, Running, Update
from .results import Piece, Stop, Timings
from .sampler import Sampler, SamplingParams
from .sequence import Sequence
from .stepper import F32Array, Stepper, Take

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
    def choose(self, samplers: Tokens[Sampler], logits: F32Array) -> list[int | NumberError]: ...


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
        parking: Parking | None = None,
    ) -> None:
        """max_step: how many times as long as a step without prompts one with prompts may take; None: any.

        max_queue: requests that may wait besides those that can run at once. overcommit: admit more requests than are
        sure to finish without waiting. parking: where copies of the pages of those go that must wait.
        """
        if max_step is not None and not max_step > 1:
            raise UsageError(f"max_step: is {max_step}, must be more than 1 (None: no limit)")
        if max_queue is not None and max_queue < 0:
            raise UsageError(f"max_queue: is {max_queue}, must be 0 or more (None: no limit)")
        model = llm.stepper.model
        self.llm, self.max_queue, self.overcommit, self.parking = llm, max_queue, overcommit, parking
        self.places = min(llm.n_sequences, model.n_batch)  # each that runs has a row of every step
        self.budget = Budget(max_step)
        self.apart = cpu.AMX  # on the matrix unit, generated tokens beside a prompt would take its sums
        self.pages = model.kv.tables[0]  # with segments, the body's; those of sink and tail are there for each sequence
        keep = model.kv.borders is None  # what a page holds depends on where the sequence is by now
        self.prefixes = prefixes.Prefixes(llm.pools, [pages.window for pages in model.kv.tables], keep=keep)
        self._ids = count()
        self.waiting: list[Running] = []  # in order
        self.running: list[Running] = []
        self._turn: list[Running] = []  # those whose prompts are taken in, the next first
        self._cancelled: list[Running] = []
        self._updates: list[Update] = []  # what `step` returns next
        self._closed = False
        self._half_done = False  # whether a step ended by an exception
        self._look = False  # whether one that waits may be admitted now
        self._beside: list[Running] | None = None  # those that run, ones that share pages beside each other

    # Requests --------------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> int:
        """Queue a request and return its number; raises UsageError for what can never run, QueueFull."""
        if self._closed:
            raise UsageError("this scheduler is closed; LLM.scheduler returns a new one")
        if not request.prompt:
            raise UsageError("the prompt is empty: there is no token to continue from")
        most, n_vocab = self.llm.sequence_ctx, self.llm.stepper.model.config.n_vocab
        if len(request.prompt) > most:
            raise UsageError(f"the prompt has {len(request.prompt)} tokens, a sequence at most {most}; use a larger -c")
        if min(request.prompt) < 0 or max(request.prompt) >= n_vocab:
            raise UsageError(f"the prompt has a token that is not from 0 to {n_vocab - 1}, this model's last")
        under_way = len(self.waiting) + len(self.running)
        if self.max_queue is not None and under_way >= self.places + self.max_queue:
            allowed = f"{self.places} can run at once and {self.max_queue} may wait"
            raise QueueFull(f"{under_way} requests are under way: {allowed}; try again later, or raise max_queue")
        params = request.params
        ending = Ending(self.llm.tokenizer, len(request.prompt), most, params.max_tokens, params.stop)
        made = Running(next(self._ids), request, ending)
        self._wait(made)
        return made.id

    def cancel(self, id: int) -> None:
        """End a request before the next step; one that has ended, or never was, is left alone."""
        for group in (self.waiting, self.running):
            for r in group:
                if r.id == id:
                    group.remove(r)
                    self._cancelled.append(r)
                    self._look = True
                    return

    def close(self) -> None:
        """Forget all requests and prefixes, and give their pages back."""
        for r in [*self.running, *self._cancelled]:
            self._release(r)
        for r in [*self.waiting, *self._cancelled]:
            r.forget()
        for group in (self.running, self.waiting, self._cancelled, self._updates):
            group.clear()
        self.prefixes.clear()
        self._closed = True

    @property
    def idle(self) -> bool:
        """Return whether nothing is left to do."""
        return not (self.waiting or self.running or self._cancelled or self._updates)

    def timings(self, id: int) -> Timings | None:
        """Return the timings of a request under way."""
        return next((r.timings for r in [*self.running, *self.waiting] if r.id == id), None)

    # Steps -----------------------------------------------------------------------------------------------------------

    def step(self) -> list[Update]:
        """Run one step and return what it gave, at least the ends of cancelled requests.

        After an exception the next call tries again; what ended before the exception is returned then.
        """
        while self._cancelled:
            self._end(self._cancelled.pop(), "interrupt")
        if self._half_done:
            self._mend()
        self._admit()
        self._half_done = True
        for takes in self._passes(self._compose()):
            self._run(takes)
        self._half_done = False
        updates, self._updates = self._updates, []
        return updates

    def _mend(self) -> None:
        """Let the requests whose logits were lost, after their tokens were taken in, take in the last one again."""
        for r in list(self.running):
            self._publish(r)
            if r.left == 0:
                self._park(r)

    def _compose(self) -> list[tuple[Running, Take]]:
        """Return what goes into the next step: rows of those who generate, then prompts in turn."""
        prompts = self._prompts()
        chosen = [(r, 1) for r in self._by_prefix() if r.decodes]
        left = self.budget.tokens(len(chosen), self.llm.stepper.model.n_batch - len(chosen))
        for r in prompts:
            if left == 0:
                break
            self._turn.remove(r)
            self._turn.append(r)
            chosen.append((r, r.own.at_once(min(left, r.left))))
            left -= chosen[-1][1]
        for r, n in sorted(chosen, key=lambda each: each[0].order):
            self._reserve(r, n)
        return [(r, r.take(n)) for r, n in chosen if r.sequence is not None]  # the others lost their pages

    def _passes(self, takes: list[tuple[Running, Take]]) -> list[list[tuple[Running, Take]]]:
        """Return what goes through the weights together: all, unless prompts take other sums than generated tokens."""
        if not self.apart:
            return [takes] if takes else []
        each = [[(r, take) for r, take in takes if take.prompt is prompt] for prompt in (False, True)]
        return [some for some in each if some]

    def _prompts(self) -> list[Running]:
        """Return the requests whose prompts go on, in turn; of those with the same next page, the one furthest ahead.

        The others get that page from the prefix cache, and it is computed once.
        """
        self._turn = [r for r in self._turn if not r.decodes]  # one that was computed again may do so
        ahead: dict[object, Running] = {}
        for r in self._turn:
            name: object = self._next_page(r) or r
            if name not in ahead or r.own.n_past > ahead[name].own.n_past:
                ahead[name] = r
        chosen = {r.id for r in ahead.values()}
        return [r for r in self._turn if r.id in chosen and not r.decodes]

    def _next_page(self, r: Running) -> object:
        """Return the name of the page that a prompt fills next, after all that are in the prefix cache by now.

        None: nobody else can use it.
        """
        if not r.exact:
            return None
        name = self.prefixes.next(r.tokens, r.published)
        if name not in self.prefixes:
            return name
        hit = self.prefixes.find(r.tokens, r.request.salt)
        if hit.n <= r.own.n_past:  # a window has lost pages
            return name
        r.timings.reused_n += hit.n - r.own.n_past
        r.own.rewind(0)
        self._lend(hit, r)
        return self.prefixes.next(r.tokens, r.published)

    def _lend(self, hit: prefixes.Hit, r: Running) -> None:
        """Give a prefix to a request whose sequence is empty."""
        r.published = prefixes.start(r.request.salt)
        self.prefixes.lend(hit, r.own, r.published)
        self._beside = None

    def _by_prefix(self) -> list[Running]:
        """Return those that run, ones that share pages beside each other: attention reads these pages once."""
        if self._beside is None:
            self._beside = sorted(self.running, key=_pages_of)
        return self._beside

    def _reserve(self, r: Running, n: int) -> None:
        """Take the pages for n more tokens of a request; where none is left, the newest request waits."""
        while r.sequence is not None and not r.sequence.try_reserve(r.sequence.n_past + n):
            if self.running == [r]:  # others hold the pages, who are not ours
                self._end(r, None, self._full(r))
            else:
                self._park(max(self.running, key=lambda other: other.order))

    def _park(self, r: Running) -> None:
        """Take the pages of a request away; its tokens are kept, and its pages where there is room."""
        if not r.decodes:
            r.spend(perf_counter(), prompt=True)
        if self.parking is not None and r.own.n_past:
            r.parked = self.parking.park(self.llm.stepper.model, r.own)
        self._release(r)
        self.running.remove(r)
        self._wait(r)

    def _wait(self, r: Running) -> None:
        insort(self.waiting, r, key=lambda other: other.order)
        self._look = True

    def _release(self, r: Running) -> None:
        """Take the pages of a request away, which the prefix cache may still hold."""
        if r.sequence is None:
            return
        self.prefixes.touch(r.published)
        r.sequence.rewind(0)
        r.sequence, r.published, r.exact = None, prefixes.start(r.request.salt), True
        if r in self._turn:
            self._turn.remove(r)
        self._look, self._beside = True, None

    def _run(self, takes: list[tuple[Running, Take]]) -> None:
        """Run a step. Where numbers are broken, each request is tried on its own, and only those at fault end."""
        ends = accumulate(len(take.tokens) for _, take in takes)
        wanted = [(each, end - 1) for each, end in zip(takes, ends, strict=True) if len(each[1].tokens) == each[0].left]
        begin = perf_counter()
        try:
            logits = self.llm.stepper.take([take for _, take in takes], [row for _, row in wanted])
        except (NumberError, UsageError) as error:  # numbers that are broken, or a policy of the user's own
            if len(takes) == 1:
                self._end(takes[0][0], None, error)
            else:
                for each in takes:
                    self._run([each])
            return
        tokens = self.llm.choose([r.sampler for (r, _), _ in wanted], logits)
        self._count(takes, perf_counter() - begin)
        for ((r, take), _), token in zip(wanted, tokens, strict=True):
            self._next(r, token, prompt=take.prompt)

    def _count(self, takes: list[tuple[Running, Take]], seconds: float) -> None:
        """Count a step's tokens and time for its requests and for the budget, and publish the pages that are full."""
        rows = sum(not take.prompt for _, take in takes)
        self.budget.measured(rows, sum(len(take.tokens) for _, take in takes if take.prompt), seconds)
        for r, take in takes:
            if take.prompt:
                r.timings.prompt_n += len(take.tokens)
            else:
                r.timings.decoded_n += 1
                r.timings.attended_n += take.sequence.n_past
            if self._publish(r):
                self._look, self._beside = True, None

    def _publish(self, r: Running) -> bool:
        """Let others have the pages that a request has filled; return whether there were any."""
        return r.exact and self.prefixes.publish(r.own, r.published)

    def _next(self, r: Running, token: int | NumberError, *, prompt: bool) -> None:
        """Give a request its next token, and end it where it ends. prompt: what it took in was not one token."""
        now = perf_counter()
        r.spend(now, prompt=prompt)
        if prompt:
            self._turn.remove(r)
        if r.ending.empty:
            return self._end(r, "limit")
        if isinstance(token, NumberError):
            return self._end(r, None, token)
        r.sampler.accept(token)
        if not r.generated:
            r.timings.first = now - r.arrived
        piece = r.ending.take(token)
        if piece.token is not None:
            r.timings.generated_n += 1
            r.tokens.append(token)
        if piece.stop is not None:
            return self._end(r, piece.stop, piece=piece)
        self._updates.append(Update(r.id, piece))

    def _end(self, r: Running, stop: Stop | None, error: PyllmError | None = None, piece: Piece | None = None) -> None:
        """End a request and free its pages, which the prefix cache may still hold."""
        self._release(r)
        r.forget()
        for group in (self.running, self.waiting):
            if r in group:
                group.remove(r)
        self._look = True
        text = (piece.text if piece else "") + r.ending.flush()
        self._updates.append(Update(r.id, Piece(text, stop, piece.token if piece else None), error))

    # Admission -------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Let requests in, in order, as long as their pages are there; end those that never can."""
        while self._look and self.waiting and len(self.running) < self.places:
            r = self.waiting[0]
            hit = self.prefixes.find(r.tokens, r.request.salt)
            # What is in the prefix cache is exact, so a copy that is not must save the work of a page at least.
            if r.parked is not None and len(r.parked.tokens) >= hit.n + (1 if r.parked.exact else PAGE):
                hit = prefixes.Hit()
            if not self._fits(r, hit):
                if self.running:
                    self._look = False  # until a request ends or waits, or a page is published
                else:  # others hold the pages, who are not ours
                    self._end(r, None, self._full(r))
                continue
            self.waiting.pop(0)
            r.begin(self.llm.sequence(), self.llm.sampler)
            if hit.n or not self._restore(r):
                self._lend(hit if hit.n else self.prefixes.find(r.tokens, r.request.salt), r)
            r.forget()
            r.timings.reused_n += r.own.n_past
            self.running.append(r)
            if not r.decodes:
                self._turn.append(r)

    def _restore(self, r: Running) -> bool:
        """Give a request the copy of its pages; return False if there is none."""
        if r.parked is None or not r.parked.restore(self.llm.stepper.model, r.own):
            return False
        r.exact = r.exact and r.parked.exact
        r.timings.requantized_n += 0 if r.parked.exact else r.own.n_past
        self._publish(r)
        self._beside = None
        return True

    def _fits(self, r: Running, hit: prefixes.Hit) -> bool:
        """Return whether the pages that a request may need are free, or will not be needed by those before it."""
        tables = [other.own.tables[0] for other in self.running]
        promised = sum(map(self._needs, self.running)) - sum(table.count - table.first for table in tables)
        return self._needs(r) - len(hit.nodes) + promised <= self.prefixes.room(hit)

    def _needs(self, r: Running) -> int:
        """Return the pages that a request may come to need, or will need soon, of layers that keep all tokens."""
        limit, prompt = r.request.params.max_tokens, len(r.request.prompt)
        tokens = self.llm.sequence_ctx if limit < 0 else min(self.llm.sequence_ctx, prompt + max(0, limit - 1))
        most = self.pages.held(tokens)  # the last token that is generated is not taken in
        return min(most, self.pages.held(len(r.tokens)) + 1) if self.overcommit else most

    def _full(self, r: Running) -> PoolFull:
        room, size = self.prefixes.room(prefixes.Hit()), self.llm.pools[0].size
        full = f"room for {self._needs(r) * PAGE} tokens is needed, but {room * PAGE} of {size * PAGE} are free"
        return PoolFull(f"the KV cache is full: {full}; use a larger -c")


def _pages_of(r: Running) -> bytes:
    """Return a key that puts sequences which share pages beside each other."""
    table = r.own.tables[0]
    return table.pages[: table.count].tobytes()
