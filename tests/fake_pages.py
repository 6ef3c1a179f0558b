"""A fake model whose answers follow from the tokens that its pages hold: a wrong page gives a wrong answer, or fails.

For tests of the scheduler: everything below it is real but the arithmetic.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from pyllm.engine.page_table import PagePool
from pyllm.engine.sampler import Sampler, SamplingParams
from pyllm.engine.sequence import Sequence as TokenSequence
from pyllm.engine.stepper import Stepper
from pyllm.kernels.shapes import PAGE
from pyllm.models.cache.store import TablePages
from pyllm.models.errors import NumberError
from pyllm.models.forward.span import Span

N_VOCAB, END, POISON = 32, 1, 2
"""POISON: after this token the logits are not numbers."""
GONE = -1


def follows(tokens: np.ndarray, *, ends: bool) -> np.ndarray:
    """Return the logits after these tokens, (n_vocab,). ends: sometimes the answer ends there."""
    logits = np.zeros(N_VOCAB, np.float32)
    if (tokens == POISON).any():
        logits[:] = np.nan
    seen = zlib.crc32(tokens.astype(np.int64).tobytes())
    logits[END if ends and seen % 400 == 0 else 3 + seen % (N_VOCAB - 3)] = 1
    return logits


class FakeModel:
    """Pages that hold tokens and their positions instead of K and V."""

    def __init__(self, n_pages: int, n_batch: int, sequences: int, windows: Sequence[int]) -> None:
        self.n_batch, self.max_logits = n_batch, sequences
        layers = [SimpleNamespace(head_dim_k=1, head_dim_v=1)] * (1 + len(windows))
        self.config = SimpleNamespace(n_vocab=N_VOCAB, layers=layers)
        kept = [-(-(window + n_batch) // PAGE) + 1 for window in windows]
        tables = [TablePages(n_pages, 0, 0)]
        tables += [TablePages(min(n_pages, k * sequences), k, w) for k, w in zip(kept, windows, strict=True)]
        self.kv: Any = SimpleNamespace(tables=tables)
        self.held = [np.full((table.pool, PAGE, 2), GONE) for table in tables]
        self.kv.layers = [
            SimpleNamespace(kind=i, k_pool=held.view(np.uint8).ravel(), k_page=PAGE * 16,
                            v_pool=np.zeros(len(held), np.uint8), v_page=1, k_format=None, v_format=None)
            for i, held in enumerate(self.held)
        ]  # fmt: skip
        self.kv.every, self.kv.borders, self.kv.segments = self.kv.layers, None, lambda i: self.kv.layers[i : i + 1]
        self.kv.marks = {}
        self.pools: list[PagePool] = []
        self.steps, self.ends = 0, True

    def step(self, spans: Sequence[Span], logits_rows: Sequence[int]) -> np.ndarray:
        assert 0 < sum(len(span.tokens) for span in spans) <= self.n_batch and len(logits_rows) <= self.max_logits
        self.steps += 1
        for kind, held in enumerate(self.held):
            written = [page for span in spans for page in self._write(kind, held, span)]
            assert len(set(written)) == len(written), "two sequences write to one page"
        logits, row, wanted = [], 0, set(logits_rows)
        for span in spans:
            tokens = self._read(span)
            row += len(span.tokens)
            if row - 1 in wanted:
                logits.append(follows(tokens, ends=self.ends))
        assert len(logits) == len(wanted), "only last rows are of use"
        return np.array(logits).reshape(-1, N_VOCAB)

    def _write(self, kind: int, held: np.ndarray, span: Span) -> set[int]:
        at = np.arange(span.position, span.position + len(span.tokens))
        pages = span.tables[kind][at // PAGE]
        for page in set(pages.tolist()):
            assert self.pools[kind].owners(page) == 1, "a page that others see is written to"
        held[pages, at % PAGE] = np.stack([np.asarray(span.tokens), at], 1)
        return set(pages.tolist())

    def _read(self, span: Span) -> np.ndarray:
        """Return all tokens of a sequence; what its windows see must be the same."""
        end = span.position + len(span.tokens)
        found: np.ndarray = np.empty(0)
        for kind, (held, table) in enumerate(zip(self.held, self.kv.tables, strict=True)):
            at = np.arange(max(0, span.position + 1 - table.window) if table.window else 0, end)
            seen = held[span.tables[kind][at // PAGE], at % PAGE]
            assert (seen[:, 1] == at).all(), "a page holds other positions"
            if kind == 0:
                found = seen[:, 0]
            assert (seen[:, 0] == found[at]).all(), "a window's page holds other tokens"
        return found


class FakeTokenizer:
    """A letter for each token; some are halves of a character."""

    eog = frozenset({END})
    hidden = frozenset({END})

    def token_bytes(self, token: int) -> bytes:
        return "é".encode()[token % 2 :][:1] if token > 24 else bytes([64 + token])


class FakeLLM:
    """What a scheduler needs of an LLM. checked: broken numbers are found by the step, not by the sampler."""

    def __init__(
        self,
        n_pages: int = 12,
        *,
        n_batch: int = 96,
        sequences: int = 4,
        sequence_ctx: int | None = None,
        windows: Sequence[int] = (),
        checked: bool = False,
        ends: bool = True,
    ) -> None:
        self.model: Any = FakeModel(n_pages, n_batch, sequences, windows)
        self.model.ends = ends
        self.before: Callable[[], None] = lambda: None
        self._spans: list[Span] = []
        self.stepper = Stepper(self.model, self._check if checked else lambda: None, lambda: self.before())
        self.pools = self.model.pools = [PagePool(table.pool) for table in self.model.kv.tables]
        self.tokenizer: Any = FakeTokenizer()
        self.n_sequences, self.sequence_ctx = sequences, min(sequence_ctx or n_pages * PAGE, n_pages * PAGE)
        step = self.model.step

        def remembered(spans: list[Span], rows: list[int]) -> np.ndarray:
            self._spans = spans
            result: np.ndarray = step(spans, rows)
            return result

        self.model.step = remembered

    def _check(self) -> None:
        if any(POISON in span.tokens for span in self._spans):
            raise NumberError("fake", "blk.0", "is not a number", "take another")

    def sequence(self) -> TokenSequence:
        return TokenSequence(self.pools, self.model.kv, self.sequence_ctx)

    def sampler(self, params: SamplingParams | None = None) -> Sampler:
        return Sampler(params or SamplingParams(), N_VOCAB)

    def choose(self, samplers: Sequence[Sampler], logits: np.ndarray) -> list[int | NumberError]:
        return [_chosen(sampler, row) for sampler, row in zip(samplers, logits, strict=True)]

    def alone(self, prompt: Sequence[int], max_tokens: int) -> tuple[list[int], str | None]:
        """Return the answer to a prompt and why it ends; None: by an error."""
        tokens = list(prompt)
        if POISON in tokens:
            return [], None if max_tokens else "limit"
        while len(tokens) - len(prompt) != max_tokens:
            token = int(follows(np.array(tokens), ends=self.model.ends).argmax())
            if token == END:
                return tokens[len(prompt) :], "eog"
            tokens.append(token)
            if len(tokens) > self.sequence_ctx and len(tokens) - len(prompt) != max_tokens:
                return tokens[len(prompt) :], "context"
        return tokens[len(prompt) :], "limit"


def _chosen(sampler: Sampler, logits: np.ndarray) -> int | NumberError:
    try:
        return sampler(logits)
    except NumberError as error:
        return error
