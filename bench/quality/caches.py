"""Several KV caches over one set of weights, as many at a time as fit in memory; scores nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...engine.llm import LLM
from ...engine.machine.fit import PROGRAM, free_memory, needs
from ...engine.machine.host import usable_cores
from ...engine.machine.units import size
from ...models.cache.sizes import PREFILL_ROWS
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import FitError
from ...models.file.gguf import GGUF
from ...models.forward.probe import Attended
from ...models.forward.upcast import held
from ...models.opened import Opened
from ...models.progress import Progress, silent
from ...models.text.tokenizer import Tokenizer

ROWS = 64
"""Rows of logits that a step gives at most."""
AT_ONCE = 8
"""Caches that share a pass of the reference, at most."""

EXACT = CacheSpec("f32", "f32")
"""The reference: the cache that the others are compared with."""


class Caches:
    """Opens caches over the weights of one file, which are read with the first cache."""

    def __init__(
        self, gguf: GGUF, config: Config, tokenizer: Tokenizer, n_ctx: int, threads: int | None = None,
        progress: Progress = silent, *, exact: bool = True,
    ) -> None:  # fmt: skip
        """n_ctx: tokens that each cache holds; it may be changed between caches. exact: see LLM."""
        self.exact = exact
        self.gguf, self.config, self.tokenizer, self.n_ctx = gguf, config, tokenizer, n_ctx
        self._threads, self._progress = threads or usable_cores(), progress
        self._opened: Opened | None = None

    @property
    def opened(self) -> Opened:
        """Return the open file; engines over it share its weights."""
        if self._opened is None:
            self._opened = Opened.open(self.gguf, self.config, self.tokenizer)
        return self._opened

    def groups(self, caches: Sequence[CacheSpec], beside: Sequence[CacheSpec] = ()) -> list[list[CacheSpec]]:
        """Return the caches in groups that fit in memory, with those `beside`; raises FitError if one does not."""
        free, limit = free_memory(mapped=self.gguf.nbytes)
        left = free - PROGRAM - self._weights - sum(map(self._taken, beside))
        found: list[list[CacheSpec]] = []
        room = 0
        for cache in caches:
            taken = self._taken(cache)
            if taken > left:
                raise FitError(self._complaint([*beside, cache], limit, free))
            if taken > room or len(found[-1]) == AT_ONCE:
                found.append([])
                room = left
            found[-1].append(cache)
            room -= taken
        return found

    @property
    def _weights(self) -> int:
        return held(self.gguf.tensors) if self._opened is None else 0

    def _taken(self, cache: CacheSpec, n_ctx: int | None = None) -> int:
        """Return the bytes of a cache, its tables and its buffers."""
        need = needs(self.gguf, self.config, n_ctx or self.n_ctx, cache)
        return need.kv + need.positions + need.sums + need.buffers - PROGRAM + 4 * ROWS * self.config.n_vocab

    def _complaint(self, beside: Sequence[CacheSpec], limit: str, free: int) -> str:
        def total(n_ctx: int) -> int:
            return PROGRAM + self._weights + sum(self._taken(cache, n_ctx) for cache in beside)

        fitting = next((n for n in range(self.n_ctx // 64 * 64, 0, -64) if total(n) <= free), 0)
        cure = f"-c {fitting} would fit" if fitting else "no context fits: free memory or take a smaller model"
        names = " beside ".join(dict.fromkeys(cache.pair for cache in reversed(beside)))
        need = f"caches of {self.n_ctx} tokens ({names}) need {size(total(self.n_ctx))} with the weights"
        return f"{self.gguf.path}: {need}, but {limit} leaves {size(max(free, 0))}; {cure}"

    @contextmanager
    def open(self, caches: Sequence[CacheSpec], *, fast: bool = False) -> Iterator[list[LLM]]:
        """Yield an engine for each cache, over the same weights. fast: as answers compute, whatever `exact` says."""
        engines = [self._open(cache, exact=self.exact and not fast) for cache in caches]
        try:
            yield engines
        finally:
            for engine in engines:
                engine.close()
            gc.collect()  # a recorded plan refers to its recorder, which refers to the plan

    def attended(self, tokens: Sequence[int]) -> Iterator[Attended]:
        """Yield Q, K and V of each layer for these tokens, taken in as one batch over an exact cache."""
        self.n_ctx = len(tokens)
        engine = self._open(EXACT, n_batch=len(tokens), exact=self.exact)
        try:
            session = engine.session()  # its pages are read again
            session.prefill(tokens)
            yield from engine.attended()
            session.close()
        finally:
            engine.close()

    def _open(self, cache: CacheSpec, n_batch: int = PREFILL_ROWS, *, exact: bool) -> LLM:
        return LLM(
            self.opened,
            cache=cache,
            n_ctx=self.n_ctx,
            n_threads=self._threads,
            n_batch=n_batch,
            max_logits=ROWS,
            exact=exact,
            progress=self._progress,
        )
