"""`pyllm study concurrency`: runs trial after trial until the budget is spent, keeps each, and shows the outcome."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ...engine.advice.study_file import StudyFile, default_path, results_of
from ...engine.chat.interrupt import impatient
from ...engine.commands import screen
from ...engine.machine import host
from ...engine.machine.bars import Bars
from ...engine.machine.fit import free_memory
from ...engine.machine.units import size
from ...engine.store import sources
from ...kernels.formats.table import CACHE_TYPES
from ...models.arch.registry import read_config
from ...models.cache import sizes
from ...models.config import Config
from ...models.errors import FitError, UsageError
from ...models.file.gguf import GGUF
from ...models.text.tokenizer import Tokenizer
from ..concurrency import concurrency_page
from ..concurrency.claims import claims
from ..concurrency.instrument import Instrument, fill, headed
from ..concurrency.losses import window
from ..concurrency.outcome import Outcome
from ..concurrency.sessions import Memory
from ..concurrency.step_model import Machine
from ..concurrency.trials import Options
from ..machine import roofs
from ..quality import text_windows
from ..quality.caches import Caches
from ..report import plot
from ..report.report import check_folder
from ..speed import cases
from ..study.filling import in_order
from ..study.measure import Bench
from ..study.texts import check_length, collect
from .shared import file_of, formats

DEPTHS, TYPES = "512,2048,8192", "f16,q8_0,q4_0"


def run(args: argparse.Namespace) -> int:
    """Measure and print; after Ctrl-C, print what is known until then."""
    machines = [Machine.parse(text) for text in args.machine]
    if args.report:
        check_folder(Path(args.report))
    budget = args.budget if args.minutes is None else 60 * args.minutes
    with Bars() as progress:
        gguf = GGUF.open(sources.resolve(args.model, offline=args.offline, progress=progress))
        config, tokenizer = read_config(gguf), Tokenizer.from_gguf(gguf)
        options = chosen(args, gguf, config)
        texts = collect(args.file, None)
        check_length(texts, tokenizer, window(config))
        caches = Caches(gguf, config, tokenizer, window(config), options.threads, progress, exact=not args.fast)
        bench = Bench(caches, texts, options.seed)
        path = default_path(gguf, fast=args.fast)
        path = file_of(args) or path.with_name(f"{path.stem}-concurrency.json")
        study = StudyFile.open(path, headed(bench, options))
        if study.set_aside:
            screen.warn(f"{study.path} was damaged; it is kept as {study.set_aside}")
        try:
            if budget > 0:
                measure(args, bench, study, options, budget, progress)
        finally:
            progress.close()
            if study.results:
                show(args, study, Outcome(study.heading, study.results, options, Memory(gguf, config), machines))
    return 0


def measure(
    args: argparse.Namespace, bench: Bench, study: StudyFile, options: Options, budget: float, progress: Bars
) -> None:
    """Add results to the study until `budget` seconds are over, without the time to compile kernels."""
    most = min(host.affinity(), max(host.usable_cores(), options.threads))
    here = roofs.of_this_machine(most, sources.cache_folder(), progress, screen.warn)
    gguf, arithmetic = bench.caches.gguf, study.heading["arithmetic"]
    kv = Path(args.study) if args.study else default_path(gguf, fast=args.fast)
    instrument = Instrument(bench, options, here, results_of(gguf, kv, arithmetic=arithmetic), progress)
    try:
        with impatient():
            instrument.compile()
            fill(instrument, study, budget, progress)
    finally:
        instrument.close()


def chosen(args: argparse.Namespace, gguf: GGUF, config: Config) -> Options:
    """Return the options that the flags give. Raises UsageError, and FitError if not one sequence fits."""
    types = in_order(cases.names("--types", args.types or [TYPES], CACHE_TYPES))
    if len(types) < 2:
        raise UsageError(f"--types {types[0]}: name two types or more, to compare them")
    asked = cases.numbers("--depth", args.depth or [DEPTHS], 64)
    depths = sorted({n for n in asked if args.depth or n <= config.n_ctx_train} or {config.n_ctx_train})
    for depth in depths:
        text_windows.check_context(depth, config)
    memory = args.memory or free_memory(gguf.nbytes)[0]
    latency = args.latency / 1000 if args.latency else None
    options = Options(
        tuple(types), tuple(depths), args.cache_rotate, memory, args.parallel, latency, args.turn, args.answer,
        args.seed, args.threads or host.usable_cores(),
    )  # fmt: skip
    for cache in options.caches:
        sizes.check(config, cache)
    least = Memory(gguf, config).taken(options.caches[1], depths[0], 1)
    if least > memory:
        raise FitError(
            f"--memory {size(memory)}: a sequence of {depths[0]} tokens takes {size(least)} with the weights; give more"
        )
    return options


def show(args: argparse.Namespace, study: StudyFile, outcome: Outcome) -> None:
    how = formats(args)[-1]
    if how == "json":
        found = [
            {"caption": t.caption, "note": outcome.note(t.caption), "columns": t.columns, "rows": t.rows}
            for t in outcome.tables()
        ]
        said = [asdict(claim) for claim in claims(outcome)]
        told = {"found": [*outcome.sentences()], "claims": said, "warnings": [*outcome.warnings()], "tables": found}
        print(json.dumps({"heading": study.heading, "results": study.results, **told}, sort_keys=True))
    else:
        concurrency_page.report(outcome).show(sys.stdout, how)
    screen.say(f"study: {study.path} ({len(study.results)} trials)", sys.stderr)
    if args.report:
        written = concurrency_page.write(outcome, Path(args.report))
        more = "" if plot.available() else " (the picture needs matplotlib: pip install 'pyllm[plot]')"
        screen.say(f"report: {written}{more}", sys.stderr)
