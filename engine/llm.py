"""A model with all that is needed to run it: the public face of pyllm for Python (see docs/python.md).

Knows no terminal, no flags and no signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt

from ..kernels.plan import Cost
from ..kernels.shapes import PAGE
from ..models.arch.registry import load_weights, read_config
from ..models.cache.sizes import PREFILL_ROWS, check
from ..models.cache.spec import CacheSpec
from ..models.config import Config
from ..models.errors import NumberError, UsageError
from ..models.file.gguf import GGUF
from ..models.file.header import DOWNLOAD
from ..models.forward.loaded import Loaded
from ..models.forward.model import Model
from ..models.forward.probe import Attended, cached, softmax_weights
from ..models.forward.step import PlanKind
from ..models.progress import Progress, silent
from ..models.text.template import ChatTemplate
from ..models.text.tokenizer import Tokenizer
from .generate import generate
from .machine import host
from .machine.fit import check_fit
from .results import Bytes, Completion, Piece, Timings, peak_memory
from .sampler import Sampler, SamplingParams
from .sequence import Sequence as TokenSequence
from .sequence import pools
from .stepper import Session, Stepper
from .store import sources

F32Array = npt.NDArray[np.float32]
Messages = Sequence[dict[str, str]]
"""A conversation: {"role": "system" | "user" | "assistant", "content": text} each."""


@dataclass(frozen=True)
class Opened:
    """A model file with its weights, which several caches can share."""

    gguf: GGUF
    config: Config
    loaded: Loaded
    tokenizer: Tokenizer
    template: ChatTemplate | None

    @classmethod
    def open(cls, gguf: GGUF, config: Config | None = None, tokenizer: Tokenizer | None = None) -> Opened:
        """Check a file's hyperparameters, tensors, tokenizer and template; raises ModelError.

        config, tokenizer: of this file, where they are read already.
        """
        config = config or read_config(gguf)
        loaded = load_weights(gguf, config)
        return cls(gguf, config, loaded, tokenizer or Tokenizer.from_gguf(gguf), ChatTemplate.from_gguf(gguf))


class LLM:
    """A model over a KV cache in any pair of formats, ready to run; also a context manager, which closes it.

    Not for several Python threads at once. All errors that a user can do something about are PyllmErrors.
    """

    def __init__(
        self,
        model: str | Path | GGUF | Opened | None = None,
        *,
        n_ctx: int = 4096,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        cache_rotate: str = "auto",
        cache: CacheSpec | None = None,
        n_threads: int | None = None,
        n_batch: int = PREFILL_ROWS,
        max_logits: int = 8,
        sequences: int = 1,
        tokenizer: Tokenizer | None = None,
        check: bool = False,
        offline: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Fetch the model if it is not here, read its weights and compile the kernels that it needs.

        model: whatever `pyllm run` takes as MODEL; None is its default model. n_ctx: tokens that the cache holds, of
        all sequences together. cache_type_k, cache_type_v: a type, or a map of types by layer such as
        "0-1:f16,*:q4_0". cache_rotate: auto, k, v, both or none. cache: all of that as one value instead.
        n_threads: None is one for each physical core that this process may use. n_batch: tokens of a prompt that go
        through the layers together. max_logits: rows of logits that a step leaves. sequences: sessions that can be
        there at once, each with sliding windows of its own. check: look for NaN and infinity after each step.
        """
        spec = cache or CacheSpec(cache_type_k, cache_type_v, cache_rotate)
        if not isinstance(model, Opened):
            model = _open(model, spec, n_ctx, sequences, tokenizer, offline, progress)
        self._opened, self.cache, self.n_ctx, self.checked = model, spec, n_ctx, check
        self.config, self.tokenizer, self.template = model.config, model.tokenizer, model.template
        self.path = model.gguf.path
        self.n_threads = n_threads or host.usable_cores()
        self.model = Model(
            model.loaded,
            spec,
            n_ctx=n_ctx,
            threads=self.n_threads,
            n_batch=n_batch,
            max_logits=max_logits,
            sequences=sequences,
            progress=progress,
        )
        model.gguf.check_unchanged()
        self.stepper = Stepper(self.model, self._check, model.gguf.check_unchanged)
        self.pools = pools(self.model.kv)
        self._own: Session | None = None

    def beside(self, cache: CacheSpec, *, n_ctx: int | None = None, n_threads: int | None = None,
               n_batch: int | None = None, max_logits: int | None = None, sequences: int = 1,
               progress: Progress = silent) -> LLM:  # fmt: skip
        """Return the same weights, not taken twice, over another cache; None: as here."""
        return LLM(
            self._opened,
            cache=cache,
            n_ctx=n_ctx or self.n_ctx,
            n_threads=n_threads or self.n_threads,
            n_batch=n_batch or self.model.n_batch,
            max_logits=max_logits or self.model.max_logits,
            sequences=sequences,
            progress=progress,
        )

    # Text in, text out -----------------------------------------------------------------------------------------------

    @overload
    def generate(self, prompts: str, params: SamplingParams | None = None) -> Completion: ...
    @overload
    def generate(
        self, prompts: list[str] | tuple[str, ...], params: SamplingParams | None = None
    ) -> list[Completion]: ...
    def generate(
        self, prompts: str | list[str] | tuple[str, ...], params: SamplingParams | None = None
    ) -> Completion | list[Completion]:
        """Continue a text, or each of several, as it stands: no chat template, control tokens count as such."""
        if isinstance(prompts, str):
            return self._complete(self.tokenize(prompts, special=True, bos=True), params)
        return [self.generate(prompt, params) for prompt in prompts]

    def chat(self, messages: Messages, params: SamplingParams | None = None) -> Completion:
        """Answer a conversation, by the model's chat template; raises UsageError where it has none."""
        return self._complete(self._encode(messages), params)

    def stream(self, prompt: str | Messages, params: SamplingParams | None = None) -> Iterator[Piece]:
        """Yield the answer to a text (as `generate`) or a conversation (as `chat`) piece by piece, as it comes."""
        tokens = self.tokenize(prompt, special=True, bos=True) if isinstance(prompt, str) else self._encode(prompt)
        return self._pieces(tokens, params, Timings(), self.sampler(params))

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Return the text's tokens. special: control tokens written in it count as such. bos: begin with that token."""
        return self.tokenizer.encode(text, special=special, bos=bos)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the tokens' text. special: with control tokens written out."""
        return self.tokenizer.decode(list(tokens), special=special)

    def _encode(self, messages: Messages) -> list[int]:
        if self.template is None:
            raise UsageError(f"{self.config.name} has no chat template: give `generate` a text to continue")
        return self.template.encode(list(messages), self.tokenizer)

    def _complete(self, tokens: list[int], params: SamplingParams | None) -> Completion:
        timings, sampler = Timings(), self.sampler(params)
        pieces = list(self._pieces(tokens, params, timings, sampler))
        text = "".join(piece.text for piece in pieces)
        found = tuple(piece.token for piece in pieces if piece.token is not None)
        return Completion(text, found, len(tokens), pieces[-1].stop, sampler.seed, timings, self.bytes(timings))

    def _pieces(
        self, tokens: list[int], params: SamplingParams | None, timings: Timings, sampler: Sampler
    ) -> Iterator[Piece]:
        limit = (params or SamplingParams()).max_tokens
        return generate(self._session(), tokens, sampler, self.tokenizer, n_predict=limit, timings=timings)

    def sampler(self, params: SamplingParams | None = None) -> Sampler:
        """Return a new sampler for this model's vocabulary."""
        return Sampler(params or SamplingParams(), self.config.n_vocab, self.path)

    # What the model computes -----------------------------------------------------------------------------------------

    def logits(self, tokens: Sequence[int]) -> F32Array:
        """Return the logits after each of the tokens, taken in from an empty cache: float32 (len(tokens), n_vocab)."""
        session = self._session()
        session.rewind(0)
        out = np.empty((len(tokens), self.config.n_vocab), np.float32)
        for start, rows in session.score(tokens):
            out[start : start + len(rows)] = rows
        return out

    def kv(self, layer: int) -> tuple[F32Array, F32Array]:
        """Return K and V of a layer as they are stored, decoded, for the tokens of the last answer or of `logits`.

        float32 (tokens, n_head_kv, head_dim) each; rotated where the cache is. A layer with a sliding window has those
        tokens only that its pages still hold, the last ones.
        """
        held, at = self.model.kv.layers[self._number(layer)], self.config.layers[layer]
        sequence = self._session().sequence
        table = sequence.tables[held.kind]
        positions = np.arange(table.first * PAGE, sequence.n_past)
        return cached(held, at, table.pages[positions // PAGE] * PAGE + positions % PAGE)

    def attention(self, layer: int) -> F32Array:
        """Return softmax(Q·Kᵀ) of a layer for the tokens of the last answer or of `logits`: float32 (n, n_head, n).

        Takes these tokens in anew, and computes the weights in NumPy from Q and from K as it is stored.
        """
        at, session = self.config.layers[self._number(layer)], self._session()
        tokens = list(session.tokens)
        out = np.zeros((len(tokens), at.n_head, len(tokens)), np.float32)
        session.rewind(0)
        for row in range(0, len(tokens), self.model.n_batch):
            session.prefill(tokens[row : row + self.model.n_batch])
            q = next(islice(self.attended(), layer, None)).q
            k = self.kv(layer)[0]
            first = session.n_past - len(k)
            out[row : row + len(q), :, first : session.n_past] = softmax_weights(q, k, at, row, first)
        return out

    def attended(self) -> Iterator[Attended]:
        """Yield Q of each layer in the last step, and K and V of its tokens as the cache holds them."""
        return self.model.attended()

    def _number(self, layer: int) -> int:
        if not 0 <= layer < self.config.n_layer:
            raise UsageError(f"layer {layer}: this model has layers 0 to {self.config.n_layer - 1}")
        return layer

    # Sequences -------------------------------------------------------------------------------------------------------

    def sequence(self) -> TokenSequence:
        """Return a new, empty sequence, for `stepper`."""
        return TokenSequence(self.pools, self.model.kv, self.n_ctx)

    def session(self) -> Session:
        """Return a new, empty sequence with what steps it."""
        return Session(self.sequence(), self.stepper)

    def _session(self) -> Session:
        """Return the session of this object's own answers: what a prompt shares with the one before is in the cache."""
        self._own = self._own or self.session()
        return self._own

    def _check(self) -> None:
        if self.checked and (where := self.model.broken()):
            cure = f"{DOWNLOAD}, or K and V are too large for their type: use -ctk f32 -ctv f32"
            raise NumberError(self.path, where, "is the first to give values that are not numbers", cure)

    # What it takes ---------------------------------------------------------------------------------------------------

    def read_at(self, depth: int) -> Cost:
        """Return what a decode step reads and multiplies when the cache holds `depth` tokens."""
        return self.model.plans[PlanKind.DECODE].cost(1, depth)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the whole KV cache."""
        return self.model.kv.nbytes

    def bytes(self, timings: Timings) -> Bytes:
        """Return the memory that an answer took and moved."""
        return moved(self.read_at(round(timings.depth)), self.kv_bytes, timings)

    def pin(self) -> None:
        """Keep each thread on a CPU of its own; raises UsageError where there are too few, or the system forbids it."""
        cpus = host.cpus()
        if len(cpus) < self.n_threads:
            problem = f"{self.n_threads} threads, but this process may use {len(cpus)} CPUs; lower -t"
            raise UsageError(f"--cpu-strict: {problem if cpus else 'this system does not pin threads'}")
        try:
            self.model.team.pin(cpus[: self.n_threads])
        except OSError as error:
            raise UsageError(f"--cpu-strict: the system refuses to pin threads ({error.strerror})") from None

    def close(self) -> None:
        """End the threads. The object cannot run again."""
        self.model.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def moved(read: Cost, kv_bytes: int, timings: Timings) -> Bytes:
    """Return the memory of an answer, from what one of its tokens reads."""
    rate = (read.weights + read.k + read.v) * timings.decode_rate / 1e9
    return Bytes(read.weights, read.k, read.v, kv_bytes, rate, peak_memory())


def _open(
    model: str | Path | GGUF | None,
    cache: CacheSpec,
    n_ctx: int,
    sequences: int,
    tokenizer: Tokenizer | None,
    offline: bool,
    progress: Progress,
) -> Opened:
    """Find and read a model, and refuse what its file, the cache or the memory rules out before anything is taken."""
    if not isinstance(model, GGUF):
        model = GGUF.open(sources.resolve(None if model is None else str(model), offline=offline, progress=progress))
    config = read_config(model)
    if n_ctx < 1:
        raise UsageError(f"n_ctx: is {n_ctx}, must be 1 or more")
    check(config, cache)
    check_fit(model, config, n_ctx, cache, sequences)
    return Opened.open(model, config, tokenizer)
