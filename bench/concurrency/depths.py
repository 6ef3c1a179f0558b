"""Sequences with their tokens in the cache, made quickly: pages are copied; and the time of steps on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ...engine.llm import LLM
from ...engine.sequence import Sequence as TokenSequence
from ...engine.stepper import Take
from ...kernels.shapes import PAGE
from ...models.progress import silent
from ..batched.grid import BatchedCase
from ..batched.steps import StepCost
from ..machine.roofs import Roofs
from ..speed.engines import random_tokens, repeated

STEPS, ROUNDS = 8, 3
"""Steps of each number of sequences in a round, and rounds: numbers take turns, so that noise meets all alike."""


def filled(llm: LLM, tokens: Sequence[int]) -> TokenSequence:
    """Return a sequence with these tokens, whose pages are copies of the first ones computed.

    The logits after that mean nothing, but a step reads as much memory as after real tokens.
    """
    session = llm.session()
    repeated(session, tokens, silent)
    session.sequence.tokens = list(tokens)
    return session.sequence


def copied(llm: LLM, source: TokenSequence, tokens: Sequence[int]) -> TokenSequence:
    """Return a sequence with other tokens and copies of all pages of `source`, which has as many tokens."""
    sequence = llm.sequence()
    sequence.reserve(len(tokens))
    for kind, (mine, theirs) in enumerate(zip(sequence.tables, source.tables, strict=True)):
        for i in range(max(mine.first, theirs.first), mine.count):
            llm.model.kv.copy_page(kind, int(theirs.pages[i]), int(mine.pages[i]))
    sequence.extend(list(tokens))
    return sequence


def whole_pages(depth: int) -> int:
    """Return the depth in whole pages, at least one."""
    return max(PAGE, depth // PAGE * PAGE)


def step_times(
    llm: LLM, depth: int, counts: Sequence[int], roofs: Roofs | None, until: float = math.inf
) -> list[dict[str, Any]]:
    """Return the time of a decode step for each number of sequences, in seconds: the median, and its range by round.

    roofs: also the shares of the step that its bytes and its multiply-adds take at the least. until: begin no other
    round after this time of perf_counter.
    """
    depth, rng = whole_pages(depth), np.random.default_rng(depth)
    first = filled(llm, random_tokens(llm.config.n_vocab, depth))
    sequences = [first, *(copied(llm, first, first.tokens) for _ in range(max(counts) - 1))]
    times: dict[int, list[list[float]]] = {n: [] for n in counts}
    try:
        for turn in range(ROUNDS + 1):  # the first one warms up
            if turn > 1 and perf_counter() > until:
                break
            for n in counts:
                some = sequences[:n]
                for sequence in some:
                    sequence.rewind(depth)
                took = []
                for row in rng.integers(0, llm.config.n_vocab, (2 if turn == 0 else STEPS, n)).tolist():
                    begin = perf_counter()
                    llm.stepper.take([Take(s, [t], False) for s, t in zip(some, row, strict=True)], range(n))
                    took.append(perf_counter() - begin)
                if turn:
                    times[n].append(took)
    finally:
        for sequence in sequences:
            sequence.rewind(0)
    return [{"sequences": n, "depth": depth + STEPS // 2} | _figures(llm, depth, n, times[n], roofs) for n in counts]


def _figures(llm: LLM, depth: int, n: int, rounds: Sequence[Sequence[float]], roofs: Roofs | None) -> dict[str, float]:
    """Return the time of a step of n sequences, the bytes that it reads, and with roofs its shares of them."""
    every, each = [t for found in rounds for t in found], [median(found) for found in rounds]
    seconds = median(every)
    found = {"seconds": seconds, "low": min(each), "high": max(each), "p99": float(np.percentile(every, 99))}
    n_batch = llm.model.n_batch
    case = BatchedCase(
        model=Path(llm.path), n_prompt=depth, n_gen=STEPS, n_sequences=n, shared=False, n_batch=n_batch,
        n_ubatch=n_batch, cache=llm.cache, n_threads=llm.n_threads,
    )  # fmt: skip
    if cost := StepCost.of(llm, case):
        found |= {"weights": cost.weights, "k": cost.k, "v": cost.v}
        if roofs is not None:
            found["bus"], found["unit"] = cost.shares(seconds, roofs, llm.n_threads)
    return found
