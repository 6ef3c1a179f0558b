"""What a study of concurrency measures, as data: its trials, the most informative first; measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from ...models.cache.spec import CacheSpec

Results = Mapping[str, Mapping[str, Any]]
"""Results by the trial's key."""
Kind = Literal["steps", "loss", "closed", "poisson"]
VISITS = 2
"""How often steps are measured: what a machine does in one minute it may not do in another."""
LOADS = (0.8, 0.5, 0.95)
"""Arrivals as shares of what the closed loop answers at most, the most telling first."""


@dataclass(frozen=True)
class Trial:
    """One measurement.

    steps: decode steps of 1 to n sequences; `load` numbers the visits, between which other trials are run. closed:
    `load` users, each of whom asks again once answered. poisson: requests that arrive at random, at `load` times the
    closed loop's rate. loss: what the cache costs, in nats.
    """

    kind: Kind
    cache: CacheSpec
    depth: int = 0  # tokens of each sequence
    load: float = 0

    @property
    def key(self) -> str:
        return f"{self.kind} {self.depth} {self.load:g} {self.cache.key}"


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    types: tuple[str, ...]  # from many bits to few; all pairs of them are studied
    depths: tuple[int, ...]
    rotate: str
    memory: int  # bytes for all of it
    most: int  # sequences at once, at most
    latency: float | None  # seconds from token to token that may pass; None: any
    turn: int  # new tokens of each request; those before them are in the cache
    answer: int  # tokens of each answer
    seed: int
    threads: int

    def cache(self, k: str, v: str) -> CacheSpec:
        return CacheSpec(k, v, self.rotate)

    @property
    def caches(self) -> list[CacheSpec]:
        """Return all pairs: both ends first, then those that quantize K more than V or less, and the rest."""
        ends = [(self.types[0],) * 2, (self.types[-1],) * 2]
        steps = [pair for path in paths(self.types).values() for pair in path]
        return [self.cache(*pair) for pair in dict.fromkeys([*ends, *steps, *product(self.types, repeat=2)])]

    @property
    def main(self) -> int:
        """Return the depth at which everything is measured: the middle one."""
        return self.depths[len(self.depths) // 2]


def paths(types: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return two ways from the largest type in K and V to the smallest, step by step: K down first, and V first."""
    first, last = types[0], types[-1]
    down = [(t, first) for t in types] + [(last, t) for t in types[1:]]
    return {"K first": down, "V first": [(v, k) for k, v in down]}


def counts(most: int) -> list[int]:
    """Return the numbers of sequences up to `most`: 1, 2, 4, 8 ... and `most` itself."""
    return sorted({*(1 << i for i in range(most.bit_length())), most}) if most else []


def trials(options: Options, room: Callable[[CacheSpec, int], int], results: Results) -> Iterator[Trial]:
    """Yield all trials, the most informative first. room: how many sequences of a depth can be measured.

    Those that arrive at random come once the closed loop has said what is the most.
    """
    every, main = options.caches, options.main
    ends, others = every[:2], every[2:]
    depths = [main, *sorted((d for d in options.depths if d != main), reverse=True)]

    def steps(caches: Sequence[CacheSpec], depth: int, visit: int = 0) -> Iterator[Trial]:
        return (Trial("steps", cache, depth, visit) for cache in caches if room(cache, depth))

    def loops(caches: Sequence[CacheSpec], depth: int) -> Iterator[Trial]:
        for cache in caches:
            found = counts(room(cache, depth))
            for n in sorted(found, reverse=True):
                yield Trial("closed", cache, depth, n)

    def arrivals(caches: Sequence[CacheSpec], depth: int) -> Iterator[Trial]:
        for cache in caches:
            if busiest(results, cache, depth, options.most) is not None:
                yield from (Trial("poisson", cache, depth, load) for load in LOADS)

    yield from steps(ends, main)
    yield from (Trial("loss", cache) for cache in every)
    yield from steps(others, main)
    for depth in depths[1:]:
        yield from steps(ends, depth)
    yield from loops(ends, main)
    yield from arrivals(ends, main)
    for depth in depths[1:]:
        yield from steps(others, depth)
    for visit in range(1, VISITS):
        for depth in depths:
            yield from steps(every, depth, visit)
    for depth in depths:
        yield from loops(every, depth)
        yield from arrivals(every, depth)


def busiest(results: Results, cache: CacheSpec, depth: int, most: int) -> tuple[int, float] | None:
    """Return the users, `most` or fewer, with the most answers a second in a closed loop, and that rate; None: none."""
    at = [
        (found["answers_per_s"], n)
        for n in range(1, most + 1)
        if (found := results.get(Trial("closed", cache, depth, n).key))
    ]
    return (max(at)[1], max(at)[0]) if at else None
