"""What a study measures, as data: its cells, the most informative first; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from ...kernels.formats.table import FORMATS
from ...models.cache.layer_map import written
from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ..quality import split
from .tasks import TASKS

LAYER_CONTEXT, CONTEXT = 512, 1024
"""Tokens of the contexts for single layers, and for all else that needs no other length; at most the model's own."""
PROBE = "q4_0"
"""The type whose loss in a single layer measures how sensitive the layer is."""

Pairs = Sequence[tuple[str, str]]
Results = Mapping[str, Mapping[str, Any]]
"""Results by the cell's key."""


@dataclass(frozen=True)
class Cell:
    """One measurement. Its result depends only on the cell, the model, the texts and the seed."""

    measure: str  # score, layer (score with fewer samples), attention, generate, speed or norms
    task: str
    context: int
    cache: CacheSpec
    fast: bool = False  # the cache computes as answers do, in a study whose other cells are exact

    @property
    def key(self) -> str:
        return f"{self.measure} {self.task} {self.context} {self.cache.key}{' fast' if self.fast else ''}"

    @property
    def samples(self) -> int:
        """Return the number of samples of the task."""
        if self.measure != "score":
            return 2
        if not TASKS[self.task].fills:
            return {"questions": 24, "sums": 8}[self.task]
        return 4 if self.context <= 2048 else 2


@dataclass(frozen=True)
class Options:
    """The user's choices."""

    types: tuple[str, ...]  # f16 and quantized types, from many bits to few
    contexts: tuple[int, ...]  # those after the first: for prose and retrieval only
    rotate: tuple[str, ...]  # the first is studied in full
    fast: bool = False  # all cells compute as answers do

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs that are measured in most tasks: equal types, and neighbours in both orders."""
        found: list[tuple[str, str]] = [(t, t) for t in self.types]
        for a, b in pairwise(self.types[1:]):
            found += [(a, b), (b, a)]
        return found


def cells(options: Options, config: Config, results: Results) -> Iterator[Cell]:
    """Yield all cells, the most informative first. Cells that depend on results come only once these are there."""
    main, *other = options.rotate
    context = usual(config)

    def of(measure: str, task: str, context: int, pairs: Pairs, rotate: str = main) -> Iterator[Cell]:
        return (Cell(measure, task, context, CacheSpec(k, v, rotate)) for k, v in pairs)

    pairs = options.pairs()
    alone = [pair for t in options.types for pair in ((t, "f32"), ("f32", t))]
    first = options.contexts[0]
    yield from of("score", "prose", first, [*pairs, *alone])
    yield from floor(options)
    yield norms(options, config)
    for rotate in options.rotate:
        yield from of("attention", "prose", context, [(t, t) for t in options.types], rotate)
    yield from layer_cells(options, config)
    yield from splits(options, config, results)
    for rotate in other:
        yield from of("score", "prose", first, [*pairs, *alone], rotate)
    for task in ("questions", "sums"):
        yield from of("score", task, context, pairs)
    for task in ("passkey", "dictionary", "copy"):
        yield from of("score", task, context, pairs)
    yield from of("generate", "prose", context, pairs)
    for longer in options.contexts[1:]:
        for task in ("prose", "passkey", "dictionary", "copy"):
            yield from of("score", task, longer, pairs)
    yield from of("score", "prose", first, [(k, v) for k, v in product(options.types, repeat=2) if (k, v) not in pairs])


def floor(options: Options) -> Iterator[Cell]:
    """Yield the cell that says what the arithmetic of answers adds; in a fast study all cells have it already."""
    if not options.fast:
        yield Cell("score", "prose", options.contexts[0], CacheSpec("f16", "f16", options.rotate[0]), fast=True)


def usual(config: Config) -> int:
    """Return the context of cells that need no other length, in tokens."""
    return min(CONTEXT, config.n_ctx_train)


def norms(options: Options, config: Config) -> Cell:
    """Return the cell that measures the norms of K and V."""
    return Cell("norms", "prose", usual(config), CacheSpec("f32", "f32", options.rotate[0]))


def layer_cells(options: Options, config: Config) -> Iterator[Cell]:
    """Yield cells with PROBE in one side of one layer, all else exact: K of layer 0, V of layer 0, K of layer 1, ..."""
    context = min(LAYER_CONTEXT, config.n_ctx_train)
    for i in range(config.n_layer):
        only = written([*["f32"] * i, PROBE, *["f32"] * (config.n_layer - i - 1)])
        for k, v in ((only, "f32"), ("f32", only)):
            yield Cell("layer", "prose", context, CacheSpec(k, v, options.rotate[0]))


def sensitivity(options: Options, config: Config, results: Results) -> dict[tuple[str, int], float] | None:
    """Return the loss from PROBE in each (side, layer), by the layers' cells; None if one is missing."""
    found: dict[tuple[str, int], float] = {}
    for number, cell in enumerate(layer_cells(options, config)):
        if cell.key not in results:
            return None
        found["kv"[number % 2], number // 2] = results[cell.key]["kld_mean"]
    return found


def splits(options: Options, config: Config, results: Results) -> Iterator[Cell]:
    """Yield cells with maps of the same bytes as uniform pairs: split by measured loss, and by the weights' norms."""
    rotate = options.rotate[0]
    measured, shapes = sensitivity(options, config, results), results.get(norms(options, config).key)
    if measured is None or shapes is None:
        return
    rules = {"measured": measured}
    if shapes["weights_k"]:  # some architectures have no separate matrices for K and V
        rules["norm"] = {(s, i): shapes[f"weights_{s}"][i] ** 2 for s in "kv" for i in range(config.n_layer)}
    for loss in rules.values():
        for k, v in targets(options):
            found = split.allocate(loss, options.types, config, token_bytes(config, CacheSpec(k, v)))
            yield Cell(
                "score", "prose", options.contexts[0], CacheSpec(written(found["k"]), written(found["v"]), rotate)
            )


def targets(options: Options) -> list[tuple[str, str]]:
    """Return up to three uniform pairs whose bytes the maps get: pairs of few enough bits to leave a choice."""
    few = [t for t in options.types if FORMATS[t].bits_per_value < 8]
    return [(k, v) for k, v in options.pairs() if k in few or v in few][:3]
