"""Times each operation of a step, in decode and prefill, with cases interleaved; prints nothing.

Caches are filled with copies of a few computed pages: which token it is makes no difference to the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.llm import LLM
from ...engine.machine.bars import Bars
from ...engine.sampler import SamplingParams
from ...engine.stepper import Session
from ...kernels.attention.softmax import SCORES, SUMS, WEIGHTS
from ...kernels.plan import now
from ...models.forward.step import PlanKind
from ...models.progress import silent
from ..machine.counters import Counters
from ..machine.roofs import Roofs
from ..speed.cases import Case
from ..speed.engines import Engine, Engines, Models, groups, positions, random_tokens, repeated
from .operations import ATTEND, F64Array, Operation, bound, by_name, timed, values_cost, with_parts

F32Array = npt.NDArray[np.float32]

BURST = 6  # steps of a decode case in a round, each with and without stamps, after one that does not count
ENOUGH = 0.5  # seconds of a prefill case in a round; one step at least


@dataclass(frozen=True)
class Profile:
    """The measurements of one case. Seconds are of a step: of one token in decode, of all tokens in prefill."""

    case: Case
    rows: int  # tokens of the step
    context: int  # tokens in the cache after it
    seconds: float  # without stamps: the median
    stamped: float  # with stamps
    operations: tuple[Operation, ...]  # mean of the middle half of the steps with stamps
    whole: float  # seconds of those same steps, measured from Python
    sampling: float  # seconds to sample after a decode step, with the sampler's defaults
    dram: float | None  # bytes that memory controllers counted in a step, those of other programs included

    @property
    def prefill(self) -> bool:
        return self.rows > 1

    @property
    def tokens_per_second(self) -> float:
        """Return tokens per second without sampling, as `pyllm bench` counts them."""
        return self.rows / self.seconds

    @property
    def planned(self) -> float:
        """Return the seconds of all operations."""
        return sum(op.seconds for op in self.operations)

    @property
    def python(self) -> float:
        """Return the seconds of a step outside of its operations."""
        return self.whole - self.planned

    @property
    def stamps_cost(self) -> float:
        """Return by which share the stamps lengthen a step."""
        return self.stamped / self.seconds - 1

    @property
    def streamed(self) -> int:
        return sum(op.streamed for op in self.operations)

    @property
    def gbps(self) -> float:
        return self.streamed / self.seconds / 1e9

    def part(self, name: str) -> Operation:
        """Return an operation by its name; if the step has none of that name, one that takes no time."""
        return next((op for op in self.operations if op.name == name), Operation(name, 0.0, times=0))


Status = Callable[[int, int, str], None]
"""(round from 0 on, rounds, what is measured)"""


def profile(
    cases: Sequence[Case],
    models: Models,
    rounds: int,
    counters: Counters,
    found: list[Profile],
    status: Status = lambda *_: None,
) -> None:
    """Measure cases of one generated token, or of a prompt that is one step, and add their profiles to `found`.

    Cases that fit in memory together take turns, a round each. After an error or Ctrl-C, `found` has what was measured
    until then.
    """
    for group in groups(cases, models):
        engines = Engines(models, partial(positions, cases=group), repeated)
        benches: list[Workbench] = []
        try:
            with Bars() as progress:
                for case in group:
                    engine = engines.of(case.setup, progress)
                    engine.at(case.n_depth, progress)
                    benches.append(Workbench(case, engine, counters))
            for n in range(rounds):
                for bench in benches:
                    status(n, rounds, str(bench.case))
                    bench.round()
        finally:
            found += [bench.profile() for bench in benches if bench.complete]
            engines.close()


class Workbench:
    """One case: its steps, and what was measured of them so far."""

    def __init__(self, case: Case, engine: Engine, counters: Counters) -> None:
        self.case, self._engine, self._llm, self._counters = case, engine, engine.llm, counters
        self.rows = case.n_prompt or 1
        self.context = case.n_depth + self.rows
        self._model = engine.llm.model
        self._plan = self._model.plan(PlanKind.alone(self.rows))
        self._tokens = random_tokens(self._model.config.n_vocab, self.rows)
        self._stamps = np.zeros((1 + self._model.team.threads, 1 + len(self._plan.ops)), np.int64)
        self._since = clocks()
        self._walls: list[float] = []  # seconds of steps with stamps, measured from Python
        self._took: list[F64Array] = []  # ticks of each operation
        self._waited: list[F64Array] = []
        self._plain: list[float] = []  # seconds of steps without stamps
        self._sampling: list[float] = []
        self._dram: list[float] = []
        self._attend = [i for i, op in enumerate(self._plan.ops) if op.name == ATTEND]
        self._parts: dict[int, list[float]] = {SCORES: [], WEIGHTS: []}  # ticks of attention up to that part

    @property
    def complete(self) -> bool:
        """Return whether a step was measured in all ways."""
        return bool(self._took) and all(self._parts.values())

    def round(self) -> None:
        """Measure a few steps, after one that warms the caches."""
        session = self._engine.at(self.case.n_depth, silent)
        logits = self._step(session)[1]
        begin, steps = perf_counter(), 0
        while steps < 1 or (steps < BURST and (self.rows == 1 or perf_counter() - begin < ENOUGH)):
            self._plain.append(self._step(session)[0])
            self._walls.append(self._step(session, self._stamps)[0])
            took, waited = timed(self._plan, self._stamps)
            self._took.append(took)
            self._waited.append(waited)
            for upto, ticks in self._parts.items():
                ticks.append(self._attention(session, upto))
            steps += 1
        if self.rows == 1:
            self._sampling.append(_sampling(self._llm, logits))

    def _step(
        self, session: Session, stamps: npt.NDArray[np.int64] | None = None, *, counted: bool = True
    ) -> tuple[float, F32Array]:
        """Run a step, rewind the session to where it was, and return the step's seconds and logits."""
        self._model.stamps = stamps
        before = self._counters.read() if counted else None
        begin = perf_counter()
        logits = session.decode(self._tokens[0]) if self.rows == 1 else session.prefill(self._tokens)
        seconds = perf_counter() - begin
        self._model.stamps = None
        self._model.team.rest()
        if before is not None and (after := self._counters.read()) is not None:
            self._dram.append(after - before)
        session.rewind(self.case.n_depth)
        return seconds, logits

    def _attention(self, session: Session, upto: int) -> float:
        """Return the ticks of attention in a step where it stops after `upto`. The step's logits mean nothing."""
        for i in self._attend:
            self._plan.ops[i].args["upto"] = upto
        self._step(session, self._stamps, counted=False)
        for i in self._attend:
            self._plan.ops[i].args["upto"] = SUMS
        return float(timed(self._plan, self._stamps)[0][self._attend].sum())

    def profile(self) -> Profile:
        """Return the profile. Operations are means over the middle half of the stamped steps, so that they add up."""
        order = np.argsort(self._walls)
        middle = order[len(order) // 4 : max(len(order) // 4 + 1, -(-3 * len(order) // 4))]
        until = clocks()
        tick = (until[0] - self._since[0]) / (until[1] - self._since[1])  # seconds
        seconds = tick * np.mean([self._took[i] for i in middle], axis=0)
        waits = tick * np.mean([self._waited[i] for i in middle], axis=0)
        operations = by_name(self._plan, seconds, waits, self.rows, self.context)
        values = values_cost(self._plan, self.rows, self.context)
        parts = [median(ticks) for ticks in (*self._parts.values(), [took[self._attend].sum() for took in self._took])]
        return Profile(
            case=self.case,
            rows=self.rows,
            context=self.context,
            seconds=median(self._plain),
            stamped=median(self._walls),
            operations=tuple(with_parts(operations, parts, values)),
            whole=float(np.mean([self._walls[i] for i in middle])),
            sampling=median(self._sampling) if self._sampling else 0.0,
            dram=median(self._dram) if self._dram else None,
        )


def clocks() -> tuple[float, int]:
    """Return Python's clock (seconds) and that of the stamps (ticks) at nearly the same moment."""
    found = []
    for _ in range(9):
        before, ticks = perf_counter(), int(now())
        found.append((perf_counter() - before, before, ticks))
    _, seconds, ticks = min(found)
    return seconds, ticks


def _sampling(llm: LLM, logits: F32Array) -> float:
    """Return the seconds to choose a token with the sampler's defaults."""
    sampler = llm.sampler(SamplingParams(seed=1))
    sampler(logits)
    begin = perf_counter()
    sampler(logits)
    return perf_counter() - begin


def stamps_cost(profiles: Sequence[Profile]) -> float:
    """Return the share by which stamps lengthen a decode step: the median over the cases."""
    return median(p.stamps_cost for p in profiles if not p.prefill)


def as_json(profile: Profile, roofs: Roofs) -> dict[str, Any]:
    """Return all figures of a case; bytes and seconds are per step."""
    case = profile.case

    def operation(op: Operation) -> dict[str, Any]:
        limit = bound(op, roofs, case.n_threads, profile.streamed)
        return {
            "name": op.name, "times": op.times, "seconds": op.seconds, "waiting": op.waiting,
            **{f"bytes_{kind}": getattr(op.cost, kind) for kind in ("weights", "k", "v", "activations")},
            "macs_int8": op.cost.macs_i8, "macs_bf16": op.cost.macs_bf16, "macs_f32": op.cost.macs_f32,
            "gbps": op.gbps, "gmacs": op.gmacs,
            "intensity": op.intensity, "roof": limit.roof if limit else None, "of_roof": limit.share if limit else None,
        }  # fmt: skip

    return {
        "model": str(case.model), "kind": "prefill" if profile.prefill else "decode", "n_depth": case.n_depth,
        "n_tokens": profile.rows, "n_threads": case.n_threads, "type_k": case.type_k, "type_v": case.type_v,
        "tokens_per_second": profile.tokens_per_second, "gbps": profile.gbps, "seconds": profile.seconds,
        "seconds_with_stamps": profile.stamped, "seconds_of_operations": profile.planned,
        "seconds_around_them": profile.python, "seconds_of_sampling": profile.sampling, "bytes_dram": profile.dram,
        "operations": [operation(op) for op in profile.operations],
    }  # fmt: skip
