"""`pyllm run`: loads a model and answers a prompt, or begins a chat; knows flags and streams, no arithmetic."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ...models.arch.registry import read_config
from ..chat import statistics
from ..chat.interrupt import impatient
from ..chat.prompt import check_length
from ..chat.stream import stream
from ..generate import generate
from ..machine.bars import Bars
from ..machine.plain import plain
from ..results import Piece, Stop, Timings
from ..store import sources
from . import screen
from .ask import batch_run
from .ask.chosen import cache_of, context_size, loaded, sampling, warn_of_context
from .asked import check_chat, check_template, read_prompt, tokens_of

if TYPE_CHECKING:
    from ..llm import LLM
    from ..sampler import Sampler


def run(args: argparse.Namespace) -> int:
    """Answer the prompt from the flags or stdin, or those of a file; without one, chat. Return the exit code."""
    if batch_run.asked(args):
        return batch_run.answer_lines(args)
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
    cache = cache_of(gguf, config, args)
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
    warn_of_context(n_ctx, config)
    llm = loaded(gguf, args, progress, n_ctx=n_ctx, cache=cache, tokenizer=tokenizer)
    return llm, tokens, perf_counter() - begin


def chat(llm: LLM, args: argparse.Namespace, load_seconds: float) -> int:
    """Talk until the user leaves; return the exit code."""
    from ..chat.chat import GREETING, Chat
    from ..chat.terminal import line_reader

    screen.note(f"{plain(llm.config.name)}, {llm.cache.words}, {llm.n_ctx} tokens. {GREETING}")
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
        **({"cache_policy": llm.cache.policy} if llm.cache.policy else {}),
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
