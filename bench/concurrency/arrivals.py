"""Users and their requests, through the real scheduler in real time: a closed loop, and arrivals at random.

Each user holds a conversation of some depth, whose tokens are in the prefix cache, and asks for an answer to a few new
tokens. No two users share tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter, sleep
from typing import Any

import numpy as np

from ...engine.llm import LLM
from ...engine.prefixes import start
from ...engine.request import Request
from ...engine.sampler import SamplingParams
from .depths import copied, filled, whole_pages

LEAST = 3
"""Answers without which there is no result."""
WARM = 0.2
"""Share of the random arrivals, the first ones, that do not count."""


@dataclass
class Asked:
    """A request: when it arrived, and when its tokens came."""

    user: int
    arrived: float
    stamps: list[float] = field(default_factory=list)


class Users:
    """Users of one engine, their conversations, and the scheduler that answers them."""

    def __init__(self, llm: LLM, users: int, depth: int, turn: int, answer: int, seed: int) -> None:
        """turn: new tokens of a request; if they are as many as depth, nothing is in the cache before."""
        self.llm, self.answer, self.turn = llm, answer, min(turn, depth)
        self._rng = np.random.default_rng([seed, users, depth])
        self._n_vocab = llm.config.n_vocab
        self.scheduler = llm.scheduler()
        held = whole_pages(depth - turn) if depth > turn else 0
        self.conversations = [self._tokens(held) for _ in range(users)]
        if held:
            self._fill()
        self.under_way: dict[int, Asked] = {}

    def _tokens(self, n: int) -> list[int]:
        found: list[int] = self._rng.integers(0, self._n_vocab, n).tolist()
        return found

    def _fill(self) -> None:
        """Put all conversations into the prefix cache."""
        first = filled(self.llm, self.conversations[0])
        others = (copied(self.llm, first, tokens) for tokens in self.conversations[1:])
        for sequence in others:
            self.scheduler.prefixes.publish(sequence, start())
            sequence.rewind(0)
        self.scheduler.prefixes.publish(first, start())
        first.rewind(0)

    def ask(self, user: int, arrived: float, answer: int | None = None) -> None:
        """Queue a request of a user; answer: its tokens, if not as many as usual."""
        params = SamplingParams(temperature=0, max_tokens=answer or self.answer, ignore_eos=True, seed=0)
        id = self.scheduler.add(Request([*self.conversations[user], *self._tokens(self.turn)], params))
        self.under_way[id] = Asked(user, arrived)

    def step(self) -> list[Asked]:
        """Run one step and return the requests that are answered; raises the error that ended one."""
        ended = []
        updates = self.scheduler.step()
        now = perf_counter()
        for update in updates:
            if update.error is not None:
                raise update.error
            asked = self.under_way[update.id]
            if update.piece.token is not None:
                asked.stamps.append(now)
            if update.piece.stop:
                ended.append(self.under_way.pop(update.id))
        return ended

    def close(self) -> None:
        self.scheduler.close()


def closed_loop(users: Users, *, rounds: int, until: float) -> dict[str, Any] | None:
    """Let each user ask again once it is answered, and return the figures; None if time ran out before any.

    First answers are of different lengths, so that users do not stay in step; they do not count. rounds: answers of
    each user that are counted, on average. until: when to stop, in seconds of perf_counter.
    """
    n = len(users.conversations)
    for user in range(n):
        users.ask(user, perf_counter(), answer=max(1, users.answer * (user + 1) // n))
    warming, begin, found = set(range(n)), 0.0, list[Asked]()
    while len(found) < rounds * n and perf_counter() < until:
        for asked in users.step():
            begin = asked.stamps[-1] if warming else begin
            if not warming:
                found.append(asked)
            warming.discard(asked.user)
            users.ask(asked.user, asked.stamps[-1])
    return figures([*found, *users.under_way.values()], begin, perf_counter(), len(found))


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Return the seconds at which requests arrive, on average `rate` a second, independently of each other."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    times: list[float] = np.cumsum(gaps).tolist()
    return times


def open_loop(users: Users, times: Sequence[float], *, until: float) -> dict[str, Any] | None:
    """Answer requests that arrive at these times, each for a user who has none under way; return the figures.

    Where all users wait for an answer, a request waits too, and its time to the first token counts from its arrival.
    None if time ran out before all were answered.
    """
    idle = deque(range(len(users.conversations)))
    coming, begin, found = deque(times), perf_counter(), list[Asked]()
    while (coming or users.under_way) and perf_counter() < until:
        while coming and idle and begin + coming[0] <= perf_counter():
            users.ask(idle.popleft(), begin + coming.popleft())
        if not users.under_way:
            sleep(max(0.0, min(begin + coming[0], until) - perf_counter()))
            continue
        for asked in users.step():
            idle.append(asked.user)
            found.append(asked)
    if coming or users.under_way:
        return None
    counted = sorted(found, key=lambda asked: asked.arrived)[int(WARM * len(found)) :]
    since = counted[0].arrived if counted else begin
    return figures(counted, since, max([begin, *(a.stamps[-1] for a in counted)]), len(counted))


def figures(asked: Sequence[Asked], begin: float, end: float, answers: int) -> dict[str, Any] | None:
    """Return tokens/s, time between tokens and to the first one, in seconds; only what lies within begin and end."""
    tokens = sum(begin < stamp <= end for a in asked for stamp in a.stamps)
    gaps = [b - a for each in asked for a, b in pairwise(each.stamps) if a >= begin]
    firsts = [a.stamps[0] - a.arrived for a in asked if a.stamps and a.arrived >= begin]
    if answers < LEAST or not gaps or not firsts or end <= begin:
        return None
    return {
        "answers": answers,
        "seconds": end - begin,
        "answers_per_s": answers / (end - begin),
        "tokens_per_s": tokens / (end - begin),
        **dict(zip(("itl_p50", "itl_p99"), map(float, np.percentile(gaps, (50, 99))), strict=True)),
        **dict(zip(("ttft_p50", "ttft_p99"), map(float, np.percentile(firsts, (50, 99))), strict=True)),
        "first_tokens": len(firsts),
    }
