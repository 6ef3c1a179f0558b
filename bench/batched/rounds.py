"""One run of many sequences at once: load, warm up, then all cases in turns with those of a peer; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...engine.llm import LLM
from ...engine.machine.bars import Bars
from ...models.cache.sizes import held_bytes
from ...models.progress import silent
from ..machine.noise import Others
from ..machine.roofs import Roofs
from ..speed import record
from ..speed.engines import Engines, Models, fitting
from ..speed.suite import US, Status
from ..speed.throughput import Unable, turns
from . import figures
from .batched_peer import BatchedPeer
from .grid import BatchedCase
from .steps import Sample, StepCost, room, sample

CURE = "fewer sequences (-npl), shorter prompts (-npp), smaller cache types (-ctk, -ctv)"


@dataclass
class Rounds:
    """Cases and their results; raises FitError if there is no memory for one of them.

    `records` can be called at any time, also after a run was interrupted.
    """

    cases: Sequence[BatchedCase]
    repetitions: int
    peer: BatchedPeer | None = None
    warm_up: bool = True
    models: Models = field(default_factory=Models)
    status: Status = lambda repetition, repetitions, text: None
    warn: Callable[[str], None] = lambda text: None

    others: float = field(default=0.0, init=False)  # share of the machine that other programs took
    _samples: dict[tuple[BatchedCase, str], list[Sample]] = field(default_factory=dict, init=False)
    _costs: dict[BatchedCase, StepCost | None] = field(default_factory=dict, init=False)
    _held: dict[BatchedCase, int] = field(default_factory=dict, init=False)
    _n_ctx: dict[BatchedCase, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._groups = fitting(self.cases, self.models, room, CURE)

    def run(self) -> None:
        """Measure all cases, in turns, in groups that fit in memory."""
        if len(self._groups) > 1:
            self.warn(f"the caches do not all fit in memory at once: cases take turns in {len(self._groups)} groups")
        for group in self._groups:
            self._group(group)

    def _group(self, cases: Sequence[BatchedCase]) -> None:
        engines = Engines(self.models, lambda setup: room(setup, cases))
        try:
            with Bars() as progress:  # they have a thread, which must not run during a measurement
                for case in cases:
                    llm = engines.of(case.setup, progress).llm
                    each = case.n_prompt + case.n_gen
                    self._held[case] = held_bytes(llm.config, case.cache, each)
                    self._costs[case], self._n_ctx[case] = StepCost.of(llm, case), llm.n_ctx
            if self.warm_up:
                for case in cases:
                    self.status(-1, self.repetitions, "warming up")
                    sample(self._llm(engines, case), case)
            others = Others()
            try:
                self._measure(engines, cases)
            finally:
                self.others = max(self.others, others.share())
        finally:
            engines.close()

    @staticmethod
    def _llm(engines: Engines, case: BatchedCase) -> LLM:
        return engines.of(case.setup, silent).llm

    def _measure(self, engines: Engines, cases: Sequence[BatchedCase]) -> None:
        """Add samples of pyllm and its peer. A peer that is Unable to run a case is asked once."""
        unable: set[BatchedCase] = set()
        runners = [US, *([self.peer.name] if self.peer else [])]
        for repetition, case, runner in turns(cases, runners, self.repetitions):
            self.status(repetition, self.repetitions, f"{case}, {runner}")
            if runner == US:
                found = sample(self._llm(engines, case), case)
            elif case in unable or self.peer is None:
                continue
            else:
                try:
                    found = self.peer.sample(case)
                except Unable as reason:
                    unable.add(case)
                    self.warn(f"{runner} cannot run {case}: {reason}")
                    continue
            self._samples.setdefault((case, runner), []).append(found)

    def records(self, roofs: Roofs) -> list[record.Record]:
        """Return a record for each case measured so far, in the order of the cases. roofs: of this machine."""
        system, found = record.system(), []
        for case in self.cases:
            if (samples := self._samples.get((case, US))) is None:
                continue
            model = record.model(self.models[case.model][0])
            asked = figures.of_case(case, self._n_ctx[case])
            asked["bytes_held"] = self._held[case]
            parts = [system, model, asked, figures.ours(case, samples, self._costs[case], roofs)]
            if self.peer:
                parts.append({"peer": self.peer.name, "peer_rotation": self.peer.rotates(case)})
                if theirs := self._samples.get((case, self.peer.name)):
                    parts.append(figures.times(case, theirs, "peer_"))
                    parts.append(figures.compared(parts[3], parts[-1]))
            found.append(figures.complete(*parts))
        figures.gains(found)
        return found
