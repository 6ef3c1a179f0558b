"""`pyllm study policies`: measures contender after contender until the budget is spent, and shows who loses least."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...engine.advice.study_file import StudyFile, default_path
from ...engine.chat.interrupt import impatient
from ...engine.commands import screen
from ...engine.machine.bars import Bars
from ...engine.store import sources
from ...models.arch.registry import read_config
from ...models.file.gguf import GGUF
from ...models.text.tokenizer import Tokenizer
from ..quality import text_windows
from ..quality.caches import Caches
from ..report import plot
from ..report.report import check_folder
from ..study.cells import usual
from ..study.contenders import cells, contenders
from ..study.filling import fill_cells, headed
from ..study.leaderboard import Leaderboard
from ..study.measure import Bench
from ..study.texts import check_length, collect
from .shared import file_of, formats


def run(args: argparse.Namespace) -> int:
    """Measure and print; after Ctrl-C, print what is known until then."""
    if args.report:
        check_folder(Path(args.report))
    with Bars() as progress:
        gguf = GGUF.open(sources.resolve(args.model, offline=args.offline, progress=progress))
        config, tokenizer = read_config(gguf), Tokenizer.from_gguf(gguf)
        context = args.ctx_size or usual(config)
        text_windows.check_context(context, config)
        every = contenders(config, context, args.bytes)
        texts = collect(args.file, args.data)
        check_length(texts, tokenizer, context)
        path = default_path(gguf)
        path = file_of(args) or path.with_name(f"{path.stem}-policies.json")
        study = StudyFile.open(path, headed(gguf, config, texts, args.seed))
        if study.set_aside:
            screen.warn(f"{study.path} was damaged; it is kept as {study.set_aside}")
        bench = Bench(Caches(gguf, config, tokenizer, context, args.threads, progress), texts, args.seed)
        try:
            with impatient():
                fill_cells(bench, lambda _: cells(every, context), study, args.budget, progress)
        finally:
            progress.close()
            if study.results:
                show(args, study, Leaderboard(study.heading, study.results, every, context, args.bytes))
    return 0


def show(args: argparse.Namespace, study: StudyFile, board: Leaderboard) -> None:
    how = formats(args)[-1]
    if how == "json":
        told = {"tokens": board.context, "found": [*board.sentences()], "policies": board.records()}
        print(json.dumps({"heading": study.heading, **told, "results": study.results}, sort_keys=True))
    else:
        board.report().show(sys.stdout, how)
    screen.say(f"study: {study.path} ({len(study.results)} cells)", sys.stderr)
    if args.report:
        written = board.write(Path(args.report))
        more = "" if plot.available() else " (the picture needs matplotlib: pip install 'pyllm[plot]')"
        screen.say(f"report: {written}{more}", sys.stderr)
