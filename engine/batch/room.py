"""How many sequences of how many tokens fit in memory at once; knows sizes and limits, runs nothing."""

from __future__ import annotations

from ...kernels.shapes import PAGE
from ...models.cache.spec import CacheSpec
from ...models.config import Config
from ...models.errors import FitError
from ...models.file.gguf import GGUF
from ..machine.fit import check_fit, free_memory, needs
from ..machine.units import size

AUTO = 16
"""Sequences at most where nobody says how many."""
SPARE = 0.9
"""Share of the free memory that a cache which takes what there is leaves itself."""


class Room:
    """A model and a cache, of which several sequences are to be held."""

    def __init__(self, gguf: GGUF, config: Config, cache: CacheSpec, *, aside: int = 0) -> None:
        """aside: bytes that something else will take."""
        self._gguf, self._config, self._cache = gguf, config, cache
        free, self._limit = free_memory(mapped=gguf.nbytes)
        self._free = free - aside

    def tokens(self, sequences: int, n_ctx: int, *, overcommit: bool = False) -> int:
        """Return how many tokens the cache of all sequences together holds, n_ctx each, in whole pages.

        overcommit: as many as fit, if those are fewer, but n_ctx at least. Raises FitError.
        """
        wanted = sequences * whole(n_ctx)
        need = needs(self._gguf, self._config, wanted, self._cache, sequences)
        if need.total <= self._free:
            return wanted
        check_fit(self._gguf, self._config, whole(n_ctx), self._cache)
        if overcommit:
            some = need.largest_ctx(int(self._free * SPARE))
            if some >= whole(n_ctx):
                return min(some, wanted)
        fewer = self.most(sequences - 1, n_ctx)
        cures = [f"--parallel {fewer}"] if fewer else []
        if smaller := need.largest_ctx(self._free) // sequences // PAGE * PAGE:
            cures.append(f"-c {smaller}")
        cure = f"{' or '.join(cures)} would fit" if cures else "free memory, or take a smaller model"
        raise FitError(
            f"{self._gguf.path}: needs {size(need.total)} of memory for {sequences} sequences of {n_ctx} tokens each "
            f"(weights {size(need.weights)}, KV cache {size(need.kv)} at {self._cache.pair}), "
            f"but {self._limit} leaves {size(max(self._free, 0))}; {cure}"
            + ("" if overcommit else ", and --overcommit takes what there is")
        )

    def most(self, sequences: int, n_ctx: int) -> int:
        """Return how many sequences of n_ctx tokens fit, at most `sequences`; 0 if none does."""
        fits = (n for n in range(sequences, 0, -1) if self._total(n, n_ctx) <= self._free)
        return next(fits, 0)

    def _total(self, sequences: int, n_ctx: int) -> int:
        return needs(self._gguf, self._config, sequences * whole(n_ctx), self._cache, sequences).total


def whole(n_ctx: int) -> int:
    """Return a number of tokens in whole pages."""
    return -(-n_ctx // PAGE) * PAGE
