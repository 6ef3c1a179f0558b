"""What a study measures, as data: its cells, the most informative first; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

from ...kernels.formats.table import FORMATS
from ...models.cache.layer_map import written
from ...models.cache.sizes import token_bytes
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ..quality import split
from .tasks import TASKS

LAYER_CONTEXT, CONTEXT, LONG = 512, 1024, 2048
"""Tokens of the contexts for single layers, for all else that needs no other length, and of the first look's long one;
at most the model's own."""
LEAD = ("f16", "q8_0", "q4_0")
"""The types whose cross comes first: the ones that users choose from."""
FAR = ("passkey", "dictionary", "copy")
"""Tasks whose answer stands somewhere in the text."""
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
    few: bool = False  # one sample, for a first look

    @property
    def key(self) -> str:
        how = f"{' fast' if self.fast else ''}{' few' if self.few else ''}"
        return f"{self.measure} {self.task} {self.context} {self.cache.key}{how}"

    @property
    def samples(self) -> int:
        """Return the number of samples of the task."""
        if self.few:
            return 1
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

    def lead(self) -> list[str]:
        """Return the types whose cross comes first: LEAD, or as many others in their place."""
        found = [t for t in LEAD if t in self.types]
        more = [t for t in (*self.types[:2], *self.types[-1:]) if t not in found]
        return [*found, *more[: len(LEAD) - len(found)]]

    def crossed(self) -> list[tuple[str, str]]:
        """Return the pairs of the lead's quantized types, the smallest last."""
        quantized = [t for t in self.lead() if t != "f16"]
        return [(k, v) for k, v in product(quantized, repeat=2)]

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs that are measured in most tasks: the lead's, equal types, and neighbours in both orders."""
        found: list[tuple[str, str]] = [("f16", "f16"), *self.crossed(), *((t, t) for t in self.types)]
        for a, b in pairwise(self.types[1:]):
            found += [(a, b), (b, a)]
        return list(dict.fromkeys(found))


def cells(options: Options, config: Config, results: Results) -> Iterator[Cell]:
    """Yield all cells, the most informative first. Cells that depend on results come only once these are there."""
    main, *other = options.rotate
    context, first, pairs = usual(config), options.contexts[0], options.pairs()
    lead, crossed = lead_pairs(options), [("f16", "f16"), *options.crossed()]

    def of(measure: str, task: str, context: int, pairs: Pairs, rotate: str = main) -> Iterator[Cell]:
        return (Cell(measure, task, context, CacheSpec(k, v, rotate)) for k, v in pairs)

    yield from first_look(options, config, results)
    yield from of("score", "prose", first, lead)
    yield from floor(options)
    for task in (*FAR[:2], "questions", "sums"):
        yield from of("score", task, context, crossed)
    yield from of("score", "prose", long(config), crossed)
    for rotate in other:
        yield from of("score", "prose", first, changed_by_rotation(lead), rotate)
    yield from (cell for cell in attention_cells(options, config) if cell.cache.k in options.lead())
    yield from layer_cells(options, config)
    yield norms(options, config)
    yield from splits(options, config, results)
    yield from of("score", "prose", first, [*pairs, *alone(options.types)])
    for rotate in other:
        yield from of("score", "prose", first, changed_by_rotation([*pairs, *alone(options.types)]), rotate)
    yield from attention_cells(options, config)
    for task in ("questions", "sums", *FAR):
        yield from of("score", task, context, pairs)
    yield from of("generate", "prose", context, pairs)
    for longer in (*options.contexts[1:], long(config)):
        for task in ("prose", *FAR):
            yield from of("score", task, longer, pairs)
    yield from of("score", "prose", first, [(k, v) for k in options.types for v in options.types])


def first_look(options: Options, config: Config, results: Results) -> Iterator[Cell]:
    """Yield what matters most, of one sample each; not where the cell of all samples is known."""
    main, *other = options.rotate
    lead, first = lead_pairs(options), options.contexts[0]
    looks = [("prose", first, lead, main)]
    looks += [("prose", first, changed_by_rotation(lead), rotate) for rotate in other[:1]]
    looks += [("prose", long(config), options.crossed(), main), ("passkey", usual(config), options.crossed(), main)]
    for task, context, pairs, rotate in looks:
        for k, v in pairs:
            whole = Cell("score", task, context, CacheSpec(k, v, rotate))
            if whole.key not in results:
                yield replace(whole, few=True)


def lead_pairs(options: Options) -> list[tuple[str, str]]:
    """Return the cross of the lead's types in K and V, and each quantized one alone beside an exact side."""
    cross = [(k, v) for k in options.lead() for v in options.lead()]
    return [*cross, *alone([t for t in options.lead() if t != "f16"])]


def alone(types: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for t in types for pair in ((t, "f32"), ("f32", t))]


def changed_by_rotation(pairs: Pairs) -> list[tuple[str, str]]:
    """Return the pairs that have a quantized side: others are never rotated."""
    return [pair for pair in pairs if set(pair) - {"f16", "f32"}]


def attention_cells(options: Options, config: Config) -> Iterator[Cell]:
    """Yield the cells that compare attention's inner figures, of equal types in each rotation."""
    for rotate in options.rotate:
        for t in options.types:
            yield Cell("attention", "prose", usual(config), CacheSpec(t, t, rotate))


def long(config: Config) -> int:
    """Return the context of the first look's long text, in tokens."""
    return min(LONG, config.n_ctx_train)


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
