"""`pyllm advise`: which cache types to use on this machine, by the model's study or a quick one, and by its roofs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...engine.advice.choose import Advice, Choice, advise
from ...engine.advice.study_file import StudyFile, default_path, results_of
from ...engine.chat.interrupt import impatient
from ...engine.commands import screen
from ...engine.machine import tables, window
from ...engine.machine.bars import Bars
from ...engine.machine.fit import free_memory, needs
from ...engine.machine.host import usable_cores
from ...engine.machine.tables import Table
from ...engine.machine.units import size
from ...engine.store import sources
from ...models.arch.registry import read_config
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import FitError
from ...models.file.gguf import GGUF
from ...models.text.tokenizer import Tokenizer
from ..machine import roofs
from ..quality import text_windows
from ..quality.caches import Caches
from ..study.cells import Options
from ..study.filling import all_types, fill, headed
from ..study.measure import Bench
from ..study.texts import collect


def run(args: argparse.Namespace) -> int:
    """Print the advice, or JSON; return the exit code."""
    with Bars() as progress:
        gguf = GGUF.open(sources.resolve(args.model, offline=args.offline, progress=progress))
        config = read_config(gguf)
        n_ctx = args.context or config.n_ctx_train
        text_windows.check_context(n_ctx, config)
        path = Path(args.study) if args.study else default_path(gguf)
        results = results_of(gguf, path)
        known = bool(results)
        if not results:
            with impatient():
                results = quick(gguf, config, args, path, progress)
    memory, limit = (args.memory, f"--memory {size(args.memory)}") if args.memory else free_memory(gguf.nbytes)

    def taken(cache: CacheSpec) -> int:
        return needs(gguf, config, n_ctx * args.sessions, cache, args.sessions).total

    found = advise(results, config, args.task, lambda cache: taken(cache) <= memory)
    if found is None:
        cure = "a shorter --context, fewer --sessions or a smaller model takes less"
        raise FitError(f"{gguf.path}: no studied cache fits {limit} with {args.sessions} x {n_ctx} tokens; {cure}")
    weights = sum(tensor.data.nbytes for tensor in gguf.tensors.values())
    speed = tokens_per_second(weights, found.chosen.nbytes * n_ctx // 2, args.threads or usable_cores())
    if args.output == "json":
        print(json.dumps({**plain(found), "n_ctx": n_ctx, "sessions": args.sessions, "studied_before": known,
                          "memory": taken(found.chosen.cache), "tokens_per_second": speed}))  # fmt: skip
        return 0
    show(found, n_ctx, args.sessions, taken(found.chosen.cache), speed, args.task, args.output)
    return 0


def plain(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON holds it; a choice has K, V and rotation by name."""

    def choice(c: Choice) -> dict[str, Any]:
        cache = {"k": c.cache.k, "v": c.cache.v, "rotate": c.cache.rotate}
        return {**cache, "nbytes": c.nbytes, "loss": c.loss, "worst": c.worst}

    return {**asdict(advice), "chosen": choice(advice.chosen), "others": [choice(c) for c in advice.others]}


def quick(
    gguf: GGUF, config: Config, args: argparse.Namespace, path: Path, progress: Bars
) -> dict[str, dict[str, object]]:
    """Measure the first cells of a study, within --budget, and keep them: `pyllm study kv` continues from there."""
    asked = collect(None, None)
    study = StudyFile.open(path, headed(gguf, config, asked, 0))  # refuses what is no study, before a word is said
    screen.warn("no study of this model: its first cells are measured now")
    options = Options(tuple(all_types(config)), (min(512, config.n_ctx_train),), ("auto",))
    caches = Caches(gguf, config, Tokenizer.from_gguf(gguf), options.contexts[0], args.threads, progress)
    fill(Bench(caches, asked, 0), options, study, args.budget, progress)
    return study.results


def tokens_per_second(weights: int, cache: int, threads: int) -> float | None:
    """Return the most that this machine's measured bandwidth allows; None if `pyllm profile` has not measured it."""
    here = roofs.kept(sources.cache_folder())
    return here.bandwidth(threads, weights + cache) / (weights + cache) if here else None


def show(advice: Advice, n_ctx: int, sessions: int, memory: int, speed: float | None, task: str, how: str) -> None:
    best = advice.chosen
    print(f"{best.cache} -c {n_ctx}\n")
    fast = f"{speed:.0f} at most, with half the context used" if speed else "unknown: run pyllm profile once"
    rows = [
        ["memory", f"{size(memory)} for {sessions} x {n_ctx} tokens, {best.nbytes / 1024:.1f} KiB a token"],
        ["KLD from f32", f"{best.loss:.4f} ({best.worst}); f16, the noise: {advice.noise:.4f}"],
        ["tokens/s", fast],
    ]
    tables.show(Table("", ["", ""], rows, left=(0, 1)), sys.stdout, how)
    print()
    allowed = f"{advice.allowed:g} nats above the noise, which {task} may cost"
    if not advice.enough:
        tell(f"No studied cache that fits stays within {allowed}: this one loses least.")
        tell("A shorter context leaves more bits for each token.")
        return
    tell(f"This is the smallest studied cache that stays within {allowed}.")
    if smaller := [c for c in advice.others if c.nbytes < best.nbytes]:
        nearest = max(smaller, key=lambda c: (c.nbytes, -c.loss))
        tell(f"The next smaller one, {nearest}, loses {nearest.loss:.4f} ({nearest.worst}).")


def tell(text: str) -> None:
    print(window.filled(text, sys.stdout))
