"""What a batch has done until now: counts, times, and the rows of its statistics; prints nothing."""

from __future__ import annotations

import math
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING

from ...kernels.shapes import PAGE
from ..machine.units import seconds, size
from ..results import Timings, peak_memory

if TYPE_CHECKING:
    from ..llm import LLM

FINE = 0.02  # relative width of a class of times


class Times:
    """How often each time came, in classes of 2 %: bounded, however many there are."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._n = 0

    def add(self, value: float) -> None:
        self._counts[round(math.log(max(value, 1e-9)) / FINE)] += 1
        self._n += 1

    def percentile(self, p: float) -> float:
        """Return the time that p % are not longer than; 0 without any."""
        left = self._n * p / 100
        for at, n in sorted(self._counts.items()):
            left -= n
            if left <= 0:
                return math.exp(at * FINE)
        return 0.0


class Tally:
    """The counts of a batch."""

    def __init__(self, total: int = 0, before: int = 0) -> None:
        """total: lines to answer, those that were answered before among them; before: how many those are."""
        self.total, self.before = total, before
        self.answered = self.failed = self.cut = 0  # cut: ended by a full context
        self.prompt_n = self.reused_n = self.generated_n = 0
        self.between = Times()  # seconds between two tokens of an answer
        self.pages = 0  # taken by sequences at once, at most
        self.begin = perf_counter()
        self._end = 0.0

    @property
    def done(self) -> int:
        return self.before + self.answered + self.failed

    @property
    def elapsed(self) -> float:
        return (self._end or perf_counter()) - self.begin

    @property
    def rate(self) -> float:
        """Return generated tokens per second, of all sequences together."""
        return self.generated_n / self.elapsed if self.generated_n else 0.0

    def count(self, timings: Timings, stop: str | None) -> None:
        """Count an answer; its generated tokens are counted as they come."""
        self.answered += 1
        self.cut += stop == "context"
        self.prompt_n += timings.prompt_n
        self.reused_n += timings.reused_n

    def start(self) -> None:
        """Count time from now on."""
        self.begin, self._end = perf_counter(), 0.0

    def end(self) -> None:
        """Count no more time."""
        self._end = self._end or perf_counter()

    def status(self, running: int) -> str:
        """Return what stands beside the progress bar."""
        said = f"{running} at once, {self.rate:.0f} tokens/s"
        now = self.answered + self.failed
        if now and self.elapsed > 5:
            said += f", {_long(self.elapsed / now * (self.total - self.done))} left"
        return said

    def rows(self, llm: LLM, load: float) -> list[tuple[str, str]]:
        """Return the rows of the table for people: (name, value)."""
        prompts = f"{self.answered} answered"
        prompts += f", {self.failed} failed" if self.failed else ""
        prompts += f", {self.before} were there" if self.before else ""
        prompts += f", {left} left" if (left := self.total - self.done) > 0 else ""
        tokens = self.prompt_n + self.reused_n
        share = f", {self.reused_n / tokens:.0%} of them from the prefix cache" if self.reused_n else ""
        rows = [("load", seconds(load)), ("prompts", prompts), ("tokens in", f"{tokens}{share}")]
        if self.generated_n:
            rows.append(("tokens out", f"{self.generated_n} in {_long(self.elapsed)}, {self.rate:.1f} tokens/s"))
        if p99 := self.between.percentile(99):
            between = f"p50 {self.between.percentile(50) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms"
            rows.append(("between tokens", between))
        used, pages = self.pages / max(1, llm.pools[0].size), llm.pools[0].size * PAGE
        kv = f"{size(llm.kv_bytes)} for {pages} tokens, {llm.cache.words}; {used:.0%} in use at most"
        return [*rows, ("KV cache", kv), ("peak memory", size(peak_memory()))]


def _long(value: float) -> str:
    """Format seconds of long work, as in 12.3 s, 5 min 20 s or 3 h 12 min."""
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"
