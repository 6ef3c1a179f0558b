"""How many sequences fit in a memory, and which limit comes first; measures nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ...engine.machine.fit import needs
from ...kernels.shapes import PAGE, pages
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.file.gguf import GGUF

MOST = 100_000  # sequences; a number beyond any use
LIMITS = ("memory", "latency", "units", "bus")


@dataclass(frozen=True, eq=False)
class Memory:
    """A model in a memory: how many sequences of a depth have room beside the weights and the program."""

    gguf: GGUF
    config: Config

    def taken(self, cache: CacheSpec, depth: int, sequences: int) -> int:
        """Return the bytes of all: weights, program, buffers, and a cache for sequences of `depth` tokens."""
        return _taken(self, cache, depth, sequences)

    def sessions(self, cache: CacheSpec, depth: int, memory: int) -> int:
        """Return the most sequences of `depth` tokens that fit in `memory` bytes; 0 if none does."""
        low, high = 0, 1
        while high <= MOST and self.taken(cache, depth, high) <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.taken(cache, depth, middle) <= memory else (low, middle)
        return low


@lru_cache(4096)
def _taken(memory: Memory, cache: CacheSpec, depth: int, sequences: int) -> int:
    tokens = sequences * pages(depth) * PAGE
    return needs(memory.gguf, memory.config, tokens, cache, sequences).total


@dataclass(frozen=True)
class Limits:
    """The sequences up to which each limit allows more: the first one binds."""

    memory: int
    latency: float = math.inf
    saturation: float = math.inf
    saturated_by: str = "units"  # "units" or "bus": what is busier when many sequences run

    @property
    def binding(self) -> str:
        """Return the limit that comes first, by one of LIMITS."""
        at = {"memory": float(self.memory), "latency": self.latency, self.saturated_by: self.saturation}
        return min(at, key=lambda name: at[name])

    @property
    def sequences(self) -> int:
        """Return the sequences that are worth running: at least 1 if one fits."""
        least = min(self.memory, self.latency, self.saturation)
        return min(self.memory, max(1, math.floor(least))) if self.memory else 0
