"""Runs a case: its prompts, then steps of one token for each sequence; counts what a step reads and multiplies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from time import perf_counter_ns

import numpy as np

from ...engine.llm import LLM
from ...engine.sequence import Sequence as TokenSequence
from ...engine.stepper import Take
from ...kernels.lang import cpu
from ...kernels.plan import Cost
from ...kernels.shapes import PAGE, PART
from ...models.cache.kinds import kinds
from ...models.cache.sizes import side_bytes
from ...models.config import Config
from ...models.forward import jobs
from ...models.forward.step import PlanKind
from ..machine.roofs import Roofs
from ..speed.cases import Setup
from ..speed.engines import random_tokens
from .grid import BatchedCase

STEPS = 32  # of a case, evenly spaced, whose costs are averaged


@dataclass(frozen=True)
class Sample:
    """The nanoseconds of one repetition."""

    prompt: int  # of all prompts
    gen: int  # of all decode steps
    steps: tuple[int, ...] = ()  # of each of them, if they were measured apart


def room(setup: Setup, cases: Sequence[BatchedCase]) -> tuple[int, int]:
    """Return the tokens that the cache must hold for the largest of the cases, and the most sequences."""
    mine = [case for case in cases if case.setup == setup]
    return max(case.n_pages for case in mine) * PAGE, max(case.n_sequences for case in mine)


def sample(llm: LLM, case: BatchedCase) -> Sample:
    """Measure one repetition, without sampling, as llama-batched-bench does. Sharing the prompt does not count."""
    tokens = random_tokens(llm.config.n_vocab, case.prompts * case.n_prompt + case.n_sequences * case.n_gen)
    prompts = [tokens[i * case.n_prompt : (i + 1) * case.n_prompt] for i in range(case.prompts)]
    generated = np.array(tokens[case.prompts * case.n_prompt :]).reshape(case.n_gen, case.n_sequences).tolist()
    sequences = [llm.sequence() for _ in prompts]
    try:
        begin = perf_counter_ns()
        for takes, logits_rows in chunks(sequences, prompts, llm.model.n_batch):
            llm.stepper.take(takes, logits_rows)
        prompt = perf_counter_ns() - begin
        sequences += [fork(llm, sequences[0]) for _ in range(case.n_sequences - len(sequences))]
        steps = []
        for row in generated:
            begin = perf_counter_ns()
            llm.stepper.take([Take(s, [t], False) for s, t in zip(sequences, row, strict=True)], range(len(row)))
            steps.append(perf_counter_ns() - begin)
        return Sample(prompt, sum(steps), tuple(steps))
    finally:
        for sequence in sequences:
            sequence.rewind(0)


def chunks(
    sequences: Sequence[TokenSequence], prompts: Sequence[Sequence[int]], n_rows: int
) -> Iterator[tuple[list[Take], list[int]]]:
    """Yield steps of n_rows tokens, which go through the prompts in order, and the rows of the last token of each.

    A step has fewer where a sequence may not take so many at once.
    """
    takes: list[Take] = []
    last: list[int] = []
    rows = 0
    for sequence, prompt in zip(sequences, prompts, strict=True):
        at = 0
        while at < len(prompt):
            part = prompt[at : at + sequence.at_once(n_rows - rows)]
            takes.append(Take(sequence, part, True))
            at, rows = at + len(part), rows + len(part)
            if at == len(prompt):
                last.append(rows - 1)
            if rows == n_rows or at < len(prompt):  # a sequence is in a step once
                yield takes, last
                takes, last, rows = [], [], 0
    if takes:
        yield takes, last


def fork(llm: LLM, sequence: TokenSequence) -> TokenSequence:
    """Return a sequence with the same tokens, which shares full pages and has a copy of the last one."""
    other, n = llm.sequence(), sequence.n_past
    other.tables = [table.fork(n) for table in sequence.tables]
    other.reserve(n)
    if n % PAGE:
        for kind, (mine, theirs) in enumerate(zip(other.tables, sequence.tables, strict=True)):
            llm.model.kv.copy_page(kind, int(theirs.pages[n // PAGE]), int(mine.pages[n // PAGE]))
    other.extend(sequence.tokens)
    return other


@dataclass(frozen=True)
class StepCost:
    """The mean cost of a case's decode steps: bytes and multiply-adds."""

    weights: float
    k: float
    v: float
    macs: dict[str, float]  # by path of roofs.peak

    @property
    def streamed(self) -> float:
        return self.weights + self.k + self.v

    @classmethod
    def of(cls, llm: LLM, case: BatchedCase) -> StepCost | None:
        """Return the mean over a few of the steps; None if the case has none."""
        if not case.n_gen:
            return None
        rows = case.n_sequences
        at = np.linspace(case.n_prompt + 1, case.n_prompt + case.n_gen, min(STEPS, case.n_gen)).astype(int)
        every = [llm.model.cost(rows, int(context), PlanKind.FEW if rows > 1 else None) for context in at]
        mean = {f.name: sum(getattr(cost, f.name) for cost in every) / len(every) for f in fields(Cost)}
        spared = spared_tokens(case, llm.config) if case.shared else 0
        whole = kinds(llm.config)[0].layers
        k, v = (mean[side] - spared * side_bytes(llm.config, case.cache, side, whole) for side in ("k", "v"))
        macs = {cpu.DOT: mean["macs_i8"], "f32": mean["macs_f32"], "amx": mean["macs_bf16"]}
        return cls(mean["weights"], k, v, {path: n for path, n in macs.items() if n})

    def shares(self, seconds: float, roofs: Roofs, threads: int) -> tuple[float, float]:
        """Return the shares of a step's time that its bytes take at the least, and that its multiply-adds take."""
        bus = self.streamed / roofs.bandwidth(threads, self.streamed)
        unit = sum(n / roofs.peak(path, threads) for path, n in self.macs.items())
        return bus / seconds, unit / seconds


def spared_tokens(case: BatchedCase, config: Config) -> int:
    """Return the tokens that a step does not read again, in layers that see all, since rows read their prefix together.

    Rows share whole parts of full pages, if they are enough, and a block of rows reads a part once.
    """
    parts = case.n_prompt // PAGE // PART
    groups = list(jobs.shared([parts] * (case.n_sequences - 1)))
    blocks = jobs.by_prefix(groups, config.n_head // config.n_head_kv, 1, 1)
    return sum((rows - 1) * n for _, _, rows, _, n in blocks) * PART * PAGE
