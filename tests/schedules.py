"""Random schedules of requests, checked at every step: page counts add up, answers are those computed alone."""

from __future__ import annotations

import codecs
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyllm.engine.parking import Parked, Parking
from pyllm.engine.request import Request
from pyllm.engine.sampler import SamplingParams
from pyllm.engine.scheduler import Scheduler
from pyllm.kernels.shapes import PAGE

RUNS = int(os.environ.get("PYLLM_SCHEDULES", "0"))
"""Random schedules to run, where not as many as a test does by itself."""

Alone = Callable[[Request], tuple[Sequence[int], str | None]]
"""Returns the answer to a request alone: its tokens, and why it ends; None: by an error."""


class Drawn:
    """A budget by chance: any is right."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def tokens(self, rows: int, room: int) -> int:
        if room == 0:
            return 0
        return self._random.choice([1, min(room, 7), min(room, PAGE), self._random.randint(1, room), room])

    def measured(self, rows: int, tokens: int, seconds: float) -> None: ...


@dataclass
class Asked:
    """A request, and what came of it."""

    request: Request
    timings: Any
    answer: tuple[Sequence[int], str | None] | None = None  # alone
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    stop: str | None = None
    ended: bool = False
    failed: bool = False
    cancelled: bool = False


class World:
    """A scheduler, all that was asked of it, and what must hold."""

    def __init__(self, llm: Any, alone: Alone, *, seed: int = 0, **options: Any) -> None:
        self.llm, self.alone = llm, alone
        self.scheduler = Scheduler(llm, **options)
        self.scheduler.budget = Drawn(seed)  # type: ignore[assignment]
        parking = self.scheduler.parking
        self.requantizes = parking is not None and parking._smaller is not None
        self.asked: dict[int, Asked] = {}
        self.counts: Counter[str] = Counter()
        park = self.scheduler._park

        def counted(r: Any) -> None:
            self.counts["parked"] += 1
            park(r)

        self.scheduler._park = counted  # type: ignore[method-assign]

    def add(self, request: Request) -> int:
        id = self.scheduler.add(request)
        timings = self.scheduler.timings(id)
        self.asked[id] = Asked(request, timings)
        self.counts["requests"] += 1
        return id

    def cancel(self, id: int) -> None:
        self.scheduler.cancel(id)
        if not self.asked[id].ended:
            self.asked[id].cancelled = True

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            if self.scheduler.idle:
                return
            updates = self.scheduler.step()
            self.counts["steps"] += 1
            for update in updates:
                self._take(update)
            self.check()

    def _take(self, update: Any) -> None:
        asked, piece = self.asked[update.id], update.piece
        assert not asked.ended, "an update after the end"
        asked.tokens += [] if piece.token is None else [piece.token]
        asked.text += piece.text
        asked.ended, asked.failed = piece.stop is not None or update.error is not None, update.error is not None
        if asked.timings.requantized_n and self.requantizes:  # it may say anything, but that harms nobody else
            self.counts["requantized"] += asked.ended
            return
        if asked.answer is None:
            asked.answer = self.alone(asked.request)
        tokens, stop, text = spoken(self.llm.tokenizer, *asked.answer, asked.request.params.stop)
        assert asked.tokens == list(tokens[: len(asked.tokens)])
        if asked.ended and not (asked.cancelled and piece.stop == "interrupt"):
            assert asked.tokens == list(tokens) and piece.stop == stop, (piece.stop, stop, update.error)
            assert asked.text == text
        if asked.ended:
            self._check_timings(asked)

    def _check_timings(self, asked: Asked) -> None:
        times, n = asked.timings, len(asked.request.prompt)
        self.counts["ended"] += 1
        self.counts["computed"] += times.prompt_n
        self.counts["reused"] += times.reused_n
        assert times.generated_n == len(asked.tokens)
        if asked.tokens:
            assert times.prompt_n + times.reused_n >= n
            assert times.prompt_n + times.reused_n + times.decoded_n >= n + len(asked.tokens) - 1
            assert times.first > 0
            assert times.prompt > 0 or not times.prompt_n

    def finish(self) -> None:
        """Run until all have ended, and give everything back."""
        for _ in range(100_000):
            if self.scheduler.idle:
                break
            self.step()
        assert self.scheduler.idle, "it never ends"
        assert all(asked.ended for asked in self.asked.values())
        assert not (self.scheduler.running or self.scheduler.waiting)
        self.close()

    def close(self) -> None:
        self.scheduler.close()
        assert all(pool.free == pool.size and pool.idle == 0 for pool in self.llm.pools)
        assert not self.scheduler.prefixes._known
        assert self.scheduler.parking is None or self.scheduler.parking.used == 0

    def check(self) -> None:
        """Check that each page is free or belongs to those who list it, and that only published pages are shared."""
        scheduler, nodes = self.scheduler, self.scheduler.prefixes._used
        sequences = [r.own for r in scheduler.running]
        sequences += [r.sequence for r in scheduler._cancelled if r.sequence is not None]
        assert all(r.sequence is None for r in scheduler.waiting)
        for kind, pool in enumerate(self.llm.pools):
            kept = [page for node in nodes if (page := node.pages[kind]) is not None]
            assert len(set(kept)) == len(kept)
            by_table = Counter(int(p) for s in sequences for p in _pages(s.tables[kind]))
            owners = by_table + Counter(kept)
            assert len(owners) + pool.free == pool.size
            assert all(pool.owners(page) == n for page, n in owners.items())
            assert not owners.keys() & set(pool._free) and len(set(pool._free)) == pool.free
            assert all(n == 1 or page in set(kept) for page, n in by_table.items())
            assert pool.idle == sum(page not in by_table for page in kept)
        followers = Counter(node.before for node in nodes)
        assert all(node.followers == followers[node] for node in nodes)
        assert len(scheduler.prefixes._known) == len(nodes)
        for r in scheduler.running:
            assert r.own.tokens == r.tokens[: r.own.n_past]
            assert r.published.pages == (r.own.n_past // PAGE if r.exact else 0)
            assert len(r.own.tokens) < len(r.tokens)
        assert len(scheduler.running) <= scheduler.places
        turn = {r.id for r in scheduler._turn}
        assert {r.id for r in scheduler.running if not r.decodes} <= turn
        assert turn <= {r.id for r in [*scheduler.running, *scheduler._cancelled]}


def spoken(
    tokenizer: Any, tokens: Sequence[int], stop: str | None, stop_strings: Sequence[str]
) -> tuple[Sequence[int], str | None, str]:
    """Return the tokens of an answer up to a stop string, why they end, and their text; stop: without the strings."""
    text, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
    for n, token in enumerate(tokens, 1):
        text += "" if token in tokenizer.hidden else decoder.decode(tokenizer.token_bytes(token))
        if found := [at for string in stop_strings if (at := text.find(string)) >= 0]:
            return tokens[:n], "stop", text[: min(found)]
    text += decoder.decode(b"", final=True)
    ends = [at for string in stop_strings if (at := text.find(string)) >= 0]
    return tokens, stop, text[: min(ends, default=len(text))]


class Inexact(Parking):
    """Copies that count as others than the pages, but are the same: what goes on with one still has its own answer."""

    def park(self, model: Any, sequence: Any) -> Parked | None:
        parked = super().park(model, sequence)
        if parked is not None:
            parked.exact = False
        return parked


def _pages(table: Any) -> list[int]:
    held: list[int] = table.pages[table.first : table.count].tolist()
    return held


def prompt(
    draw: random.Random, families: Sequence[Sequence[int]], longest: int, vocabulary: Sequence[int]
) -> list[int]:
    """Return a prompt of any length, often with the beginning of another."""
    whole = draw.choice(families)
    shared = draw.choice([0, 0, PAGE, PAGE * draw.randint(0, longest // PAGE), draw.randint(0, longest)])
    own = draw.choice([0, 1, 2, 3, 9, PAGE - 1, PAGE, PAGE + 1, draw.randint(0, longest)])
    return [*whole[:shared], *draw.choices(vocabulary, k=own)][:longest] or [vocabulary[0]]


def request(
    draw: random.Random,
    families: Sequence[Sequence[int]],
    longest: int,
    vocabulary: Sequence[int],
    *,
    grows: bool = False,
) -> Request:
    """Return a request. grows: its answer is longer than its prompt, so that overcommitted pools overflow."""
    limit = draw.choice([100, 150, -1] if grows else [0, 1, 2, 5, 30, PAGE, 100, -1])
    stop = draw.choice([(), (), (), ("Z",), ("CD", "é", "HIJ")])
    params = SamplingParams(temperature=0, max_tokens=limit, stop=stop)
    priority, salt = draw.choice([0, 0, 0, 1, -1]), draw.choice([0, 0, 0, 7])
    return Request(prompt(draw, families, min(longest, PAGE if grows else longest), vocabulary), params, priority, salt)
