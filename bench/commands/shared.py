"""Shared by `bench` and `profile`: the model files that their flags name, and the status line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ...engine.commands.screen import warn
from ...engine.machine.plain import plain
from ...engine.store import sources
from ...kernels.formats.table import WEIGHT_TYPES
from ...models.progress import Progress
from ..speed import cases, synthetic


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
