"""What a study measures, as data: cells in the order of what they tell; measures nothing."""

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
"""Tokens at which single layers are measured, and all that needs no other length; less for models of a shorter one."""
PROBE = "q4_0"
"""The type whose loss in a single layer says how sensitive that is."""

Pairs = Sequence[tuple[str, str]]
Results = Mapping[str, Mapping[str, Any]]
"""What was found, by the cell's key."""


@dataclass(frozen=True)
class Cell:
    """One measurement. What it gives depends on it, the model, the texts and the seed alone."""

    measure: str  # score, layer (the same, briefly), attention, generate, norms
    task: str
    context: int
    cache: CacheSpec

    @property
    def key(self) -> str:
        return f"{self.measure} {self.task} {self.context} {self.cache.key}"

    @property
    def samples(self) -> int:
        """How many samples of the task."""
        if self.measure != "score":
            return 2
        if not TASKS[self.task].fills:
            return {"questions": 24, "sums": 8}[self.task]
        return 4 if self.context <= 2048 else 2


@dataclass(frozen=True)
class Options:
    """What the user chose."""

    types: tuple[str, ...]  # quantized ones, and f16, from many bits to few
    contexts: tuple[int, ...]  # beyond the first, for prose and retrieval
    rotate: tuple[str, ...]  # the first is studied in full

    def pairs(self) -> list[tuple[str, str]]:
        """Those that most is asked of: equal types, and neighbours both ways."""
        found: list[tuple[str, str]] = [(t, t) for t in self.types]
        for a, b in pairwise(self.types[1:]):
            found += [(a, b), (b, a)]
        return found


def cells(options: Options, config: Config, results: Results) -> Iterator[Cell]:
    """All cells, the most telling first. Those that follow from others' results come when these are there."""
    main, *other = options.rotate
    context = usual(config)

    def of(measure: str, task: str, context: int, pairs: Pairs, rotate: str = main) -> Iterator[Cell]:
        return (Cell(measure, task, context, CacheSpec(k, v, rotate)) for k, v in pairs)

    pairs = options.pairs()
    alone = [pair for t in options.types for pair in ((t, "f32"), ("f32", t))]
    first = options.contexts[0]
    yield from of("score", "prose", first, [*pairs, *alone])
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


def usual(config: Config) -> int:
    """Tokens of what needs no other length."""
    return min(CONTEXT, config.n_ctx_train)


def norms(options: Options, config: Config) -> Cell:
    """What K and V look like."""
    return Cell("norms", "prose", usual(config), CacheSpec("f32", "f32", options.rotate[0]))


def layer_cells(options: Options, config: Config) -> Iterator[Cell]:
    """PROBE in K or in V of one layer, all else exact: K of layer 0, V of layer 0, K of layer 1, ..."""
    context = min(LAYER_CONTEXT, config.n_ctx_train)
    for i in range(config.n_layer):
        only = written([*["f32"] * i, PROBE, *["f32"] * (config.n_layer - i - 1)])
        for k, v in ((only, "f32"), ("f32", only)):
            yield Cell("layer", "prose", context, CacheSpec(k, v, options.rotate[0]))


def sensitivity(options: Options, config: Config, results: Results) -> dict[tuple[str, int], float] | None:
    """The loss that PROBE makes in each (side, layer), by the layers' cells; None where one is missing."""
    found: dict[tuple[str, int], float] = {}
    for number, cell in enumerate(layer_cells(options, config)):
        if cell.key not in results:
            return None
        found["kv"[number % 2], number // 2] = results[cell.key]["kld_mean"]
    return found


def splits(options: Options, config: Config, results: Results) -> Iterator[Cell]:
    """Maps of types by layer of the same bytes as uniform pairs: by measured loss, and by the weights' norms."""
    rotate = options.rotate[0]
    measured, shapes = sensitivity(options, config, results), results.get(norms(options, config).key)
    if measured is None or shapes is None:
        return
    rules = {"measured": measured}
    if shapes["weights_k"]:  # not every architecture has matrices of K and V alone
        rules["norm"] = {(s, i): shapes[f"weights_{s}"][i] ** 2 for s in "kv" for i in range(config.n_layer)}
    for loss in rules.values():
        for k, v in targets(options):
            found = split.allocate(loss, options.types, config, token_bytes(config, CacheSpec(k, v)))
            yield Cell(
                "score", "prose", options.contexts[0], CacheSpec(written(found["k"]), written(found["v"]), rotate)
            )


def targets(options: Options) -> list[tuple[str, str]]:
    """Uniform pairs whose bytes the maps are given: of all pairs that leave something to choose."""
    few = [t for t in options.types if FORMATS[t].bits_per_value < 8]
    return [(k, v) for k, v in options.pairs() if k in few or v in few][:3]
