"""`pyllm perplexity`: scores a text through the caches that the flags name, and prints; computes no statistics."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ...engine.chat.interrupt import impatient
from ...engine.machine import host, tables, window
from ...engine.machine.bars import Bars
from ...engine.machine.plain import plain
from ...engine.machine.tables import Table
from ...engine.store import sources
from ...models.arch.registry import read_config
from ...models.cache import sizes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import PyllmError
from ...models.file.gguf import GGUF
from ...models.text.tokenizer import Tokenizer
from ..machine import noise
from ..quality import divergence, text_windows
from ..quality.caches import EXACT, Caches
from ..quality.divergence import Divergence
from ..quality.scoring import divergences, surprises
from ..speed import cases


def run(args: argparse.Namespace) -> int:
    """Score and print; after Ctrl-C, print what was scored until then. Return the exit code."""
    text = text_windows.read(args.file)
    with Bars() as progress:
        gguf = GGUF.open(sources.resolve(args.model, offline=args.offline, progress=progress))
        config, tokenizer = read_config(gguf), Tokenizer.from_gguf(gguf)
        pairs = chosen(args, config)
        if args.fast and args.kl:  # the floor: what this arithmetic adds, whatever the cache
            pairs = list(dict.fromkeys([*pairs, CacheSpec("f16", "f16", args.cache_rotate)]))
        text_windows.check_context(args.ctx_size, config)
        windows = text_windows.windows(text, tokenizer, args.ctx_size, args.chunks if args.chunks > 0 else None)
        caches = Caches(gguf, config, tokenizer, args.ctx_size, args.threads, progress, exact=not args.fast)
        results = [Result(pair) for pair in pairs]

        stop = "interrupt"  # until all is scored

        def so_far() -> None:
            progress.close()
            show(args, config, [result for result in results if result.windows], stop)

        try:
            with impatient(last=so_far):
                score(caches, results, windows, kl=args.kl, decode=args.decode, progress=progress)
            stop = "end"
        except PyllmError:
            stop = "error"
            raise
        finally:
            so_far()
    return 0


def chosen(args: argparse.Namespace, config: Config) -> list[CacheSpec]:
    """Return a cache for each pair of the types that the flags list; raises UsageError."""
    sides = []
    for side in "kv":
        given, layers = getattr(args, f"cache_type_{side}"), getattr(args, f"cache_type_{side}_layers")
        sides.append(cases.cache_types(side, given, layers))
    each = product(*sides, args.cache_policy or [""])
    found = list(dict.fromkeys(CacheSpec(k, v, args.cache_rotate, policy) for k, v, policy in each))
    for cache in found:
        sizes.check(config, cache)
    return found


@dataclass
class Result:
    """A cache and its scores so far: one entry for each window."""

    cache: CacheSpec
    nll: list[npt.NDArray[np.float64]] = field(default_factory=list)
    divergence: list[Divergence] = field(default_factory=list)

    @property
    def windows(self) -> int:
        return len(self.nll)

    def add(self, part: Divergence) -> None:
        self.nll.append(part.nll)
        self.divergence.append(part)

    def statistics(self) -> dict[str, Any]:
        if self.divergence:
            return divergence.statistics(Divergence.joined(self.divergence))
        return divergence.perplexity(np.concatenate(self.nll))

    def __str__(self) -> str:
        said = f"{self.cache.pair} {self.cache.policy}".strip() + f" PPL {np.exp(np.concatenate(self.nll).mean()):.3f}"
        return said + (f" KLD {np.concatenate([a.kld for a in self.divergence]).mean():.4f}" if self.divergence else "")


def score(
    caches: Caches, results: Sequence[Result], windows: Sequence[Sequence[int]], *, kl: bool, decode: bool,
    progress: Bars,
) -> None:  # fmt: skip
    """Fill the results, window by window; caches that fit in memory together share a pass of the reference."""
    exact = [EXACT] if kl else []
    groups = caches.groups([result.cache for result in results], exact)
    total, done = len(windows) * len(results), 0
    waiting = iter(results)
    for group in groups:
        members = [next(waiting) for _ in group]
        with caches.open([*exact, *group]) as engines:
            sessions = [engine.session() for engine in engines]
            for window in windows:
                begin = len(window) // 2
                if kl:
                    parts = divergences(sessions[0], sessions[1:], window, begin, decode=decode)
                    for member, part in zip(members, parts, strict=True):
                        member.add(part)
                else:
                    for member, session in zip(members, sessions, strict=True):
                        member.nll.append(surprises(session, window, begin, decode=decode))
                done += len(members)
                progress("windows", done, total, str(members[-1]))


def per_token(args: argparse.Namespace, config: Config, cache: CacheSpec) -> float:
    """Return the bytes that a token takes in a cache; with a policy, the mean over a window's tokens."""
    tokens: int = args.ctx_size if cache.policy else 1
    return sizes.held_bytes(config, cache, tokens) / tokens


def show(args: argparse.Namespace, config: Config, results: Sequence[Result], stop: str) -> None:
    """Print what was scored; stop: "end", or why there is less than was asked for. For programs that is an object."""
    if not results and (args.output != "json" or stop != "interrupt"):
        return
    found = [(result, result.statistics()) for result in results]
    if args.output == "json":
        rows = [
            {"type_k": r.cache.k, "type_v": r.cache.v, "cache_policy": r.cache.policy,
             "bytes_per_token": per_token(args, config, r.cache),
             "windows": r.windows, **statistics}
            for r, statistics in found
        ]  # fmt: skip
        about = {"model": config.name, "n_ctx": args.ctx_size, "path": "decode" if args.decode else "prefill",
                 "cache_rotate": args.cache_rotate, "arithmetic": "fast" if args.fast else "exact", "stop": stop,
                 "build": noise.build(), "cpu": host.cpu_info()}  # fmt: skip
        print(json.dumps({**about, "results": rows}))
        return
    policies = any(r.cache.policy for r in results)
    titles, lines = ["K", "V", *(["policy"] if policies else []), "per token", "PPL"], []
    if args.kl:
        titles += ["ln ratio to f32", "KLD", "median", "99 %", "max", "Δp", "RMS Δp", "same top"]
    for r, s in found:
        line = [
            r.cache.k,
            r.cache.v,
            *([r.cache.policy] if policies else []),
            f"{per_token(args, config, r.cache) / 1024:.1f} KiB",
            f"{s['ppl']:.4f} ± {s['ppl_error']:.4f}",
        ]
        if args.kl:
            line += [
                f"{s['ln_ppl_ratio']:+.5f} ± {s['ln_ppl_ratio_error']:.5f}",
                f"{s['kld_mean']:.5f} ± {s['kld_error']:.5f}",
                f"{s['kld_percentiles']['50']:.5f}", f"{s['kld_percentiles']['99']:.4f}", f"{s['kld_max']:.3f}",
                f"{s['delta_p_mean']:+.3%} ± {s['delta_p_error']:.3%}", f"{s['delta_p_rms']:.2%}",
                f"{s['same_top']:.2%} ± {s['same_top_error']:.2%}",
            ]  # fmt: skip
        lines.append(line)
    table = Table("", titles, lines, left=(0, 1, *([2] if policies else [])), keys=(0, 1))
    tables.show(table, sys.stdout, args.output)
    tokens = sum(map(len, results[0].nll))
    how = "token by token" if args.decode else "in batches"
    said = f"{plain(config.name)}: {tokens} tokens of {results[0].windows} windows of {args.ctx_size}, scored {how}"
    if args.fast:
        said += " with activations rounded as in answers" + (": f16/f16 is the floor" if args.kl else "")
    else:
        said += " with float32 activations"
    print(f"\n{window.filled(said, sys.stdout)}")
