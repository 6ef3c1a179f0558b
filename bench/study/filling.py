"""Measures a study cell by cell until the budget is spent; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from ...engine.advice.study_file import StudyFile, identity
from ...engine.machine.bars import Bars
from ...kernels.formats.table import CACHE_TYPES, FORMATS
from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import UsageError
from ...models.file.gguf import GGUF
from .cells import Cell, Options, Results, cells, first_look
from .measure import Bench, groups, measure, prepare
from .pace import Pace
from .texts import Sources


def all_types(config: Config) -> list[str]:
    """Return f16 and the quantized types that the model's heads allow, from many bits to few."""
    found = ["f16"]
    for name in CACHE_TYPES:
        with suppress(UsageError):
            token_bytes(config, CacheSpec(name, name))
            found += [name] if FORMATS[name].size > 1 else []
    return in_order(found)


def in_order(types: Sequence[str]) -> list[str]:
    """Return the types from many bits to few, each once."""
    return sorted(dict.fromkeys(types), key=lambda t: (-FORMATS[t].bits_per_value, t))


def headed(gguf: GGUF, config: Config, asked: Sources, seed: int, *, fast: bool = False) -> dict[str, Any]:
    """Return the study's head: what the results depend on besides their cells."""
    texts = {"texts": asked.digest, "prose": Path(asked.named).name}
    arithmetic = "fast" if fast else "exact"
    return {**identity(gguf), "model": config.name, "seed": seed, **texts, "arithmetic": arithmetic}


def fill(bench: Bench, options: Options, study: StudyFile, budget: float, progress: Bars) -> None:
    """Measure the cells of `study kv` that are not known yet, until `budget` seconds are over.

    The kernels of the first look are compiled before the clock starts.
    """
    config = bench.caches.config
    look = [cell for cell in first_look(options, config, study.results) if cell.key not in study.results]
    if budget and look:
        ready = list({cell.cache.pair: cell for cell in look}.values())
        for n, cell in enumerate(ready):
            progress("compiling kernels", n, len(ready), cell.cache.pair)
            prepare(bench, [cell])
    fill_cells(bench, lambda results: cells(options, config, results), study, budget, progress)


def fill_cells(
    bench: Bench, wanted: Callable[[Results], Iterable[Cell]], study: StudyFile, budget: float, progress: Bars
) -> None:
    """Measure the cells that are wanted, given the results so far, and not known yet, within `budget` seconds.

    A cell begins only if it is likely to end in time; one that takes too long makes way for the next that does not.
    """
    begin, pace = monotonic(), Pace()
    while todo := [cell for cell in wanted(study.results) if cell.key not in study.results]:
        left = budget - (monotonic() - begin)
        found = (pace.fitting(group, left) for group in groups(bench, once(todo)))
        if (group := next(filter(None, found), None)) is None:
            return
        known = len(study.results)
        progress("study", known, known + len(todo), said(group[0]))
        started = monotonic()
        prepare(bench, group)
        ready = monotonic()
        results = measure(bench, group)
        pace.learn(group, ready - started, monotonic() - ready)
        study.add(results)  # then ask again: cells that depend on these may come first
        known = len(study.results)
        progress("study", known, known + sum(cell.key not in study.results for cell in todo), said(group[-1]))


def once(todo: list[Cell]) -> list[Cell]:
    """Return each cell once: two rules may ask for the same one."""
    return list({cell.key: cell for cell in todo}.values())


def said(cell: Cell) -> str:
    return f"{cell.measure} {cell.task} {cell.context}"
