"""Engines for the cases: loaded when they are needed, as many at a time as fit in memory; measures nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np

from ...engine.llm import LLM
from ...engine.machine.fit import PROGRAM, free_memory, needs
from ...engine.machine.units import size
from ...engine.stepper import Session
from ...kernels.shapes import PAGE
from ...models.arch.registry import read_config
from ...models.config import Config
from ...models.errors import FitError
from ...models.file.gguf import GGUF
from ...models.forward.loaded import COMPILING
from ...models.opened import Opened
from ...models.progress import Progress
from ..machine.bandwidth import buffer_bytes
from .cases import Case, Setup

REPEATED = 8 * PAGE  # tokens that are computed when a cache is filled with copies


class HasSetup(Protocol):
    """A case of any benchmark: it says how its engine is loaded."""

    @property
    def setup(self) -> Setup: ...


C = TypeVar("C", bound=HasSetup)

Room = Callable[[Setup, Sequence[C]], tuple[int, int]]
"""Returns the tokens that the cache of a setup must hold for these cases, and the sequences."""

Fill = Callable[[Session, Sequence[int], Progress], None]
"""Fills an empty session's cache with tokens."""


def prefilled(session: Session, tokens: Sequence[int], progress: Progress) -> None:
    """Fill the cache by computing all tokens, as a prompt."""
    stage = f"filling the cache to {len(tokens)}"
    session.prefill(tokens, lambda done, total: progress(stage, done, total))


def repeated(session: Session, tokens: Sequence[int], progress: Progress) -> None:
    """Fill the cache with copies of a batch's pages: quick, and as good for timing a step."""
    session.prefill(tokens[:REPEATED])
    if len(tokens) > REPEATED:
        session.repeat(len(tokens))


@dataclass
class Engine:
    """A loaded model, with a session for each depth that its cases ask for."""

    llm: LLM
    compile_s: float
    fill: Fill = prefilled
    sessions: dict[int, Session] = field(default_factory=dict)

    def at(self, depth: int, progress: Progress) -> Session:
        """Return a session with `depth` tokens in the cache, which is filled once and then rewound."""
        if depth not in self.sessions:
            self.sessions[depth] = self.llm.session()
        session = self.sessions[depth]
        if session.rewind(depth) < depth:  # it is new, or a policy does not go back so far
            self.fill(session, random_tokens(self.llm.config.n_vocab, depth), progress)
        return session


class Models:
    """The model files, each opened once."""

    def __init__(self) -> None:
        self._opened: dict[Path, tuple[GGUF, Config]] = {}

    def __getitem__(self, path: Path) -> tuple[GGUF, Config]:
        if path not in self._opened:
            gguf = GGUF.open(path)
            self._opened[path] = gguf, read_config(gguf)
        return self._opened[path]


def random_tokens(n_vocab: int, n: int) -> list[int]:
    """Return n tokens, the same ones each time. Which token it is makes no difference to the time that it takes."""
    tokens: list[int] = np.random.default_rng(n).integers(0, n_vocab, n).tolist()
    return tokens


def positions(setup: Setup, cases: Sequence[Case]) -> tuple[int, int]:
    """Return the tokens that the cache must hold, and the sessions: one for each depth, as long as its longest case."""
    longest: dict[int, int] = {}
    for case in cases:
        if case.setup == setup:
            longest[case.n_depth] = max(longest.get(case.n_depth, 0), case.n_ctx)
    return sum(-(-n // PAGE) * PAGE for n in longest.values()), len(longest)


def groups(cases: Sequence[Case], models: Models) -> list[list[Case]]:
    """Return the cases in groups whose engines fit in memory together; raises FitError if one engine does not."""
    return fitting(cases, models, positions, "a smaller depth (-d)")


def fitting(cases: Sequence[C], models: Models, room_of: Room[C], cure: str) -> list[list[C]]:
    """Return the cases of any benchmark in such groups. cure: what takes less memory than they do."""
    free, limit = free_memory()
    room = free - PROGRAM - buffer_bytes()
    found: list[list[C]] = []
    left = 0
    for setup in dict.fromkeys(case.setup for case in cases):
        gguf, config = models[setup.model]
        n_ctx, sequences = room_of(setup, cases)
        need = needs(gguf, config, n_ctx, setup.cache, sequences)
        taken = need.total - PROGRAM
        if taken > room:
            problem = f"needs {size(taken)} (weights {size(need.weights)}, KV cache {size(need.kv)} at "
            problem += f"{setup.cache.pair}, {n_ctx} tokens of {sequences} sequence{'s' * (sequences > 1)}), "
            problem += f"but {limit} leaves {size(max(room, 0))}, enough for {need.largest_ctx(room + PROGRAM)} tokens"
            raise FitError(f"{setup.model}: {problem}; {cure} or a smaller model takes less")
        shared = need.weights if found and any(case.setup.model == setup.model for case in found[-1]) else 0
        if not found or taken - shared > left:
            found.append([])
            left, shared = room, 0
        left -= taken - shared
        found[-1] += [case for case in cases if case.setup == setup]
    return found


class Engines:
    """The engines of one group of cases, each loaded when it is first asked for."""

    def __init__(self, models: Models, room_of: Callable[[Setup], tuple[int, int]], fill: Fill = prefilled) -> None:
        """room_of: returns the tokens that the cache of a setup must hold, and the sequences."""
        self._models, self._room_of, self._fill = models, room_of, fill
        self._loaded: dict[Setup, Engine] = {}

    def of(self, setup: Setup, progress: Progress) -> Engine:
        """Return the engine for a setup, and load it first if necessary."""
        if setup not in self._loaded:
            watch = CompileWatch(progress)
            first = next((e.llm for other, e in self._loaded.items() if other.model == setup.model), None)
            load = first.beside if first else partial(LLM, Opened.open(*self._models[setup.model]))
            n_ctx, sequences = self._room_of(setup)
            llm = load(
                cache=setup.cache,
                n_ctx=n_ctx,
                sequences=sequences,
                n_threads=setup.n_threads,
                n_batch=setup.n_rows,
                progress=watch,
            )
            self._loaded[setup] = Engine(llm, watch.seconds, self._fill)
        return self._loaded[setup]

    def close(self) -> None:
        """End all threads and give the memory back."""
        for engine in self._loaded.values():
            engine.llm.close()
        self._loaded.clear()
        gc.collect()  # a recorded plan refers to its recorder, which refers to the plan


class CompileWatch:
    """A Progress that passes everything on, and times the stage in which kernels are compiled or loaded."""

    def __init__(self, progress: Progress) -> None:
        self.seconds = 0.0
        self._progress = progress
        self._begin: float | None = None

    def __call__(self, stage: str, done: int, total: int, next: str = "") -> None:
        if stage == COMPILING:
            self._begin = perf_counter() if self._begin is None else self._begin
            self.seconds = perf_counter() - self._begin
        self._progress(stage, done, total, next)
