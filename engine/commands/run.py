"""`pyllm run`: loads a model and answers a prompt, or begins a chat; knows flags and streams, no arithmetic."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ...models.arch.registry import read_config
from ...models.cache.spec import CacheSpec
from ...models.errors import UsageError
from ..chat import statistics
from ..chat.interrupt import at_once, impatient
from ..chat.prompt import check_length
from ..chat.stream import stream
from ..generate import generate
from ..machine.bars import Bars
from ..machine.plain import plain
from ..results import Piece, Stop, Timings
from ..store import sources
from . import screen
from .asked import check_chat, check_template, read_prompt, tokens_of
from .flags import DEFAULT_CTX

if TYPE_CHECKING:
    from ...models.config import Config
    from ...models.file.gguf import GGUF
    from ..llm import LLM
    from ..sampler import Sampler, SamplingParams


def run(args: argparse.Namespace) -> int:
    """Answer the prompt from the flags or stdin; without one, chat at the terminal. Return the exit code."""
    prompt = read_prompt(args)
    if prompt is None:
        check_chat(args)
    with Bars() as progress:
        path = sources.resolve(args.model, offline=args.offline, progress=progress)
        llm, tokens, load_seconds = load(path, args, prompt, progress)
    if prompt is None:
        return chat(llm, args, load_seconds)
    return answer(llm, args, tokens, load_seconds)


def load(path: Path, args: argparse.Namespace, prompt: str | None, progress: Bars) -> tuple[LLM, list[int], float]:
    """Return the model in memory, the prompt's tokens, and the seconds that it took.

    Errors in the file, the flags or the prompt are raised before Numba is imported and memory taken.
    """
    begin = perf_counter()
    from ...models.file.gguf import GGUF
    from ...models.text import sandbox
    from ...models.text.template import ChatTemplate
    from ...models.text.tokenizer import Tokenizer
    from ..machine.fit import check_fit

    gguf = GGUF.open(path)
    config = read_config(gguf)
    n_ctx = context_size(args.ctx_size, config)
    cache = advised(gguf, config, args) if args.cache_type == "auto" else asked_cache(args)
    check_fit(gguf, config, n_ctx, cache)
    template, tokens = ChatTemplate.from_gguf(gguf), list[int]()
    if template is not None and not args.raw:
        sandbox.start()  # gets ready while the tokenizer is read
    tokenizer = Tokenizer.from_gguf(gguf)
    if prompt is None:
        check_template(config, tokenizer, template, args)
    else:
        tokens = tokens_of(tokenizer, template, args, prompt)
        check_length(tokens, n_ctx, config)
    if n_ctx > config.n_ctx_train:
        warning = f"-c {n_ctx} is more than the {config.n_ctx_train} tokens that the model was trained on"
        screen.warn(f"{warning}: beyond them, answers get worse")

    from ..llm import LLM

    with at_once(progress.close), impatient():
        llm = LLM(
            gguf, n_ctx=n_ctx, cache=cache, n_threads=args.threads, tokenizer=tokenizer, check=args.check,
            progress=progress,
        )  # fmt: skip
        if args.cpu_strict:
            llm.pin()
    return llm, tokens, perf_counter() - begin


def asked_cache(args: argparse.Namespace) -> CacheSpec:
    """Return the cache that the flags ask for; raises UsageError."""
    return CacheSpec.of_flags(
        args.cache_type_k, args.cache_type_k_layers, args.cache_type_v, args.cache_type_v_layers, args.cache_rotate
    )


def advised(gguf: GGUF, config: Config, args: argparse.Namespace) -> CacheSpec:
    """Return the cache that the model's study advises for chat; without a study, SAFE."""
    from ..advice.choose import SAFE, advise
    from ..advice.study_file import results_of

    if any((args.cache_type_k, args.cache_type_v, args.cache_type_k_layers, args.cache_type_v_layers)):
        raise UsageError("--cache-type auto and other cache types: give the one or the others")
    found = advise(results_of(gguf), config, "chat")
    if found is None:
        screen.warn("no study of this model: K and V in q8_0 (pyllm study kv measures more)")
        return replace(SAFE, rotate=args.cache_rotate)
    return found.chosen.cache


def context_size(asked: int | None, config: Config) -> int:
    """Return the context's tokens: as asked, 0 for the model's own; without -c the model's, at most DEFAULT_CTX."""
    return min(DEFAULT_CTX, config.n_ctx_train) if asked is None else asked or config.n_ctx_train


def sampling(args: argparse.Namespace) -> SamplingParams:
    """Return the sampling parameters that the flags give."""
    from ..sampler import SamplingParams

    return SamplingParams(
        temperature=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repeat_penalty=args.repeat_penalty,
        repeat_last_n=args.repeat_last_n,
        ignore_eos=args.ignore_eos,
        seed=args.seed,
        max_tokens=args.predict,
    )


def chat(llm: LLM, args: argparse.Namespace, load_seconds: float) -> int:
    """Talk until the user leaves; return the exit code."""
    from ..chat.chat import GREETING, Chat
    from ..chat.terminal import line_reader

    screen.note(f"{plain(llm.config.name)}, K {llm.cache.k}, V {llm.cache.v}, {llm.n_ctx} tokens. {GREETING}")
    return Chat(llm, sampling(args), screen, system_prompt=args.system_prompt, load=load_seconds).loop(line_reader())


def answer(llm: LLM, args: argparse.Namespace, tokens: list[int], load_seconds: float) -> int:
    """Print one answer to one prompt, then the statistics; after Ctrl-C or SIGTERM, of what there is until then."""
    sampler, timings = llm.sampler(sampling(args)), Timings(load=load_seconds)
    written: list[str] = []
    stop: Stop | None = "interrupt"  # until the answer says why it ended
    code = 0

    def heard(pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            written.append(piece.text)
            yield piece

    def finish() -> None:
        if args.json:
            facts = statistics.as_json(llm, timings)
            said = {"text": "".join(written), "stop": stop, **facts, "settings": settings(llm, args, sampler)}
            print(json.dumps(said), flush=True)
            return
        if stop == "context":
            screen.warn(f"the context of {llm.n_ctx} tokens is full; a larger -c holds more")
        screen.table(statistics.rows(llm, timings))

    try:
        with Bars() as progress, impatient(last=finish):
            pieces = generate(
                llm.session(), tokens, sampler, llm.tokenizer, n_predict=args.predict, timings=timings,
                progress=progress,
            )  # fmt: skip
            _, stop = stream(heard(pieces), None if args.json else sys.stdout, progress)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as ended:  # SIGTERM
        code = int(ended.code or 0)
    finish()
    return code


def settings(llm: LLM, args: argparse.Namespace, sampler: Sampler) -> dict[str, object]:
    """Return all that the answer depends on, besides the prompt."""
    return {
        "model": llm.config.name,
        "n_ctx": llm.n_ctx,
        "threads": llm.n_threads,
        "cache_type_k": llm.cache.k,
        "cache_type_v": llm.cache.v,
        "cache_rotate": llm.cache.rotate,
        "predict": args.predict,
        "raw": args.raw,
        "system_prompt": args.system_prompt,
        "seed": sampler.seed,
        "temp": args.temp,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repeat_penalty": args.repeat_penalty,
        **({"repeat_last_n": args.repeat_last_n} if args.repeat_last_n != 64 else {}),
        **({"ignore_eos": True} if args.ignore_eos else {}),
    }
