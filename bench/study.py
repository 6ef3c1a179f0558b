"""`pyllm study kv`: measures cell after cell as long as the budget lasts, keeps each, and shows what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from ..engine import sources
from ..engine.interrupt import impatient
from ..engine.progress import Bars
from ..engine.study_file import StudyFile, default_path, identity
from ..kernels.formats import CACHE_TYPES, FORMATS
from ..models import rotation
from ..models.config import Config, kv_bytes_per_token
from ..models.errors import UsageError
from ..models.gguf import GGUF
from ..models.tokenizer import Tokenizer
from . import cases, plot, study_report, texts
from .caches import Caches
from .study_cells import Cell, Options, Results, cells
from .study_measure import Bench, groups, measure
from .study_texts import Sources, collect


def run(args: argparse.Namespace) -> int:
    """Measures and prints; after Ctrl-C, what is known until then."""
    with Bars() as progress:
        gguf = GGUF.open(sources.resolve(args.model, offline=args.offline, progress=progress))
        config, tokenizer = Config.from_gguf(gguf), Tokenizer.from_gguf(gguf)
        options = chosen(args, config)
        asked = collect(args.file, args.data)
        heading = headed(gguf, config, asked, args.seed)
        study = StudyFile.open(Path(args.output or default_path(gguf)), heading)
        if study.set_aside:
            print(f"pyllm: {study.path} was damaged and is kept as {study.set_aside}", file=sys.stderr)
        bench = Bench(Caches(gguf, config, tokenizer, options.contexts[0], args.threads, progress), asked, args.seed)
        try:
            with impatient():
                fill(bench, options, study, args.budget, progress)
        finally:
            progress.close()
            if study.results:
                show(args, study, config, options)
    return 0


def chosen(args: argparse.Namespace, config: Config) -> Options:
    """What the flags ask for, by default all quantized types and f16; raises UsageError."""
    named = cases.names("--types", args.types, CACHE_TYPES) if args.types else all_types(config)
    for name in named:
        kv_bytes_per_token(config, name, name)  # refuses what the heads cannot hold
    types = in_order(["f16", *named])
    contexts = cases.numbers("-c", args.ctx_size or ["512"], 64)
    for n_ctx in contexts:
        texts.check_context(n_ctx, config)
    modes = tuple(cases.names("--cache-rotate", args.cache_rotate or ["auto,none"], tuple(rotation.MODES)))
    for mode in modes:
        rotation.check(config, mode)
    return Options(tuple(t for t in types if t != "f32"), tuple(contexts), modes)


def all_types(config: Config) -> list[str]:
    """f16 and the quantized types that the model's heads can hold."""
    found = ["f16"]
    for name in CACHE_TYPES:
        with suppress(UsageError):
            kv_bytes_per_token(config, name, name)
            found += [name] if FORMATS[name].size > 1 else []
    return in_order(found)


def in_order(types: Sequence[str]) -> list[str]:
    """From many bits to few, each once."""
    return sorted(dict.fromkeys(types), key=lambda t: (-FORMATS[t].bits_per_value, t))


def headed(gguf: GGUF, config: Config, asked: Sources, seed: int) -> dict[str, Any]:
    """What the results depend on, beside the cells."""
    texts = {"texts": asked.digest, "prose": Path(asked.named).name}
    return {**identity(gguf), "model": config.name, "seed": seed, **texts}


def fill(bench: Bench, options: Options, study: StudyFile, budget: float, progress: Bars) -> None:
    """Measure what is not known yet, until the time is over."""
    begin, config = monotonic(), bench.caches.config
    while todo := [cell for cell in cells(options, config, study.results) if cell.key not in study.results]:
        if monotonic() - begin > budget:
            return
        group = next(iter(groups(bench, once(todo))))  # then anew: what follows from it may tell more than the rest
        study.add(measure(bench, group))
        known = len(study.results)
        progress("study", known, known + sum(cell.key not in study.results for cell in todo), said(group[-1]))


def once(todo: list[Cell]) -> list[Cell]:
    """Two rules may ask for the same cell."""
    return list({cell.key: cell for cell in todo}.values())


def said(cell: Cell) -> str:
    return f"{cell.measure} {cell.task} {cell.context}"


def show(args: argparse.Namespace, study: StudyFile, config: Config, options: Options) -> None:
    results: Results = study.results
    if args.json:
        print(json.dumps({"heading": study.heading, "results": results}, sort_keys=True))
        return
    report = study_report.Report(study.heading, results, config, options)
    for title, columns, rows in report.tables():
        sys.stdout.write(f"{title}\n\n{study_report.as_text(columns, rows)}\n")
    print(f"study: {study.path} ({len(results)} cells)", file=sys.stderr)
    if args.report:
        folder = Path(args.report)
        report.write(folder)
        more = "" if plot.available() else " (plots need matplotlib: pip install 'pyllm[plot]')"
        print(f"report: {folder / study_report.PAGE}{more}", file=sys.stderr)
