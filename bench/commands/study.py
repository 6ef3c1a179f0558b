"""`pyllm study kv`: measures cell after cell until the budget is spent, keeps each, and shows the findings."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...engine.advice.study_file import StudyFile, default_path
from ...engine.chat.interrupt import impatient
from ...engine.commands import screen
from ...engine.machine import tables
from ...engine.machine.bars import Bars
from ...engine.store import sources
from ...kernels.formats.table import CACHE_TYPES
from ...models.arch.registry import read_config
from ...models.cache import rotation
from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import UsageError
from ...models.file.gguf import GGUF
from ...models.text.tokenizer import Tokenizer
from ..quality import text_windows
from ..quality.caches import Caches
from ..report import plot
from ..speed import cases
from ..study import study_page
from ..study.cells import Options, Results, usual
from ..study.filling import all_types, fill, headed, in_order
from ..study.findings import Findings
from ..study.measure import Bench
from ..study.texts import check_length, collect
from .shared import file_of, formats


def run(args: argparse.Namespace) -> int:
    """Measure and print; after Ctrl-C, print what is known until then."""
    if args.subject != "kv":
        raise UsageError(f"study {args.subject}: write these two words first, and its flags after them")
    with Bars() as progress:
        gguf = GGUF.open(sources.resolve(args.model, offline=args.offline, progress=progress))
        config, tokenizer = read_config(gguf), Tokenizer.from_gguf(gguf)
        options = chosen(args, config)
        asked = collect(args.file, args.data)
        check_length(asked, tokenizer, max(options.contexts[0], usual(config)))
        heading = headed(gguf, config, asked, args.seed, fast=args.fast)
        study = StudyFile.open(file_of(args) or default_path(gguf, fast=args.fast), heading)
        if study.set_aside:
            screen.warn(f"{study.path} was damaged; it is kept as {study.set_aside}")
        n_ctx, exact = options.contexts[0], not args.fast
        caches = Caches(gguf, config, tokenizer, n_ctx, args.threads, progress, exact=exact)
        bench = Bench(caches, asked, args.seed)
        try:
            with impatient():
                fill(bench, options, study, args.budget, progress)
        finally:
            progress.close()
            if study.results:
                show(args, study, config, options)
    return 0


def chosen(args: argparse.Namespace, config: Config) -> Options:
    """Return the options that the flags give; the default types are all quantized ones and f16. Raises UsageError."""
    named = cases.names("--types", args.types, CACHE_TYPES) if args.types else all_types(config)
    for name in named:
        token_bytes(config, CacheSpec(name, name))  # refuses what the heads cannot hold
    types = in_order(["f16", *named])
    contexts = cases.numbers("-c", args.ctx_size or ["512"], 64)
    for n_ctx in contexts:
        text_windows.check_context(n_ctx, config)
    modes = tuple(cases.names("--cache-rotate", args.cache_rotate or ["auto,none"], tuple(rotation.MODES)))
    for mode in modes:
        rotation.check(config, mode)
    return Options(tuple(t for t in types if t != "f32"), tuple(contexts), modes, args.fast)


def show(args: argparse.Namespace, study: StudyFile, config: Config, options: Options) -> None:
    results: Results = study.results
    how = formats(args)[-1]
    if how == "json":
        print(json.dumps({"heading": study.heading, "results": results}, sort_keys=True))
        return
    findings = Findings(study.heading, results, config, options)
    for table in findings.tables():
        tables.show(table, sys.stdout, how)
        print()
    screen.say(f"study: {study.path} ({len(results)} cells)", sys.stderr)
    if args.report:
        folder = Path(args.report)
        study_page.write(findings, folder)
        more = "" if plot.available() else " (plots need matplotlib: pip install 'pyllm[plot]')"
        screen.say(f"report: {folder / study_page.PAGE}{more}", sys.stderr)
