"""What `study policies` compares, as data: ways to keep K and V, and the bytes that each takes; measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, permutations, product

from ...kernels.shapes import PAGE
from ...models.cache import evictions, papers, sizes
from ...models.cache.layer_map import written
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import UsageError
from .cells import Cell

TYPES = ("q4_0", "q2_1", "turbo3", "f16", "q8_0", "q3_1", "turbo2", "iq4_nl", "turbo4")
"""Types that K and V have both, the most telling first; of MIXED, all pairs of different ones too."""
MIXED = ("q8_0", "q4_0", "q2_1")
SEGMENTS = "sink=64:f16,tail=128:f16"
BODIES = (("q4_0", "q4_0"), ("q4_0", "q2_1"), ("turbo3", "turbo3"), ("q2_1", "q2_1"), ("turbo2", "turbo2"))
"""Types of the body below SEGMENTS."""
RETRIEVAL = ("passkey", "dictionary")
KINDS = ("types", "segments", "streaming", "evictions", "papers")


@dataclass(frozen=True)
class Contender:
    """A way to keep K and V."""

    name: str
    kind: str  # one of KINDS
    cache: CacheSpec
    share: float  # bytes at the study's depth by those of f16/f16, in the layers that keep all tokens
    computed: bool = False  # whether these bytes are a format's without a kernel: nothing is stored in it

    def cells(self, context: int) -> dict[str, Cell]:
        """Return what is measured, by task; "speed" only where there are kernels."""
        found = {task: Cell("score", task, context, self.cache) for task in ("prose", *RETRIEVAL)}
        return found if self.computed else {**found, "speed": Cell("speed", "decode", context, self.cache, fast=True)}


def contenders(config: Config, context: int, budgets: Sequence[float]) -> list[Contender]:
    """Return all that this model's heads allow. budgets: shares of f16's bytes, for which streaming's windows are cut.

    Raises UsageError for a model whose layers all have a window.
    """
    sizes.check(config, CacheSpec(policy="streaming"))
    found: dict[CacheSpec, Contender] = {}
    for kind, name, k, v, policy in chain(_named(context, budgets), _chosen(config, context, budgets)):
        try:
            cache = CacheSpec(_map(config, k), _map(config, v), policy=policy)
            sizes.check(config, cache)
        except UsageError:  # the heads are not whole blocks of the type
            continue
        paper = papers.find(name)
        nbytes = (
            sizes.computed_bytes(config, cache, paper.bits, context)
            if paper
            else sizes.held_bytes(config, cache, context, windows=False)
        )
        share = nbytes / sizes.held_bytes(config, CacheSpec(), context, windows=False)
        found.setdefault(cache, Contender(name, kind, cache, share, paper is not None))
    return list(found.values())


def _named(context: int, budgets: Sequence[float]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield kind, name, types of K and V, and policy of each, the most telling first."""
    first = papers.names()
    for name in first:
        yield "papers", name, "f32", "f32", name
    for t in TYPES:
        yield "types", f"{t}/{t}", t, t, ""
    for k, v in BODIES:
        yield "segments", f"{k}/{v} {SEGMENTS}", k, v, SEGMENTS
    for budget in budgets:
        for t, size in (("f16", 1.0), ("q8_0", 8.5 / 16)):
            window = (int(min(budget / size, 1) * context) // PAGE - 2) * PAGE  # a page of sinks, one that is filled
            if window > 0 and window + 3 * PAGE < context:
                yield "streaming", f"{t}/{t} streaming,window={window}", t, t, f"streaming,window={window}"
    for k, v in permutations(MIXED, 2):
        yield "types", f"{k}/{v}", k, v, ""
    for name in papers.variants():
        if name not in first:
            yield "papers", name, "f32", "f32", name


def _chosen(config: Config, context: int, budgets: Sequence[float]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the policies that choose tokens likewise, with as large a body as each budget has room for."""
    f16 = sizes.held_bytes(config, CacheSpec(), context, windows=False)
    for budget, t, name in product(budgets, ("f16", "q8_0"), evictions.names()):
        ends = evictions.find(name)
        assert ends is not None
        for pages in range(context // PAGE - 3, 0, -1):
            # As many recent tokens as chosen ones, as in the paper, or a page.
            tail = PAGE * pages if ends.tail == ends.keep else ends.tail
            policy = f"{name},keep={PAGE * pages},tail={tail}:f16"
            cache = CacheSpec(_map(config, t), _map(config, t), policy=policy)
            whole = pages + tail // PAGE + 1 < context // PAGE
            if whole and sizes.held_bytes(config, cache, context, windows=False) <= budget * f16:
                yield "evictions", f"{t}/{t} {policy}", t, t, policy
                break


def _map(config: Config, cache_type: str) -> str:
    """Return the type, or a map that leaves layers with a window in f16: policies do not touch them."""
    windows = [layer.window for layer in config.layers]
    return written(["f16" if w else cache_type for w in windows]) if any(windows) else cache_type


def cells(every: Sequence[Contender], context: int) -> Iterator[Cell]:
    """Yield all cells, the most telling first: prose, the retrieval tasks, then speeds."""
    for task in ("prose", *RETRIEVAL, "speed"):
        yield from (found[task] for each in every if task in (found := each.cells(context)))
