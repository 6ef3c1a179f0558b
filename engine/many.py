"""Answers to a list of prompts, run at once: what `LLM.generate` does with several; knows no terminal and no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .request import Request
from .results import Bytes, Completion, Stop, Timings
from .sampler import SamplingParams
from .scheduler import Engine, Scheduler


class Answering(Engine, Protocol):
    """What is needed of an LLM."""

    def scheduler(self) -> Scheduler: ...
    def bytes(self, timings: Timings) -> Bytes: ...


class Answer:
    """The pieces of an answer until now."""

    def __init__(self, seed: int, timings: Timings) -> None:
        self.seed, self.timings = seed, timings
        self.text = ""
        self.tokens: list[int] = []
        self.stop: Stop | None = None


def complete_all(llm: Answering, prompts: Sequence[Sequence[int]], params: SamplingParams | None) -> list[Completion]:
    """Return the answers to prompts, in order; raises the first error that ends one of them."""
    scheduler = llm.scheduler()
    try:
        asked = [scheduler.add(Request(prompt, params or SamplingParams())) for prompt in prompts]
        answers = {r.id: Answer(r.params.seed, r.timings) for r in scheduler.waiting}
        while not scheduler.idle:
            for update in scheduler.step():
                if update.error is not None:
                    raise update.error
                answer, piece = answers[update.id], update.piece
                answer.text += piece.text
                answer.tokens += [] if piece.token is None else [piece.token]
                answer.stop = piece.stop
    finally:
        scheduler.close()
    found = []
    for id, prompt in zip(asked, prompts, strict=True):
        a = answers[id]
        seen = llm.bytes(a.timings)
        found.append(Completion(a.text, tuple(a.tokens), len(prompt), a.stop, a.seed, a.timings, seen))
    return found
