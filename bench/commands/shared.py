"""Shared by commands that measure: what their flags name, the status line, and how a result is printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...engine.commands.screen import warn
from ...engine.machine import tables, window
from ...engine.machine.host import usable_cores
from ...engine.machine.plain import plain
from ...engine.machine.tables import Table, show
from ...engine.store import sources
from ...kernels.formats.table import WEIGHT_TYPES
from ...models.cache.rotation import MODES
from ...models.progress import Progress
from ..speed import cases, synthetic
from ..speed.record import Record

THREADS = 1024  # most that -t takes
STUDY_FORMATS = (*tables.FORMATS, "json")  # what -o of a study may say besides a file


def whole(flag: str, texts: Sequence[str] | None, default: str, low: int, high: int = cases.LIMIT) -> list[int]:
    """Return the numbers of a repeated flag, or those of its default."""
    return cases.numbers(flag, texts or [default], low, high)


def settings(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Return the lists that both grids of `bench` have, with llama-bench's defaults. Raises UsageError."""
    return {
        "n_batch": whole("-b", args.batch_size, "2048", 1),
        "n_ubatch": whole("-ub", args.ubatch_size, "512", 1),
        "type_k": cases.cache_types("k", args.cache_type_k, args.cache_type_k_layers),
        "type_v": cases.cache_types("v", args.cache_type_v, args.cache_type_v_layers),
        "cache_rotate": cases.names("--cache-rotate", args.cache_rotate or ["auto"], tuple(MODES)),
        "cache_policy": args.cache_policy or [""],
        "n_threads": whole("-t", args.threads, str(usable_cores()), 1, THREADS),
        "models": list(models(args, progress)),  # last, after the flags are checked: it may fetch or write a file
    }


def models(args: argparse.Namespace, progress: Progress) -> Iterator[Path]:
    """Yield the files that MODEL, -m and --synthetic name, or that of the default model."""
    types = cases.names("--synthetic-type", args.synthetic_type or ["q4_0"], WEIGHT_TYPES)
    made = cases.names("--synthetic", args.synthetic or [], tuple(synthetic.SHAPES))
    named: list[str | None] = [*([args.model] if args.model else []), *(args.models or [])]
    for name in named or ([] if made else [None]):
        yield sources.resolve(name, offline=args.offline, progress=progress)
    for name in made:
        for weight_type in types:
            yield synthetic.make(sources.cache_folder(), name, weight_type, progress)


def formats(args: argparse.Namespace) -> list[str]:
    """Return how the flags of a study say to print the tables; the last one counts."""
    return ["table", *(name for name in args.output if name in STUDY_FORMATS)]


def file_of(args: argparse.Namespace) -> Path | None:
    """Return the study's file that the flags name."""
    files = [name for name in args.output if name not in STUDY_FORMATS]
    return Path(files[-1]) if files else None


def deliver(
    how: str,
    table: Table,
    formats: Mapping[str, Callable[[Sequence[Record]], str]],
    records: Sequence[Record],
    notes: Iterable[str],
) -> None:
    """Print records as -o says, with notes below a table; beside other formats these go to stderr."""
    if how == "table":
        show(table, sys.stdout)
    else:
        sys.stdout.write(formats[how](records))
    where = sys.stdout if how in tables.FORMATS else sys.stderr
    print("", *(window.filled(plain(note), where) for note in notes), sep="\n", file=where)


class StatusLine:
    """Says on stderr what is being measured: in one line that changes on a terminal, else in one per repetition.

    It writes only when it is called, between measurements.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ""

    def __call__(self, repetition: int, repetitions: int, text: str) -> None:
        text = plain(text)
        stage = f"repetition {repetition + 1} of {repetitions}" if repetition >= 0 else text
        if self._terminal:
            line = f"{stage}: {text}" if repetition >= 0 else text
            sys.stderr.write(f"\r\x1b[2Kpyllm: {line}")
        elif stage != self._last:
            sys.stderr.write(f"pyllm: {stage} ...\n")
        sys.stderr.flush()
        self._last = stage

    def clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")

    def warn(self, text: str) -> None:
        self.clear()
        warn(text)
