"""A model with all that is needed to run it: pyllm's public interface for Python (see docs/python.md).

Knows no terminal, no flags and no signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ..kernels.plan import Cost
from ..kernels.shapes import PAGE
from ..models.arch.registry import read_config
from ..models.cache.sizes import PREFILL_ROWS, check
from ..models.cache.spec import CacheSpec
from ..models.errors import NumberError, UsageError
from ..models.file.gguf import GGUF
from ..models.file.header import DOWNLOAD
from ..models.forward.model import Model
from ..models.forward.probe import Attended, cached, softmax_weights
from ..models.opened import Opened
from ..models.progress import Progress, silent
from ..models.text.tokenizer import Tokenizer
from .choices import Choices
from .generate import generate
from .machine import host
from .machine.fit import check_fit
from .many import complete_all
from .policy import load as policy
from .policy.evict import Evictor
from .policy.what_if import Changer, WhatIf
from .results import Bytes, Completion, Piece, Timings, moved
from .sampler import Sampler, SamplingParams
from .scheduler import Scheduler
from .sequence import Sequence as TokenSequence
from .sequence import pools
from .stepper import Session, Stepper
from .store import sources, tuned

F32Array = npt.NDArray[np.float32]
Messages = Sequence[dict[str, str]]
"""A conversation: {"role": "system" | "user" | "assistant", "content": text} each."""


class LLM:
    """A model with a KV cache in any pair of formats, ready to run; as a context manager, it closes itself.

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
        cache_policy: str = "",
        what_if: WhatIf | None = None,
        cache: CacheSpec | None = None,
        n_threads: int | None = None,
        n_batch: int = PREFILL_ROWS,
        max_logits: int = 8,
        sequences: int = 1,
        sequence_ctx: int | None = None,
        tokenizer: Tokenizer | None = None,
        check: bool = False,
        exact: bool = False,
        offline: bool = False,
        tune: bool = True,
        progress: Progress = silent,
    ) -> None:
        """Fetch the model if it is not on this machine, read its weights and compile the kernels that it needs.

        model: whatever `pyllm run` takes as MODEL; None is its default model. n_ctx: tokens that the cache holds, of
        all sequences together. cache_type_k, cache_type_v: a type, or a map of types by layer such as
        "0-1:f16,*:q4_0". cache_rotate: auto, k, v, both or none. cache_policy: which tokens are kept in which types, as
        in "sink=64:f16,tail=128:f16" or "streaming". cache: all four as one value, instead of them. what_if: a function
        of your own that changes K and V when a page leaves the tail (see policy/what_if.py).
        n_threads: None is one for each physical core that this process may use. n_batch: tokens of a prompt that go
        through the layers together. max_logits: rows of logits that a step gives at most. sequences: how many can
        exist at once, each with its own sliding windows. sequence_ctx: tokens that each can have; None: n_ctx. check:
        look for NaN and infinity after each step. exact: keep activations in float32, with sums in one order, so that
        logits are the same on every CPU, and differ between caches by the caches alone; takes longer. tune: take the
        shapes of kernels that `pyllm tune` kept.
        """
        started = perf_counter()
        spec, what_if = policy.choose(cache, cache_type_k, cache_type_v, cache_rotate, cache_policy, what_if)
        sizes = {"n_ctx": n_ctx, "n_batch": n_batch, "max_logits": max_logits, "sequences": sequences}
        for name, size in {**sizes, "n_threads": n_threads or 1, "sequence_ctx": sequence_ctx or 1}.items():
            if size < 1:
                raise UsageError(f"{name}: is {size}, must be 1 or more")
        if not isinstance(model, Opened):
            model = _open(model, spec, n_ctx, sequences, tokenizer, offline, progress)
        self._opened, self.cache, self.n_ctx, self.checked, self.exact = model, spec, n_ctx, check, exact
        self._tune, self._n_batch = tune, n_batch  # a model with segments takes fewer tokens at once
        self.config, self.tokenizer, self.template = model.config, model.tokenizer, model.template
        self.path = model.gguf.path
        self.n_threads = n_threads or host.usable_cores()
        self.n_sequences, self.sequence_ctx = sequences, min(sequence_ctx or n_ctx, n_ctx)
        self.model = Model(
            model.loaded, spec, n_ctx=n_ctx, threads=self.n_threads, n_batch=n_batch,
            max_logits=max(max_logits, sequences), sequences=sequences, sequence_ctx=self.sequence_ctx,
            exact=exact, shapes=tuned.shapes() if tune else {}, progress=progress,
        )  # fmt: skip
        if what_if is not None:
            self.model.fill_body(Changer(what_if, self.model).apply)
        if (segments := spec.segments) and segments.keep is not None:
            chosen = policy.eviction(segments)
            self.model.fill_body(Evictor(chosen, self.model).apply, all_of_it=False)
        model.gguf.check_unchanged()
        self.stepper = Stepper(self.model, self._check, model.gguf.check_unchanged)
        self.pools = pools(self.model.kv)
        self._own: Session | None = None
        self._choices: Choices | None = None
        self._scheduler: Scheduler | None = None  # the last one
        self._answer, self._closed = 0, False
        self.load_time = perf_counter() - started

    def beside(self, cache: CacheSpec, *, n_ctx: int | None = None, n_threads: int | None = None,
               n_batch: int | None = None, max_logits: int | None = None, sequences: int = 1,
               sequence_ctx: int | None = None, what_if: WhatIf | None = None,
               progress: Progress = silent) -> LLM:  # fmt: skip
        """Return an LLM with the same weights, held in memory once, and another cache.

        None: the same value as here; for sequence_ctx, n_ctx.
        """
        return LLM(
            self._opened, cache=cache, n_ctx=n_ctx or self.n_ctx, n_threads=n_threads or self.n_threads,
            n_batch=n_batch or self._n_batch, max_logits=max_logits or self.model.max_logits,
            sequences=sequences, sequence_ctx=sequence_ctx, exact=self.exact, tune=self._tune, what_if=what_if,
            progress=progress,
        )  # fmt: skip

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
        """Continue a text, or each of several, without a chat template; control tokens written in it count as such.

        Several are taken in at once, as many as `sequences` allows; each answer is the one that it has alone.
        """
        if isinstance(prompts, str):
            return self._complete(self.tokenize(prompts, special=True, bos=True), params)
        return complete_all(self, [self.tokenize(prompt, special=True, bos=True) for prompt in prompts], params)

    def chat(self, messages: Messages, params: SamplingParams | None = None) -> Completion:
        """Answer a conversation, in the model's chat template; raises UsageError if it has none."""
        return self._complete(self._encode(messages), params)

    def stream(self, prompt: str | Messages, params: SamplingParams | None = None) -> Iterator[Piece]:
        """Yield the answer to a text (see `generate`) or conversation (see `chat`), piece by piece."""
        tokens = self.tokenize(prompt, special=True, bos=True) if isinstance(prompt, str) else self._encode(prompt)
        return self._pieces(tokens, params, Timings(self.load_time), self.sampler(params))

    def tokenize(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        """Return the text's tokens. special: control tokens written in it count as such. bos: begin with BOS."""
        return self.tokenizer.encode(text, special=special, bos=bos)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the tokens' text. special: with control tokens written out."""
        self._known(tokens)
        return self.tokenizer.decode(list(tokens), special=special)

    def _encode(self, messages: Messages) -> list[int]:
        if self.template is None:
            raise UsageError(f"{self.config.name} has no chat template: give `generate` a text to continue")
        if isinstance(messages, str) or not all({"role", "content"} <= {*message} for message in messages):
            raise UsageError('messages: must be a list of {"role": "user", "content": "..."}')
        return self.template.encode(list(messages), self.tokenizer)

    def _complete(self, tokens: list[int], params: SamplingParams | None) -> Completion:
        timings, sampler = Timings(self.load_time), self.sampler(params)
        pieces = list(self._pieces(tokens, params, timings, sampler))
        text = "".join(piece.text for piece in pieces)
        found = tuple(piece.token for piece in pieces if piece.token is not None)
        return Completion(text, found, len(tokens), pieces[-1].stop, sampler.seed, timings, self.bytes(timings))

    def _pieces(
        self, tokens: list[int], params: SamplingParams | None, timings: Timings, sampler: Sampler
    ) -> Iterator[Piece]:
        params = params or SamplingParams()
        self._answer += 1  # ends the answer before, if somebody still reads it: there is one session for all
        mine = self._answer
        yield from generate(
            self._session(),
            tokens,
            sampler,
            self.tokenizer,
            n_predict=params.max_tokens,
            stop_strings=params.stop,
            timings=timings,
            interrupted=lambda: mine != self._answer,
        )

    def sampler(self, params: SamplingParams | None = None) -> Sampler:
        """Return a new sampler for this model's vocabulary."""
        return Sampler(params or SamplingParams(), self.config.n_vocab, self.path, ends=self.tokenizer.eog)

    def choose(self, samplers: Sequence[Sampler], logits: F32Array) -> list[int | NumberError]:
        """Return the next token of each sampler for its row of logits, or what is wrong with the row."""
        if self._choices is None:
            self._choices = Choices(self.model.team, self.model.max_logits)
        return self._choices(samplers, logits)

    # What the model computes -----------------------------------------------------------------------------------------

    def logits(self, tokens: Sequence[int]) -> F32Array:
        """Return the logits after each of the tokens, taken in from an empty cache: float32 (len(tokens), n_vocab)."""
        self._known(tokens)
        session = self._session()
        self._answer += 1
        session.rewind(0)
        out = np.empty((len(tokens), self.config.n_vocab), np.float32)
        for start, rows in session.score(tokens):
            out[start : start + len(rows)] = rows
        return out

    def kv(self, layer: int) -> tuple[F32Array, F32Array]:
        """Return K and V of a layer, decoded from the cache, for the tokens of the last answer or of `logits`.

        float32 (tokens, n_head_kv, head_dim) each; rotated if the cache is. A layer with a sliding window has only the
        last tokens, which its pages still hold; with a policy that drops tokens, the others are there, in order.
        """
        at, sequence, kv = self.config.layers[self._number(layer)], self._filled().sequence, self.model.kv
        found = []
        for held in kv.segments(layer):
            table = sequence.tables[held.kind]
            positions = np.array(kv.positions(held, sequence.n_past, table.first), np.int64)
            if len(positions):
                found.append(cached(held, at, table.pages[positions // PAGE] * PAGE + positions % PAGE))
        return np.concatenate([k for k, _ in found]), np.concatenate([v for _, v in found])

    def attention(self, layer: int) -> F32Array:
        """Return softmax(Q·Kᵀ) of a layer for the tokens of the last answer or of `logits`: float32 (n, n_head, n).

        Takes these tokens in again, and computes the weights in NumPy from Q and from K as it is stored. Raises
        UsageError if the cache's policy drops tokens.
        """
        if (borders := self.model.kv.borders) and not (borders.body and borders.most is None):
            raise UsageError(f"attention: {self.cache.policy} drops tokens; take another policy, or none")
        at, session = self.config.layers[self._number(layer)], self._filled()
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

    def _known(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < self.config.n_vocab:
                raise UsageError(f"token {token}: this model has tokens 0 to {self.config.n_vocab - 1}")

    def _number(self, layer: int) -> int:
        if not 0 <= layer < self.config.n_layer:
            raise UsageError(f"layer {layer}: this model has layers 0 to {self.config.n_layer - 1}")
        return layer

    # Sequences -------------------------------------------------------------------------------------------------------

    def sequence(self) -> TokenSequence:
        """Return a new, empty sequence, for `stepper`."""
        if self._closed:
            raise UsageError(f"{self.path}: this LLM is closed; make a new one")
        return TokenSequence(self.pools, self.model.kv, self.sequence_ctx)

    def scheduler(self, **options: Any) -> Scheduler:
        """Return a scheduler that runs many requests at once; options: see Scheduler. It takes over the whole cache.

        Raises UsageError while another one has requests under way; one that has none is closed.
        """
        if self._scheduler is not None:
            if not self._scheduler.idle:
                raise UsageError("scheduler: another one has requests under way; use that, or close it first")
            self._scheduler.close()
        self._answer += 1
        if self._own is not None:
            self._own.close()
        self._scheduler = Scheduler(self, **options)
        return self._scheduler

    def session(self) -> Session:
        """Return a new, empty sequence with the stepper that runs it."""
        return Session(self.sequence(), self.stepper)

    def _session(self) -> Session:
        """Return the session of this object's own answers: what a prompt shares with the one before is in the cache."""
        if self._own is None or self._closed:
            self._own = self.session()
        return self._own

    def _filled(self) -> Session:
        if not self._session().tokens:
            raise UsageError("no tokens are in the cache yet: call generate, chat or logits first")
        return self._session()

    def _check(self) -> None:
        if self.checked and (where := self.model.broken()):
            cure = f"{DOWNLOAD}, or K and V are too large for their type: use -ctk f32 -ctv f32"
            raise NumberError(self.path, where, "is the first to give values that are not numbers", cure)

    # Bytes and threads -----------------------------------------------------------------------------------------------

    def read_at(self, depth: int) -> Cost:
        """Return what a decode step reads and multiplies when the cache holds `depth` tokens."""
        return self.model.cost(1, depth)

    @property
    def kv_bytes(self) -> int:
        """Return the bytes of the whole KV cache."""
        return self.model.kv.nbytes

    def bytes(self, timings: Timings) -> Bytes:
        """Return the memory that an answer took and read."""
        return moved(self.read_at(round(timings.depth)), self.kv_bytes, timings)

    def pin(self) -> None:
        """Pin each thread to a CPU of its own; raises UsageError if there are too few, or the system forbids it."""
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
        self._closed = True
        self._answer += 1
        self.model.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(
    model: str | Path | GGUF | None,
    cache: CacheSpec,
    n_ctx: int,
    sequences: int,
    tokenizer: Tokenizer | None,
    offline: bool,
    progress: Progress,
) -> Opened:
    """Find and read a model; refuse what its file, the cache or the memory rules out before memory is taken."""
    if not isinstance(model, GGUF):
        model = GGUF.open(sources.resolve(None if model is None else str(model), offline=offline, progress=progress))
    config = read_config(model)
    check(config, cache)
    check_fit(model, config, n_ctx, cache, sequences)
    return Opened.open(model, config, tokenizer)
