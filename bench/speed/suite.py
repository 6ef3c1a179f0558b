"""One run of the benchmark: load, warm up, measure bandwidth, cases, and bandwidth again; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from ...engine.machine.bars import Bars
from ...models.cache.sizes import held_bytes
from ...models.progress import silent
from ..machine.bandwidth import ceiling
from ..machine.noise import Others
from . import record
from .cases import Case
from .engines import Engines, Models, groups, positions
from .peer import Peer
from .throughput import Ours, Results, Runner, Traffic, measure

US = "pyllm"

Status = Callable[[int, int, str], None]
"""Called with the repetition (from 0; -1 before the first), their number, and what is measured next."""


@dataclass
class Suite:
    """Cases and their results. `records` can be called at any time, also after a run was interrupted."""

    cases: Sequence[Case]
    repetitions: int
    peer: Peer | None = None
    warm_up: bool = True
    status: Status = lambda repetition, repetitions, text: None
    warn: Callable[[str], None] = lambda text: None

    ceilings: dict[int, list[float]] = field(default_factory=dict, init=False)  # threads -> bytes per second, in order
    others: float = field(default=0.0, init=False)  # share of the machine that other programs took
    _results: Results = field(default_factory=dict, init=False)
    _models: Models = field(default_factory=Models, init=False)
    _traffic: dict[Case, Traffic] = field(default_factory=dict, init=False)
    _held: dict[Case, int] = field(default_factory=dict, init=False)
    _compile_s: dict[Case, float] = field(default_factory=dict, init=False)
    _rss_peak: dict[Case, int] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Measure all cases, interleaved, in groups that fit in memory."""
        found = groups(self.cases, self._models)
        if len(found) > 1:
            self.warn(f"the engines do not all fit in memory at once: cases are interleaved in {len(found)} groups")
        for group in found:
            self._group(group)

    def _group(self, cases: Sequence[Case]) -> None:
        engines = Engines(self._models, partial(positions, cases=cases))
        ours = Ours(engines, silent)
        self._rss_peak |= dict.fromkeys(cases, 0)
        try:
            self._prepare(engines, cases)
            if self.warm_up:
                measure(cases, {US: ours}, 1, {}, status=self._warming)
            self._take_ceilings(engines, cases)
            others = Others()
            runners: dict[str, Runner] = {US: ours, **({self.peer.name: self.peer} if self.peer else {})}
            measure(cases, runners, self.repetitions, self._results, status=self.status, warn=self.warn)
            self.others = max(self.others, others.share())
            self._take_ceilings(engines, cases)
        finally:
            self._rss_peak |= ours.rss_peak
            engines.close()

    def _warming(self, repetition: int, repetitions: int, text: str) -> None:
        self.status(-1, self.repetitions, "warming up")

    def _prepare(self, engines: Engines, cases: Sequence[Case]) -> None:
        """Load engines and fill caches now: progress bars have a thread, which must not run during a measurement."""
        with Bars() as progress:
            for case in cases:
                engine = engines.of(case.setup, progress)
                engine.at(case.n_depth, progress)
                self._traffic[case], self._compile_s[case] = Traffic.of(engine.llm, case), engine.compile_s
                self._held[case] = held_bytes(engine.llm.config, case.cache, case.n_ctx)

    def _take_ceilings(self, engines: Engines, cases: Sequence[Case]) -> None:
        """Measure the read bandwidth with the threads of one engine for each number of threads."""
        for threads, setup in {case.n_threads: case.setup for case in cases}.items():
            self.status(-1, self.repetitions, f"read bandwidth -t {threads}")
            self.ceilings.setdefault(threads, []).append(ceiling(engines.of(setup, silent).llm.model.team))

    def records(self) -> list[record.Record]:
        """Return a record for each case measured so far, in the order of the cases."""
        system, found = record.system(), []
        for case in self.cases:
            ours = self._results.get((case, US))
            if ours is None:
                continue
            common = {
                "bytes_held": self._held[case],
                "compile_s": self._compile_s[case],
                "rss_peak": self._rss_peak[case],
            }
            measured = record.case(case, ours, self._traffic[case], max(self.ceilings[case.n_threads]))
            parts = [system, record.model(self._models[case.model][0]), common, measured]
            if self.peer:
                theirs = self._results.get((case, self.peer.name))
                parts.append(record.peer(self.peer.name, self.peer.rotates(case), ours, theirs))
            found.append(record.complete(*parts))
        return found


def spread(ceilings: Sequence[float]) -> float:
    """Return the range of measurements of the same ceiling, as a share of their median."""
    return (max(ceilings) - min(ceilings)) / median(ceilings)
