"""Runs the trials of a study of concurrency on one model, as many as the budget allows; prints nothing."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ...engine.advice.study_file import StudyFile
from ...engine.llm import LLM
from ...engine.machine import host
from ...engine.machine.fit import free_memory
from ...kernels.shapes import PAGE, pages
from ...models.cache.spec import CacheSpec
from ...models.progress import Progress, silent
from ..machine.noise import Others
from ..machine.roofs import Roofs
from ..quality.caches import EXACT
from ..study import filling
from ..study.measure import Bench
from .arrivals import Users, arrivals, closed_loop, open_loop
from .depths import STEPS, step_times
from .losses import losses
from .sessions import Memory
from .trials import Kind, Options, Results, Trial, busiest, counts, trials

ROUNDS, ANSWERS = 2, 6
"""Answers that the closed loop counts at the least: of each user, on average, and in all."""
OPEN_SECONDS, FEWEST, MOST = 20.0, 15, 300
"""For how long requests arrive at random, and how many at least and at most."""
LONGEST = 90.0
"""Seconds of a loop, at most."""


def headed(bench: Bench, options: Options) -> dict[str, Any]:
    """Return the head of a study's file: what the results depend on besides their trials."""
    caches, fast = bench.caches, not bench.caches.exact
    head = filling.headed(caches.gguf, caches.config, bench.sources, options.seed, fast=fast)
    asked = {"threads": options.threads, "turn": options.turn, "answer": options.answer}
    return {**head, "study": "concurrency", "cpu": host.cpu_info(), **asked}


@dataclass
class Instrument:
    """A model whose trials are measured, one engine at a time."""

    bench: Bench  # the model, and the texts that losses are measured with
    options: Options
    roofs: Roofs | None
    studied: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # results of `pyllm study kv`
    progress: Progress = silent
    _engine: tuple[CacheSpec, int, LLM] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        caches = self.bench.caches
        self.memory = Memory(caches.gguf, caches.config)
        self.free = free_memory(caches.gguf.nbytes)[0]

    def room(self, cache: CacheSpec, depth: int) -> int:
        """Return how many sequences of a depth are measured at the most: what fits, here and in the memory given."""
        asked, spare = self.options, self.options.turn + self.options.answer
        here = self.memory.sessions(cache, self._tokens(depth + spare), self.free)
        return min(asked.most, here, self.memory.sessions(cache, depth, asked.memory))

    def compile(self) -> None:
        """Compile the kernels of all caches, with the arithmetic of answers and with that of losses."""
        for i, cache in enumerate(every := self.options.caches):
            self.progress("compiling kernels", i, len(every), cache.pair)
            self._open(cache, PAGE, 1).close()
            with self.bench.caches.open([cache] if i else [EXACT, cache]):
                pass

    def close(self) -> None:
        """Give the engine's memory back."""
        if self._engine is not None:
            self._engine[2].close()
            self._engine = None
            gc.collect()  # a recorded plan refers to its recorder, which refers to the plan

    def _open(self, cache: CacheSpec, tokens: int, sequences: int) -> LLM:
        """Return an engine for sequences of `tokens` tokens each; half of them may fill the cache at once."""
        n_ctx = tokens * max(1, sequences // 2)
        return LLM(
            self.bench.caches.opened, cache=cache, n_ctx=n_ctx, sequence_ctx=tokens, sequences=sequences,
            n_threads=self.options.threads,
        )  # fmt: skip

    def _tokens(self, depth: int) -> int:
        """Return the tokens that a sequence of an engine has room for, what remains of earlier answers included."""
        spare = pages(self.options.turn + self.options.answer) + 1
        return (pages(depth + STEPS) + 2 * spare) * PAGE

    def _at(self, cache: CacheSpec, depth: int) -> LLM:
        """Return an engine with room for all sequences of a depth that are measured; the last one is kept."""
        if self._engine is None or self._engine[:2] != (cache, depth):
            self.close()
            room = self.room(cache, depth)
            # Twice the sequences: windows of those whose users are idle stay in the cache too.
            self._engine = cache, depth, self._open(cache, self._tokens(depth), 2 * room)
        return self._engine[2]

    def measure(self, trials: Sequence[Trial], results: Results, until: float) -> dict[str, dict[str, Any]]:
        """Return the results of trials of one kind, by key; a trial for which time ran out has none."""
        first = trials[0]
        if first.kind == "loss":
            self.close()
            found = losses(self.bench, [t.cache for t in trials], self.studied)
            return {t.key: found[t.cache] for t in trials if t.cache in found}
        llm, options = self._at(first.cache, first.depth), self.options
        if first.kind == "steps":
            numbers = counts(self.room(first.cache, first.depth))
            return {first.key: {"points": step_times(llm, first.depth, numbers, self.roofs, until)}}
        until = min(until, perf_counter() + LONGEST)
        most, rate = busiest(results, first.cache, first.depth, options.most) or (1, 1.0)
        n = int(first.load) if first.kind == "closed" else self.room(first.cache, first.depth)
        users = Users(llm, n, first.depth, options.turn, options.answer, options.seed)
        try:
            if first.kind == "closed":
                result = closed_loop(users, rounds=max(ROUNDS, ANSWERS // n), until=until)
            else:
                rate *= first.load
                count = min(MOST, max(FEWEST, round(rate * OPEN_SECONDS)))
                result = open_loop(users, arrivals(rate, count, options.seed), until=until)
                result = result and {**result, "arrivals_per_s": rate, "users": n, "most": most}
        finally:
            users.close()
        return {first.key: result} if result else {}


@dataclass
class Pace:
    """What trials take, by the ones before of the same kind: seconds for each unit of work."""

    rates: dict[Kind, float] = field(default_factory=dict)

    @staticmethod
    def work(trial: Trial) -> float:
        """Return how long a trial takes beside others of its kind."""
        return (trial.depth + 256) * (1.0 if trial.kind != "closed" else trial.load + 1)

    def expected(self, trial: Trial) -> float:
        """Return the seconds that a trial will take; 0 if nothing is known."""
        return self.rates.get(trial.kind, 0.0) * self.work(trial)

    def took(self, trial: Trial, seconds: float) -> None:
        rate = seconds / self.work(trial)
        self.rates[trial.kind] = max(rate, 0.7 * self.rates.get(trial.kind, 0.0) + 0.3 * rate)


def fill(instrument: Instrument, study: StudyFile, budget: float, progress: Progress) -> None:
    """Measure the trials that are not known yet, in their order, those that still fit in `budget` seconds."""
    begin, pace, given_up = perf_counter(), Pace(), set[str]()
    until = begin + budget
    while True:
        every = list(trials(instrument.options, instrument.room, study.results))
        every = list({t.key: t for t in every if t.key not in study.results and t.key not in given_up}.values())
        left = until - perf_counter()
        trial = next((t for t in every if pace.expected(t) < left), None)
        if trial is None or left <= 0:
            return
        known = len(study.results)
        progress("study", known, known + len(every), f"{trial.kind} {trial.cache.pair} {trial.depth or ''}")
        group = [t for t in every if t.kind == "loss"] if trial.kind == "loss" else [trial]
        since, others = perf_counter(), Others()
        found = instrument.measure(group, study.results, until)
        given_up |= {t.key for t in group}
        pace.took(trial, perf_counter() - since)
        if found:
            share = others.share()
            study.add({key: {**result, "others": share} for key, result in found.items()})
