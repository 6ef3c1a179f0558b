"""The times of cases, with repetitions interleaved over all cases and runners, and the bytes that they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from time import perf_counter_ns
from typing import Protocol, TypeVar

import psutil

from ...engine.llm import LLM
from ...engine.stepper import Session
from ...models.progress import Progress
from .cases import Case
from .engines import Engines, random_tokens

AnyCase = TypeVar("AnyCase")


class Unable(Exception):
    """Raised by a runner that cannot run a case; the message says why."""


class Runner(Protocol):
    """Runs cases: pyllm itself, or the program that it is compared with."""

    def sample(self, case: Case) -> int:
        """Return the nanoseconds that the case took. Raises Unable."""


@dataclass
class Samples:
    """The times of one runner for one case, in the order in which they were measured."""

    n_tokens: int
    ns: list[int] = field(default_factory=list)

    @property
    def ts(self) -> list[float]:
        """Tokens per second."""
        return [1e9 * self.n_tokens / ns for ns in self.ns]

    @property
    def median_ns(self) -> int:
        return round(median(self.ns))

    @property
    def median_ts(self) -> float:
        return 1e9 * self.n_tokens / median(self.ns)


def average(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation, as llama-bench prints them; the deviation of a single value is 0."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


Results = dict[tuple[Case, str], Samples]
"""By case and name of the runner."""


def turns(cases: Sequence[AnyCase], runners: Sequence[str], repetitions: int) -> Iterator[tuple[int, AnyCase, str]]:
    """Yield (repetition, case, runner) in the order of measurement: every case once before any of them again.

    Runners swap their order with each repetition, so that a machine that drifts favours none.
    """
    for repetition in range(repetitions):
        for case in cases:
            for runner in runners if repetition % 2 == 0 else reversed(runners):
                yield repetition, case, runner


def measure(
    cases: Sequence[Case],
    runners: dict[str, Runner],
    repetitions: int,
    results: Results,
    *,
    status: Callable[[int, int, str], None] = lambda repetition, repetitions, text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Run everything and add to `results`, valid at any time. A runner that is Unable to run a case is asked once."""
    unable: set[tuple[Case, str]] = set()
    for repetition, case, runner in turns(cases, list(runners), repetitions):
        if (case, runner) in unable:
            continue
        status(repetition, repetitions, f"{case}, {runner}")
        try:
            ns = runners[runner].sample(case)
        except Unable as reason:
            unable.add((case, runner))
            warn(f"{runner} cannot run {case}: {reason}")
        else:
            results.setdefault((case, runner), Samples(case.n_tokens)).ns.append(ns)


class Ours:
    """pyllm as a Runner."""

    def __init__(self, engines: Engines, progress: Progress) -> None:
        self._engines, self._progress = engines, progress
        self.rss_peak: dict[Case, int] = {}  # bytes of the whole process, with all engines loaded by then

    def sample(self, case: Case) -> int:
        """Return the nanoseconds of one repetition; loading, filling and rewinding the cache do not count."""
        engine = self._engines.of(case.setup, self._progress)
        tokens = random_tokens(engine.llm.config.n_vocab, case.n_tokens)
        ns = timed(engine.at(case.n_depth, self._progress), tokens[: case.n_prompt], tokens[case.n_prompt :])
        self.rss_peak[case] = max(self.rss_peak.get(case, 0), int(psutil.Process().memory_info().rss))
        return ns


def timed(session: Session, prompt: Sequence[int], generated: Sequence[int]) -> int:
    """Return the nanoseconds to prefill a prompt at once and then decode tokens one by one, without sampling."""
    begin = perf_counter_ns()
    if prompt:
        session.prefill(prompt)
    for token in generated:
        session.decode(token)
    return perf_counter_ns() - begin


@dataclass(frozen=True)
class Traffic:
    """Bytes that a case reads, summed over its steps."""

    weights: float = 0
    k: float = 0
    v: float = 0

    @property
    def total(self) -> float:
        return self.weights + self.k + self.v

    @classmethod
    def of(cls, llm: LLM, case: Case) -> Traffic:
        """Sum the costs of the plan. In decode they grow linearly, so first and last step give the mean."""
        end = case.n_depth + case.n_prompt
        steps = []
        for start in range(case.n_depth, end, llm.model.n_batch):
            rows = min(llm.model.n_batch, end - start)
            steps.append((1.0, llm.model.cost(rows, start + rows)))
        if case.n_gen:
            steps += [(case.n_gen / 2, llm.model.cost(1, context)) for context in (end + 1, case.n_ctx)]
        return cls(*(sum(times * getattr(cost, kind) for times, cost in steps) for kind in ("weights", "k", "v")))
