"""One sequence over a model: its tokens, and their K and V in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..kernels.pages import PAGE
from ..models.errors import UsageError
from ..models.forward.model import Model
from ..models.forward.step import Span
from .page_table import PagePool, PageTable

F32Array = npt.NDArray[np.float32]


class Session:
    """Takes tokens in, gives logits out. Logits are valid until the model's next step."""

    def __init__(self, model: Model, pool: PagePool, n_ctx: int, after_step: Callable[[], None] = lambda: None) -> None:
        """after_step: called after each step of the model, and may raise."""
        self._model, self.n_ctx, self._after_step = model, n_ctx, after_step
        self._table = PageTable(pool, n_ctx)
        self._windows = PageTable(pool.windows, n_ctx, model.kv.kept_pages) if pool.windows else self._table
        self.tokens: list[int] = []

    @property
    def n_past(self) -> int:
        """Tokens in the cache."""
        return len(self.tokens)

    def _take(self, tokens: Sequence[int], outs: Sequence[int]) -> F32Array:
        self._table.reserve(self.n_past + len(tokens))
        self._windows.reserve(self.n_past + len(tokens))
        logits = self._model.step([Span(tokens, self.n_past, self._table.pages, self._windows.pages)], outs)
        self._after_step()
        self.tokens.extend(tokens)
        return logits

    def _check(self, n: int) -> None:
        if n == 0:
            raise UsageError("the prompt is empty: there is no token to continue from")
        if self.n_past + n > self.n_ctx:
            raise UsageError(
                f"{n} tokens after {self.n_past} do not fit in the context of {self.n_ctx}; use a larger -c"
            )

    def prefill(self, tokens: Sequence[int], progress: Callable[[int, int], None] | None = None) -> F32Array:
        """Take in many tokens; the logits after the last, (n_vocab,). progress(done, total)."""
        self._check(len(tokens))
        n, size = len(tokens), self._model.n_batch
        for start in range(0, n, size):
            batch = tokens[start : start + size]
            logits = self._take(batch, [len(batch) - 1] if start + size >= n else [])
            if progress is not None:
                progress(min(n, start + size), n)
        last: F32Array = logits[0]
        return last

    def decode(self, token: int) -> F32Array:
        """Take in one token; the logits after it, (n_vocab,)."""
        self._check(1)
        logits: F32Array = self._take([token], [0])[0]
        return logits

    def score(self, tokens: Sequence[int]) -> Iterator[tuple[int, F32Array]]:
        """Take in many tokens and see the logits after each: (index of the first, (rows, n_vocab)) piece by piece."""
        self._check(len(tokens))
        size = min(self._model.max_outs, self._model.n_batch)
        for start in range(0, len(tokens), size):
            batch = tokens[start : start + size]
            yield start, self._take(batch, range(len(batch)))

    def repeat(self, n: int) -> None:
        """Have n tokens in the cache, by copies of the full pages that there are: for who asks how long a step takes.

        What is computed from them makes no sense; memory is as full of it as of what does.
        """
        full = self.n_past // PAGE
        assert full and self.n_past <= n <= self.n_ctx
        self._table.reserve(n)
        self._windows.reserve(n)  # what pages that go round hold is as good
        for i in range(full, self._table.count):
            self._model.kv.copy_page(int(self._table.pages[i % full]), int(self._table.pages[i]))
        self.tokens = (self.tokens[: full * PAGE] * (-(-n // (full * PAGE))))[:n]

    def rewind(self, n: int) -> None:
        """Forget all but the first n tokens. These are taken in again where a window has left what they end with."""
        kept = self.tokens[:n]
        again = not self._windows.holds(max(0, len(kept) + 1 - self._model.config.window))
        n = 0 if again else len(kept)
        del self.tokens[n:]
        self._table.truncate(n)
        self._windows.truncate(n)
        if again and kept:
            self.prefill(kept)

    def close(self) -> None:
        """Give the pages back."""
        self.rewind(0)
