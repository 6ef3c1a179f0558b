"""Steps sequences through a model, one or several at a time: tokens in, logits out. Keeps no state of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernels.shapes import PAGE
from ..models.errors import UsageError
from ..models.forward.model import Model
from .sequence import Sequence

F32Array = npt.NDArray[np.float32]


class Take(NamedTuple):
    """Tokens that a sequence takes in with a step; prompt: they were not generated."""

    sequence: Sequence
    tokens: Tokens[int]
    prompt: bool


class Stepper:
    """A model that takes in tokens of any sequence. Its logits are valid until the model's next step."""

    def __init__(
        self,
        model: Model,
        after_step: Callable[[], None] = lambda: None,
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        """after_step, before_step: called after and before each step of the model.

        They may raise, and then the step's tokens do not count.
        """
        self.model, self._after_step, self._before_step = model, after_step, before_step

    def take(self, takes: Tokens[Take], logits_rows: Tokens[int]) -> F32Array:
        """Take in tokens of several sequences in one step, and return the logits of `logits_rows`, (n, n_vocab).

        Rows are numbered through the takes in order.
        """
        self._before_step()
        logits = self.model.step([t.sequence.span(t.tokens, prompt=t.prompt) for t in takes], logits_rows)
        self._after_step()
        for t in takes:
            t.sequence.extend(t.tokens)
        return logits

    def _take(
        self, sequence: Sequence, tokens: Tokens[int], logits_rows: Tokens[int], *, prompt: bool = True
    ) -> F32Array:
        return self.take([Take(sequence, tokens, prompt)], logits_rows)

    def _check(self, sequence: Sequence, n: int) -> None:
        if n == 0:
            raise UsageError("the prompt is empty: there is no token to continue from")
        if sequence.n_past + n > sequence.n_ctx:
            full = f"{n} tokens after {sequence.n_past} do not fit in the context of {sequence.n_ctx}"
            raise UsageError(f"{full}; use a larger -c")

    def prefill(
        self, sequence: Sequence, tokens: Tokens[int], progress: Callable[[int, int], None] | None = None
    ) -> F32Array:
        """Take in tokens, n_batch at a time, and return the logits after the last, (n_vocab,).

        progress: called with the tokens taken in so far and len(tokens). Raises UsageError if they do not fit."""
        self._check(sequence, len(tokens))
        n = len(tokens)
        for start, batch in _batches(sequence, tokens, self.model.n_batch):
            end = start + len(batch)
            logits = self._take(sequence, batch, [len(batch) - 1] if end == n else [])
            if progress is not None:
                progress(end, n)
        last: F32Array = logits[0]
        return last

    def decode(self, sequence: Sequence, token: int) -> F32Array:
        """Take in one token and return the logits after it: (n_vocab,)."""
        self._check(sequence, 1)
        logits: F32Array = self._take(sequence, [token], [0], prompt=False)[0]
        return logits

    def score(self, sequence: Sequence, tokens: Tokens[int]) -> Iterator[tuple[int, F32Array]]:
        """Take in tokens and yield the logits after each, piece by piece: (index of the first, (rows, n_vocab))."""
        self._check(sequence, len(tokens))
        size = min(self.model.max_logits, self.model.n_batch)
        for start, batch in _batches(sequence, tokens, size):
            yield start, self._take(sequence, batch, range(len(batch)))

    def repeat(self, sequence: Sequence, n: int) -> None:
        """Fill the cache to n tokens with copies of its full pages, to time a step at that depth.

        The logits after that mean nothing, but a step reads as much memory as after real tokens.
        """
        full = sequence.n_past // PAGE
        assert full and sequence.n_past <= n <= sequence.n_ctx
        sequence.reserve(n)
        whole = sequence.tables[0]  # pages of windows are reused: any tokens in them will do, as in segments
        for i in range(full, whole.count) if self.model.kv.borders is None else ():
            self.model.kv.copy_page(0, int(whole.pages[i % full]), int(whole.pages[i]))
        sequence.tokens = (sequence.tokens[: full * PAGE] * (-(-n // (full * PAGE))))[:n]


def _batches(sequence: Sequence, tokens: Tokens[int], size: int) -> Iterator[tuple[int, Tokens[int]]]:
    """Yield the tokens as a sequence takes them in, `size` at most: (index of the first, tokens)."""
    start = 0
    while start < len(tokens):
        batch = tokens[start : start + sequence.at_once(size)]
        yield start, batch
        start += len(batch)


class Session:
    """A sequence with its stepper, for callers that run one at a time."""

    def __init__(self, sequence: Sequence, stepper: Stepper) -> None:
        self.sequence, self._stepper = sequence, stepper

    @property
    def n_ctx(self) -> int:
        return self.sequence.n_ctx

    @property
    def n_past(self) -> int:
        return self.sequence.n_past

    @property
    def tokens(self) -> list[int]:
        return self.sequence.tokens

    def prefill(self, tokens: Tokens[int], progress: Callable[[int, int], None] | None = None) -> F32Array:
        """Take in tokens; see Stepper.prefill."""
        return self._stepper.prefill(self.sequence, tokens, progress)

    def decode(self, token: int) -> F32Array:
        """Take in one token; see Stepper.decode."""
        return self._stepper.decode(self.sequence, token)

    def score(self, tokens: Tokens[int]) -> Iterator[tuple[int, F32Array]]:
        """Take in tokens and yield the logits after each; see Stepper.score."""
        return self._stepper.score(self.sequence, tokens)

    def repeat(self, n: int) -> None:
        """Fill the cache to n tokens with copies; see Stepper.repeat."""
        self._stepper.repeat(self.sequence, n)

    def rewind(self, n: int) -> int:
        """Go back to the first n tokens, or to none; see Sequence.rewind."""
        return self.sequence.rewind(n)

    def close(self) -> None:
        """Give the pages back."""
        self.sequence.rewind(0)
