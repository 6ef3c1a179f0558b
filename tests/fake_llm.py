"""A fake engine, whose model says what the test wants; for tests of everything above the engine."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pyllm.__main__ import main
from pyllm.engine.results import Bytes, Timings, moved
from pyllm.kernels.plan import Cost
from pyllm.models.arch.registry import read_config
from pyllm.models.cache.spec import CacheSpec
from pyllm.models.file.gguf import GGUF
from pyllm.models.progress import Progress, silent
from pyllm.models.text.tokenizer import Tokenizer

REPLY = "hello the world 😀"


class FakeTemplate:
    """ChatML. Contents are text, even if they look like control tokens."""

    def encode(
        self, messages: list[dict[str, str]], tokenizer: Tokenizer, add_generation_prompt: bool = True
    ) -> list[int]:
        ids: list[int] = []
        for message in messages:
            ids += tokenizer.encode(f"<|im_start|>{message['role']}\n", special=True)
            ids += tokenizer.encode(message["content"])
            ids += tokenizer.encode("<|im_end|>\n", special=True)
        return ids + tokenizer.encode("<|im_start|>assistant\n", special=True)


class FakeSession:
    """Says `llm.reply` after every prompt, and then the end token."""

    def __init__(self, llm: FakeLLM) -> None:
        self._llm = llm
        self.tokens: list[int] = []
        self.prefilled: list[list[int]] = []  # the tokens of each call
        self._script: list[int] = []

    @property
    def n_ctx(self) -> int:
        return self._llm.n_ctx

    @property
    def n_past(self) -> int:
        return len(self.tokens)

    def prefill(self, tokens: Sequence[int], progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        assert tokens, "the last token's logits need a token"
        self._take(tokens)
        self.prefilled.append(list(tokens))
        if progress is not None:
            progress(len(tokens), len(tokens))
        self._script = self._llm.tokenizer.encode(self._llm.reply)
        return self._logits()

    def decode(self, token: int) -> np.ndarray:
        self._take([token])
        time.sleep(self._llm.seconds_per_token)
        self._llm.on_decode(self)
        return self._logits()

    def rewind(self, n: int) -> int:
        assert 0 <= n <= self.n_past
        n = n if n >= self._llm.forgets_before else 0
        del self.tokens[n:]
        return n

    def _take(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        assert self.n_past <= self._llm.n_ctx, "more than the context holds"

    def _logits(self) -> np.ndarray:
        logits = np.zeros(self._llm.config.n_vocab, np.float32)
        logits[self._script.pop(0) if self._script else min(self._llm.tokenizer.eog)] = 1
        return logits


class FakeLLM:
    """The interface of engine/llm.py, without a model."""

    reply = REPLY
    seconds_per_token = 0.0
    forgets_before = 0  # as layers with a window do: going back to fewer tokens keeps none
    loaded: dict[str, Any]  # the arguments it was made with

    def __init__(
        self,
        file: GGUF,
        n_ctx: int = 512,
        n_threads: int | None = None,
        cache: CacheSpec | None = None,
        progress: Progress = silent,
        **settings: Any,
    ) -> None:
        type(self).loaded = {"n_ctx": n_ctx, "n_threads": n_threads, "cache": cache}
        progress("reading weights", 0, 2_000_000)
        progress("reading weights", 2_000_000, 2_000_000)
        self.cache = cache or CacheSpec("f16", "q8_0")
        self.config, self.tokenizer = read_config(file), Tokenizer.from_gguf(file)
        self.template = FakeTemplate() if "tokenizer.chat_template" in file.metadata else None
        self.path, self.n_ctx, self.n_threads = file.path, n_ctx, n_threads or 1
        self.read_at = lambda depth: Cost(weights=1_000_000, k=200 * depth, v=100 * depth)
        self.kv_bytes = 300 * n_ctx
        self.on_decode: Callable[[FakeSession], None] = lambda session: None
        self.sessions: list[FakeSession] = []

    def sampler(self, params: Any) -> FakeSampler:
        return FakeSampler(params, self.config.n_vocab, ends=self.tokenizer.eog)

    def bytes(self, timings: Timings) -> Bytes:
        return moved(self.read_at(round(timings.depth)), self.kv_bytes, timings)

    def session(self) -> FakeSession:
        self.sessions.append(FakeSession(self))
        return self.sessions[-1]


class FakeSampler:
    """Return the likeliest token."""

    def __init__(self, params: Any = None, n_vocab: int = 0, path: object = "", ends: Collection[int] = ()) -> None:
        seed = params.seed if params else -1
        self.params, self.seed, self.accepted = params, 7 if seed < 0 else seed, list[int]()
        self.banned = sorted(ends) if params and params.ignore_eos else []

    def __call__(self, logits: np.ndarray) -> int:
        logits[self.banned] = -np.inf
        return int(logits.argmax())

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def install(patch: pytest.MonkeyPatch) -> type[FakeLLM]:
    """Replace the engine by the fakes until the test ends; return a new subclass of FakeLLM."""
    llm: Any = ModuleType("pyllm.engine.llm")
    llm.LLM = type("LLM", (FakeLLM,), {})
    patch.setitem(sys.modules, "pyllm.engine.llm", llm)
    return llm.LLM  # type: ignore[no-any-return]


class Keyboard:
    """Return the lines one by one; an exception among them is raised, as the terminal would."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines, self.prompts = list(lines), list[str]()

    def __call__(self, prompt: str = "> ") -> str:
        self.prompts.append(prompt)
        line = self.lines.pop(0) if self.lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line


def said(chat: Any) -> str:
    """Return what a chat wrote as answers."""
    assert isinstance(chat._out, io.StringIO)
    return chat._out.getvalue()


def failure(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return (exit code, message) of a command, after checking that it fails with one line and no result."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pyllm: ") and err.count("\n") == 1, err
    return code, err
